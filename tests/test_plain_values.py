"""The door of requests: what is nearly a text or a number goes on as exactly that, the rest is one bad request."""

from __future__ import annotations

import enum
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path, PurePath
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from inner import told
from virtual_network import Network, VirtualClient, anyio_backend

from imagen_async import Account, Callback, Client, ImageRequest, raw_model
from imagen_async._core.plain_values import key_of, plain_atom, plain_item, plain_or_same, showable
from imagen_async.errors import ConfigurationError, InvalidRequest
from imagen_async.providers import PROVIDERS

__all__ = ["anyio_backend"]


class Word(str):
    """As a template's markup is one; whatever it says of itself is an error."""

    def __str__(self) -> str:
        raise ZeroDivisionError

    __repr__ = __hash__ = __eq__ = __format__ = __str__  # type: ignore[assignment]


class Number(int):
    """As a flag is one; its own way to a number is an error."""

    __int__ = __index__ = __repr__ = Word.__str__  # type: ignore[assignment]


Ratio = enum.StrEnum("Ratio", {"WIDE": "16:9"})
Old = enum.Enum("Old", {"WIDE": "16:9"}, type=str)
Count = enum.IntEnum("Count", {"TWO": 2})
Shape = enum.Enum("Shape", {"WIDE": "16:9"})


class Mine(dict):
    """A mapping of the user's own."""


class Broken:
    """Nothing can be asked of it, not even its class."""

    def __getattribute__(self, name: str) -> Any:
        raise ZeroDivisionError

    __repr__ = __eq__ = __hash__ = __bool__ = __format__ = Word.__str__  # type: ignore[assignment]


ENDLESS: list[Any] = []
ENDLESS += [ENDLESS, ENDLESS]
NEARLY = [
    (Word("a"), "a"),
    (np.str_("a"), "a"),
    (Ratio.WIDE, "16:9"),
    (Old.WIDE, "16:9"),
    (Shape.WIDE, "16:9"),
    (Count.TWO, 2),
    (Number(7), 7),
    (np.int64(7), 7),
    (np.array(7), 7),
    (np.bool_(True), True),
    (np.float64(0.5), 0.5),
    (np.float32(0.5), 0.5),
    (2**14_280 - 1, 2**14_280 - 1),
]
NEVER = [object(), b"a", PurePath("a"), Decimal(1), 10**5000, np.array([1]), Broken(), Broken]


@pytest.mark.parametrize(("value", "plain"), NEARLY, ids=lambda each: type(each).__name__)
def test_what_is_nearly_plain_becomes_exactly_that(value: Any, plain: Any) -> None:
    """By its type's own way, as a prompt, in each field, in all of `extra`, and as a request's key."""
    assert (type(plain_atom(value)), plain_atom(value)) == (type(plain), plain)
    fields = [
        each
        for each in ImageRequest.__struct_fields__
        if each not in ("extra", "key", "prompt", "images", "local_files")
    ]
    extra = {"x": value, "y": [{"z": (value,)}], "m": Mine(w=value)}
    request = plain_item(ImageRequest(value, **dict.fromkeys(fields, value), extra=extra))
    assert request == ImageRequest(
        plain, **dict.fromkeys(fields, plain), extra={"x": plain, "y": [{"z": [plain]}], "m": {"w": plain}}
    )
    assert {type(getattr(request, each)) for each in fields} == {type(plain)}
    assert type(request.extra["m"]) is dict
    if isinstance(plain, str) and type(value) is not Word:  # it cannot be looked up
        named = ImageRequest("a", key=value, extra={value: 1})
        assert (plain_item(value), plain_item(named).key, key_of(named)) == (plain, plain, plain)
        assert list(plain_item(named).extra) == [plain]


@pytest.mark.parametrize("field", ["prompt", "model", "num_images", "key"])
def test_what_cannot_be_plain_is_one_bad_request(field: str) -> None:
    """Refused by name, in words that can be shown, and its result can be, too, with all in it that can."""
    with pytest.raises(InvalidRequest, match=r"^key="):
        plain_item(ImageRequest("a", key="\ud800"))
    shown = showable(ImageRequest(Word("a"), key="k", extra={"x": 1, "y": [Broken()], "z": Word("b")}))
    assert (shown.prompt, shown.key, {**shown.extra, "y": None}) == ("a", "k", {"x": 1, "y": None, "z": "b"})
    assert showable(ImageRequest(7)).prompt == "7"  # type: ignore[arg-type]
    for value in (*NEVER, 2**14_280, Mine(), [1], {1, 2}):
        given = ImageRequest(**{"prompt": "a", field: value})
        with pytest.raises(InvalidRequest, match=f"^{field}=|cannot be read"):
            plain_item(given)
        assert (repr(showable(given)), key_of(given)) == (repr(showable(given)), None)
        hint = ": ImageR" if type(value) is Mine else r"\."
        with pytest.raises(InvalidRequest, match=rf"prompts and ImageRequests, not \w+{hint}|cannot be read"):
            plain_item(value)
        assert type(showable(value).prompt) is str


def test_extra_holds_what_json_can_say() -> None:
    """No number that is none, no field without a name, nothing in itself; and what is no mapping holds no fields."""
    for value in (*NEVER[:1], *NEVER[2:5], *NEVER[6:], float("nan"), {1: 2}, {None: 1}, ENDLESS, print):
        for extra in ({"x": [value]}, [value], value, [], None):
            if issubclass(type(value), PurePath) and type(extra) is dict:
                continue  # a path is its text
            with pytest.raises(InvalidRequest, match=r"extra|cannot be read"):
                plain_item(ImageRequest("a", extra=extra))


def test_what_is_written_as_a_text_stays_one_and_a_hundred_levels_are_no_trouble() -> None:
    """What earlier versions wrote, they wrote so: another text would be another key, and paid for anew."""
    deep: dict[str, Any] = {"bytes": b"a", "times": [date(2026, 1, 2)]}
    for _ in range(100):
        deep = {"in": deep}
    request = plain_item(ImageRequest("a", extra=deep))
    assert msgspec.json.encode(request) == msgspec.json.encode(ImageRequest("a", extra=deep))


@pytest.mark.parametrize("wrap", [lambda each: [each], lambda each: {"a": each}], ids=["lists", "objects"])
@pytest.mark.parametrize(("inmost", "most"), [(1, 200), (np.array([1]), 198)], ids=["a number", "an array"])
def test_two_hundred_levels_are_taken_and_no_more(wrap: Callable[[Any], Any], inmost: Any, most: int) -> None:
    """Of lists and objects, and of what is written as one."""
    deep = [inmost]
    for _ in range(most + 1):
        deep.append(wrap(deep[-1]))
    plain_item(ImageRequest("a", extra={"x": deep[most]}))
    with pytest.raises(InvalidRequest, match="more than 200"):
        plain_item(ImageRequest("a", extra={"x": deep[most + 1]}))


SIMPLE = st.none() | st.booleans() | st.text() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)


@given(st.recursive(SIMPLE, lambda each: st.lists(each) | st.dictionaries(st.text(), each)))
def test_what_is_plain_stays_what_it_is(value: Any) -> None:
    """Equal, of the same types, and not the caller's own object, which may change before it is sent."""
    extra = {"x": value}
    request = plain_item(ImageRequest("a", extra=extra))
    assert repr(request.extra) == repr(extra)
    assert request.extra is not extra
    same = ImageRequest("a", seed=1)
    assert (plain_item(same), plain_item("a"), plain_or_same(Broken)) == (same, "a", Broken)


@given(st.text(max_size=200))
def test_a_value_is_told_in_a_line_that_can_be_shown(text: str) -> None:
    """Bounded, whatever it is."""
    for value in (text, [text], Word(text), Broken(), 10**5000, ENDLESS):
        assert told(value).isprintable()
        assert len(told(value)) < 700


async def test_one_odd_prompt_is_one_bad_result_and_a_nearly_plain_one_is_sent() -> None:
    """With any of these in the midst of a batch the others are made, and nothing may have cost what was not sent."""
    network, odd = Network(PROVIDERS["kie"]), [*NEVER, *(ImageRequest("a", key=each) for each in NEVER)]
    async with VirtualClient(network) as client:
        requests = [*odd, Word("a fox"), ImageRequest("a fox", aspect_ratio=Ratio.WIDE, seed=np.int64(3)), "a"]
        async with client.batch(requests, model="imagen4", ordered=True) as results:  # type: ignore[arg-type]
            out = [each async for each in results]
        assert [each.ok for each in out] == [False] * len(odd) + [True] * 3
        assert {type(each.error) for each in out} == {InvalidRequest, type(None)}
        assert len(str(list(map(repr, out)))) < 100_000
        for value in NEVER:
            for wrong in ({"seed": value}, {"deadline": value}, {"model": value}):
                with pytest.raises(InvalidRequest):
                    await client.generate("a", **wrong)  # type: ignore[arg-type]
            with pytest.raises(InvalidRequest):
                await client.collect(value)  # type: ignore[arg-type]
            with pytest.raises((ConfigurationError, InvalidRequest)):
                await client.credits(value)  # type: ignore[arg-type]
    assert len(network.ledger.creates) == 3


SETTINGS = ("policy", "proxy", "callback", "limiter", "executor", "trust_env", "private_files", "ssl", "connections")
OF_A_BATCH = ("ordered", "retry_failed", "add", "on_unknown", "on_exit", "save_to")
OnExit = enum.Enum("OnExit", {"DRAIN": "drain"})


async def test_a_setting_that_is_nearly_one_holds_and_no_other_is_taken_for_a_yes_or_a_folder(tmp_path: Path) -> None:
    """Refused in words, whatever it is: "false" is no yes that is paid for, and None is no folder of that name."""
    network = Network(PROVIDERS["kie"])
    for value in (*NEVER[:-1], b"a", 7.5):
        for name in SETTINGS:
            with pytest.raises(ConfigurationError):
                Client("kie", api_key="key-of-mine", **{name: value})  # type: ignore[arg-type]
        for make in (Callback, raw_model):
            with pytest.raises((ConfigurationError, InvalidRequest)):
                make(value)  # type: ignore[arg-type]
    async with VirtualClient(network) as client:
        for name in OF_A_BATCH:
            for value in (*NEVER[:2], "\0false", b"a", 7.5):
                with pytest.raises(ConfigurationError):
                    client.batch(["a"], **{name: value})  # type: ignore[arg-type]
        settings = {"ordered": np.bool_(True), "on_exit": OnExit.DRAIN, "save_to": np.str_(tmp_path)}
        async with client.batch(["a", "b"], **settings) as results:  # type: ignore[arg-type]
            result = await anext(results)
        assert [each.ok for each in results.leftover] == [True]
        with pytest.raises(ConfigurationError, match=r"^None is no folder"):
            await result.save(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["provider", "api_key", "base_url", "name", "limits", "credits"])
def test_an_account_is_made_of_texts_and_its_key_is_quoted_nowhere(field: str) -> None:
    """A text that is nearly one will do; what is none is refused at once."""
    key = np.str_("key-of-mine")
    assert Client(Account(np.str_("kie"), api_key=key), api_key=key).accounts == ("kie",)
    for value in (*NEVER[:3], Broken):
        with pytest.raises(ConfigurationError) as caught:
            Client(Account(**{"provider": "kie", "api_key": str(key), field: value}))
        assert str(caught.value).isprintable()
        assert str(key) not in str(caught.value)
