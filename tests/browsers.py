"""The browser that pages are looked at with, and what would break them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

CHROMIUMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")

NASTY = (
    "</script><script>window.broken = 1</script>",
    '"><img src=x onerror="window.broken = 1">',
    "' onmouseover='window.broken = 1' x='",
    "<!--<script>",
    "]]><svg/onload=window.broken=1>",
    "{{ 7 * 7 }} {% raw %} {#",
    "javascript:window.broken=1",
    "two\u2028\u2029 line ends and \u202e another way round",
    "&lt;b&gt; &amp; <b>bold</b>",
    "</title></style><style>*{display:none}</style>",
    "$headline ${accounts} $$ %s {0}",
    "C:\\n \\u003cscript\\u003e 100% #fragment ?query",
)
"""Prompts that would do harm where they are not taken for what they are."""


def chromium_of_the_machine() -> str:
    """Where it is; without one the test is skipped, and says so."""
    found = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if found is None:
        pytest.skip(f"no Chromium on this machine: none of {', '.join(CHROMIUMS)} is in PATH")
    return found


def place_of_picture(name: str) -> Path | None:
    """Where a picture of a page is to be put, to be looked at later: the folder that SCREENSHOTS names, if it does."""
    return Path(os.environ["SCREENSHOTS"], f"{name}.png") if "SCREENSHOTS" in os.environ else None
