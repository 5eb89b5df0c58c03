"""What a batch counts, from its results and changes to its progress: pure sums, no loop."""

from __future__ import annotations

from typing import Any

import inner
import msgspec
import pytest
from builders import make_job, upstream

from imagen_async import ImageRequest, Progress, Result, errors
from imagen_async._batch.tally import Tally, _Recent

NOW = 100.0
QUEUED, NOTING, RUNNING = inner.Queued(), inner.Noting(), inner.Running("t1", NOW)
DONE = inner.Done("t1", inner.Succeeded(("https://files.example/1.png",), 4.0, 8.0, b"{}"))
LEFT, UNSENT = inner.Left(RUNNING), inner.Left(QUEUED)
TAKEN, SAVED = inner.Taken(inner.Offer("kie", make_job().model)), inner.Saved(())


def result(key: str = "k", provider: str = "kie", **fields: Any) -> Result:
    """A result with a picture, or with what is said."""
    return Result(key, 0, ImageRequest("x"), provider, "imagen4", **fields)


def lost(key: str, **fields: Any) -> Result:
    """A result whose create may have cost eight credits."""
    return result(key, error=errors.UnknownOutcome("lost", credits=8.0), **fields)


def told(tally: Tally, *jobs: Any, unpulled: int | None = 0) -> Progress:
    """How far it is, with those jobs alive and so many requests to come."""
    standing = inner.Standing(NOW, jobs, inner.Plan([upstream("kie"), upstream("apiin")], 8).upstreams)
    return tally.progress(standing, total=None, pulled=0, unpulled=unpulled, route=None)


@pytest.fixture
def tally() -> Tally:
    """A new count."""
    return Tally()


def test_each_result_counts_once(tally: Tally) -> None:
    """Done and failed, unknown among the failed, earlier ones among both; credits and accounts are this run's."""
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
    assert (now.credits, now.reserved, now.elapsed) == (14.0, 8.0, NOW)
    assert [(each.name, each.done, each.credits) for each in now.accounts] == [("kie", 1, 10.0), ("apiin", 2, 4.0)]
    tally.began_at, tally.ended_at = 10.0, 90.0
    assert told(tally).elapsed == 80.0


def test_an_unknown_result_is_taken_back_once(tally: Tally) -> None:
    """Where another result will come in its place, an unknown one counts no more, nor what it may have cost."""
    tally.count(lost("lost"), NOW)
    tally.count(lost("before", earlier=True), NOW)
    for _ in range(2):
        for key in ("lost", "before", "nobody"):
            tally.reopen(key)
    now = told(tally)
    assert (now.done, now.failed, now.unknown, now.earlier, now.reserved) == (0, 0, 0, 0, 0.0)


@pytest.mark.parametrize(
    ("at", "price", "unpulled", "spent", "reserved", "projected"),
    [
        ([], 8.0, 3, 0.0, 0.0, 24.0),
        ([QUEUED, QUEUED], 8.0, 1, 5.0, 0.0, 5.0 + 24.0),
        ([QUEUED, NOTING, NOTING], 8.0, 0, 5.0, 16.0, 5.0 + 16.0 + 8.0),
        ([RUNNING], 8.0, None, 5.0, 8.0, None),
        ([], None, 1, 5.0, 0.0, None),
        ([QUEUED], None, 0, 5.0, 0.0, None),
        ([], None, 0, 5.0, 0.0, 5.0),
    ],
)
def test_what_is_to_come_costs_the_mean(
    tally: Tally, at: list[Any], price: Any, unpulled: int | None, spent: float, reserved: float, projected: Any
) -> None:
    """Projected are what is spent, what the tasks at the providers will cost, and the mean price of all not sent."""
    model = msgspec.structs.replace(make_job().model, credits=price)
    jobs = [msgspec.structs.replace(make_job(number, state), model=model) for number, state in enumerate(at, 1)]
    assert told(tally, unpulled=1).projected is None, "before any was sent nobody knows"
    for job in jobs or [msgspec.structs.replace(make_job(9), model=model)]:
        tally.on_change(inner.Change(None, job, TAKEN), NOW)
    tally.count(result(credits=spent), NOW)
    now = told(tally, *jobs, unpulled=unpulled)
    assert (now.reserved, now.projected) == (reserved, projected)
    assert (now.queued, now.submitting, now.running) == (at.count(QUEUED), at.count(NOTING), at.count(RUNNING))


def test_calls_are_counted_for_tasks_that_finished(tally: Tally) -> None:
    """On average over the tasks, of which each retry had one before; a task that was left, or never was, is none."""
    assert told(tally).calls_per_task is None
    for calls, ends, retried in ((3, DONE, 0), (5, DONE, 1), (7, LEFT, 0), (2, None, 0), (0, UNSENT, 0)):
        running = make_job(1 + calls, RUNNING, retried=retried)
        for _ in range(calls):
            tally.on_change(inner.Change(running, running, inner.StatusAsked()), NOW)
        if ends is not None:
            tally.on_change(inner.Change(running, make_job(1 + calls, ends, retried=retried), SAVED), NOW)
    assert told(tally).calls_per_task == (3 + 5) / 3


def test_the_last_results_tell_the_pace(tally: Tally) -> None:
    """Latencies and pace are of the last 512 results of this run; a pace is told once it was steady for its time."""
    recent, few = _Recent(), _Recent()
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
    assert (few.latencies(0.5), few.rate(NOW, NOW)) == ([None], 0.0)
    for number in range(20):
        assert few.pace(1000.0, 1.0) is None
        few.add(result(), float(number))
    assert (few.pace(19.0, 19.0), few.rate(NOW, 60.0)) == (1.0, 0.5)


async def test_what_will_still_be_pulled() -> None:
    """All that has a length and was neither pulled nor made by an earlier run, here two; after the end nothing."""
    for requests, change, unpulled in (
        (["x"] * 10, {"pulled": 3}, 5),
        (["x"] * 10, {"pulled": 9}, 0),
        (["x"] * 10, {"is_over": True}, 0),
        (iter(["x"]), {}, None),
        (iter(["x"]), {"is_over": True}, 0),
    ):
        feeder = inner.Feeder(requests, 9, room=None, passes_over=None, take=None, ended=None)  # type: ignore[arg-type]
        vars(feeder).update(change)
        assert feeder.unpulled(2) == unpulled, (requests, change)
        feeder.stop()
        assert feeder.unpulled(2) == 0
