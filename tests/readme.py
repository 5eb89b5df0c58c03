"""The code blocks of README.md, for the tests that run them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str, heading: str = "") -> list[str]:
    """The code blocks of a language, of the whole README or under one heading."""
    text = README.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0] if heading else README
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)
