"""A process dies at every step that it takes, and the next one goes on from what is on disk: nothing is paid twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from conftest import naming
from crashing import Life, World
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from journals import place, quick_folder
from virtual_network import Network

from imagen_async import JournalError, Result
from imagen_async._journal import JournalReader
from imagen_async.ports import JournalEntry
from imagen_async.providers import PROVIDERS
from imagen_async.sandbox import CREATE_FAULTS, POLL_FAULTS, TASK_FAULTS, Faults, Latency

__all__ = ["place"]

KIE = PROVIDERS["kie"]
LATENCY = Latency(median=4, minimum=2)
PROMPTS = [f"prompt {number}" for number in range(4)]
LOST = frozenset(CREATE_FAULTS) - {"429", "http_429", "455", "500"}
"""Faults of a create after which nobody can tell whether there is a task."""
ENDS = {"done", "failed", "unknown"}


def world_of(folder: Path, *, calls_back: bool = False) -> World:
    """A world in which one create is refused with 429, one answer is lost and one generation fails."""
    faults = Faults()
    faults.order("create", None, "429", None, "reset_after")
    faults.order("task", None, "fail_word")
    if calls_back:
        faults.order("callback", "early", None, "early", None)
    network = Network(KIE, faults=faults, latency=LATENCY)
    return World(folder, network, calls_back=calls_back)


def whole_life(folder: Path, *, calls_back: bool = False) -> list[str]:
    """The steps of a process that nothing disturbs."""
    life = Life()
    world_of(folder, calls_back=calls_back).live(PROMPTS, life, retries=1)
    return life.steps


def lost_in(world: World) -> set[str]:
    """The prompts of which a create's answer was lost by a fault."""
    return {create.prompt for create in world.network.ledger.creates if create.fault in LOST}


def check_money(world: World, resubmits: int = 0) -> None:
    """No prompt has more tasks than it may, none of them is forgotten, and none costs more than the journal tells."""
    ledger, entries = world.network.ledger, world.entries()
    for prompt, count in ledger.tasks_by_prompt().items():
        entry = entries[prompt]
        assert count <= 1 + entry.retried + resubmits * entry.lost, entry
    for prompt, count in Counter(create.prompt for create in ledger.creates).items():
        assert count <= entries[prompt].attempts, entries[prompt]
    for create in ledger.tasks:
        entry = entries[create.prompt]
        assert entry.task_id == create.task_id or entry.lost or entry.retried, f"{create} is forgotten: {entry}"


def in_state(entries: dict[str, JournalEntry], state: str) -> set[str]:
    """The prompts whose job is in a state."""
    return {prompt for prompt, entry in entries.items() if entry.state == state}


def check_ends(
    world: World, results: list[Result], at_death: dict[str, JournalEntry], flying: set[str] = frozenset()
) -> None:
    """Every prompt came to an end, each with one result, and the pictures of all known tasks are there."""
    after = world.entries()
    assert sorted(after) == sorted(result.request.prompt for result in results) == PROMPTS
    assert {entry.state for entry in after.values()} <= ENDS
    assert in_state(after, "unknown") <= lost_in(world) | flying
    for prompt, entry in after.items():
        assert (entry.state == "done") == bool(entry.files), entry
        assert all(Path(file).read_text() == f"the picture at {file.url}" for file in entry.files), entry
        before = at_death.get(prompt)
        if before is not None and before.task_id is not None and entry.retried == before.retried:
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
    check_ends(world, results, {})
    check_settled(world, retries=1)
    assert (len(life.steps) > 60, len(world.network.ledger.tasks)) == (True, 5)
    assert world.network.ledger.refused == {"429": 1}
    assert sorted(entry.state for entry in world.entries().values()) == ["done", "done", "done", "unknown"]
    with JournalReader(world.journal) as reader:
        assert sum(bill.total * count for bill, count in reader.bills()) == 8 * 4, "the failed one costs nothing"
    assert max(step.count("submitting") for step in life.steps) > 1, "several creates at once are hard on a crash"
    kinds = {" ".join(step.split()[:2]) for step in life.steps}
    assert kinds >= {"before writing", "after writing", "before the", "before a", "after a"}


def test_everything_is_on_disk_before_what_follows_from_it(place: Path) -> None:
    """The intent is durable before the create leaves, the task id before it is asked about, the URLs before a file."""
    world = world_of(place / "world")
    seen: list[tuple[str, bool]] = []

    def watch(what: str, about: str) -> None:
        with JournalReader(world.journal) as reader:
            entries = list(reader.entries())
        known = {
            "POST": lambda: any(each.request.prompt == about and each.state == "submitting" for each in entries),
            "GET": lambda: any(each.task_id == about and each.state == "running" for each in entries),
            "save": lambda: any(about in each.urls and each.state == "ready" for each in entries),
            "done": lambda: Path(about).exists(),
        }
        seen.append((what, known[what]()))

    world.watch = watch
    world.live(PROMPTS, retries=1)
    counts = Counter(what for what, _ in seen)
    assert counts == {"POST": 6, "save": 3, "done": 3, "GET": counts["GET"]}
    assert counts["GET"] >= 4
    assert [what for what, is_known in seen if not is_known] == []


@pytest.mark.slow
def test_a_crash_at_any_step_pays_nothing_twice_and_loses_no_picture(place: Path) -> None:
    """Whatever the step at which a process dies, the next one brings every prompt to its end, and a third adds none."""
    for step in range(len(whole_life(place / "whole"))):
        world, life = world_of(place / str(step)), Life(dies_at=step)
        world.live(PROMPTS, life, retries=1)
        at_death = world.entries()
        results = world.live(PROMPTS, retries=1)
        with naming(step, life.steps[-1]):
            check_money(world)
            check_ends(world, results, at_death, in_state(at_death, "submitting"))
            check_settled(world, retries=1)


@pytest.mark.slow
def test_a_crash_at_any_step_loses_no_callback(place: Path) -> None:
    """Where the provider calls back, whatever a dead process had paid for is collected by the next one."""
    for step in range(len(whole_life(place / "whole", calls_back=True))):
        world, life = world_of(place / str(step), calls_back=True), Life(dies_at=step)
        world.live(PROMPTS, life, retries=1)
        at_death = world.entries()
        world.live(PROMPTS, retries=1)
        entries, made = world.entries(), world.network.ledger.tasks_by_prompt()
        with naming(step, life.steps[-1]):
            check_money(world)
            assert (sorted(entries), world.calls) == (PROMPTS, [])
            assert made.total() <= len(PROMPTS) + 1, "one generation failed and was asked for again"
            held = in_state(entries, "unknown")
            assert all(made[prompt] <= entries[prompt].retried for prompt in held), "each task was announced"
            # A create of which no byte may have arrived is held, whoever else is called back.
            assert held <= in_state(at_death, "submitting")
            # The one whose generation fails stays failed where the crash came before its second task.
            without = {prompt for prompt, entry in entries.items() if not entry.files and prompt not in held}
            assert without <= in_state(at_death, "failed")
            world.live(PROMPTS, retries=1)
            tasks = {prompt: entry.task_id for prompt, entry in world.entries().items()}
            assert tasks == {prompt: entry.task_id for prompt, entry in entries.items()}
            check_money(world)


@pytest.mark.slow
def test_leaving_at_any_step_leaves_no_create_in_doubt(place: Path) -> None:
    """Cancelled at whatever step, a process notes what became of each create; the next one makes what is missing."""
    for step in range(len(whole_life(place / "whole"))):
        world, life = world_of(place / str(step)), Life(leaves_at=step)
        world.live(PROMPTS, life, retries=1)
        with naming(step, life.steps[step]):
            left = world.entries()
            assert in_state(left, "submitting") == set(), "it was never sent, or its answer was heard"
            assert in_state(left, "unknown") <= lost_in(world)
            world.live(PROMPTS, retries=1)
            check_money(world)
            check_settled(world, retries=1)


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


def kinds(of: Iterable[str]) -> st.SearchStrategy[list[str | None]]:
    """What goes wrong on one road, in turn."""
    return st.lists(st.one_of(st.none(), st.sampled_from(list(of))), max_size=10)


@pytest.mark.slow
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    orders=st.fixed_dictionaries(
        {"create": kinds(CREATE_FAULTS), "poll": kinds(POLL_FAULTS), "task": kinds(TASK_FAULTS)}
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
