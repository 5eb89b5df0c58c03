"""The accounts of a plan: how each fares by its answers, when it is tried again, and who gets an item next."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from builders import failure, upstream
from plan_world import ASKED, CREATED, FAST, PLAIN, ROOMY, SMALL, ULTRA, World, failure_of, refused

from imagen_async._core.circuit_breaker import FIRST_CONTACT_TRIES, CircuitBreaker
from imagen_async._core.job_events import SendAborted
from imagen_async._core.journal_entry import entry_of
from imagen_async._core.provider import Limits
from imagen_async._core.rate_limit import Rate
from imagen_async._core.resuming import resumed
from imagen_async._core.routing import Policy
from imagen_async._core.states import Collected, Done, Failed, NotAdmitted
from imagen_async._core.wire import NoAnswer, Rejected, Remedy
from imagen_async.errors import (
    AuthenticationError,
    ImagenError,
    InsufficientCredits,
    ModelUnavailable,
    RateLimited,
    TransportError,
)

WINDOW = Limits(submit=Rate(20, per=10), status=Rate(100, per=1), running=100)


def busy(jobs: int, limits: Limits = WINDOW, **place: Any) -> World:
    """A world of one account that has answered before, with a volley of creates under way and more jobs that wait."""
    world = World({"a": limits}, connections=100).trusted()
    world.add_many(jobs, **{"deadline": 1e9, **place})
    world.look()
    return world


def answer_all(world: World, name: str, account: str = "") -> None:
    """Answer every create that is on the way in this way."""
    for job_id in world.creating(account):
        world.answer(job_id, name)


def probe(world: World) -> int:
    """Let time pass until a create goes, which goes alone."""
    while not world.creating():
        world.wake()
    (job_id,) = world.creating()
    return job_id


def pause_after(world: World, what: str | Rejected) -> float:
    """Answer the only create that is on the way; the seconds until the next ones go."""
    world.answer(probe(world), what)
    before = world.now
    while not world.creating():
        world.wake()
    return world.now - before


# -------------------------------------------------------------------------------------------- trouble and its pauses


def breaker_after(*names: str, model: str = PLAIN) -> tuple[CircuitBreaker, list[float]]:
    """What an account's breaker makes of such answers to single creates, and how long it pauses after each."""
    breaker, pauses, now = CircuitBreaker("a", lambda setbacks, longest: min(2.0**setbacks, longest)), [], 0.0
    for name in names:
        # "…, too" is an answer of the same volley as the one before.
        event = CREATED[name.removesuffix(", too")]
        if "limited" in name:
            breaker.back_off(now, 10.0, event.retry_after)
        breaker.settle(event, model, now)
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
            (["lost", "lost", name, "lost", "lost", "lost"], [0, 0, 0, 0, 0, 1])
            for name in ("accepted", "refused", "silent", "limited")
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
        (["lost"], "ready", False, TransportError),
        (["accepted", "lost", "lost"], "ready", True, TransportError),
        (["accepted", "lost", "lost", "lost"], "paused", False, TransportError),
        (["accepted", "limited"], "ready", False, RateLimited),
        (["limited", "refused"], "ready", True, RateLimited),
        (["limited", "limited"], "paused", False, RateLimited),
        *[(["accepted", name], "paused", False, TransportError) for name in ("not sent", "maintenance")],
        (["accepted", "not sent", "limited"], "paused", False, RateLimited),
        *[(["accepted", "not sent", name], "ready", True, None) for name in ("accepted", "refused")],
        (["accepted", *["not sent"] * 9], "paused", False, TransportError),
        (["not sent"] * (FIRST_CONTACT_TRIES - 1), "paused", False, TransportError),
        (["not sent"] * FIRST_CONTACT_TRIES, "stopped", False, TransportError),
        (["accepted", "no credit"], "stopped", True, InsufficientCredits),
        (["wrong key"], "stopped", True, AuthenticationError),
    ],
)
def test_how_an_account_fares(
    names: list[str], state: str, is_trusted: bool, trouble: type[ImagenError] | None
) -> None:
    """Stopped, paused from a setback to the next answer, or ready; trusted with many at once; and why it is not."""
    breaker, _ = breaker_after(*names)
    told = "stopped" if breaker.stopped else "paused" if breaker.is_paused else "ready"
    assert (told, breaker.is_trusted, breaker.trouble and breaker.trouble.kind) == (state, is_trusted, trouble)
    assert breaker.stopped is None or breaker.stopped.account == "a"
    if len(names) == FIRST_CONTACT_TRIES == 5 and breaker.stopped is not None:
        assert (breaker.stopped.was_sent, "no route" in breaker.stopped.message) == (False, True)


@pytest.mark.parametrize(
    ("names", "model", "event", "remedy"),
    [
        (["accepted"], ULTRA, CREATED["wrong key"], Remedy.CLOSE_MODEL),
        (["accepted"], PLAIN, CREATED["wrong key"], Remedy.STOP),
        ([], ULTRA, CREATED["wrong key"], Remedy.STOP),
        (["accepted"], ULTRA, CREATED["no credit"], Remedy.STOP),
        (["accepted"], ULTRA, refused(InsufficientCredits, 401, Remedy.STOP), Remedy.STOP),
        (["accepted"], ULTRA, CREATED["refused"], Remedy.FAIL),
    ],
)
def test_401_for_another_model_than_one_that_worked_closes_that_model(
    names: list[str], model: str, event: Rejected, remedy: Remedy
) -> None:
    """A key that made a task is right, so a 401 for another model means that the key may not have this model."""
    breaker, _ = breaker_after(*names)
    judged = breaker.judge(event, model)
    assert (judged.remedy, judged == event) == (remedy, remedy is not Remedy.CLOSE_MODEL)
    if remedy is Remedy.CLOSE_MODEL:
        told = judged.failure
        assert (told.kind, told.code, model in told.message) == (ModelUnavailable, 401, True)
    breaker.settle(judged, model, 0.0)
    closes = {PLAIN: remedy is Remedy.STOP, model: remedy is not Remedy.FAIL}
    assert {name: (why := breaker.refusal(name)) and why.account for name in closes} == {
        name: "a" if is_closed else None for name, is_closed in closes.items()
    }
    assert breaker.closures == (remedy is Remedy.STOP, int(remedy is Remedy.CLOSE_MODEL))


def test_a_429_again_before_anything_was_taken_pauses_the_account() -> None:
    """No rate explains it, so the limit is cut once only, and single creates try, a window or ever longer apart."""
    world = busy(60)
    account = world.upstream()
    answer_all(world, "limited")
    assert (account.submit.limit, world.health()) == (10, "limited")
    world.wake()
    assert [pause_after(world, "limited") for _ in range(7)] == [10, 10, 10, 10, 16, 32, 60]
    assert (account.submit.limit, world.health()) == (10, "paused"), "not cut again, and no probe gives a place back"
    assert pause_after(world, refused(RateLimited, 429, Remedy.BACK_OFF, 500.0)) == 500.0
    world.answer(probe(world), "accepted")
    assert (world.health(), type(account.health(world.now).error)) == ("limited", RateLimited)
    assert len(world.sent()) == 9, "the whole window, of which the probe is one"


@pytest.mark.parametrize("count", [1, 4])
def test_a_limited_account_is_ready_once_its_limit_is_back(count: int) -> None:
    """After a 429 it is limited while it waits, and while its limit climbs back window by window."""
    world = busy(9, Limits(submit=Rate(count, per=2), status=Rate(99, per=1), running=99))
    world.answer(world.creating()[0], "limited")
    seen = []
    while world.health() != "ready":
        seen.append(world.upstream().health(world.now).limit.count)
        world.wake()
        while world.talking:
            world.go_well()
    assert seen == sorted(seen)
    assert world.upstream().health(world.now).limit == Rate(count, per=2)


# ------------------------------------------------------------------------------------------------- a first contact


UNREACHED = NoAnswer(failure(TransportError, "no route", was_sent=False))


@pytest.mark.parametrize(
    ("first", "again", "is_given_up"),
    [
        (UNREACHED, UNREACHED, True),
        (NoAnswer(failure(TransportError)), NoAnswer(failure(TransportError)), False),
        (NoAnswer(failure(RateLimited)), NoAnswer(failure(RateLimited)), False),
        ("pending", UNREACHED, False),
    ],
    ids=["unreached", "reset", "429", "answered before"],
)
def test_a_server_that_is_never_reached_is_given_up(first: Any, again: Any, is_given_up: bool) -> None:
    """Five status calls that cannot connect, before anything was answered, end a task, with its id; no others do."""
    world = World()
    job = world.take_up(Collected("old-0", since=0.0))
    other = world.take_up(Collected("old-0", since=0.0))
    world.asked()
    for attempt in range(1, FIRST_CONTACT_TRIES + 1):
        assert world.deliver() == [], attempt
        for job_id in (job.id, other.id):
            world.wake_for(job_id)
            world.answer(job_id, first if attempt == 1 else again)
    assert len(world.plan) == (0 if is_given_up else 2), "calls at the same instant count as one try"
    if is_given_up:
        ended = world.end_of(job)
        assert (failure_of(ended).kind, failure_of(ended).was_sent, ended.task_id) == (TransportError, False, "old-0")


# ----------------------------------------------------------------------------------------------- to another account


def test_a_lost_create_stays_with_its_account_when_its_task_is_taken_up_again() -> None:
    """A task that was resubmitted, and that a later run takes up and retries, stays where the lost one may be."""
    earlier = World({"a": ROOMY})
    job = earlier.add(resubmits=1)
    for name in ("lost", "accepted"):
        earlier.look()
        left = earlier.answer(job.id, name)
    assert left is not None
    entry = entry_of(left, earlier.now, 0.0)
    assert entry is not None
    world = World({"a": ROOMY, "b": ROOMY}).trusted()
    like = msgspec.structs.replace(job, id=9, route=world.route(), retries=1)
    blank = msgspec.structs.replace(like, route=None, retries=0, resubmits=0)
    world.plan.add(resumed(entry, blank, world.now, 0.0), world.now)
    world.plan.readmit(9, like)
    assert world.plan.changes[-1].after.retries == 1, "who hears every change hears of the leave, too"
    (taken,) = world.plan.take(world.now)
    world.plan.settle(taken, ASKED["broken"], world.now)
    (again,) = world.plan.take(world.now)
    assert (again.id, again.account, again.retried) == (9, "a", 1)


@pytest.mark.parametrize("policy", ["spread", "cheapest", "in_order"])
@pytest.mark.parametrize("answers", [["accepted", "broken"], ["silent"]], ids=" ".join)
def test_a_failed_generation_goes_elsewhere_first(policy: Policy, answers: list[str]) -> None:
    """A new task for one that failed is asked of the others first, and of the same account when no other is left."""
    world = World(dict.fromkeys("abc", ROOMY), policy, {"a": 0.5, "b": 0.3, "c": 1.0})
    job, seen = world.add(retries=4), []
    for _ in range(4):
        world.wake_for(job.id)
        seen += world.accounts_of(job.id)
        for name in answers:
            world.wake_for(job.id)
            world.answer(job.id, name)
    assert sorted(seen[:3]) == ["a", "b", "c"]
    assert seen[3] == seen[0]


@pytest.mark.parametrize(
    ("answer", "end"), [("no credit", NotAdmitted), ("wrong key", NotAdmitted), ("model gone", Failed)]
)
def test_an_account_that_closes_ends_all_that_wait_for_it_at_once(answer: str, end: type) -> None:
    """Those that wait, that come in, or that come back from a 429; what runs there is still asked about."""
    world = busy(2)
    runs, closing, back = world.add("a").id, *world.creating()
    world.look()
    waits = world.add_many(30)
    other = world.add(model=FAST).id
    world.answer(runs, "accepted")
    world.answer(closing, answer)
    world.answer(back, "limited")
    assert world.ends(closing, back, *waits[20:], world.add().id) == [end] * 13
    world.drain()
    assert world.ends(runs, other) == [Done, Done if end is Failed else NotAdmitted]


def test_an_account_that_serves_a_model_no_more_is_short_of_items() -> None:
    """Those that wait for a model that it does not have count for it no more: more are taken in, of other models."""
    world = World(dict.fromkeys("ab", SMALL)).trusted()
    world.add_many(8)
    world.look()
    assert not world.plan.plan.wants_more(1)
    world.answer(world.creating("b")[0], "model gone")
    assert world.plan.plan.wants_more(1)


# -------------------------------------------------------------------------------------------------------- policies


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
def test_preferred_are_the_best_that_are_open_and_reachable(
    prices: tuple[float | None, ...], paused: str, stopped: str, preferred: str
) -> None:
    """Those that a forecast counts on are the best rank of what is open and not paused, or of what is open."""
    world = World(dict.fromkeys("abc", ROOMY), "cheapest", dict(zip("abc", prices, strict=True)))
    for name in paused:
        world.upstream(name).take_submit(0.0)
        world.upstream(name).settle_submit(CREATED["not sent"], FAST, 0.0)
    world.stop(*stopped)
    assert world.plan.upstreams.preferred(world.route()) == set(preferred)


# ------------------------------------------------------------------------------------------------ how an account fares


def test_health_counts_what_was_sent_and_what_runs() -> None:
    """The rate is that of the last window, the tasks are those on the way or at the provider."""
    world = World({"a": SMALL}).trusted()
    first, _ = world.add_many(2)
    world.look()

    def counted(at: float) -> tuple[str, Rate, float, int]:
        health = world.upstream().health(at)
        return health.state, health.limit, health.rate, health.running

    assert counted(world.now) == ("ready", SMALL.submit, 1.0, 2)
    world.answer(first, "refused")
    assert counted(world.now)[-1] == 1
    world.drain()
    assert counted(world.now + 2.0) == ("ready", SMALL.submit, 0.0, 0)


@pytest.mark.parametrize(
    ("limits", "sent", "running", "load"),
    [((10, 100), 0, 0, 0.0), ((10, 100), 5, 20, 0.5), ((10, 100), 5, 80, 0.8), ((3, 1), 3, 0, 1.0)],
)
def test_the_load_is_the_part_that_is_used_of_whatever_is_scarcer(
    limits: tuple[int, int], sent: int, running: int, load: float
) -> None:
    """An account is as full as its window, or its places for tasks, whichever is fuller; an idle one is empty."""
    account = upstream("a", Limits(submit=Rate(limits[0], per=10), running=limits[1]))
    for _ in range(sent):
        account.take_submit(0.0)
    account.running = running
    assert account.load(0.0) == load
    for _ in range(sent):
        account.settle_submit(SendAborted(), "imagen4", 1.0)
    account.running = 0
    assert (account.load(11.0), account.health(11.0).running) == (0, 0)


@pytest.mark.parametrize(("count", "running", "guess"), [(40, 9, False), (300, 400, True), (1, 5, False)])
def test_what_is_allowed_and_wanted_follows_the_limit_as_it_is_now(count: int, running: int, guess: bool) -> None:
    """After a 429 less is allowed in a window, and less is to wait for it; the other limits are as they were set."""
    limits = Limits(submit=Rate(count, per=10, guess=guess), running=running)
    account = upstream("a", limits)
    for expected in (count, max(1, count // 2)):
        assert account.allowed == Limits(Rate(expected, per=10, guess=guess), limits.status, running)
        assert account.at_a_look == min(expected, running, 100)
        assert account.health(1000.0).limit == account.allowed.submit
        account.take_submit(0.0)
        account.settle_submit(CREATED["limited"], "imagen4", 0.0)
