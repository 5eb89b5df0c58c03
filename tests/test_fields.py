"""The table of a request's fields: it agrees with what is written out for type checkers, and keys stay as they are."""

from __future__ import annotations

from typing import get_type_hints

import pytest

from imagen_async import ImageRequest
from imagen_async._core import values
from imagen_async._core.fields import FIELDS
from imagen_async._core.values import stable_key
from imagen_async._job_factory import Parameters

TYPES = {"text": "str", "whole": "int", "object": "dict"}


def test_the_table_is_what_type_checkers_read() -> None:
    """ImageRequest and the parameters of a call have the fields of the table, in its order and of its kinds."""
    names = [field.name for field in FIELDS]
    assert list(ImageRequest.__struct_fields__) == names
    assert ["prompt", *Parameters.__annotations__] == names
    hints = get_type_hints(ImageRequest)
    assert {**hints, **get_type_hints(Parameters)} == hints
    for field in FIELDS:
        assert str(hints[field.name]).removeprefix("<class '").startswith(TYPES[field.kind]), field.name


def test_keys_are_those_of_every_earlier_version() -> None:
    """A key that changed would be paid for anew by whoever goes on with an older folder."""
    assert stable_key(ImageRequest("a fox")) == "b43e5a1b5264043e"
    everything = ImageRequest("a fox", "imagen4", "16:9", "mud", 2, 7, "mine", {"b": 1, "a": [None]})
    assert stable_key(everything, 2) == "3246d9c20f6b2b7b-2"


def test_a_field_of_a_later_version_changes_no_key_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a request that has such a field has a key of its own for it."""

    class Later(ImageRequest, frozen=True):
        style: str | None = None

    before = stable_key(Later("a fox"))
    monkeypatch.setattr(values, "_KEYED_WHERE_GIVEN", ("style",))
    assert stable_key(Later("a fox")) == before
    keys = {stable_key(Later("a fox", style=style)) for style in (None, "", "noir")}
    assert len(keys) == 3
