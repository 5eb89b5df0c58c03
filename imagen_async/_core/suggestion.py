"""What may have been meant by a name that nobody has."""

from __future__ import annotations

from collections.abc import Iterable


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """A question to stand behind the refusal of a name: the known one that is closest; nothing where none is close."""
    from difflib import get_close_matches  # only here: it is slow to load, and seldom asked

    by_form = {each.casefold(): each for each in known}
    close = get_close_matches(name.casefold(), by_form, n=1) if isinstance(name, str) else []
    return f" Did you mean {by_form[close[0]]}?" if close else ""
