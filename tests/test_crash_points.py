"""A process dies at every step that it takes, and the next one goes on from what is on disk: nothing is paid twice."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from builders import upstream
from conftest import naming
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from journals import FULL, LOST, Inline, place, quick_folder
from virtual_network import Network, batch_over

from imagen_async import ImageFile, ImageRequest, JournalError, Result
from imagen_async._callbacks import CallbackRegistry
from imagen_async._core.plan import Plan
from imagen_async._core.poll_schedule import PollSchedule
from imagen_async._core.routing import Router
from imagen_async._core.wire import HttpRequest, HttpResponse
from imagen_async._job_factory import JobFactory, JobOptions
from imagen_async._journal import Journal, JournalReader
from imagen_async._journal.batch_journal import BatchJournal
from imagen_async._opening import SAVING_AT_ONCE
from imagen_async._plain_group import PlainGroup
from imagen_async._scheduler.callback_desk import CallbackDesk
from imagen_async._scheduler.exchange import Exchange
from imagen_async._scheduler.scheduler import Scheduler
from imagen_async._watch.observer import Observer
from imagen_async.ports import JournalEntry
from imagen_async.providers import PROVIDERS
from imagen_async.sandbox import CREATE_FAULTS, POLL_FAULTS, TASK_FAULTS, Faults, Latency
from imagen_async.sandbox._webhooks import Webhook
from imagen_async.testing import VirtualTimeLoop

__all__ = ["place"]


class Life:
    """The steps of one process.

    Args:
        dies_at: The step at which it dies: from there on nothing that it does has any effect.
        leaves_at: The step at which it is cancelled, as by Ctrl-C, and leaves in good order.
        room: Groups of changes that its disk takes; -1: any.

    Attributes:
        steps: What it did, in order.
        scope: What it runs in; cancelled at its death, so that what is left of it comes down.
    """

    def __init__(self, *, dies_at: int | None = None, leaves_at: int | None = None, room: int = -1) -> None:
        self.steps: list[str] = []
        self.scope: anyio.CancelScope | None = None
        self.room = room
        self._is_dead = False
        self._ends_at = {dies_at, leaves_at}
        self._dies_at = dies_at

    def step(self, name: str) -> bool:
        """Take a step; False when the process is dead, by this step or by one before it."""
        if not self._is_dead:
            number = len(self.steps)
            self.steps.append(name)
            self._is_dead = number == self._dies_at
            if number in self._ends_at:
                assert self.scope is not None
                self.scope.cancel()
        return not self._is_dead

    async def reach(self, name: str) -> None:
        """Take a step of a task, which goes no further when the process is dead."""
        if not self.step(name):
            await anyio.sleep_forever()


class MortalJournal(Journal):
    """A real journal whose writes are steps."""

    def __init__(self, path: Path, life: Life) -> None:
        self._life = life
        super().__init__(path)

    def write(self, entries: Iterable[JournalEntry]) -> None:
        """Write, if the process lives and the disk has room."""
        rows = list(entries)
        if self._life.room == 0:
            raise JournalError(FULL)
        self._life.room -= 1
        named = {"submitting": "request.prompt", "running": "task_id", "ready": "urls"}
        told = ", ".join(f"{row.state} {attrgetter(named.get(row.state, 'key'))(row)}" for row in rows)
        if self._life.step(f"before writing: {told}"):
            super().write(rows)
            self._life.step(f"after writing: {told}")

    def note(self, notes: Mapping[str, str]) -> None:
        """Note, if the process lives."""
        if self._life.step("before the note"):
            super().note(notes)
            self._life.step("after the note")


class World:
    """What outlives a process: the provider, and a folder with the journal and the pictures.

    Attributes:
        network: The provider.
        folder: Of the pictures.
        journal: The journal's path.
        calls_back: True where the provider announces the end of each task, until it is answered.
        calls: Its callbacks that were not answered yet.
    """

    def __init__(self, folder: Path, network: Network, *, calls_back: bool = False) -> None:
        self.network = network
        self.calls_back = calls_back
        self.calls: list[Webhook] = []
        self.folder = folder / "out"
        self.journal = folder / "run.db"
        self._clock = 0.0
        self.folder.mkdir(parents=True)

    def live(self, requests: Sequence[str | ImageRequest], life: Life | None = None, **terms: Any) -> list[Result]:
        """Run a process until it has all results, or dies; what was handed out is returned."""
        loop = VirtualTimeLoop()
        loop.jump(self._clock)  # the provider's clock goes on, whatever becomes of a process
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            try:
                return runner.run(self._run(requests, life or Life(), **terms))
            finally:
                self._clock = loop.time()

    def entries(self) -> dict[str, JournalEntry]:
        """What the journal says, by prompt."""
        with JournalReader(self.journal) as reader:
            return {entry.request.prompt: entry for entry in reader.entries()}

    def snapshot(self) -> tuple[dict[str, JournalEntry], int, list[str]]:
        """All that another run could change."""
        return self.entries(), len(self.network.ledger.creates), sorted(path.name for path in self.folder.iterdir())

    async def _run(
        self, requests: Sequence[str | ImageRequest], life: Life, *, again: Iterable[str] = (), **terms: Any
    ) -> list[Result]:
        provider = self.network.provider
        options: Any = {"deadline": 900.0, "retries": 0, "resubmits": 0, "save_to": str(self.folder), **terms}
        factory = JobFactory(Router({provider.name: provider}), ImageRequest("-"), JobOptions(**options))
        registry = CallbackRegistry("https://example.com/imagen", {}) if self.calls_back else None
        account = upstream(provider.name, self.network.limits, PollSchedule(provider.latency))
        plan = Plan([account], SAVING_AT_ONCE, expects_callbacks=self.calls_back)
        ways = partial(self._send, life), partial(self._save, life)
        exchange = Exchange({provider.name: provider.dialect}, *ways, registry.url_of if registry else None)
        called = {"again": frozenset({"queued", *again}), "expects_callbacks": self.calls_back}
        results: list[Result] = []
        life.scope = anyio.CancelScope()
        with closing(MortalJournal(self.journal, life)) as store, life.scope:
            journal = BatchJournal(store, factory, executor=Inline(), **called)
            async with PlainGroup() as group:
                scheduler = Scheduler(group, plan, exchange, Observer(), registry)
                scheduler.start(scheduler.run)
                if registry is not None:
                    self._call_back(life, registry, scheduler, group)
                batch = batch_over(scheduler, self.network, requests, factory=factory, window=100, journal=journal)
                try:
                    async with batch:
                        async for result in batch:
                            results.append(result)
                finally:
                    await scheduler.close()
        return results

    async def _send(
        self, life: Life, account: str, request: HttpRequest, *, within: float | None = None
    ) -> HttpResponse:
        """Carry a request; what a dead process was about to say or hear, it does not."""
        created = None if request.body is None else json.loads(request.body)["input"]["prompt"]
        about = f"submitting {created}" if created else f"running {request.path.rpartition('=')[2]}"
        await life.reach(f"before the server sees: {about}")
        try:
            return await self.network(account, request)
        finally:
            await life.reach(f"before the answer arrives: {about}")

    async def _save(self, life: Life, result: Result, folder: str) -> tuple[ImageFile, ...]:
        """Write pictures, each told from others by its task."""
        files = []
        for number, url in enumerate(result.urls):
            await anyio.sleep(0.1)
            content = f"the picture at {url}".encode()
            path = self.folder / f"{result.index}-{number}-{result.request.prompt}.png"
            await life.reach(f"before a picture is there: ready {result.urls}")
            path.write_bytes(content)
            await life.reach("after a picture is there")
            files.append(ImageFile(str(path), hashlib.sha256(content).hexdigest(), len(content), "image/png", url))
        return tuple(files)

    def _call_back(self, life: Life, registry: CallbackRegistry, scheduler: Scheduler, group: PlainGroup) -> None:
        """Have every callback delivered to this process that no other one has answered."""
        desk = CallbackDesk(registry, scheduler)

        async def deliver(webhook: Webhook) -> None:
            await anyio.sleep(max(0.0, webhook.ends - asyncio.get_running_loop().time()))
            # Only until the journal is open, which takes no time here: a batch without work ends in the same instant.
            while (call := registry.find(webhook.url.rpartition("/")[2])) is None:
                await checkpoint()
            await life.reach("before a callback is heard")
            await desk.take(call, webhook.task_id)
            await life.reach("before a callback is answered")
            self.calls.remove(webhook)
            life.step("after a callback was answered")

        def begin(webhook: Webhook) -> None:
            self.calls.append(webhook)
            group.start_soon(deliver, webhook)

        self.network.call_back = begin
        for webhook in self.calls:
            group.start_soon(deliver, webhook)


# What is promised


KIE = PROVIDERS["kie"]
LATENCY = Latency(median=4, minimum=2)
PROMPTS = [f"prompt {number}" for number in range(4)]


def world_of(folder: Path, *, calls_back: bool = False) -> World:
    """A world in which one create is refused with 429, one answer is lost and one generation fails."""
    faults = Faults()
    faults.order("create", None, "429", None, "reset_after")
    faults.order("task", None, "fail_word")
    if calls_back:
        faults.order("callback", "early", None, "early", None)
    return World(folder, Network(KIE, faults=faults, latency=LATENCY), calls_back=calls_back)


def ended_at_each_step(folder: Path, ending: str, **how: bool) -> Iterator[tuple[World, AbstractContextManager[None]]]:
    """For each step of an undisturbed process, a world in which one came to its end there; and what names the step."""
    whole = Life()
    world_of(folder / "whole", **how).live(PROMPTS, whole, retries=1)
    for step in range(len(whole.steps)):
        world, life = world_of(folder / str(step), **how), Life(**{ending: step})
        world.live(PROMPTS, life, retries=1)
        yield world, naming(step, life.steps[step])


def lost_in(world: World) -> set[str]:
    """The prompts of which a create's answer was lost by a fault."""
    return {create.prompt for create in world.network.ledger.creates if create.fault in LOST}


def check_money(world: World, resubmits: int = 0) -> None:
    """No prompt has more tasks than it may, none of them is forgotten, and none costs more than the journal tells."""
    ledger, entries = world.network.ledger, world.entries()
    tasks, creates = ledger.tasks_by_prompt(), Counter(create.prompt for create in ledger.creates)
    for prompt, entry in entries.items():
        assert tasks[prompt] <= 1 + entry.retried + resubmits * entry.lost, entry
        assert creates[prompt] <= entry.attempts, entry
    for create in ledger.tasks:
        entry = entries[create.prompt]
        assert entry.task_id == create.task_id or entry.lost or entry.retried, f"{create} is forgotten: {entry}"


def in_state(entries: dict[str, JournalEntry], state: str) -> set[str]:
    """The prompts whose job is in a state."""
    return {prompt for prompt, entry in entries.items() if entry.state == state}


def check_ends(world: World, results: list[Result], at_death: dict[str, JournalEntry], flying: set[str]) -> None:
    """Every prompt came to an end, each with one result, and the pictures of all known tasks are there."""
    after = world.entries()
    assert sorted(after) == sorted(result.request.prompt for result in results) == PROMPTS
    assert {entry.state for entry in after.values()} <= {"done", "failed", "unknown"}
    assert in_state(after, "unknown") <= lost_in(world) | flying
    for prompt, entry in after.items():
        assert (entry.state == "done") == bool(entry.files), entry
        assert all(Path(file).read_text() == f"the picture at {file.url}" for file in entry.files), entry
        before = at_death.get(prompt, entry)
        if before.task_id is not None and entry.retried == before.retried:
            assert (entry.task_id, entry.state in ("done", "failed")) == (before.task_id, True), "a known task is lost"


def check_settled(world: World, **terms: Any) -> None:
    """Another run hands out the same ends and changes nothing."""
    before = world.snapshot()
    assert [result.earlier for result in world.live(PROMPTS, **terms)] == [True] * len(PROMPTS)
    assert world.snapshot() == before


def test_an_undisturbed_run_takes_every_kind_of_step(place: Path) -> None:
    """Without a crash the run pays once for each prompt and once for the retry, meets all faults, tells the bill."""
    life, world = Life(), world_of(place / "world")
    results = world.live(PROMPTS, life, retries=1)
    check_money(world)
    check_ends(world, results, {}, set())
    check_settled(world, retries=1)
    assert (len(life.steps) > 60, len(world.network.ledger.tasks)) == (True, 5)
    assert world.network.ledger.refused == {"429": 1}
    assert sorted(entry.state for entry in world.entries().values()) == ["done", "done", "done", "unknown"]
    with JournalReader(world.journal) as reader:
        assert sum(bill.total * count for bill, count in reader.bills()) == 8 * 4, "the failed one costs nothing"
    assert max(step.count("submitting") for step in life.steps) > 1, "several creates at once are hard on a crash"


def test_everything_is_on_disk_before_what_follows_from_it(place: Path) -> None:
    """The intent is durable before the create leaves, the task id before it is asked about, the URLs before a file."""
    life, on_disk, seen = Life(), set[str](), Counter[str]()
    world_of(place / "world").live(PROMPTS, life, retries=1)
    for step in life.steps:
        what, _, about = step.partition(": ")
        if what == "after writing":
            on_disk.update(about.split(", "))
        elif what in ("before the server sees", "before a picture is there"):
            assert about in on_disk, life.steps
            seen[about.split()[0]] += 1
    assert seen >= Counter({"submitting": 6, "running": 4, "ready": 3})


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["dies_at", "leaves_at"])
def test_an_end_at_any_step_pays_nothing_twice_and_loses_no_picture(place: Path, ending: str) -> None:
    """Wherever a process dies, the next one brings every prompt to its end, and a third adds none.

    One that is cancelled, and may leave in good order, notes what became of each create.
    """
    for world, named in ended_at_each_step(place, ending):
        with named:
            at_end = world.entries()
            flying = in_state(at_end, "submitting")
            if ending == "leaves_at":
                assert (flying, in_state(at_end, "unknown") - lost_in(world)) == (set(), set())
            results = world.live(PROMPTS, retries=1)
            check_money(world)
            check_ends(world, results, at_end, flying)
            check_settled(world, retries=1)


@pytest.mark.slow
def test_a_crash_at_any_step_loses_no_callback(place: Path) -> None:
    """Where the provider calls back, whatever a dead process had paid for is collected by the next one."""
    for world, named in ended_at_each_step(place, "dies_at", calls_back=True):
        with named:
            at_death = world.entries()
            world.live(PROMPTS, retries=1)
            entries, made = world.entries(), world.network.ledger.tasks_by_prompt()
            assert (sorted(entries), world.calls) == (PROMPTS, [])
            assert made.total() <= len(PROMPTS) + 1, "one generation failed and was asked for again"
            held = in_state(entries, "unknown")
            assert all(made[prompt] <= entries[prompt].retried for prompt in held), "each task was announced"
            # A create of which no byte may have arrived is held, whoever else is called back.
            assert held <= in_state(at_death, "submitting")
            # The one whose generation fails stays failed where the crash came before its second task.
            assert {prompt for prompt in PROMPTS if not entries[prompt].files} - held <= in_state(at_death, "failed")
            world.live(PROMPTS, retries=1)
            again = world.entries()
            assert [again[prompt].task_id for prompt in PROMPTS] == [entries[prompt].task_id for prompt in PROMPTS]
            check_money(world)


@pytest.mark.parametrize("room", [1, 2, 3, 5])
def test_a_disk_that_fills_up_ends_the_batch(place: Path, room: int) -> None:
    """Nothing is sent that was not noted, the batch raises; with room again the next run pays for nothing twice."""
    prompts = [f"prompt {number}" for number in range(30)]
    world = World(place, Network(KIE, latency=LATENCY))
    with pytest.raises(JournalError, match="Make room"):
        world.live(prompts, Life(room=room))
    sent = {create.prompt for create in world.network.ledger.creates}
    assert sent <= {prompt for prompt, entry in world.entries().items() if entry.attempts}
    assert bool(sent) == (room > 1)
    results = world.live(prompts)
    assert set(world.network.ledger.tasks_by_prompt().values()) == {1}
    assert {result.request.prompt for result in results if not result.ok} <= sent, "whose answer found no room is held"
    assert Counter(result.request.prompt for result in results) == Counter(prompts)


def test_a_later_run_asks_less_often(place: Path) -> None:
    """What the first run has seen of the provider's latency is in the journal: the next begins with that."""
    world = World(place, Network(KIE, latency=Latency(median=40, sigma=0)))
    asked = []
    for run in range(2):
        world.live([f"prompt {number} of run {run}" for number in range(20)])
        asked.append(len(world.network.ledger.poll_times))
    assert asked[1] - asked[0] < 0.7 * asked[0]


FAULTS = {"create": CREATE_FAULTS, "poll": POLL_FAULTS, "task": TASK_FAULTS}


@pytest.mark.slow
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    orders=st.fixed_dictionaries(
        {road: st.lists(st.none() | st.sampled_from(list(kinds)), max_size=10) for road, kinds in FAULTS.items()}
    ),
    deaths=st.lists(st.integers(0, 60), max_size=3),
    resubmits=st.sampled_from([0, 0, 1]),
)
def test_random_faults_and_crashes(orders: dict[Any, list[str | None]], deaths: list[int], resubmits: int) -> None:
    """Whatever goes wrong and whenever the process dies, a prompt makes one task, unless another one was asked for."""
    terms: dict[str, Any] = {"deadline": 1e7, "resubmits": resubmits, "again": ["unknown"] if resubmits else []}
    faults = Faults()
    for road, orders_of_road in orders.items():
        faults.order(road, *orders_of_road)
    flying, at_death = set[str](), dict[str, JournalEntry]()
    with quick_folder() as folder:
        world = World(folder / "world", Network(KIE, faults=faults, latency=LATENCY))
        for step in deaths:
            world.live(PROMPTS, Life(dies_at=step), **terms)
            at_death = world.entries()
            flying |= in_state(at_death, "submitting")
        results = world.live(PROMPTS, **terms)
        check_money(world, resubmits)
        check_ends(world, results, {} if resubmits else at_death, flying)
        assert {result.request.prompt for result in results if result.ok} == in_state(world.entries(), "done")
        check_settled(world, deadline=1e7)
