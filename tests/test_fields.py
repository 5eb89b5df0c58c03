"""What a request is before it is a job: its fields agree everywhere, its key stays, defaults fill in what it leaves."""

from __future__ import annotations

from importlib.util import find_spec, module_from_spec
from typing import get_type_hints

import inner
import msgspec
import pytest

from imagen_async import ImageRequest
from imagen_async.errors import InvalidRequest
from imagen_async.providers import PROVIDERS


def test_the_table_is_what_type_checkers_read() -> None:
    """ImageRequest and the parameters of a call have the fields of the table, in its order and of its kinds."""
    names = [field.name for field in inner.FIELDS]
    assert list(ImageRequest.__struct_fields__) == names
    made = [field.name for field in inner.FIELDS if field.is_made]
    assert ["prompt", *inner.Parameters.__annotations__, *made] == names
    types = {"text": "str", "whole": "int", "object": "dict", "files": "tuple"}
    hints = get_type_hints(ImageRequest)
    wider = {"Images": hints["images"], "ModelNames": hints["model"]}
    assert {**hints, **get_type_hints(inner.Parameters, localns=wider)} == hints
    for field in inner.FIELDS:
        assert str(hints[field.name]).removeprefix("<class '").startswith(types[field.kind]), field.name
    assert {field.kind: field.column_type for field in inner.FIELDS} == {
        "text": "string",
        "whole": "int64",
        "object": None,
        "files": None,
    }


def test_keys_are_those_of_every_earlier_version() -> None:
    """A key that changed would be paid for anew by whoever goes on with an older folder."""
    assert inner.stable_key(ImageRequest("a fox")) == "b43e5a1b5264043e"
    full = ImageRequest("a fox", "imagen4", "16:9", "mud", 2, 7, "mine", {"b": 1, "a": [None]})
    assert inner.stable_key(full, 2) == "3246d9c20f6b2b7b-2"


def test_a_field_of_a_later_version_changes_no_key_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line more in the table: only a request that has such a field has a key of its own for it."""
    monkeypatch.setattr("imagen_async._core.fields.FIELDS", (*inner.FIELDS, inner.Field("style")))
    spec = find_spec("imagen_async._core.values")
    later = module_from_spec(spec)
    spec.loader.exec_module(later)

    class Later(ImageRequest, frozen=True):
        style: str | None = None

    keys = {style: later.stable_key(Later("a fox", style=style)) for style in (None, "", "noir")}
    assert keys[None] == inner.stable_key(ImageRequest("a fox"))
    assert len(set(keys.values())) == 3


FULL = ImageRequest("-", "imagen4-fast", "4:3", "mud", 1, 7, "mine", {"a": 1, "b": 1})
FILLED = msgspec.structs.replace(FULL, prompt="a cat", key=None)
OWN = ImageRequest("a cat", "imagen4", "1:1", "", 2, 0, "own", {"b": 2})
BAD = ImageRequest("a cat", extra=[1])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("item", "filled"),
    [
        ("a cat", msgspec.structs.replace(FILLED, key="mine")),
        (ImageRequest("a cat"), FILLED),
        (OWN, msgspec.structs.replace(OWN, extra={"a": 1, "b": 2})),
        (BAD, msgspec.structs.replace(FILLED, extra=BAD.extra)),
    ],
)
def test_defaults_fill_in_what_a_request_leaves_open(item: str | ImageRequest, filled: ImageRequest) -> None:
    """Each field that is None, but never the key, and of the provider's own fields those that are not there."""
    assert inner.with_defaults(item, FULL) == filled
    assert inner.with_defaults(filled, ImageRequest("-")) == filled


def test_the_parameters_of_a_call_win() -> None:
    """Over those of the request that it is called with, which stays as it is; one that is not there is named."""
    assert inner.overridden("a cat", {"seed": 0}) == ImageRequest("a cat", seed=0)
    assert inner.overridden(FULL, {"seed": 0, "key": None}) == msgspec.structs.replace(FULL, seed=0, key=None)
    for prompt in ("a cat", FULL):
        with pytest.raises(InvalidRequest, match=r"^sede: there is no such parameter; a request has model, aspect_rat"):
            inner.overridden(prompt, {"seed": 1, "sede": 2})  # type: ignore[typeddict-unknown-key]


TERMS: inner.JobOptions = {"retries": 1, "resubmits": 2, "deadline": 60.0, "save_to": "out"}
ROUTER = inner.router_of(inner.named(["apiin", "kie"]))


def factory(model: str = "imagen4-fast") -> inner.JobFactory:
    """Jobs for two accounts."""
    return inner.JobFactory(ROUTER, ImageRequest("-", model, seed=7), TERMS)


@pytest.mark.parametrize("key", [None, "own"])
def test_a_job_is_its_request_as_it_is_sent_on_the_terms_of_its_batch(key: str | None) -> None:
    """Its key is the one given, or made of what is asked for, whoever says it."""
    given = ImageRequest("a cat", key=key)
    job = factory().job(given, index=3, owner=2, number=1)
    request, route = ROUTER.route(ImageRequest("a cat", "imagen4-fast", seed=7, key=key))
    made = inner.stable_key(ImageRequest("a cat", "imagen4-fast", seed=7))
    way = {"route": route, "account": "apiin", "model": route.offers[0].model}
    assert job == inner.Job(id=1, owner=2, index=3, key=key or made, request=request, **way, **TERMS)


def test_plain_prompts_have_a_way_unless_the_defaults_fit_nobody() -> None:
    """It tells who is short of work before the first request is read."""
    assert factory().default_route() == ROUTER.route(ImageRequest("-", "imagen4-fast", seed=7))[1]
    assert factory("imagen5").default_route() is None
    assert (list(factory().accounts), factory().save_to) == (["apiin", "kie"], "out")


@pytest.mark.parametrize("model", ["imagen4", "imagen3", None])
def test_a_job_of_a_journal_has_its_own_model_and_account_and_no_leave_to_be_sent_again(model: str | None) -> None:
    """With the price of its time; one whose model is gone keeps its name."""
    entry = inner.JournalEntry("k", 4, "running", "kie", ImageRequest("a cat", model), "t1", price=9)
    record = inner.model_of(entry.request, entry.price, PROVIDERS["kie"].find(model or ""))
    blank = inner.Job(
        id=1, owner=2, index=4, key="k", request=entry.request, account="kie", model=record, deadline=60.0
    )
    job = factory().job_of(entry, owner=2, number=1)
    assert [factory().serves(account) for account in ("kie", "sandbox")] == [True, False]
    assert job == msgspec.structs.replace(blank, save_to="out")
    assert job.model.price(job.request) == 9
