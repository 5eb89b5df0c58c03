"""Makes the environments of the real clients that the tests under the mark `clients` ask the service with.

    python tests/real_clients/environments.py DIR
    IMAGEN_CLIENTS=DIR python -m pytest -m clients

It needs npm and some 900 MB, and takes a few minutes; what is there already is only brought up to date.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent

NPM = ("npm", "npm_earlier")
"""Folders of packages of npm: as they are now, and as many programs still have them."""


def make(folder: Path) -> None:
    """Make the environments in a folder: `python`, and one for each of `NPM`."""
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit("npm is not in PATH: it brings the clients for Node.js.")
    python = folder / "python"
    if not (python / "bin" / "python").exists():
        venv.create(python, with_pip=True)
    requirements = str(HERE / "requirements.txt")
    subprocess.run([python / "bin" / "python", "-m", "pip", "install", "--quiet", "-r", requirements], check=True)
    for name in NPM:
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(HERE / name / "package.json", place)
        subprocess.run([npm, "install", "--no-audit", "--no-fund", "--silent"], cwd=place, check=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    make(Path(sys.argv[1]).absolute())
