"""A process dies at every step that it takes, and the next one goes on from what is on disk: nothing is paid twice."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from crashing import Life, World, quick_folder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from virtual_network import Network

from imagen_async import Result
from imagen_async._core.journal_entry import JournalEntry
from imagen_async._journal import JournalReader
from imagen_async.providers import PROVIDERS
from imagen_async.sandbox import CREATE_FAULTS, POLL_FAULTS, TASK_FAULTS, Faults, Latency

KIE = PROVIDERS["kie"]
PROMPTS = [f"prompt {number}" for number in range(4)]
# Each of these made a task of which the process never hears.
LOST_AND_MADE = ("reset_after", "truncated", "http_504_made", "no_task_id", "wrong_types", "too_long")
LOST = (*LOST_AND_MADE, "reset_before", "garbage", "http_502")


@pytest.fixture
def place() -> Iterator[Path]:
    """Where the worlds of a test are; not `tmp_path`, whose disk takes its time for every commit."""
    with quick_folder() as folder:
        yield folder


def world_of(folder: Path, *, expects_callbacks: bool = False) -> World:
    """A world in which one create is refused with 429, one answer is lost and one generation fails."""
    folder.mkdir(parents=True)
    faults = Faults()
    faults.order("create", None, "429", None, "reset_after")
    faults.order("task", None, "fail_word")
    if expects_callbacks:
        faults.order("callback", "early", None, "early", None)
    network = Network(KIE, faults=faults, latency=Latency(median=4, minimum=2))
    return World(folder, network, expects_callbacks=expects_callbacks)


def check_money(world: World, **bounds: int) -> None:
    """No prompt has more tasks than it may, and none of them is forgotten."""
    entries = world.entries()
    for prompt, count in world.network.ledger.tasks_by_prompt().items():
        entry = entries[prompt]
        assert count <= 1 + entry.retried + bounds.get("resubmits", 0) * entry.lost, entry
    for prompt, count in Counter(create.prompt for create in world.network.ledger.creates).items():
        assert count <= entries[prompt].attempts, entries[prompt]
    for create in world.network.ledger.tasks:
        entry = entries[create.prompt]
        assert entry.task_id == create.task_id or entry.lost or entry.retried, f"{create} is forgotten: {entry}"


def check_ends(world: World, at_death: dict[str, JournalEntry], results: list[Result]) -> None:
    """Every prompt came to an end, each with one result, the pictures of all known tasks are there."""
    after = world.entries()
    assert sorted(after) == PROMPTS
    assert Counter(result.request.prompt for result in results) == Counter(PROMPTS)
    lost = {create.prompt for create in world.network.ledger.creates if create.fault in LOST}
    flying = {prompt for prompt, entry in at_death.items() if entry.state == "submitting"}
    held = {prompt for prompt, entry in after.items() if entry.state == "unknown"}
    assert {entry.state for entry in after.values()} <= {"done", "failed", "unknown"}
    assert held <= lost | flying
    for prompt, entry in after.items():
        assert (entry.state == "done") == bool(entry.files), entry
        assert all(Path(file).read_text() == f"the picture at {file.url}" for file in entry.files), entry
        before = at_death.get(prompt)
        if before is not None and before.task_id is not None and entry.retried == before.retried:
            assert entry.task_id == before.task_id, "a task that was known is not forgotten"
            assert entry.state in ("done", "failed"), entry


def check_settled(world: World, **terms: Any) -> None:
    """Another run hands out the same ends and changes nothing."""
    before = world.snapshot()
    results = world.live(PROMPTS, **terms)
    assert len(results) == len(PROMPTS)
    assert all(result.earlier for result in results)
    assert world.snapshot() == before


def check_survives(folder: Path, *deaths: int) -> None:
    """Let processes die at these steps, one after the other, then one live; and all must be well."""
    world = world_of(folder)
    names = []
    for step in deaths:
        life = Life(dies_at=step)
        world.live(PROMPTS, life, retries=1)
        names.append(life.steps[-1])
    at_death = world.entries()
    try:
        results = world.live(PROMPTS, retries=1)
        check_money(world)
        if len(deaths) == 1:
            check_ends(world, at_death, results)
        assert sorted(world.entries()) == PROMPTS
        check_settled(world, retries=1)
    except AssertionError as error:
        error.add_note(f"died at steps {deaths}: {names}")
        raise


def steps_of_a_whole_life(folder: Path) -> list[str]:
    """The steps of a process that nothing disturbs."""
    life = Life()
    world_of(folder).live(PROMPTS, life, retries=1)
    return life.steps


def test_an_undisturbed_run_takes_every_kind_of_step(place: Path) -> None:
    """Without a crash the run pays once for each prompt and once for the retry, and meets all the faults."""
    life = Life()
    world = world_of(place / "world")
    results = world.live(PROMPTS, life, retries=1)
    check_money(world)
    check_ends(world, {}, results)
    check_settled(world, retries=1)
    assert len(world.network.ledger.tasks) == 5
    assert world.network.ledger.refused == {"429": 1}
    assert sorted(entry.state for entry in world.entries().values()) == ["done", "done", "done", "unknown"]
    # Several creates are on the way at once: that is what a crash is hard on.
    assert any(step.count("submitting") > 1 for step in life.steps)
    kinds = {" ".join(step.split()[:2]) for step in life.steps}
    assert kinds >= {"before writing", "after writing", "before the", "before a", "after a"}


def test_everything_is_on_disk_before_what_follows_from_it(place: Path) -> None:
    """The intent is durable before the create leaves, the task id before it is asked about, the URLs before a file."""
    world = world_of(place / "world")
    seen: list[tuple[str, bool]] = []
    asked: set[str] = set()

    def watch(what: str, about: str) -> None:
        with JournalReader(world.journal) as reader:
            entries = list(reader.entries())
        known = {
            "POST": lambda: any(r.request.prompt == about and r.state == "submitting" for r in entries),
            "GET": lambda: any(r.task_id == about and r.state == "running" for r in entries),
            "save": lambda: any(about in r.urls and r.state == "ready" for r in entries),
            "done": lambda: Path(about).exists(),
        }
        seen.append((what, known[what]()))
        if what == "GET":
            asked.add(about)

    world.watch = watch
    world.live(PROMPTS, retries=1)
    counts = Counter(what for what, _ in seen)
    assert {"POST": 6, "save": 3, "done": 3}.items() <= counts.items()
    assert counts["GET"] > len(asked), "some are asked about more than once; how often is the schedule's to say"
    lost = {create.task_id for create in world.network.ledger.tasks if create.fault in LOST}
    assert asked == {create.task_id for create in world.network.ledger.tasks} - lost
    assert all(is_known for _, is_known in seen)


def test_a_crash_at_any_step_pays_nothing_twice_and_loses_no_picture(place: Path) -> None:
    """Whatever the step at which a process dies, the next one brings every prompt to its end, and a third adds none."""
    count = len(steps_of_a_whole_life(place / "whole"))
    assert count > 60
    for step in range(count):
        check_survives(place / str(step), step)


def test_two_crashes_in_a_row(place: Path) -> None:
    """A process that resumes may die too, also while it opens the journal."""
    count = len(steps_of_a_whole_life(place / "whole"))
    chance = random.Random(4)
    pairs = [(chance.randrange(4, count), second) for second in range(6)]
    pairs += [(chance.randrange(count), chance.randrange(50)) for _ in range(50)]
    for number, pair in enumerate(pairs):
        check_survives(place / str(number), *pair)


def test_a_create_cut_off_by_a_crash_is_sent_again_only_when_asked(place: Path) -> None:
    """What was on the way at a crash stays held over any number of runs, and one that asks for it pays once more."""
    whole = steps_of_a_whole_life(place / "whole")
    death = next(n for n, step in enumerate(whole) if step == "before the answer to a POST arrives")
    world = world_of(place / "world")
    world.live(PROMPTS, Life(dies_at=death))
    (prompt,) = world.network.ledger.tasks_by_prompt()
    for _ in range(2):
        world.live(PROMPTS)
        assert world.entries()[prompt].state == "unknown"
    assert world.network.ledger.tasks_by_prompt()[prompt] == 1
    assert world.entries()[prompt].at_risk == 8
    world.live(PROMPTS, again=["unknown"], resubmits=1)
    assert world.network.ledger.tasks_by_prompt()[prompt] == 2
    assert world.entries()[prompt].state == "done"
    check_settled(world)


def test_leaving_at_any_step_leaves_no_create_in_doubt(place: Path) -> None:
    """Cancelled at whatever step, a process notes what became of each create; the next one makes what is missing."""
    for step in range(len(steps_of_a_whole_life(place / "whole"))):
        world = world_of(place / str(step))
        life = Life(leaves_at=step)
        world.live(PROMPTS, life, retries=1)
        lost = {create.prompt for create in world.network.ledger.creates if create.fault in LOST}
        told = f"left at step {step}: {life.steps[step]}"
        for prompt, entry in world.entries().items():
            assert entry.state != "submitting", f"{told}: {entry} was never sent, or its answer was heard"
            assert entry.state != "unknown" or prompt in lost, f"{told}: {entry}"
        world.live(PROMPTS, retries=1)
        check_money(world)
        states = {entry.state for entry in world.entries().values()}
        assert states <= {"done", "failed", "unknown"}, told
        check_settled(world, retries=1)


def faults_of(orders: dict[str, list[str | None]]) -> Faults:
    """The faults of one example."""
    faults = Faults()
    for road, kinds in orders.items():
        faults.order(road, *kinds)  # type: ignore[arg-type]
    return faults


def kinds(of: Iterable[str]) -> st.SearchStrategy[list[str | None]]:
    """What goes wrong on one road, in turn."""
    return st.lists(st.one_of(st.none(), st.sampled_from(list(of))), max_size=10)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    orders=st.fixed_dictionaries(
        {"create": kinds(CREATE_FAULTS), "poll": kinds(POLL_FAULTS), "task": kinds(TASK_FAULTS)}
    ),
    deaths=st.lists(st.integers(0, 60), max_size=3),
    resubmits=st.sampled_from([0, 0, 1]),
)
def test_random_faults_and_crashes(orders: dict[str, list[str | None]], deaths: list[int], resubmits: int) -> None:
    """Whatever goes wrong and whenever the process dies, a prompt makes one task, unless another one was asked for."""
    terms: dict[str, Any] = {"deadline": 1e7, "resubmits": resubmits, "again": ["unknown"] if resubmits else []}
    with quick_folder() as folder:
        world = World(folder, Network(KIE, faults=faults_of(orders), latency=Latency(median=4, minimum=2)))
        for step in deaths:
            world.live(PROMPTS, Life(dies_at=step), **terms)
        results = world.live(PROMPTS, **terms)
        check_money(world, resubmits=resubmits)
        entries = world.entries()
        assert sorted(entries) == PROMPTS
        assert {entry.state for entry in entries.values()} <= {"done", "failed", "unknown"}
        assert Counter(result.request.prompt for result in results) == Counter(PROMPTS)
        for result in results:
            assert result.ok == (entries[result.request.prompt].state == "done")
        check_settled(world, deadline=1e7)


def check_cleared_up(folder: Path, step: int) -> int:
    """Let a process die at a step, and the next be called back: what was made is collected; returns the steps."""
    world = world_of(folder, expects_callbacks=True)
    life = Life(dies_at=step)
    world.live(PROMPTS, life, retries=1)
    at_death = world.entries()
    try:
        world.live(PROMPTS, retries=1)
        entries = world.entries()
        check_money(world)
        made = world.network.ledger.tasks_by_prompt()
        held = {prompt for prompt, entry in entries.items() if entry.state == "unknown"}
        assert sorted(entries) == PROMPTS
        assert all(made[prompt] <= entries[prompt].retried for prompt in held), "each task was announced"
        # A create of which no byte may have arrived is held, whoever else is called back.
        assert held <= {prompt for prompt, entry in at_death.items() if entry.state == "submitting"}
        # The one whose generation fails stays failed where the crash came before its second task.
        without = {prompt for prompt, entry in entries.items() if not entry.files and prompt not in held}
        assert without <= {prompt for prompt, entry in at_death.items() if entry.state == "failed"}
        assert len(world.network.ledger.tasks) <= len(PROMPTS) + 1, "one generation failed and was asked for again"
        assert world.calls == []
        world.live(PROMPTS, retries=1)
        again = world.entries()
        assert {prompt: entry.task_id for prompt, entry in again.items()} == {
            prompt: entry.task_id for prompt, entry in entries.items()
        }
        check_money(world)
    except AssertionError as error:
        error.add_note(f"died at step {step}: {life.steps[-1:]}")
        raise
    return len(life.steps)


def test_a_crash_at_any_step_loses_no_callback(place: Path) -> None:
    """Where the provider calls back, whatever a dead process had paid for is collected by the next one."""
    steps = check_cleared_up(place / "whole", 10_000)
    for step in range(steps):
        check_cleared_up(place / str(step), step)
