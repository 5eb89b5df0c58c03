"""The code blocks of README.md, and the programs of the manual, for the tests that run them."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str, heading: str = "") -> list[str]:
    """The code blocks of a language, of the whole README or under one heading."""
    text = README.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0] if heading else README
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def program_of(topic: str) -> str:
    """The program that a page of the manual ends with."""
    page = (ROOT / "imagen_async" / "_cli" / "manual" / f"{topic}.txt").read_text()
    found = re.search(r"(?:^(?: {4}.*)?\n)+\Z", page, re.M)
    return textwrap.dedent(found[0]).lstrip() if found else ""
