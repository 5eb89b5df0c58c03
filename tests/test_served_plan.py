"""What a service changes in the plan and in journals: rare questions at common times, ends heard once, names kept."""

from __future__ import annotations

from typing import Any

import inner
import msgspec
import pytest
from builders import DrivenPlan, failure, make_job, upstream
from polling import NOTHING, PENDING, SUCCESS, task

from imagen_async import errors

EVERY = 60.0
PRIOR = inner.LatencyPrior(median=5, sigma=0.5)
NOW = 1000.0


def served(*jobs: inner.Job, at: float = NOW) -> DrivenPlan:
    """A plan with an account that is a service, and these jobs."""
    account = upstream(schedule=inner.PollSchedule(PRIOR, every=EVERY), limits=inner.Limits(running=500))
    plan = DrivenPlan([account])
    plan.upstreams["kie"].poll_queue.reliability.rely()
    for job in jobs:
        plan.add(job, at)
    return plan


def asked(plan: DrivenPlan, now: float) -> list[int]:
    """The jobs that are asked about by now."""
    return [job.id for job in plan.take(now) if isinstance(job.state, inner.Running)]


def answer(plan: DrivenPlan, job_id: int, event: Any, now: float) -> None:
    """What came of a question."""
    job = plan.find(job_id)
    assert job is not None
    plan.settle(job, event, now)


def test_questions_are_rare_and_go_together() -> None:
    """Whenever tasks were met, they are asked about at the same times, a minute apart or two; soon after a failure."""
    plan = served(*(task(number, NOW - number) for number in range(1, 6)))
    assert asked(plan, NOW) == [1, 2, 3, 4, 5]
    for number in range(1, 6):
        answer(plan, number, NOTHING if number == 5 else PENDING, NOW + number)
    assert asked(plan, NOW + 5.5) == []
    assert asked(plan, NOW + 12) == [5]
    answer(plan, 5, PENDING, NOW + 12)
    due = plan.wake_at(NOW + 13)
    assert due % EVERY == 0
    assert EVERY <= due - NOW - 12 <= 2 * EVERY
    assert asked(plan, due - 0.01) == []
    assert asked(plan, due) == [1, 2, 3, 4, 5]


def test_an_end_is_asked_about_at_once_also_a_second_time() -> None:
    """Told while a question is out, or too early, it is asked about again; so is a resumed one."""
    plan = served(task(1), task(2))
    assert asked(plan, NOW) == [1, 2]
    plan.on_callback(1, 0, "t1", NOW + 1)
    answer(plan, 1, PENDING, NOW + 1)
    answer(plan, 2, PENDING, NOW + 1)
    assert asked(plan, NOW + 1) == [1]
    answer(plan, 1, PENDING, NOW + 2)
    assert asked(plan, NOW + 2) == []
    plan.on_callback(1, 0, "t1", NOW + 3)
    assert asked(plan, NOW + 3) == [1]
    answer(plan, 1, SUCCESS, NOW + 3)
    assert [job.id for job in plan.finished] == [1]


def test_after_a_silence_all_are_asked_about() -> None:
    """Those about which a question is out once more behind its answer, which may be from before."""
    plan = served(task(1), task(2))
    assert asked(plan, NOW) == [1, 2]
    answer(plan, 1, PENDING, NOW + 1)
    plan.upstreams["kie"].poll_queue.ask_all(NOW + 2)
    plan.upstreams["kie"].touch()
    assert asked(plan, NOW + 2) == [1]
    answer(plan, 2, PENDING, NOW + 2)
    assert asked(plan, NOW + 2) == [2]


@pytest.mark.parametrize(
    ("kind", "is_stopped"),
    [(errors.InsufficientCredits, True), (errors.BudgetReached, True), (errors.JournalError, False)],
)
def test_what_is_given_back_says_how_the_service_fares(kind: type[errors.ImagenError], is_stopped: bool) -> None:
    """Without credit there it takes nothing more, and who waits is not sent; else it is tried again after a pause."""
    plan = served(task(1), make_job(2), make_job(3))
    back = inner.TaskFailed(failure(kind, "why"), 0.0, b"{}", is_unsent=True)
    plan.take(NOW)
    answer(plan, 1, back, NOW + 1)
    breaker = plan.upstreams["kie"].breaker
    assert ((breaker.stopped is not None), breaker.is_paused) == (is_stopped, not is_stopped)
    assert {job.id for job in plan.finished} == ({1, 3} if is_stopped else set())
    assert all(isinstance(job.state, inner.NotAdmitted) for job in plan.finished)


def test_a_deadline_there_is_no_word_on_the_service() -> None:
    """One task's time was over before it was sent: nobody else waits for that."""
    plan = served(task(1))
    plan.take(NOW)
    back = inner.TaskFailed(failure(errors.DeadlineExceeded, "late"), 0.0, b"{}", is_unsent=True)
    answer(plan, 1, back, NOW + 1)
    breaker = plan.upstreams["kie"].breaker
    assert (breaker.stopped, breaker.is_paused) == (None, False)


def test_a_lost_named_create_is_remembered_as_such() -> None:
    """On disk it is unknown, whatever it waits for; whoever knows its name sends it again, to its account alone."""
    taken = inner.advance(make_job(1, expires_at=NOW + 900), inner.Taken(inner.Offer("kie", make_job(1).model)), NOW)
    sending = inner.advance(taken, inner.Leaves(), NOW)
    lost = inner.advance(sending, inner.Lost(failure(errors.TransportError, "reset"), is_named=True), NOW)
    late = inner.advance(lost, inner.Expired(), NOW + 900)
    left = inner.advance(lost, inner.OwnerLeft(), NOW)
    turned_away = inner.advance(lost, inner.NobodyTakes({"kie": failure(errors.InsufficientCredits, "empty")}), NOW)
    cut = msgspec.structs.replace(sending, state=inner.Noting())
    for job in (lost, late, left, turned_away):
        entry = inner.entry_of(job, NOW, 0.0)
        assert entry is not None
        assert (entry.state, entry.attempts, entry.lost) == ("unknown", 1, 1)
        again = inner.repeated(entry, make_job(1, route=inner.Route((inner.Offer("kie", job.model),))))
        assert (again.attempts, again.lost, again.is_lost_by_name, again.state) == (0, 1, True, inner.Queued())
        assert again.route is not None
        assert [offer.account for offer in again.route.offers] == ["kie"]
    entry = inner.entry_of(cut, NOW, 0.0)
    assert entry is not None
    assert inner.repeated(inner.cut_off(entry), make_job(1)).attempts == 0
    # Not handed out yet in this process, it is as it was.
    assert inner.entry_of(msgspec.structs.replace(lost, expires_at=None), NOW, 0.0) is None


def test_what_an_ended_request_has_cost_is_told_again() -> None:
    """As it was billed, and not as it might be."""
    why = failure(errors.GenerationFailed, "no")
    failed = inner.Failed(why, inner.TaskFailed(why, 0.0, b""))
    entry = inner.entry_of(make_job(1, failed, attempts=1, expires_at=NOW), NOW, 0.0)
    assert entry is not None
    ended = inner.as_ended(entry, make_job(1))
    assert inner.result_of(ended).credits == 0.0
