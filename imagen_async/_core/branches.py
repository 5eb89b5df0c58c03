"""The ways to fill in an input where a page has several, of which a request takes one."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec


class Branch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of several ways to fill in an input.

    Attributes:
        required: Fields that it needs, beside those that every way does.
        fields: All fields that belong to it alone.
    """

    required: tuple[str, ...]
    fields: tuple[str, ...]


def is_one_way(given: Collection[str], branches: Sequence[Branch]) -> bool:
    """True where the fields that are given go one of the ways, or there are none to choose from."""
    names = set(given)
    others = {name for branch in branches for name in branch.fields}
    return not branches or any(
        names.issuperset(branch.required) and names.isdisjoint(others.difference(branch.fields)) for branch in branches
    )


def ways_told(branches: Sequence[Branch]) -> str:
    """What each way needs, in words."""
    return " or ".join(" and ".join(branch.required) or "no more" for branch in branches)
