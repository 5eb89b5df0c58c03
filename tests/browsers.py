"""The browser that pages are looked at with."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

CHROMIUMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")


def chromium_of_the_machine() -> str:
    """Where it is; without one the test is skipped, and says so."""
    found = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if found is None:
        pytest.skip(f"no Chromium on this machine: none of {', '.join(CHROMIUMS)} is in PATH")
    return found


def place_of_picture(name: str) -> Path | None:
    """Where a picture of a page is to be put, to be looked at later: the folder that SCREENSHOTS names, if it does."""
    return Path(os.environ["SCREENSHOTS"], f"{name}.png") if "SCREENSHOTS" in os.environ else None
