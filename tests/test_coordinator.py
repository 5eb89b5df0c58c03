"""The coordinator of a cluster's jobs, by itself, over the sandbox: each row once, whoever asks, dies or leaves."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from clients import FAST
from hypothesis import given, settings
from hypothesis import strategies as st
from inner import bill_of

from imagen_async import (
    Account,
    AuthenticationError,
    BudgetReached,
    ConfigurationError,
    ImageRequest,
    JournalError,
    Limits,
    Rate,
)
from imagen_async.errors import ImagenError
from imagen_async.ports import JournalEntry
from imagen_async.ray import _coordinator as coordinator_module
from imagen_async.ray._answers import Answer, Picture
from imagen_async.ray._coordinator import Coordinator
from imagen_async.ray._driver import Driver
from imagen_async.ray._fetcher import Fetcher
from imagen_async.ray._groups import account_groups, check_alone, group_of, journals_of
from imagen_async.ray._maker import Order
from imagen_async.ray._purse import Purse
from imagen_async.ray._rows import Reading, answers_in, requests_in, with_answers, with_pictures
from imagen_async.ray._sizes import sizes_for
from imagen_async.sandbox import Latency, Lives, Sandbox
from imagen_async.testing import VirtualTimeLoop

ASKER = "asker"


def account_at(sandbox: Sandbox, **terms: Any) -> Account:
    """An account there."""
    return Account("sandbox", api_key=sandbox.key, base_url=sandbox.url, **{"limits": FAST, **terms})


def rows_of(*prompts: str, **cells: Any) -> list[dict[str, Any]]:
    """Rows as they are asked for."""
    return [{"prompt": prompt, **cells} for prompt in prompts]


@asynccontextmanager
async def held(
    sandbox: Sandbox, place: Path, *, is_again: bool = False, account: Account | None = None
) -> AsyncIterator[Coordinator]:
    """A coordinator that is open for as long as the block is, with a journal there."""
    made = Coordinator(str(place / "run.db"), is_again=is_again)
    holding = asyncio.create_task(made.hold([account or account_at(sandbox)], {}))
    try:
        await made.begin()
        yield made
    finally:
        await made.leave()
        await asyncio.wait([holding])
        holding.exception()


async def order_of(coordinator: Coordinator, **terms: Any) -> Order:
    """A job that begins there now."""
    mark, now = await coordinator.begin()
    return Order(**{"mark": mark, "began_at": now, "defaults": ImageRequest("-", model="imagen4-fast"), **terms})


async def asked(
    coordinator: Coordinator, rows: list[dict[str, Any]], asker: str = ASKER, *, order: Order | None = None
) -> list[Answer]:
    """What it answers to somebody who is there."""
    answers = await coordinator.ask(asker, order or await order_of(coordinator), rows)
    assert answers is not None
    return answers


async def test_equal_rows_are_one_task(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """At once, one after the other, by whoever asks, and after its end: the same picture, in the order of the rows."""
    rows = rows_of("a fox", "a heron", "a fox")
    async with held(imagen_sandbox, tmp_path) as coordinator:
        first, second = await asyncio.gather(asked(coordinator, rows), asked(coordinator, rows, "another"))
    async with held(imagen_sandbox, tmp_path, is_again=True) as coordinator:
        third = await asked(coordinator, rows)
    assert first == second == third
    assert [answer.prompt for answer in first] == ["a fox", "a heron", "a fox"]
    assert first[0] == first[2] != first[1]
    assert imagen_sandbox.ledger.tasks_by_prompt() == {"a fox": 1, "a heron": 1}


async def test_what_a_row_leaves_out_is_in_its_key(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """Who says the default's model and who leaves it out are one request; with another model it is another one."""
    rows = [{"prompt": "x"}, {"prompt": "x", "model": "imagen4-fast"}, {"prompt": "x", "model": "imagen4"}]
    async with held(imagen_sandbox, tmp_path) as coordinator:
        answers = await asked(coordinator, rows)
    assert answers[0].key == answers[1].key != answers[2].key
    assert [create.model for create in imagen_sandbox.ledger.tasks].count("google/imagen4-fast") == 1


async def test_a_key_stands_for_one_request(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """What comes again with other content is an error of that row, and of no other."""
    rows = [*rows_of("a fox", key="1"), *rows_of("a heron", key="1"), *rows_of("a fox", key="2")]
    async with held(imagen_sandbox, tmp_path) as coordinator:
        answers = [(await asked(coordinator, [row]))[0] for row in rows]
    assert [answer.key for answer in answers] == ["1", "1", "2"]
    assert [answer.error is None for answer in answers] == [True, False, True]
    assert (answers[1].error or "").startswith("InvalidRequest: The key '1' stood for another request")
    assert imagen_sandbox.ledger.tasks_by_prompt() == {"a fox": 2}


@pytest.mark.parametrize("row", [{"prompt": ""}, {"prompt": None}, {"prompt": "x", "seed": "no"}, {}], ids=repr)
async def test_a_row_that_is_none_is_an_answer(row: dict[str, Any], imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """With its error; those beside it are made."""
    async with held(imagen_sandbox, tmp_path) as coordinator:
        bad, good = await asked(coordinator, [row, {"prompt": "a fox"}])
    assert (bad.error or "").startswith("InvalidRequest")
    assert good.error is None
    assert len(imagen_sandbox.ledger.tasks) == 1


async def test_what_a_dead_asker_wants_is_not_sent(
    imagen_sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has not gone out stays here once it is silent; another one's goes on, and it may ask again."""
    monkeypatch.setattr(coordinator_module, "SILENCE", 0.3)
    monkeypatch.setattr(coordinator_module, "LOOK", 0.05)
    slow = Limits(Rate(2, per=1.2), running=50)
    async with held(imagen_sandbox, tmp_path, account=account_at(imagen_sandbox, limits=slow)) as coordinator:
        order = await order_of(coordinator)
        rows = rows_of(*map(str, range(8)))
        dead = asyncio.create_task(coordinator.ask("dead", order, rows))
        assert await dead is None
        sent = len(imagen_sandbox.ledger.tasks)
        assert sent == 2
        living = asyncio.create_task(coordinator.ask("living", order, rows[:3]))
        while not living.done():
            await coordinator.attend("living")
            await asyncio.sleep(0.05)
        answers = await living
    assert answers is not None
    assert [answer.error for answer in answers] == [None] * 3
    assert set(imagen_sandbox.ledger.tasks_by_prompt().values()) == {1}
    assert len(imagen_sandbox.ledger.tasks) == 3


async def test_leaving_sends_nothing_more(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """Who waits is told, and so is who comes later; what is on its way is heard out."""
    slow = Limits(Rate(2, per=5), running=50)
    async with held(imagen_sandbox, tmp_path, account=account_at(imagen_sandbox, limits=slow)) as coordinator:
        asking = asyncio.create_task(asked(coordinator, rows_of(*map(str, range(6)))))
        while len(imagen_sandbox.ledger.tasks) < 2:
            await asyncio.sleep(0.01)
        assert await coordinator.leave(only_if_idle=True) is False
        assert await coordinator.leave() is True
        with pytest.raises(ConfigurationError, match="is being left"):
            await asking
        with pytest.raises(ConfigurationError, match="is being left"):
            await asked(coordinator, rows_of("late"))
    assert len(imagen_sandbox.ledger.creates) == 2


async def test_another_journal_is_refused(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """What takes the place of one that died begins nothing anew where the journal is missing, or another one."""
    with pytest.raises(JournalError, match="finds none there"):
        async with held(imagen_sandbox, tmp_path, is_again=True):
            pass
    async with held(imagen_sandbox, tmp_path) as coordinator:
        with pytest.raises(JournalError, match="another one than this job began with"):
            await asked(coordinator, rows_of("a fox"), order=await order_of(coordinator, mark="another"))
        with pytest.raises(JournalError, match="another one than this job began with"):
            await coordinator.links("another", "sandbox", "task", [])
    assert not imagen_sandbox.ledger.creates


async def test_a_journal_has_one_coordinator(
    imagen_sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second one is refused, also by another name of the file; no folder is refused, too."""
    monkeypatch.setattr(coordinator_module, "PATIENCE", 0.0)
    (tmp_path / "other").symlink_to(tmp_path)
    async with held(imagen_sandbox, tmp_path):
        with pytest.raises(JournalError, match="another coordinator has it"):
            async with held(imagen_sandbox, tmp_path / "other"):
                pass
    with pytest.raises(JournalError, match="there is no folder"):
        async with held(imagen_sandbox, tmp_path / "nowhere"):
            pass


async def test_no_account_left_ends_the_job(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """Not a row for each with the same error: whoever asks is told, and what replaces it may be asked again."""
    async with held(imagen_sandbox, tmp_path) as coordinator:
        assert not await coordinator.is_stopped()
        imagen_sandbox.keep("create", "401")
        with pytest.raises(AuthenticationError):
            await asked(coordinator, rows_of("a fox", "a heron"))
        assert await coordinator.is_stopped()
    imagen_sandbox.keep("create", None)
    async with held(imagen_sandbox, tmp_path, is_again=True) as coordinator:
        assert [answer.error for answer in await asked(coordinator, rows_of("a fox", "a heron"))] == [None] * 2


async def test_a_budget_holds_over_all_jobs(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """What does not fit is an answer with that error; the next one knows what was spent, and repeats cost none."""
    rows = rows_of(*map(str, range(6)))
    async with held(imagen_sandbox, tmp_path) as coordinator:
        first = await asked(coordinator, rows, order=await order_of(coordinator, max_credits=13))
        assert [answer.error is None for answer in first].count(True) == 3
        assert {(answer.error or BudgetReached.__name__).split(":")[0] for answer in first} == {BudgetReached.__name__}
    async with held(imagen_sandbox, tmp_path) as coordinator:
        second = await asked(coordinator, rows, order=await order_of(coordinator, max_credits=17))
        assert [answer.error is None for answer in second].count(True) == 4
        # What was paid for is given again, however little a later job may spend; and a job without a limit goes on.
        third = await asked(coordinator, rows, order=await order_of(coordinator, max_credits=1))
        assert [answer.error is None for answer in third] == [answer.error is None for answer in second]
        assert imagen_sandbox.ledger.credits == 16
        assert [answer.error for answer in await asked(coordinator, rows)] == [None] * 6
    assert imagen_sandbox.ledger.credits == 24


async def test_a_budget_takes_no_unknown_price(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """A raw model has none."""
    async with held(imagen_sandbox, tmp_path) as coordinator:
        order = await order_of(coordinator, max_credits=100)
        rows = rows_of("a fox", model="raw:some/model")
        (answer,) = await asked(coordinator, rows, order=order)
        assert "its price is unknown" in (answer.error or "")
        assert not imagen_sandbox.ledger.creates
        # What a job without a limit has made is there for all.
        assert await asked(coordinator, rows) == await asked(coordinator, rows, order=order)
    assert len(imagen_sandbox.ledger.tasks) == 1


async def test_failed_rows_are_made_anew_on_leave(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """What failed fails again in the same way, and costs nothing; a job with `retry_failed` makes one more task."""
    imagen_sandbox.order("task", "fail_word", "fail_word")
    async with held(imagen_sandbox, tmp_path) as coordinator:
        first = await asked(coordinator, rows_of("a fox"))
        assert first == await asked(coordinator, rows_of("a fox"))
        assert (first[0].error or "").startswith("GenerationFailed")
        again = await order_of(coordinator, retry_failed=True)
        # However often its rows are asked for: Ray runs blocks again, and rows may be equal.
        second = await asked(coordinator, rows_of("a fox", "a fox"), order=again)
        assert second == await asked(coordinator, rows_of("a fox", "a fox"), order=again)
        assert (second[0].error or "").startswith("GenerationFailed")
        assert len(imagen_sandbox.ledger.tasks) == 2
    async with held(imagen_sandbox, tmp_path, is_again=True) as coordinator:
        assert second[:1] == await asked(coordinator, rows_of("a fox"), order=again)
        later = await order_of(coordinator, retry_failed=True)
        (third,) = await asked(coordinator, rows_of("a fox"), order=later)
    assert third.error is None
    assert len(imagen_sandbox.ledger.tasks) == 3


ODD = [
    {"model": ["imagen4"]},
    {"model": {"a": 1}},
    {"seed": "9" * 5000},
    {"seed": pa.array([1, 2])},
    {"seed": 10**400},
    {"extra": {1: 2}},
    {"extra": {"a": object()}},
    {"prompt": "\ud800"},
    {"key": "\ud800"},
    {"images": 7},
    {"images": [{"a": b"x"}]},
    {"prompt": b"bytes"},
    {"num_images": float("inf")},
]


@pytest.mark.parametrize("cells", ODD, ids=lambda cells: repr(cells)[:30])
async def test_whatever_a_cell_holds_the_job_goes_on(
    cells: dict[str, Any], imagen_sandbox: Sandbox, tmp_path: Path
) -> None:
    """An odd one is an error of its row, which can go into a table, or is taken for what it says."""
    async with held(imagen_sandbox, tmp_path) as coordinator:
        odd, good = await asked(coordinator, [{"prompt": "x", **cells}, {"prompt": "a fox"}])
    assert good.error is None
    assert odd.error is None or "InvalidRequest" in odd.error
    with_answers(pa.table({"prompt": ["x", "a fox"]}), [odd, good])


async def test_no_value_is_no_key_and_no_seed(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """Tables of floats have numbers that are none where something is missing."""
    nothing = float("nan")
    async with held(imagen_sandbox, tmp_path) as coordinator:
        rows = [{"prompt": prompt, "key": nothing, "seed": nothing} for prompt in ("a fox", "a heron")]
        answers = await asked(coordinator, rows)
        assert answers == await asked(coordinator, rows_of("a fox", "a heron"))
    assert [answer.error for answer in answers] == [None, None]


async def test_one_call_twice_opens_it_once(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """The second lasts as long as the first, and breaks nothing."""
    async with held(imagen_sandbox, tmp_path) as coordinator:
        again = asyncio.create_task(coordinator.hold([account_at(imagen_sandbox)], {}))
        assert [answer.error for answer in await asked(coordinator, rows_of("a fox"))] == [None]
        assert not again.done()
    await again


async def test_one_that_cannot_open_says_why(tmp_path: Path) -> None:
    """Whatever the reason is."""
    made = Coordinator(str(tmp_path / "run.db"))
    (tmp_path / "run.db-coordinator-lock").mkdir()
    with pytest.raises(ConfigurationError, match=r"cannot be open: IsADirectoryError"):
        await made.hold([Account("kie", api_key="k")], {})
    with pytest.raises(ConfigurationError, match="cannot be open"):
        await made.begin()


async def test_nothing_stays_of_what_was_answered(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """Its memory is that of the rows that are asked for now."""
    async with held(imagen_sandbox, tmp_path) as coordinator:
        order = await order_of(coordinator, max_credits=1000)
        await asked(coordinator, rows_of(*map(str, range(20))), order=order)
        client = coordinator._client._open()
        assert coordinator._maker._purse is not None
        assert coordinator._maker._purse.reserved == 0
        assert not coordinator._maker._at_work
        assert not coordinator._asks
        assert not client.durably._asks


@pytest.fixture
async def short_lived() -> AsyncIterator[Sandbox]:
    """A sandbox whose links die at once, and can be had anew."""
    quick = Latency(median=0.05, sigma=0)
    async with Sandbox(latency=quick, limits=FAST, lives=Lives(link=0.0)) as sandbox:
        yield sandbox


@pytest.mark.parametrize("as_paths", [True, False], ids=["paths", "bytes"])
async def test_pictures_are_fetched_also_by_new_links(short_lived: Sandbox, tmp_path: Path, *, as_paths: bool) -> None:
    """A picture whose link has died comes by a new one; one that has failed keeps its error; no key goes along."""
    account = account_at(short_lived)
    driver = Driver([account], {}, {})
    terms = driver.fetching(tmp_path / "pictures" if as_paths else None, 60)
    async with held(short_lived, tmp_path) as coordinator:
        mark, _ = await coordinator.begin()
        answers = [*await asked(coordinator, rows_of("a fox", "a heron")), Answer("k", "bad", error="No: no.")]

        async def renew(answer: Answer, dead: tuple[str, ...]) -> tuple[str, ...]:
            return await coordinator.links(mark, answer.provider, answer.task_id or "", dead)

        fetcher = Fetcher(terms, renew)
        async with fetcher.session() as session:
            first, second, error = await fetcher.fetch(session, answers)
            # Again, where they lie already.
            assert await fetcher.fetch(session, answers) == [first, second, error]
    assert error == "No: no."
    for (picture,) in (first, second):
        assert isinstance(picture, Picture)
        data = Path(picture.path).read_bytes() if picture.path else picture.image
        assert (picture.image is None) == as_paths
        assert hashlib.sha256(data or b"").hexdigest() == picture.sha256
    assert not short_lived.ledger.key_leaks
    assert short_lived.key not in repr(terms)


async def test_a_picture_that_cannot_be_had_is_a_rows_error(short_lived: Sandbox, tmp_path: Path) -> None:
    """Whatever is the reason: its link has died for good, the coordinator is gone, or the disk takes nothing."""
    fetching = Driver([account_at(short_lived)], {}, {}).fetching(None, 60)
    async with held(short_lived, tmp_path) as coordinator:
        answers = await asked(coordinator, rows_of("a fox"))

    async def same(answer: Answer, dead: tuple[str, ...]) -> tuple[str, ...]:
        return dead

    async def gone(answer: Answer, dead: tuple[str, ...]) -> tuple[str, ...]:
        raise RuntimeError("The actor died.")

    for renew, told in ((same, "DownloadFailed: The picture is made"), (gone, "fetched: The actor died.")):
        fetcher = Fetcher(fetching, renew)
        async with fetcher.session() as session:
            (error,) = await fetcher.fetch(session, answers)
        assert isinstance(error, str)
        assert told in error


class Provider:
    """What a purse's journal says, played: requests that cost what they may, or less, or nothing, or nobody knows."""

    def __init__(self) -> None:
        self.entries: dict[str, JournalEntry] = {}
        self.fails = False

    async def look_up(self, key: str) -> JournalEntry | None:
        """What it has of a key, a moment later."""
        await asyncio.sleep(0.01)
        if self.fails:
            raise JournalError("It cannot be read.")
        return self.entries.get(key)

    async def count(self) -> float:
        """What all have cost, or may have."""
        await asyncio.sleep(0.01)
        return sum(bill_of(entry).total for entry in self.entries.values())

    def send(self, key: str, price: float, state: Any, cost: float | None = None) -> None:
        """A request is so far: with one more create, which is lost where nobody knows."""
        before = self.entries.get(key)
        lost = 0 if before is None else before.lost
        task = None if state in ("submitting", "queued", "unknown") else "t"
        known = {"price": price, "attempts": 1, "task_id": task, "lost": lost + (state == "unknown")}
        self.entries[key] = JournalEntry(key, 0, state, "a", ImageRequest("x"), credits=cost, **known)


Wish = tuple[str, float, str, float, float]
ENDS = ["done", "cheap", "failed", "unknown", "left", "put back"]


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcd"),
            st.sampled_from([1.0, 2.5, 8.0]),
            st.sampled_from(ENDS),
            st.floats(0, 2),
            st.sampled_from([0.0, 5.0, 12.0, 40.0]),
        ),
        max_size=25,
    ),
    st.sampled_from([frozenset[str](), frozenset({"failed", "unknown"})]),
)
def test_a_purse_never_holds_more_than_it_has(wishes: list[Wish], again: frozenset[str]) -> None:
    """Whoever asks for what, when, under which limit, and whatever comes of it: what is sent fits in its limit then."""
    provider = Provider()
    prices: dict[str, float] = {}
    # A key is one request, with one price.
    wishes = [(key, prices.setdefault(key, price), *others) for key, price, *others in wishes]
    keys = {key: asyncio.Lock() for key in prices}

    async def wish(purse: Purse, key: str, price: float, end: str, wait: float, limit: float) -> None:
        await asyncio.sleep(wait)
        with contextlib.suppress(BudgetReached):
            async with keys[key], purse.held(key, price, limit, again):
                entry = provider.entries.get(key)
                if entry is not None and entry.state not in ("queued", "submitting", *again):
                    return
                if entry is not None and entry.state == "submitting" and "unknown" not in again:
                    provider.send(key, price, "unknown")
                    return
                provider.send(key, price, "submitting")
                assert await provider.count() <= limit
                await asyncio.sleep(wait / 2)
                match end:
                    case "left":  # whoever asked is gone, and its answer comes later, which refuses it
                        asyncio.get_running_loop().call_later(0.3, provider.send, key, price, "queued")
                        await asyncio.sleep(0.4)
                    case "put back":
                        provider.send(key, price, "queued")
                    case "unknown":
                        provider.send(key, price, "unknown")
                    case _:
                        provider.send(key, price, "failed" if end == "failed" else "done", COSTS[end] * price)

    async def play() -> None:
        purse = Purse(provider.look_up, provider.count)
        await purse.open()
        await asyncio.gather(*(wish(purse, *each) for each in wishes))
        assert purse.spent == pytest.approx(await provider.count())
        assert purse.reserved == 0

    on_virtual_time(play())


COSTS = {"done": 1.0, "cheap": 0.5, "failed": 0.0}


def on_virtual_time(work: Coroutine[Any, Any, None]) -> None:
    """Have it done there."""
    loop = VirtualTimeLoop()
    try:
        loop.run_until_complete(work)
    finally:
        loop.close()


def test_a_purse_looks_again_before_it_refuses() -> None:
    """What was left while it was on its way counts as spent, and has cost nothing in the end."""
    provider = Provider()

    async def play() -> None:
        purse = Purse(provider.look_up, provider.count)
        async with purse.held("a", 4.0, 8.0, frozenset()):
            provider.send("a", 4.0, "submitting")
        provider.send("a", 4.0, "queued")
        assert purse.spent == 4.0
        async with purse.held("a", 4.0, 8.0, frozenset()):
            provider.send("a", 4.0, "done", 4.0)
        async with purse.held("b", 4.0, 8.0, frozenset()):
            provider.send("b", 4.0, "done", 4.0)
        assert purse.spent == 8.0

    on_virtual_time(play())


def test_what_is_set_aside_is_given_back_also_where_the_journal_fails() -> None:
    """It counts as spent then: the next one is refused, and does not wait for ever."""
    provider = Provider()

    async def play() -> None:
        purse = Purse(provider.look_up, provider.count)
        with pytest.raises(JournalError):
            async with purse.held("a", 4.0, 5.0, frozenset()):
                provider.send("a", 4.0, "unknown")
                provider.fails = True
        provider.fails = False
        assert (purse.spent, purse.reserved) == (4.0, 0.0)
        with pytest.raises(BudgetReached):
            async with purse.held("b", 4.0, 5.0, frozenset()):
                pass

    on_virtual_time(play())


def test_rows_come_out_as_they_went_in() -> None:
    """Beside its own columns a table gets what was made: a row a picture, and one for an error."""
    table = pa.table({"Prompt": ["one", "two", "three"], "sku": [1, 2, 3], "id": [7.0, None, 9.0]})
    reading = Reading(key="id")
    assert requests_in(table, reading) == [
        {"prompt": "one", "key": 7.0},
        {"prompt": "two", "key": None},
        {"prompt": "three", "key": 9.0},
    ]
    answers = [Answer("7", "one", "kie", "imagen4", ("u",), credits=8.0), Answer("c", "two"), Answer("9", "three")]
    asked_for = with_answers(table, answers)
    assert answers_in(asked_for) == answers
    pictures = [Picture("image/png", "5", b"1"), Picture("image/png", "6", b"2")]
    made = with_pictures(asked_for, answers, [pictures, "No: no.", [Picture("image/png", "7", b"3")]], as_paths=False)
    assert made["key"].to_pylist() == ["7", "7", "c", "9"]
    assert made["image"].to_pylist() == [b"1", b"2", None, b"3"]
    assert made["picture"].to_pylist() == [1, 2, 1, 1]
    assert made["sku"].to_pylist() == [1, 1, 2, 3]
    assert made["error"].to_pylist() == [None, None, "No: no.", None]
    assert made["credits"].to_pylist() == [8.0, None, None, None]
    assert made.column_names.count("prompt") == 1
    paths = with_pictures(asked_for, answers, ["x", "x", "x"], as_paths=True)
    assert "path" in paths.column_names
    assert "image" not in paths.column_names


@pytest.mark.parametrize(
    ("columns", "key", "told"),
    [
        (["prompt", "error"], None, "come out of generate_images: error"),
        (["prompt", "image", "path"], None, "image, path"),
        (["text"], None, "no column `prompt`, but text"),
        (["prompt"], "id", "key_column='id'"),
    ],
)
def test_columns_that_cannot_be_taken_in(columns: list[str], key: str | None, told: str) -> None:
    """Are told before anything is sent."""
    with pytest.raises(ConfigurationError, match=told):
        Reading(key=key).fields(columns)


@given(st.lists(st.tuples(st.integers(1, 5000), st.floats(0.1, 60), st.integers(1, 10**7)), min_size=1, max_size=20))
def test_enough_is_asked_for_and_not_more(accounts: list[tuple[int, float, int]]) -> None:
    """All tasks that may run are asked for, up to a bound; a block has a few seconds of creates at most."""
    limits = [Limits(Rate(count, per=per), running=running) for count, per, running in accounts]
    found = sizes_for(limits)
    at_once = found.rows * found.blocks * found.askers
    assert at_once >= min(50_000, 2 * sum(each.running for each in limits))
    assert at_once <= 2 * (50_000 + found.rows * found.askers)
    assert 4 <= found.rows <= 256
    assert found.blocks <= 64
    assert sizes_for(limits, 7).rows == 7


def test_accounts_and_keys_are_dealt_out(tmp_path: Path) -> None:
    """Each account has one coordinator and each key has one; another number of them is refused beside a journal."""
    accounts = [Account("kie", name=f"kie-{number}") for number in range(5)]
    groups = account_groups(accounts, 2)
    assert sorted(account.name or "" for group in groups for account in group) == [f"kie-{n}" for n in range(5)]
    with pytest.raises(ConfigurationError, match="coordinators=6"):
        account_groups(accounts, 6)
    assert journals_of("/d/run.db", 1) == ["/d/run.db"]
    assert journals_of("/d/run.db", 2) == ["/d/run.1of2.db", "/d/run.2of2.db"]
    same = [{"prompt": "x"}, {"prompt": "x", "seed": 1.0}, {"prompt": "x", "model": None, "key": float("nan")}]
    assert len({group_of(cells, 7) for cells in same}) == 1
    assert len({group_of({"prompt": "y", "key": key}, 7) for key in (1, 1.0, "1")}) == 1
    assert {group_of({"prompt": str(number)}, 3) for number in range(50)} == {0, 1, 2}
    check_alone(str(tmp_path / "run.db"))
    (tmp_path / "run.1of2.db").touch()
    (tmp_path / "run.of.db").touch()
    check_alone(str(tmp_path / "run.2of2.db"))
    for other in ("run.db", "run.1of3.db"):
        with pytest.raises(JournalError, match="another number of coordinators"):
            check_alone(str(tmp_path / other))
    (tmp_path / "run.1of2.db").rename(tmp_path / "run.db")
    with pytest.raises(JournalError, match="another number of coordinators"):
        check_alone(str(tmp_path / "run.1of2.db"))


def test_a_job_needs_a_journal_or_a_service() -> None:
    """What cannot be is told at once, and named."""
    driver = Driver([Account("kie", api_key="k")], {}, {"model": "imagen4-fast"})
    with pytest.raises(ConfigurationError, match="journal="):
        driver.journals(None, 1)
    served = Driver([Account("served", api_key="k", base_url="http://127.0.0.1:1")], {}, {})
    assert served.journals(None, 1) == [None]
    for name, terms in {"max_credits": (5.0, False), "retry_failed": (None, True)}.items():
        with pytest.raises(ConfigurationError, match=f"{name} needs a journal"):
            served.order(terms[0], 900, retry_failed=terms[1], has_journal=False)
    with pytest.raises(ImagenError, match="key_column"):
        Driver([Account("kie", api_key="k")], {}, {"key": "x"})
    with pytest.raises(ImagenError, match="imagen9"):
        Driver([Account("kie", api_key="k")], {}, {"model": "imagen9"})
    with pytest.raises(ConfigurationError, match="client: journal, on_event cannot be given"):
        Driver([Account("kie", api_key="k")], {"on_event": print, "journal": "x", "policy": "spread"}, {})
    (account,) = driver.groups(1)[0]
    assert account.api_key == "k"
    assert account.base_url == "https://api.kie.ai"


def test_no_key_is_among_the_options() -> None:
    """What is an account's own goes with the account, and by no way that Ray keeps."""
    driver = Driver(["kie"], {"api_key": "secret", "limits": FAST, "timeout": 9}, {})
    assert driver.options == {"freshness": 1.0, "timeout": 9}
    (account,) = driver.groups(1)[0]
    assert (account.api_key, account.limits) == ("secret", FAST)
    assert "secret" not in repr((driver.fetching(None, 60), driver.reading(None, None), driver.sizes(None)))


def test_each_group_serves_all_models() -> None:
    """Else a row would fail by where its key falls."""
    accounts = [Account(name, api_key="k") for name in ("kie", "apikley")]
    with pytest.raises(ConfigurationError, match="each needs accounts for all models"):
        Driver(accounts, {}, {}).groups(2)
    twice = [*accounts, *(Account(name, name=f"{name}-2", api_key="l") for name in ("kie", "apikley"))]
    assert [len(group) for group in Driver([twice[0], twice[2], twice[1], twice[3]], {}, {}).groups(2)] == [2, 2]
