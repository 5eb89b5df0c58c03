"""A row of a table as a request: which columns are fields, and what stands in the cells."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inner import Parameter, fields_in, request_of
from inner import router_of as routed

from imagen_async import Account, ConfigurationError, InvalidRequest

OWN = routed({"kie": Account("kie")}).own_fields("nano-banana-2")


def own_fields(model: object) -> Mapping[str, Parameter]:
    """Those of every model."""
    return OWN


TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)


def test_columns_are_fields_in_any_case() -> None:
    """A request's fields and a model's own are found; what is none goes by."""
    columns = ["Prompt", "SEED", "sku", "resolution", "key", "local_files"]
    found = fields_in(columns, OWN)
    assert found == {"Prompt": "prompt", "SEED": "seed", "resolution": "resolution", "key": "key"}


def test_two_columns_of_one_field_are_refused() -> None:
    """Nobody can tell which of them is meant."""
    with pytest.raises(ConfigurationError, match="'prompt' and 'Prompt' are both prompt"):
        fields_in(["prompt", "Prompt"], ())


@given(
    st.fixed_dictionaries(
        {"prompt": TEXTS},
        optional={
            "seed": st.none() | st.integers(0, 2**31),
            "aspect_ratio": st.none() | TEXTS,
            "key": st.none() | TEXTS,
            "num_images": st.none() | st.integers(1, 4),
        },
    ),
    st.sampled_from(["as they are", "as floats", "as texts"]),
)
def test_a_cell_means_what_it_says(cells: dict[str, Any], how: str) -> None:
    """Whole numbers stay whole where a column in which some are missing has floats, or a table has texts alone."""
    written = dict(cells)
    for name in ("seed", "num_images"):
        if cells.get(name) is not None and how != "as they are":
            written[name] = float(cells[name]) if how == "as floats" else str(cells[name])
    request = request_of(written, own_fields)
    assert {name: getattr(request, name) for name in cells} == cells
    assert request.extra == {}


@pytest.mark.parametrize(
    ("key", "told"), [(7, "7"), (7.0, "7"), (7.5, "7.5"), ("a", "a"), (True, "True")], ids=lambda value: repr(value)
)
def test_a_key_is_a_text(key: Any, told: str) -> None:
    """Whatever a data set has for a key."""
    assert request_of({"prompt": "x", "key": key}, own_fields).key == told


def test_fields_of_the_model_go_into_extra() -> None:
    """What the row's model has is part of its request, an `extra` of its own wins, and nulls are not said."""
    cells = {"prompt": "x", "resolution": "2K", "output_format": None, "cfg": 3.5}
    assert request_of(cells, own_fields).extra == {"resolution": "2K"}
    extra = {"resolution": "4K", "more": None}
    assert request_of({**cells, "extra": extra}, own_fields).extra == {"resolution": "4K"}
    assert request_of({**cells, "extra": json.dumps(extra)}, own_fields).extra == {"resolution": "4K"}


@pytest.mark.parametrize("extra", ["{", "[1]", 7, ["a"]], ids=repr)
def test_an_extra_that_is_no_object_is_refused(extra: Any) -> None:
    """That row's error, and no other's."""
    with pytest.raises(InvalidRequest, match="extra"):
        request_of({"prompt": "x", "extra": extra}, own_fields)


@pytest.mark.parametrize("images", ["a.png", b"bytes", ["a.png", "b.png"], ("a.png",)], ids=repr)
def test_pictures_may_be_one_or_several(images: Any) -> None:
    """A path or bytes alone are a list of one."""
    found = request_of({"prompt": "x", "images": images}, own_fields).images
    assert list(found) == ([images] if isinstance(images, str | bytes) else list(images))
