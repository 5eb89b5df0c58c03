"""A provider or a model is a record and nothing else: one that is added while the program runs is served like any."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from PIL import Image

from imagen_async import Account, Client, InvalidRequest
from imagen_async._core.dialect import Dialect
from imagen_async._core.dialects.jobs import JobsDialect
from imagen_async._core.dialects.tasks import TasksDialect
from imagen_async._core.latency import LatencyPrior
from imagen_async._core.model import Model
from imagen_async._core.parameters import Choice, Schema, Text, Whole
from imagen_async._core.provider import Limits, Provider
from imagen_async.providers import PROVIDERS
from imagen_async.sandbox import Latency, Sandbox
from imagen_async.sandbox._checks import PRICE_WHERE_NONE_IS_KNOWN

PACKAGE = Path(__file__).parent.parent / "imagen_async"

SCHEMA: Schema = {
    "prompt": Text(required=True),
    "aspect_ratio": Choice({"1:1": "square", "16:9": "wide"}),
    "steps": Whole(minimum=1, maximum=50, as_text=True),
}

FIFTH = Provider(
    name="fifth",
    title="The Fifth",
    base_url=None,
    dialect=JobsDialect(),
    models=(Model("painter", "fifth/painter-2", SCHEMA, aspect_ratio="1:1"),),
    limits=Limits(),
    latency=LatencyPrior(median=1, sigma=0.5),
)

QUICK = Latency(median=0.05, minimum=0.01)


@pytest.fixture(
    params=[JobsDialect(credits_path="/api/v1/left"), TasksDialect(task_id_form="fifth-{number}")],
    ids=["createTask", "images/generations"],
)
def dialect(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Dialect:
    """How the fifth provider talks; its record is registered."""
    monkeypatch.setitem(PROVIDERS, "fifth", msgspec.structs.replace(FIFTH, dialect=request.param))
    spoken: Dialect = request.param
    return spoken


async def test_a_record_alone_makes_a_provider(dialect: Dialect, tmp_path: Path) -> None:
    """Its model makes a picture of the asked shape through the sandbox, at a price although nobody publishes one."""
    async with Sandbox(latency=QUICK) as sandbox:
        account = Account("fifth", api_key=sandbox.key, base_url=sandbox.url_of("fifth"))
        async with Client(account) as client:
            result = await client.generate("a fox", model="painter", aspect_ratio="16:9", extra={"steps": 20})
            (picture,) = await result.save(tmp_path)
            (balance,) = (await client.credits()).values()
    (task,) = sandbox.ledger.tasks
    assert (task.provider, task.model) == ("fifth", "fifth/painter-2")
    assert task.input == {"prompt": "a fox", "aspect_ratio": "wide", "steps": "20"}
    assert (task.credits, result.task_id) == (PRICE_WHERE_NONE_IS_KNOWN, task.task_id)
    assert (balance is not None) == (dialect.build_credits() is not None)
    with Image.open(picture.path) as image:
        assert image.width * 9 == image.height * 16


async def test_it_takes_nothing_from_the_others(dialect: Dialect) -> None:
    """kie.ai is served beside it as ever, and says of the new model who has it."""
    async with Sandbox(latency=QUICK) as sandbox:
        async with Client("kie", api_key=sandbox.key, base_url=sandbox.url_of("kie")) as client:
            assert (await client.generate("a heron", model="imagen4")).credits == 8
            with pytest.raises(InvalidRequest, match="painter is served by: fifth"):
                await client.generate("a heron", model="painter")


async def test_a_second_local_provider_needs_no_key_and_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes the sandbox local is in its record: another one that says so is served by the client itself."""
    monkeypatch.setitem(PROVIDERS, "fifth", msgspec.structs.replace(FIFTH, is_local=True))
    async with Client("fifth") as client:
        result = await client.generate("a fox", model="painter")
    assert "/files/fifth/" in result.urls[0]


async def test_a_dialect_that_the_sandbox_does_not_speak_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider whose server's half is not written yet is no reason to serve nobody."""
    monkeypatch.setitem(PROVIDERS, "fifth", msgspec.structs.replace(FIFTH, dialect=object()))
    async with Client("sandbox") as client:
        assert (await client.generate("a heron")).ok


def comparisons(path: Path) -> Iterator[ast.AST]:
    """What a module compares with: both sides of each comparison, and the patterns of each `match`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Compare):
            yield node
        elif isinstance(node, ast.match_case):
            yield node.pattern


def test_no_line_asks_which_provider_it_is() -> None:
    """Outside of the records no comparison holds a provider's name, as a string or as the name of its record."""
    names = set(PROVIDERS) | {name.upper() for name in PROVIDERS}
    for path in sorted(PACKAGE.rglob("*.py")):
        found = {
            part.id if isinstance(part, ast.Name) else part.value
            for compared in comparisons(path)
            for part in ast.walk(compared)
            if isinstance(part, ast.Name | ast.Constant)
        }
        assert path.parent.name == "providers" or not found & names, f"{path.relative_to(PACKAGE)}: {found & names}"
