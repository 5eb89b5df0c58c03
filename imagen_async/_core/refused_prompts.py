"""Whether a provider has refused a prompt for what it says, as its code or its words have it."""

from __future__ import annotations

import re

from .._text import seldom
from .failure import Failure

_REFUSED = seldom(
    r"sensitive|moderat|nsfw|unsafe|flagged|prohibited|inappropriate|safety|content (policy|filter|violation|check)"
    r"|(content|usage)[ _-]?polic|violat",
    re.I,
)
_BESIDES = str.maketrans("_-", "  ")


def refuses_prompt(failure: Failure) -> bool:
    """True where it was for the prompt, or for what would have been made of it: another model may see it otherwise."""
    return _REFUSED().search(f"{failure.code} {failure.message}".translate(_BESIDES)) is not None
