"""What a batch counts, from its results and changes to its progress: pure sums, no loop."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from builders import make_job, upstream

from imagen_async import ImageRequest, Progress, Result, errors
from imagen_async._batch.feeder import Feeder
from imagen_async._batch.tally import Tally, _Recent
from imagen_async._core.change import Change
from imagen_async._core.job_events import Saved, StatusAsked, Taken
from imagen_async._core.plan import Plan
from imagen_async._core.routing import Offer
from imagen_async._core.states import Done, Left, Noting, Queued, Running
from imagen_async._core.wire import Succeeded
from imagen_async._scheduler.scheduler import Standing

NOW = 100.0
MODEL = make_job().model
RUNNING = Running("t1", NOW)
DONE = Done("t1", Succeeded(("https://files.example/1.png",), 4.0, 8.0, b"{}"))


def result(key: str = "k", provider: str = "kie", **fields: Any) -> Result:
    """A result with a picture, or with what is said."""
    return Result(key, 0, ImageRequest("x"), provider, "imagen4", **fields)


def lost(key: str, **fields: Any) -> Result:
    """A result whose create may have cost eight credits."""
    return result(key, error=errors.UnknownOutcome("lost", credits=8.0), **fields)


def told(tally: Tally, *jobs: Any, unpulled: int | None = 0) -> Progress:
    """How far it is, with those jobs alive and so many requests to come."""
    upstreams = Plan([upstream("kie"), upstream("apiin")], 8).upstreams
    standing = Standing(NOW, jobs, upstreams)
    return tally.progress(standing, total=None, pulled=0, unpulled=unpulled, route=None)


def test_each_result_counts_once() -> None:
    """Done and failed, unknown among the failed, earlier ones among both; credits and accounts are this run's."""
    tally = Tally()
    for each in (
        result("a", credits=8.0),
        result("b", credits=4.0, provider="apiin"),
        result("c", provider="apiin"),
        result("old", credits=8.0, earlier=True),
        result("bad", error=errors.GenerationFailed("no"), credits=2.0),
        lost("lost"),
        lost("lost before", earlier=True),
        result("lost for nothing", error=errors.UnknownOutcome("lost")),
    ):
        tally.count(each, NOW)
    now = told(tally)
    assert (now.done, now.failed, now.unknown, now.earlier) == (4, 4, 3, 2)
    assert (now.credits, now.reserved) == (14.0, 8.0)
    assert [(each.name, each.done, each.credits) for each in now.accounts] == [("kie", 1, 10.0), ("apiin", 2, 4.0)]
    assert now.elapsed == NOW
    tally.began_at, tally.ended_at = 10.0, 90.0
    assert told(tally).elapsed == 80.0


def test_an_unknown_result_is_taken_back_once() -> None:
    """Where another result will come in its place, an unknown one counts no more, nor what it may have cost."""
    tally = Tally()
    tally.count(lost("lost"), NOW)
    tally.count(lost("before", earlier=True), NOW)
    for _ in range(2):
        for key in ("lost", "before", "nobody"):
            tally.reopen(key)
    now = told(tally)
    assert (now.done, now.failed, now.unknown, now.earlier, now.reserved) == (0, 0, 0, 0, 0.0)


@pytest.mark.parametrize(
    ("states", "unpulled", "spent", "reserved", "projected"),
    [
        ([], 3, 0.0, 0.0, 24.0),
        ([Queued(), Queued()], 1, 5.0, 0.0, 5.0 + 24.0),
        ([Queued(), Noting(), Noting()], 0, 5.0, 16.0, 5.0 + 16.0 + 8.0),
        ([RUNNING], None, 5.0, 8.0, None),
    ],
)
def test_what_is_to_come_costs_the_mean(
    states: list[Any], unpulled: int | None, spent: float, reserved: float, projected: float | None
) -> None:
    """Projected are what is spent, what the tasks at the providers will cost, and the mean price of all not sent."""
    tally = Tally()
    jobs = [make_job(number, state) for number, state in enumerate(states, 1)]
    for job in jobs or [make_job(9)]:
        tally.on_change(Change(None, job, Taken(Offer("kie", MODEL))), NOW)
    tally.count(result(credits=spent), NOW)
    now = told(tally, *jobs, unpulled=unpulled)
    assert (now.reserved, now.projected) == (reserved, projected)
    assert (now.queued, now.submitting, now.running) == (
        sum(isinstance(state, Queued) for state in states),
        sum(isinstance(state, Noting) for state in states),
        sum(isinstance(state, Running) for state in states),
    )


def test_without_a_price_nothing_is_projected() -> None:
    """One unknown price makes what is to come unknown; what has ended is known all the same."""
    unknown = msgspec.structs.replace(make_job(1), model=msgspec.structs.replace(MODEL, credits=None))
    for jobs, unpulled, projected in (((), 1, None), ((unknown,), 0, None), ((), 0, 0.0)):
        tally = Tally()
        tally.on_change(Change(None, unknown, Taken(Offer("kie", MODEL))), NOW)
        assert told(tally, *jobs, unpulled=unpulled).projected == projected
    assert told(Tally(), unpulled=1).projected is None


def test_calls_are_counted_for_tasks_that_finished() -> None:
    """On average over the tasks, of which each retry had one before; a task that was left, or never was, is none."""
    tally = Tally()
    assert told(tally).calls_per_task is None
    for number, calls, ends, retried in ((1, 3, DONE, 0), (2, 5, DONE, 1), (3, 7, Left(RUNNING), 0), (4, 2, None, 0)):
        running = make_job(number, RUNNING, retried=retried)
        for _ in range(calls):
            tally.on_change(Change(running, running, StatusAsked()), NOW)
        if ends is not None:
            tally.on_change(Change(running, make_job(number, ends, retried=retried), Saved(())), NOW)
    tally.on_change(Change(make_job(5), make_job(5, Left(Queued())), Saved(())), NOW)
    assert told(tally).calls_per_task == (3 + 5) / 3


def test_the_last_results_tell_the_pace() -> None:
    """Latencies and pace are of the last 512 results of this run; a pace is told once it was steady for its time."""
    tally, recent = Tally(), _Recent()
    for number in range(600):
        each = result(str(number), latency=float(number), earlier=number % 100 == 99)
        tally.count(each, number / 10)
        recent.add(each, number / 10)
    now = told(tally)
    assert (now.latency, now.latency_p95) == (340.0, 573.0)
    assert now.recent == tuple(recent.results)
    assert [each.key for each in now.recent] == [str(number) for number in range(552, 600)]
    # Of 594 results of this run the first 82 are out of sight: the 83rd came 8.2 s after the first.
    assert now.rate == pytest.approx(512 / (NOW - 8.2))
    assert recent.pace(60.0, 51.0) == pytest.approx(511 / (60.0 - 8.2))
    assert recent.pace(60.0, 52.0) is None
    few = _Recent()
    assert (few.latencies(0.5), few.rate(NOW, NOW)) == ([None], 0.0)
    for number in range(20):
        assert few.pace(1000.0, 1.0) is None
        few.add(result(), float(number))
    assert few.pace(19.0, 19.0) == 1.0
    assert few.rate(NOW, 60.0) == 0.5


@pytest.mark.parametrize(
    ("requests", "change", "unpulled"),
    [
        (["x"] * 10, {"pulled": 3}, 5),
        (["x"] * 10, {"pulled": 9}, 0),
        (["x"] * 10, {"is_over": True}, 0),
        (["x"] * 10, {"is_stopped": True}, 0),
        (iter(["x"]), {}, None),
        (iter(["x"]), {"is_over": True}, 0),
    ],
)
async def test_what_will_still_be_pulled(requests: Any, change: dict[str, Any], unpulled: int | None) -> None:
    """All that has a length and was neither pulled nor made by an earlier run, here two; after the end nothing."""
    feeder = Feeder(requests, 9, room=None, take=None, ended=None)  # type: ignore[arg-type]
    for name, value in change.items():
        setattr(feeder, name, value)
    assert feeder.unpulled(2) == unpulled
