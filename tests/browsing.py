"""A real headless Chromium for the tests that look at a page, and pictures of it for people."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def chromium() -> str:
    """Where this machine has a Chromium; without one the test is skipped, and says so."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no Chromium on this machine: none of {', '.join(NAMES)} is in PATH")
    return found


@contextmanager
def browser() -> Iterator[Browser]:
    """A headless Chromium, without a network of its own to use."""
    path = chromium()
    from playwright.sync_api import sync_playwright  # only here: every worker would wait for it

    with sync_playwright() as playwright:
        # A busy machine may need longer than Playwright's own half a minute.
        opened = playwright.chromium.launch(executable_path=path, timeout=120_000)
        try:
            yield opened
        finally:
            opened.close()


def take_picture(page: Page, name: str) -> None:
    """Take a picture of a page, to be looked at later, where SCREENSHOTS names a folder for it."""
    if "SCREENSHOTS" in os.environ:
        page.screenshot(path=Path(os.environ["SCREENSHOTS"], f"{name}.png"))
