"""What a body asks for: OpenAI's fields and ours, as requests of this library; whatever comes, an answer is clear."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inner import Asked, Body, InputFile, InputPicture, Reader, Refused, named, router_of

from imagen_async import Account

READER = Reader(router_of(named(["kie"])), {"gpt-image-1": "imagen4-fast"})
PICTURE = InputPicture("image", "/kept/a", InputFile("0" * 64, 10, "image/png"))


def read(*, is_form: bool = False, **fields: Any) -> Asked:
    """What such a body asks for."""
    return READER.read(Body("generations", fields, is_form=is_form))


def refused(**fields: Any) -> tuple[int, str | None, str]:
    """How such a body is refused: the status, the field, the code."""
    with pytest.raises(Refused) as caught:
        read(**fields)
    refusal = caught.value.refusal
    return refusal.status, refusal.param, refusal.code


@pytest.mark.parametrize(
    ("size", "ratio"),
    [
        ("1024x1024", "1:1"),
        ("512x512", "1:1"),
        ("1792x1024", "16:9"),
        ("1024x1792", "9:16"),
        ("1536x1024", "4:3"),
        ("1024X1536", "3:4"),
        ("16:9", "16:9"),
        ("10000x1", "16:9"),
    ],
)
def test_a_size_is_the_nearest_ratio(size: str, ratio: str) -> None:
    """Twice as wide is as far off as twice as high."""
    assert read(prompt="a fox", size=size).parts[0].aspect_ratio == ratio


@pytest.mark.parametrize("size", ["auto", None, "AUTO"])
def test_no_size_is_the_models_own(size: str | None) -> None:
    """What is left to the model is its default; a ratio that is said wins over any size."""
    assert read(prompt="a fox", size=size).parts[0].aspect_ratio is None
    assert read(prompt="a fox", size=size or "1x1", aspect_ratio="3:4").parts[0].aspect_ratio == "3:4"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, (400, "prompt", "invalid_value")),
        ({"prompt": ""}, (400, "prompt", "invalid_value")),
        ({"prompt": 3}, (400, "prompt", "invalid_value")),
        ({"prompt": "x", "n": 0}, (400, "n", "invalid_value")),
        ({"prompt": "x", "n": 11}, (400, "n", "invalid_value")),
        ({"prompt": "x", "n": True}, (400, "n", "invalid_value")),
        ({"prompt": "x", "n": 1.0}, (400, "n", "invalid_value")),
        ({"prompt": "x", "n": "2"}, (400, "n", "invalid_value")),
        ({"prompt": "x", "size": "large"}, (400, "size", "invalid_value")),
        ({"prompt": "x", "size": "0x10"}, (400, "size", "invalid_value")),
        ({"prompt": "x", "model": "dall-e-9"}, (404, "model", "model_not_found")),
        ({"prompt": "x", "model": 4}, (400, "model", "invalid_value")),
        ({"prompt": "x", "response_format": "png"}, (400, "response_format", "invalid_value")),
        ({"prompt": "x", "stream": "yes"}, (400, "stream", "invalid_value")),
        ({"prompt": "x", "stream": True, "async": True}, (400, "stream", "invalid_value")),
        ({"prompt": "x", "callback_url": "https://a.example"}, (400, "callback_url", "invalid_value")),
        ({"prompt": "x", "seed": "seven"}, (400, "seed", "invalid_value")),
        ({"prompt": "x", "aspect_ratio": "2:7"}, (400, "aspect_ratio", "invalid_value")),
        ({"prompt": "x", "extra": []}, (400, "extra", "invalid_value")),
        ({"prompt": "x", "resolution": "4K"}, (400, "resolution", "unknown_field")),
        ({"prompt": "x", "key": "a"}, (400, "key", "unknown_field")),
        ({"prompt": "x", "images": ["/etc/passwd"]}, (400, "images", "invalid_value")),
        ({"prompt": "x", "images": ["http://a.example/x.png"]}, (400, "images", "invalid_value")),
        ({"prompt": "x", "images": ["https://127.0.0.1/x.png"]}, (400, "images", "invalid_value")),
        ({"prompt": "x", "images": ["https://[::ffff:10.0.0.1]/x.png"]}, (400, "images", "invalid_value")),
        ({"prompt": "x", "images": ["https://0x7f000001/x.png"]}, (400, "images", "invalid_value")),
        ({"prompt": "x", "images": ["file:///etc/passwd"]}, (400, "images", "invalid_value")),
        ({"prompt": "x", "images": 3}, (400, "images", "invalid_value")),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], told: tuple[int, str | None, str]) -> None:
    """A field of a wrong type, out of its bounds, or unknown is refused by its name; a path never goes in."""
    assert refused(**fields) == told


def test_openais_optional_fields_go_to_the_models_that_have_them() -> None:
    """What a model has and takes is sent, also under the other name of a format; all else is dropped and told."""
    asked = read(prompt="x", model="nano-banana-2", output_format="jpeg", quality="high", resolution="2K", user="me")
    assert asked.parts[0].extra == {"output_format": "jpg", "resolution": "2K"}
    assert asked.ignored == ("quality",)
    asked = read(prompt="x", model="imagen4", output_format="webp", output_compression=50, partial_images=2)
    assert (asked.parts[0].extra, asked.ignored) == ({}, ("output_format", "output_compression"))


def test_n_is_as_many_tasks_as_it_takes() -> None:
    """Where a task makes one picture, n of them, each with a seed of its own; where it makes several, fewer."""
    parts = read(prompt="x", n=3, seed=7).parts
    assert [(part.num_images, part.seed) for part in parts] == [(None, 7), (None, 8), (None, 9)]
    counts = [part.num_images for part in read(prompt="x", n=10, model="wan-2-7-image").parts]
    assert sum(count or 1 for count in counts) == 10
    assert len(counts) < 10


def test_an_alias_stands_for_a_model() -> None:
    """It is asked for by that name, and answered as whoever asks for it reads it."""
    asked = read(prompt="x", model="gpt-image-1")
    assert (asked.parts[0].model, asked.shows) == ("imagen4-fast", ("b64_json",))


def test_a_body_is_compared_as_parsed() -> None:
    """The order of its fields says nothing; any other value is another body; pictures count by their content."""
    assert read(prompt="x", n=2).digest == read(n=2, prompt="x").digest
    assert len({read(prompt="x").digest, read(prompt="x", n=1).digest, read(prompt="x ").digest}) == 3
    bodies = [Body("edits", {"prompt": "x", "model": "nano-banana-2"}, (PICTURE,), is_form=True)]
    moved = InputPicture("image", "/elsewhere", PICTURE.file)
    bodies.append(Body("edits", {"prompt": "x", "model": "nano-banana-2"}, (moved,), is_form=True))
    first, second = (READER.read(body) for body in bodies)
    assert first.digest == second.digest
    assert first.parts[0].images == ("/kept/a",)


def test_texts_of_a_form_are_what_they_stand_for() -> None:
    """Numbers, flags and objects in a form are read as such."""
    asked = read(is_form=True, prompt="7", n="2", seed="5", stream="true", extra="{}")
    assert [(part.prompt, part.seed) for part in asked.parts] == [("7", 5), ("7", 6)]
    assert asked.stream


def test_what_it_may_cost_is_known_where_prices_are() -> None:
    """The price of all its tasks; None where an account's is unknown."""
    assert read(prompt="x", n=3).price == 24
    unknown = Reader(router_of(named([Account("liangxin")])), {})
    assert unknown.read(Body("generations", {"prompt": "x", "model": "imagen4-fast"})).price is None


_NAMES = st.text(max_size=8) | st.sampled_from(["prompt", "n", "size", "model", "extra", "images", "seed"])
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(_NAMES, _VALUES, max_size=5), st.booleans())
def test_any_body_is_read_or_refused(fields: dict[str, Any], is_form: bool) -> None:
    """No JSON object breaks the reading: it is a request, or a refusal by 400 or 404."""
    try:
        status = 200 if read(is_form=is_form, **{"prompt": "x", **fields}).parts else 0
    except Refused as refused:
        status = refused.refusal.status
    assert status in (200, 400, 404)
