"""Faults that the package once had, put back one at a time into a copy of it: is the world any good?"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
FAULTS = sorted(path.stem for path in (HERE / "faults").glob("*.patch"))


def put_back(fault: str, place: Path) -> None:
    """Copy package and world, and put a fault into the copy; raises CalledProcessError where it does not fit."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "imagen_async", place / "imagen_async", ignore=ignored)
    shutil.copytree(HERE, place / "tests" / "world", ignore=ignored)
    patch = HERE / "faults" / f"{fault}.patch"
    # Outside of any repository: in one it would leave out what is none of that one's.
    outside = {**os.environ, "GIT_CEILING_DIRECTORIES": str(place.parent)}
    subprocess.run(["git", "apply", patch], cwd=place, env=outside, check=True)


def seeds_until_found(fault: str, seeds: range) -> tuple[int, str]:
    """How many worlds it takes until one breaks a truth, and what is shown of that; 0 where none does."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        put_back(fault, place)
        chosen = ["--seeds", f"{seeds[0]}..{seeds[-1]}", "--first-broken", "--jobs", "1"]
        environment = {**os.environ, "PYTHONPATH": str(place)}
        ended = subprocess.run(
            [sys.executable, "-m", "tests.world", *chosen], cwd=place, env=environment, text=True, capture_output=True
        )
    found = re.search(r"^seed (\d+): ", ended.stdout, re.MULTILINE)
    if found is None and ended.returncode:
        raise RuntimeError(ended.stderr)
    return 0 if found is None else int(found[1]) - seeds[0] + 1, ended.stdout
