"""The accounts of a plan: how each fares by its answers, when it is tried again, and who gets an item next."""

from __future__ import annotations

from typing import Any

import inner
import msgspec
import pytest
from builders import failure, upstream
from plan_world import FAST, NAMED, PLAIN, ROOMY, ULTRA, World, refused

from imagen_async import errors


def breaker_after(*names: str) -> tuple[inner.CircuitBreaker, list[float]]:
    """What an account's breaker makes of such answers to single creates, and how long it pauses after each."""
    breaker, pauses, now = inner.CircuitBreaker("a", lambda setbacks, longest: min(2.0**setbacks, longest)), [], 0.0
    for name in names:
        # "…, too" is an answer of the same volley as the one before.
        event = NAMED[name.removesuffix(", too")]
        if "limited" in name:
            breaker.back_off(now, 10.0, event.retry_after)
        breaker.settle(event, PLAIN, now)
        pauses.append(max(0.0, breaker.paused_until - now))
        if not names[min(len(pauses), len(names) - 1)].endswith(", too"):
            now = max(now, breaker.paused_until) + (10.0 if "limited" in name else 0.0)
    return breaker, pauses


@pytest.mark.parametrize(
    ("names", "pauses"),
    [
        (["accepted", *["not sent"] * 8], [0, 1, 2, 4, 8, 16, 32, 60, 60]),
        (["maintenance"] * 8, [1, 2, 4, 8, 16, 32, 60, 60]),
        (["lost"] * 14, [0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]),
        (["limited"] * 9, [0, 10, 10, 10, 10, 16, 32, 60, 60]),
        (["limited", "limited, too", "limited, too", "limited"], [0, 0, 0, 10]),
        (["accepted", "not sent", "limited", "limited long"], [0, 1, 10, 10]),
        (["maintenance long", "maintenance, too", "maintenance"], [3, 3, 2]),
        (["lost", "lost, too", "lost, too", "lost, too", "lost"], [0, 0, 1, 1, 2]),
        *[(["maintenance", "maintenance", name, "maintenance"], [1, 2, 0, 1]) for name in ("accepted", "refused")],
        *[(["limited", name, "limited"], [0, 0, 0]) for name in ("accepted", "silent", "model gone")],
        *[
            ([*["lost"] * 2, each, *["lost"] * 3], [0] * 5 + [1])
            for each in ("accepted", "refused", "silent", "limited")
        ],
        (["lost", "lost", "maintenance", "lost", "lost", "lost"], [0, 0, 1, 0, 0, 2]),
    ],
)
def test_pauses_grow_with_each_setback_in_a_row(names: list[str], pauses: list[float]) -> None:
    """Those of one volley count once, a third lost answer is one, and an answer that is no trouble ends the row.

    A try that may be billed is made every quarter of an hour at last, any other every minute; a 429 that no rate
    explains, as nothing was taken before it, is waited out for a window at least.
    """
    assert breaker_after(*names)[1] == pauses


@pytest.mark.parametrize(
    ("names", "state", "is_trusted", "trouble"),
    [
        ([], "ready", False, None),
        *[([name], "ready", True, None) for name in ("accepted", "refused", "silent", "model gone")],
        (["lost"], "ready", False, errors.TransportError),
        (["accepted", "lost", "lost"], "ready", True, errors.TransportError),
        (["accepted", "limited"], "ready", False, errors.RateLimited),
        (["limited", "refused"], "ready", True, errors.RateLimited),
        (["limited", "limited"], "paused", False, errors.RateLimited),
        *[
            (["accepted", *each], "paused", False, errors.TransportError)
            for each in (["not sent"], ["maintenance"], ["lost"] * 3)
        ],
        (["accepted", "not sent", "limited"], "paused", False, errors.RateLimited),
        *[(["accepted", "not sent", name], "ready", True, None) for name in ("accepted", "refused")],
        *[
            (names, "paused", False, errors.TransportError)
            for names in (["accepted", *["not sent"] * 9], ["not sent"] * 4)
        ],
        (["not sent"] * 5, "stopped", False, errors.TransportError),
        (["accepted", "no credit"], "stopped", True, errors.InsufficientCredits),
        (["wrong key"], "stopped", True, errors.AuthenticationError),
    ],
)
def test_how_an_account_fares(names: list[str], state: str, is_trusted: bool, trouble: type | None) -> None:
    """Stopped, paused from a setback to the next answer, or ready; trusted with many at once; and why it is not."""
    breaker, _ = breaker_after(*names)
    told = "stopped" if breaker.stopped else "paused" if breaker.is_paused else "ready"
    assert (told, breaker.is_trusted, breaker.trouble and breaker.trouble.kind) == (state, is_trusted, trouble)
    assert breaker.stopped is None or breaker.stopped.account == "a"


@pytest.mark.parametrize(
    ("names", "model", "event", "remedy"),
    [
        (["accepted"], ULTRA, NAMED["wrong key"], inner.Remedy.CLOSE_MODEL),
        (["accepted"], PLAIN, NAMED["wrong key"], inner.Remedy.STOP),
        ([], ULTRA, NAMED["wrong key"], inner.Remedy.STOP),
        (["accepted"], ULTRA, NAMED["no credit"], inner.Remedy.STOP),
        (["accepted"], ULTRA, refused(errors.InsufficientCredits, 401, inner.Remedy.STOP), inner.Remedy.STOP),
        (["accepted"], ULTRA, NAMED["refused"], inner.Remedy.FAIL),
    ],
)
def test_401_for_another_model_closes_that_model(
    names: list[str], model: str, event: inner.Rejected, remedy: inner.Remedy
) -> None:
    """A key that made a task is right, so a 401 for another model means that the key may not have this model."""
    breaker, _ = breaker_after(*names)
    judged = breaker.judge(event, model)
    assert (judged.remedy, judged == event) == (remedy, remedy is not inner.Remedy.CLOSE_MODEL)
    if remedy is inner.Remedy.CLOSE_MODEL:
        told = judged.failure
        assert (told.kind, told.code, model in told.message) == (errors.ModelUnavailable, 401, True)
    breaker.settle(judged, model, 0.0)
    closed = {inner.Remedy.STOP: {PLAIN, model}, inner.Remedy.CLOSE_MODEL: {model}, inner.Remedy.FAIL: set()}[remedy]
    assert {name for name in (PLAIN, model) if breaker.refusal(name) is not None} == closed
    assert {breaker.refusal(name).account for name in closed} <= {"a"}
    assert breaker.closures == (remedy is inner.Remedy.STOP, int(remedy is inner.Remedy.CLOSE_MODEL))


def test_a_429_again_before_anything_was_taken_pauses_the_account() -> None:
    """No rate explains it, so the limit is cut once only, and single creates try, a window or ever longer apart."""
    account, now = upstream("a", inner.Limits(submit=inner.Rate(20, per=10))), 0.0

    def pause_after(event: Any) -> float:
        account.take_submit(now)
        account.settle_submit(event, PLAIN, now)
        return max(0.0, account.submit_at(now) - now)

    assert pause_after(NAMED["accepted"]) == 0
    for pause in (10, 10, 10, 10, 10, 16, 32, 60):
        assert account.state(now) == ("ready" if now == 0 else "limited" if now == 10 else "paused")
        assert pause_after(NAMED["limited"]) == pause
        assert account.submit.limit == 10, "not cut again, and no probe gives a place back"
        now += pause
    assert pause_after(refused(errors.RateLimited, 429, inner.Remedy.BACK_OFF, 500.0)) == 500
    now += 500
    assert pause_after(NAMED["accepted"]) == 0
    health = account.health(now)
    assert (health.state, type(health.error), health.limit.count) == ("limited", errors.RateLimited, 10)


@pytest.mark.parametrize("count", [1, 4])
def test_a_limited_account_is_ready_once_its_limit_is_back(count: int) -> None:
    """After a 429 it is limited while it waits, and while its limit climbs back window by window."""
    world = World({"a": inner.Limits(submit=inner.Rate(count, per=2), running=99)}, connections=99).trusted()
    world.add_many(9)
    world.answer(world.sent()[0], "limited")
    seen = []
    while world.upstream().state(world.now) != "ready":
        seen.append(world.upstream().health(world.now).limit.count)
        world.wake()
        while world.talking:
            world.go_well()
    assert seen == sorted(seen)
    assert world.upstream().health(world.now).limit == inner.Rate(count, per=2)


UNREACHED = inner.NoAnswer(failure(errors.TransportError, "no route", was_sent=False))


@pytest.mark.parametrize(
    ("first", "again", "is_given_up"),
    [
        (UNREACHED, UNREACHED, True),
        *[(answer, answer, False) for answer in ("unreadable", "asked too often")],
        ("pending", UNREACHED, False),
    ],
    ids=["unreached", "reset", "429", "answered before"],
)
def test_a_server_that_is_never_reached_is_given_up(first: Any, again: Any, is_given_up: bool) -> None:
    """Five status calls that cannot connect, before anything was answered, end a task, with its id; no others do."""
    world = World()
    job, other = (world.take_up(inner.Collected("old-0", since=0.0)) for _ in range(2))
    world.asked()
    for attempt in range(1, 6):
        assert world.deliver() == [], attempt
        for job_id in (job.id, other.id):
            world.wake_for(job_id)
            world.answer(job_id, first if attempt == 1 else again)
    assert len(world.plan) == (0 if is_given_up else 2), "calls at the same instant count as one try"
    if is_given_up:
        ended = world.end_of(job)
        told = inner.wording_failure_of(ended)
        assert (told.kind, told.was_sent, ended.task_id) == (errors.TransportError, False, "old-0")
        assert "no route" in told.message


def test_a_lost_create_stays_with_its_account_when_its_task_is_taken_up_again() -> None:
    """A task that was resubmitted, and that a later run takes up and retries, stays where the lost one may be."""
    world = World(dict.fromkeys("ab", ROOMY)).trusted()
    job = world.take_up(inner.Running("old-0", since=world.now), "a", attempts=2, lost=1, lost_creates=(1,))
    world.plan.readmit(job.id, msgspec.structs.replace(job, route=world.route(), retries=1))
    assert world.plan.changes[-1].after.retries == 1, "who hears every change hears of the leave, too"
    assert world.asked() == [job.id]
    world.answer(job.id, "broken")
    assert world.sent() == [job.id]
    assert world.talking[job.id].job.account == "a"


def test_what_was_to_be_sent_again_after_a_loss_stays_with_its_account_once_that_is_cleared_up() -> None:
    """A callback names the lost task, which fails: the new one is its account's alone, and ends with its model."""
    world = World(dict.fromkeys("ab", ROOMY), "in_order", callbacks=True).trusted()
    lost, closing = world.add(retries=1, resubmits=1), world.add()
    assert world.sent() == [lost.id, closing.id]
    world.answer(lost.id, "lost")
    world.hear(lost)
    world.wake_for(lost.id)
    waits = world.answer(lost.id, "broken")
    assert waits is not None
    assert (waits.lost, [offer.account for offer in waits.way.offers]) == (0, ["a"])
    world.answer(closing.id, "model gone")
    assert world.ends(lost.id) == [inner.Failed]


@pytest.mark.parametrize("policy", ["spread", "cheapest", "in_order"])
@pytest.mark.parametrize("answers", [["accepted", "broken"], ["silent"]], ids=" ".join)
def test_a_failed_generation_goes_elsewhere_first(policy: inner.Policy, answers: list[str]) -> None:
    """A new task for one that failed is asked of the others first, and of the same account when no other is left."""
    world = World(dict.fromkeys("abc", ROOMY), policy, {"a": 0.5, "b": 0.3, "c": 1.0})
    job, seen = world.add(retries=4), []
    for _ in range(4):
        world.wake_for(job.id)
        seen.append(world.talking[job.id].job.account)
        for name in answers:
            world.wake_for(job.id)
            world.answer(job.id, name)
    assert (set(seen[:3]), seen[3]) == (set("abc"), seen[0])


@pytest.mark.parametrize(("answer", "end"), [("no credit", inner.NotAdmitted), ("model gone", inner.Failed)])
def test_an_account_that_closes_ends_all_that_wait_for_it_at_once(answer: str, end: type) -> None:
    """Those that wait, that come in, or that come back from a 429; what runs there is still asked about."""
    world = World({"a": inner.Limits(submit=inner.Rate(20, per=10))}).trusted()
    runs, closing, back = world.add_many(3)
    world.look()
    waits = world.add_many(30)
    other = world.add(model=FAST).id
    world.answer(runs, "accepted")
    world.answer(closing, answer)
    world.answer(back, "limited")
    assert world.ends(closing, back, *waits[20:], world.add().id) == [end] * 13
    world.drain()
    assert world.ends(runs, other) == [inner.Done, inner.Done if end is inner.Failed else inner.NotAdmitted]


@pytest.mark.parametrize(
    ("prices", "paused", "stopped", "preferred"),
    [
        ((2.0, 1.0, 1.0), "", "", "bc"),
        ((2.0, None, 3.0), "", "", "a"),
        ((2.0, 1.0, 1.0), "b", "", "c"),
        ((2.0, 1.0, 1.0), "bc", "", "a"),
        ((2.0, 1.0, 1.0), "bc", "a", "bc"),
        ((2.0, 1.0, 1.0), "", "bc", "a"),
        ((2.0, 1.0, 1.0), "", "abc", ""),
    ],
)
def test_preferred_are_the_best_that_are_open(prices: Any, paused: str, stopped: str, preferred: str) -> None:
    """Those that a forecast counts on are the best rank of what is open and not paused, or of what is open."""
    world = World(dict.fromkeys("abc", ROOMY), "cheapest", dict(zip("abc", prices, strict=True)))
    for name in paused + stopped:
        world.upstream(name).take_submit(0.0)
        world.upstream(name).settle_submit(NAMED["not sent" if name in paused else "no credit"], FAST, 0.0)
    assert world.plan.upstreams.preferred(world.route()) == set(preferred)


@pytest.mark.parametrize(
    ("count", "places", "sent", "running", "load"),
    [(10, 100, 0, 0, 0.0), (10, 100, 5, 20, 0.5), (10, 100, 5, 80, 0.8), (3, 1, 3, 0, 1.0)],
)
def test_the_load_is_that_of_whatever_is_scarcer(count: int, places: int, sent: int, running: int, load: float) -> None:
    """An account is as full as its window, or its places for tasks; its rate is that of the last window."""
    account = upstream("a", inner.Limits(submit=inner.Rate(count, per=10), running=places))
    account.running = running
    for _ in range(sent):
        account.take_submit(0.0)
    assert (account.load(0.0), account.health(0.0).rate, account.health(0.0).running) == (load, sent / 10, running)
    for _ in range(sent):
        account.settle_submit(inner.SendAborted(), PLAIN, 1.0)
    account.running = 0
    assert (account.load(11.0), account.health(11.0).rate, account.health(11.0).running) == (0, 0, 0)


@pytest.mark.parametrize(("count", "running", "guess"), [(40, 9, False), (300, 400, True), (1, 5, False)])
def test_what_is_allowed_and_wanted_follows_the_limit_as_it_is_now(count: int, running: int, guess: bool) -> None:
    """After a 429 less is allowed in a window, and less is to wait for it; the other limits are as they were set."""
    limits = inner.Limits(submit=inner.Rate(count, per=10, guess=guess), running=running)
    account = upstream("a", limits)
    for expected in (count, max(1, count // 2)):
        assert inner.allowed(account) == inner.Limits(inner.Rate(expected, per=10, guess=guess), limits.status, running)
        assert account.at_a_look == min(expected, running, 100)
        assert account.health(1000.0).limit == inner.allowed(account).submit
        account.take_submit(0.0)
        account.settle_submit(NAMED["limited"], PLAIN, 0.0)
