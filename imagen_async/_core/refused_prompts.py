"""Whether a provider has refused a prompt for what it says, as its code or its words have it."""

from __future__ import annotations

import re

from .._text import seldom
from .failure import Failure

# Words for what a prompt shows, and for those who look at that: nothing else is called so.
_SURELY = seldom(
    r"nsfw|sexual|nudity|adult content|explicit content|(harmful|illegal|violent|hateful) (content|material|prompt)"
    r"|(content|usage|safety|community|acceptable use)"
    r" (polic|filter|violation|checks?\b|review|guideline|moderat|standard|rule)"
    r"|content (checker|(is |was )?(blocked|flagged|rejected|prohibited|forbidden|sensitive|inappropriate))"
    r"|(banned|forbidden|sensitive|prohibited|blocked) (words?|content|terms?|keywords?)"
    r"|(prompt|request|content|input|text) (was |is |has been |considered )*(filtered|offensive|not compliant)"
    r"|\brai (filter|reason)|block ?list|black ?list|copyrighted|risk(y)? (control|words?)|prominent people"
    r"|responsible ai|违规|敏感|审核|不合规|违禁",
    re.I,
)
# Where these stand in a word about a value, that is wrong and no prompt was looked at.
_LIKELY = seldom(
    r"sensitive|moderat|unsafe|flagged|prohibited|inappropriate|safety|violat|forbidden|banned|blocked|guidelines?\b"
    r"|polic(y|ies)\b|prompt (was |is |has been )?(rejected|refused|denied|not suitable)",
    re.I,
)
_OF_A_VALUE = seldom(
    r"not within|range|allowed (options?|values?)|(is|are) (invalid|required|not (valid|allowed|supported))|unsupported"
    r"|schema|invalid (value|type|parameter|format)|must (be|have|not)|length|characters"
    r"|too (long|short|large|small|many)|parameter|\bfield\b|tolerance|checker|timed? ?out|\brate\b|frequen",
    re.I,
)
_BESIDES = str.maketrans("_-", "  ")


def refuses_prompt(failure: Failure) -> bool:
    """True where it was for the prompt, or for what would have been made of it: another model may see it otherwise."""
    told = f"{failure.code} {failure.message}".translate(_BESIDES)
    if _SURELY().search(told):
        return True
    return _LIKELY().search(told) is not None and _OF_A_VALUE().search(told) is None
