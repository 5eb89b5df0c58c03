"""A process dies at every step that it takes, and the next one goes on from what is on disk: nothing is paid twice."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, closing
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from clients import run
from conftest import naming
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inner import (
    CallbackRegistry,
    HttpRequest,
    HttpResponse,
    Journal,
    JournalReader,
    PlainGroup,
    SharedJournal,
    Webhook,
)
from journals import LOST, place, quick_folder
from virtual_network import Network, VirtualClient

from imagen_async import Client, ImageFile, ImagenError, JournalError, Result
from imagen_async.ports import Claim, JournalEntry
from imagen_async.providers import PROVIDERS
from imagen_async.sandbox import CREATE_FAULTS, POLL_FAULTS, TASK_FAULTS, Faults, Latency
from imagen_async.testing import VirtualTimeLoop
from imagen_async.webhooks import Callback

__all__ = ["place"]


class Life:
    """The steps of one process.

    Args:
        ends_at: The step at which it comes to its end; None: it works to the end.
        is_killed: True where nothing that it does from there on has any effect; else it is cancelled, as by Ctrl-C.

    Attributes:
        steps: What it did, in order.
        scope: What it runs in; cancelled at its end, so that what is left of it comes down.
    """

    def __init__(self, ends_at: int | None = None, *, is_killed: bool = True) -> None:
        self.steps: list[str] = []
        self._ends_at = ends_at
        self._is_killed = is_killed
        self._is_dead = False

    def step(self, name: str) -> bool:
        """Take a step; False when the process is dead, by this step or by one before it."""
        if not self._is_dead:
            if len(self.steps) == self._ends_at:
                self._is_dead = self._is_killed
                self.scope.cancel()
            self.steps.append(name)
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
        """Write, if the process lives."""
        rows = list(entries)
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


class MortalSharedJournal(MortalJournal, SharedJournal):
    """The same for single requests, whose claims are steps, too."""

    def claim(self, entry: JournalEntry, again: Collection[str] = ()) -> Claim:
        """Claim, if the process lives; a dead one hears nothing of it."""
        if self._life.step("before a claim"):
            claim = super().claim(entry, again)
            if self._life.step("after a claim"):
                return claim
        raise JournalError("It is dead.")

    def release(self, keys: Iterable[str]) -> None:
        """Let go, if the process lives."""
        if self._life.step("before letting go"):
            super().release(keys)
            self._life.step("after letting go")


class MortalClient(VirtualClient):
    """A client whose exchanges, pictures and callbacks are steps: what a dead one would say or hear, it does not."""

    def __init__(self, network: Network, life: Life, callback: Callback | None, **keeping: Any) -> None:
        super().__init__(network, save=self._write, callback=callback, **keeping)
        self._network = network
        self._life = life

    async def _send(
        self, account: str, request: HttpRequest, *, within: float | None = None, leaves: Any = None
    ) -> HttpResponse:
        created = None if request.body is None else json.loads(request.body)["input"]["prompt"]
        about = f"submitting {created}" if created else f"running {request.path.rpartition('=')[2]}"
        await self._life.reach(f"before the server sees: {about}")
        try:
            return await self._network(account, request, leaves=leaves)
        finally:
            await self._life.reach(f"before the answer arrives: {about}")

    async def _write(self, result: Result, folder: str) -> tuple[ImageFile, ...]:
        files = []
        for number, url in enumerate(result.urls):
            await anyio.sleep(0.1)
            content = f"the picture at {url}".encode()
            path = Path(folder, f"{result.index}-{number}-{result.request.prompt}.png")
            await self._life.reach(f"before a picture is there: ready {result.urls}")
            path.write_bytes(content)
            await self._life.reach("after a picture is there")
            files.append(ImageFile(str(path), hashlib.sha256(content).hexdigest(), len(content), "image/png", url))
        return tuple(files)

    async def _begin_to_hear(self, stack: AsyncExitStack) -> CallbackRegistry | None:
        if self._callback is None:
            return None
        registry = CallbackRegistry(self._callback.public_url, {})
        group = await stack.enter_async_context(PlainGroup())
        stack.callback(group.cancel)
        self._network.call_back = partial(group.start_soon, self._hear, registry)
        unheard, self._network.unheard = self._network.unheard, []
        for webhook in unheard:
            self._network.call_back(webhook)
        return registry

    async def _hear(self, registry: CallbackRegistry, webhook: Webhook) -> None:
        """Take a callback, which is not forgotten by the provider before it is answered."""
        self._network.unheard.append(webhook)
        await anyio.sleep(max(0.0, webhook.ends - asyncio.get_running_loop().time()))
        # Only until the journal is open, which takes no time here: a batch without work ends in the same instant.
        while (call := registry.find(webhook.url.rpartition("/")[2])) is None:
            await checkpoint()
        desk = self._open().desk
        assert desk is not None
        await self._life.reach("before a callback is heard")
        await desk.take(call, webhook.task_id)
        await self._life.reach("before a callback is answered")
        self._network.unheard.remove(webhook)
        self._life.step("after a callback was answered")


class World:
    """What outlives a process: the provider, and a folder with the journal and the pictures.

    With a callback the provider announces the end of each task there, until it is answered.
    """

    def __init__(self, folder: Path, network: Network, callback: Callback | None = None) -> None:
        self.network = network
        self.folder = folder / "out"
        self.journal = folder / "run.db"
        self._callback = callback
        self._clock = 0.0
        self.folder.mkdir(parents=True)

    def live(self, requests: Sequence[str], life: Life | None = None, **terms: Any) -> list[Result]:
        """Run a process until it has all results, or comes to its end without any."""
        loop = VirtualTimeLoop()
        loop.jump(self._clock)  # the provider's clock goes on, whatever becomes of a process
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            try:
                return runner.run(self._run(requests, life or Life(), **terms))
            finally:
                self._clock = loop.time()

    async def _run(self, requests: Sequence[str], life: Life, **terms: Any) -> list[Result]:
        life.scope = anyio.CancelScope()
        client = MortalClient(self.network, life, self._callback)
        with closing(MortalJournal(self.journal, life)) as store, life.scope:
            return await run(client, requests, journal=store, save_to=self.folder, **terms)
        return []

    def entries(self) -> dict[str, JournalEntry]:
        """What the journal says, by prompt."""
        with JournalReader(self.journal) as reader:
            return {entry.request.prompt: entry for entry in reader.entries()}

    def snapshot(self) -> tuple[dict[str, JournalEntry], int, list[str]]:
        """All that another run could change."""
        return self.entries(), len(self.network.ledger.creates), sorted(path.name for path in self.folder.iterdir())


class SingleWorld(World):
    """The same of a process whose requests are single ones, each with its prompt for its key."""

    async def _run(self, requests: Sequence[str], life: Life, **terms: Any) -> list[Result]:
        life.scope = anyio.CancelScope()
        results: list[Result] = []
        with closing(MortalSharedJournal(self.journal, life)) as store, life.scope:
            keeping = {"journal": store, "save_to": self.folder}
            async with MortalClient(self.network, life, self._callback, **keeping) as client, PlainGroup() as group:
                for prompt in requests:
                    group.start_soon(partial(self._ask, client, prompt, results, **terms))
        return results

    async def _ask(self, client: Client, prompt: str, results: list[Result], **terms: Any) -> None:
        with contextlib.suppress(ImagenError):
            results.append(await client.generate(prompt, key=prompt, **terms))


KIE = PROVIDERS["kie"]
LATENCY = Latency(median=4, minimum=2)
PROMPTS = [f"prompt {number}" for number in range(4)]


def world_of(folder: Path, *, calls_back: bool = False, kind: type[World] = World) -> World:
    """A world in which one create is refused with 429, one answer is lost and one generation fails."""
    faults = Faults()
    faults.order("create", None, "429", None, "reset_after")
    faults.order("task", None, "fail_word")
    if calls_back:
        faults.order("callback", "early", None, "early", None)
    callback = Callback("https://example.com/imagen") if calls_back else None
    return kind(folder, Network(KIE, faults=faults, latency=LATENCY), callback)


def ended_at_each_step(folder: Path, *, is_killed: bool = True, **how: Any) -> Iterator[tuple[World, Any]]:
    """For each step of an undisturbed process, a world in which one came to its end there; and what names the step."""
    whole, terms = Life(), {} if "kind" in how else {"retries": 1}
    world_of(folder / "whole", **how).live(PROMPTS, whole, **terms)
    for step in range(len(whole.steps)):
        world, life = world_of(folder / str(step), **how), Life(step, is_killed=is_killed)
        world.live(PROMPTS, life, **terms)
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
@pytest.mark.parametrize("is_killed", [True, False], ids=["dies", "leaves"])
def test_an_end_at_any_step_pays_nothing_twice_and_loses_no_picture(place: Path, is_killed: bool) -> None:
    """Wherever a process dies, the next one brings every prompt to its end, and a third adds none.

    One that is cancelled, and may leave in good order, notes what became of each create.
    """
    for world, named in ended_at_each_step(place, is_killed=is_killed):
        with named:
            at_end = world.entries()
            flying = in_state(at_end, "submitting")
            if not is_killed:
                assert (flying, in_state(at_end, "unknown") - lost_in(world)) == (set(), set())
            results = world.live(PROMPTS, retries=1)
            check_money(world)
            check_ends(world, results, at_end, flying)
            check_settled(world, retries=1)


@pytest.mark.slow
def test_a_crash_at_any_step_loses_no_callback(place: Path) -> None:
    """Where the provider calls back, whatever a dead process had paid for is collected by the next one."""
    for world, named in ended_at_each_step(place, calls_back=True):
        with named:
            at_death = world.entries()
            world.live(PROMPTS, retries=1)
            entries, made = world.entries(), world.network.ledger.tasks_by_prompt()
            assert (sorted(entries), world.network.unheard) == (PROMPTS, [])
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


def test_a_later_run_asks_less_in_vain(place: Path) -> None:
    """What the first run has seen of the provider's latency is in the journal: the next begins with that."""
    world = World(place, Network(KIE, latency=Latency(median=40, sigma=0)))
    ledger, in_vain = world.network.ledger, list[int]()
    for part in range(2):
        created, asked = len(ledger.create_times), len(ledger.poll_times)
        world.live([f"prompt {number} of run {part}" for number in range(20)])
        in_vain.append(sum(time < ledger.create_times[created] + 30 for time in ledger.poll_times[asked:]))
    assert in_vain[1] < 0.7 * in_vain[0]


FAULTS = {"create": CREATE_FAULTS, "poll": POLL_FAULTS, "task": TASK_FAULTS}
ORDERS = {road: st.lists(st.none() | st.sampled_from(list(kinds)), max_size=10) for road, kinds in FAULTS.items()}


@pytest.mark.slow
@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(
    orders=st.fixed_dictionaries(ORDERS),
    deaths=st.lists(st.integers(0, 60), max_size=3),
    resubmits=st.sampled_from([0, 0, 1]),
)
def test_random_faults_and_crashes(orders: dict[Any, list[str | None]], deaths: list[int], resubmits: int) -> None:
    """Whatever goes wrong and whenever the process dies, a prompt makes one task, unless another one was asked for."""
    terms: dict[str, Any] = {"deadline": 1e7, "on_unknown": "resubmit" if resubmits else "hold"}
    faults = Faults()
    for road, orders_of_road in orders.items():
        faults.order(road, *orders_of_road)
    flying, at_death = set[str](), dict[str, JournalEntry]()
    with quick_folder() as folder:
        world = World(folder / "world", Network(KIE, faults=faults, latency=LATENCY))
        for step in deaths:
            world.live(PROMPTS, Life(step), **terms)
            at_death = world.entries()
            flying |= in_state(at_death, "submitting")
        results = world.live(PROMPTS, **terms)
        check_money(world, resubmits)
        check_ends(world, results, {} if resubmits else at_death, flying)
        assert {result.request.prompt for result in results if result.ok} == in_state(world.entries(), "done")
        check_settled(world, deadline=1e7)


@pytest.mark.slow
@pytest.mark.parametrize("is_killed", [True, False], ids=["dies", "leaves"])
def test_an_end_at_any_step_pays_no_key_twice(place: Path, is_killed: bool) -> None:
    """Wherever a process dies, whoever asks for its keys has their pictures, or what nobody knows, and pays once."""
    for world, named in ended_at_each_step(place, is_killed=is_killed, kind=SingleWorld):
        with named:
            at_end = world.entries()
            flying = in_state(at_end, "submitting")
            if not is_killed:
                assert (flying, in_state(at_end, "unknown") - lost_in(world)) == (set(), set())
            found = {result.request.prompt: result for result in world.live(PROMPTS)}
            check_money(world)
            after, tasks = world.entries(), world.network.ledger.tasks_by_prompt()
            assert {entry.state for entry in after.values()} <= {"done", "failed", "unknown"}
            assert in_state(after, "unknown") <= lost_in(world) | flying
            assert found.keys() == in_state(after, "done")
            assert all(len(result.files) == 1 for result in found.values())
            assert all(after[prompt].task_id == entry.task_id for prompt, entry in at_end.items() if entry.task_id)
            before = world.snapshot()
            assert {result.request.prompt: result.files for result in world.live(PROMPTS)} == {
                prompt: result.files for prompt, result in found.items()
            }
            assert world.snapshot() == before
            again = world.live(PROMPTS, retry_failed=True)
            assert found.keys() <= {result.request.prompt for result in again}
            # What is left of the faults may meet these.
            assert world.network.ledger.tasks_by_prompt() - tasks <= Counter(set(PROMPTS) - found.keys())
