"""The plan over several accounts, driven by scripts of answers: who gets an item next, how it ends, how each fares."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from builders import failure, upstream
from hypothesis import given
from hypothesis import strategies as st
from pools import FAST, LONG, MAY_MOVE, PLAIN, POLICIES, ROOMY, SCRIPT, SMALL, Create, Pool, event, play, provider

from imagen_async._core.budget import Budget
from imagen_async._core.circuit_breaker import FIRST_CONTACT_TRIES, LOST_IN_A_ROW
from imagen_async._core.failure import Failure
from imagen_async._core.journal_entry import entry_of
from imagen_async._core.provider import Limits
from imagen_async._core.rate_limit import Rate
from imagen_async._core.resuming import resumed
from imagen_async._core.routing import Policy
from imagen_async._core.states import (
    Done,
    Failed,
    Fetching,
    Left,
    NotAdmitted,
    Queued,
    Running,
    Submitting,
    Unknown,
)
from imagen_async._core.wire import ConnectFailed, Succeeded
from imagen_async._core.wording import nobody_takes
from imagen_async.errors import (
    AccountError,
    AuthenticationError,
    BudgetReached,
    ImagenError,
    InsufficientCredits,
    ModelUnavailable,
    RateLimited,
    TransportError,
    UnknownOutcome,
)


@LONG
@given(script=SCRIPT, policy=POLICIES)
def test_an_item_moves_only_when_its_create_is_known_to_have_made_nothing(
    script: list[tuple[Any, ...]], policy: Policy
) -> None:
    """Another account gets an item after a create that made nothing or a task that failed, and never after a loss."""
    pool = Pool(policy=policy)
    for step in script:
        play(pool, step)
    pool.drain()
    for job_id, creates in pool.creates.items():
        for earlier, later in itertools.pairwise(creates):
            assert earlier.answer not in ("refused", "withheld", "")
            is_failed = earlier.after == "broken" or earlier.answer == "silent"
            if later.account != earlier.account:
                assert earlier.answer in MAY_MOVE or is_failed
            elif earlier.answer == "accepted":
                assert is_failed
        lost = [number for number, create in enumerate(creates) if create.answer == "lost"]
        if lost:
            assert len(lost) <= 1 + pool.jobs[job_id].resubmits
            assert len({create.account for create in creates[lost[0] :]}) == 1
        again = sum(create.after == "broken" or create.answer == "silent" for create in creates[:-1])
        assert again <= pool.jobs[job_id].retries


@LONG
@given(script=SCRIPT, policy=POLICIES)
def test_an_item_is_unsent_only_when_no_account_of_its_route_is_left(
    script: list[tuple[Any, ...]], policy: Policy
) -> None:
    """It ends so only once all of them refuse it, and its error names each where there are several."""
    pool = Pool(policy=policy)
    for step in [*script, ("drain",)]:
        if step == ("drain",):
            pool.drain()
        else:
            play(pool, step)
        for job in pool.fresh:
            refusals = {
                offer.account: pool.upstream(offer.account).breaker.refusal(offer.model.name)
                for offer in pool.jobs[job.id].way.offers
            }
            state = job.state
            last = pool.creates[job.id][-1].answer if pool.creates[job.id] else ""
            if isinstance(state, NotAdmitted) and last != "withheld":
                assert all(refusals.values())
                assert not all(refusal.is_a(ModelUnavailable) for refusal in refusals.values())
                assert len(refusals) == 1 or all(f"{name}: " in state.failure.message for name in refusals)
            elif isinstance(state, Failed) and state.failure.is_a(ModelUnavailable):
                assert all(refusal.is_a(ModelUnavailable) for refusal in refusals.values())
                assert len(refusals) == 1 or all(f"{name}: " in state.failure.message for name in refusals)


@LONG
@given(script=SCRIPT, policy=POLICIES)
def test_nothing_that_anybody_could_take_is_left_behind(script: list[tuple[Any, ...]], policy: Policy) -> None:
    """After any trouble, items with an account left are made once all goes well, and the plan is empty then."""
    pool = Pool(policy=policy)
    for step in script:
        play(pool, step)
    before = dict(pool.ended)
    pool.stop("c")
    takes = {
        job.id: any(pool.upstream(offer.account).breaker.refusal(offer.model.name) is None for offer in job.way.offers)
        for job in pool.plan.jobs
        if isinstance(job.state, Queued) and job.owner not in pool.gone
    }
    pool.plan.plan._course.turn_away(pool.now)
    pool.drain()
    assert sorted(pool.ended) == sorted(pool.jobs)
    assert len(pool.plan) == 0
    assert pool.plan.wake_at(pool.now) == math.inf
    assert all(each.running == 0 and not each.poll_queue for each in pool.plan.upstreams.values())
    for job_id, can_be_taken in takes.items():
        end = pool.ended[job_id].state
        if can_be_taken and pool.ended[job_id].deadline > 100:
            assert isinstance(end, Done), (before.get(job_id), end)


# ------------------------------------------------------------------------------------------- failover, one by one


@pytest.mark.parametrize("answer", sorted(MAY_MOVE))
@pytest.mark.parametrize("policy", ["spread", "in_order"])
def test_a_create_that_made_nothing_goes_to_another_account(answer: str, policy: Policy) -> None:
    """A failed connection, maintenance, a stopped account or a missing model sends the item on at once."""
    pool = Pool(dict.fromkeys("ab", ROOMY), policy)
    (job_id,) = pool.add_many(1)
    assert pool.sent() == [job_id]
    assert pool.talking[job_id].account == "a"
    pool.answer(job_id, answer)
    moves_at_once = policy == "spread" or answer not in ("limited", "limited long")
    assert pool.sent() == ([job_id] if moves_at_once else [])
    if moves_at_once:
        assert pool.talking[job_id].account == "b"
        assert pool.talking[job_id].attempts == 2
    pool.drain()
    assert isinstance(pool.ended[job_id].state, Done)


def test_a_wrong_request_is_tried_nowhere_else() -> None:
    """What one account finds wrong with a request fails it, with that account's word."""
    pool = Pool(dict.fromkeys("ab", ROOMY))
    (job_id,) = pool.add_many(1, retries=3)
    pool.look()
    pool.answer(job_id, "refused")
    pool.look()
    state = pool.ended[job_id].state
    assert isinstance(state, Failed)
    assert (state.failure.account, len(pool.creates[job_id])) == ("a", 1)


@pytest.mark.parametrize("resubmits", [0, 1])
def test_a_lost_create_stays_with_its_account(resubmits: int) -> None:
    """After a lost answer no other account gets the item; its own gets it again only where that was asked for."""
    pool = Pool(dict.fromkeys("ab", ROOMY)).trusted()
    (job_id,) = pool.add_many(1, resubmits=resubmits)
    pool.look()
    account = pool.talking[job_id].account
    pool.answer(job_id, "lost")
    assert pool.sent() == [job_id] * resubmits
    for answer in ["limited", "not sent", "maintenance"] * resubmits:
        assert pool.talking[job_id].account == account
        pool.answer(job_id, answer)
        while job_id not in pool.talking:
            pool.wake()
    if resubmits:
        pool.answer(job_id, "no credit")
        pool.look()
    assert {create.account for create in pool.creates[job_id]} == {account}
    assert isinstance(pool.ended[job_id].state, Unknown)


def test_a_retry_after_a_resubmit_stays_with_its_account() -> None:
    """A task that fails after its first create was lost is asked for again where both of them were."""
    pool = Pool(dict.fromkeys("ab", ROOMY)).trusted()
    (job_id,) = pool.add_many(1, resubmits=1, retries=1)
    pool.look()
    account = pool.talking[job_id].account
    for answer in ("lost", "accepted", "broken"):
        pool.answer(job_id, answer)
        pool.look()
        while job_id not in pool.talking:
            pool.wake()
    assert [create.account for create in pool.creates[job_id]] == [account] * 3


def test_a_lost_create_stays_with_its_account_when_its_task_is_taken_up_again() -> None:
    """A task that was resubmitted, and that a later run takes up and retries, stays where the lost one may be."""
    pool = Pool(dict.fromkeys("ab", ROOMY)).trusted()
    job = pool.add("a", resubmits=1)
    for name in ("lost", "accepted"):
        pool.look()
        left = pool.answer(job.id, name)
    assert left is not None
    entry = entry_of(left, pool.now, 0.0)
    assert entry is not None
    later = Pool(dict.fromkeys("ab", ROOMY)).trusted()
    like = msgspec.structs.replace(job, id=100, route=later.route(), retries=1)
    blank = msgspec.structs.replace(like, route=None, retries=0, resubmits=0)
    later.jobs[100] = msgspec.structs.replace(like, route=later.route())
    later.plan.add(resumed(entry, blank, later.now, 0.0), later.now)
    later.creates[100].append(Create("a", Fraction(0), answer="accepted"))
    later.plan.readmit(100, like)
    later.look()
    later.answer(100, "broken")
    assert later.sent() == [100]
    assert later.talking[100].account == "a"


@pytest.mark.parametrize("policy", ["spread", "cheapest", "in_order"])
@pytest.mark.parametrize("answer", ["broken", "silent"])
def test_a_failed_generation_goes_elsewhere_first(policy: Policy, answer: str) -> None:
    """A new task for one that failed is asked of the others first, and of the same account when no other is left."""
    pool = Pool(dict.fromkeys("abc", ROOMY), policy)
    (job_id,) = pool.add_many(1, retries=4)
    pool.look()
    seen = []
    for _ in range(3):
        while job_id not in pool.talking:
            pool.wake()
        seen.append(pool.talking[job_id].account)
        if answer == "broken":
            pool.answer(job_id, "accepted")
            pool.look()
            while job_id not in pool.talking:
                pool.wake()
        pool.answer(job_id, answer)
        pool.look()
    assert sorted(seen) == ["a", "b", "c"]
    fourth = pool.talking[job_id].account
    assert fourth == seen[0]
    for name in set("abc") - {fourth}:
        pool.stop(name)
    pool.answer(job_id, "silent")
    assert pool.sent() == [job_id]
    assert pool.talking[job_id].account == fourth


def test_a_failed_generation_waits_for_another_account_that_is_busy() -> None:
    """Another account whose window is full is waited for, rather than that the one that failed is asked again."""
    pool = Pool({"a": ROOMY, "b": Limits(submit=Rate(1, per=50), running=10)}).trusted()
    (filler,) = pool.add_many(1, "b")
    (job_id,) = pool.add_many(1, retries=1)
    pool.look()
    assert (pool.talking[filler].account, pool.talking[job_id].account) == ("b", "a")
    answered_at = pool.now
    pool.answer(filler, "accepted")
    pool.answer(job_id, "silent")
    assert job_id not in pool.sent()
    while job_id not in pool.talking:
        pool.wake()
    assert (pool.talking[job_id].account, pool.now) == ("b", answered_at + 50.0)


REFUSALS = st.dictionaries(
    st.sampled_from(["a", "b", "c", "kie-2"]),
    st.sampled_from([ModelUnavailable, InsufficientCredits, AuthenticationError, AccountError, TransportError]).map(
        lambda kind: failure(kind, "no.")
    ),
    min_size=1,
)


@LONG
@given(refusals=REFUSALS)
def test_the_end_of_all_accounts_is_told_account_by_account(refusals: dict[str, Failure]) -> None:
    """One account's error stands as it is; of several, each is named, and the kind is theirs where they have one."""
    told = nobody_takes(refusals)
    if len(refusals) == 1:
        assert [told] == list(refusals.values())
        return
    kinds = {refusal.kind for refusal in refusals.values()}
    one = kinds.pop() if len(kinds) == 1 else AccountError
    assert told.kind is (one if issubclass(one, AccountError | ModelUnavailable) else AccountError)
    assert all(f"{account}: no" in told.message for account in refusals)


@pytest.mark.parametrize(
    ("answers", "end", "kind"),
    [
        (("model gone", "model gone"), Failed, ModelUnavailable),
        (("model gone", "no credit"), NotAdmitted, AccountError),
        (("no credit", "no credit"), NotAdmitted, InsufficientCredits),
        (("wrong key", "no credit"), NotAdmitted, AccountError),
    ],
)
def test_all_that_wait_end_when_the_last_account_goes(
    answers: tuple[str, str], end: type[Failed | NotAdmitted], kind: type[ImagenError]
) -> None:
    """With no account left every queued item ends, and only those; other items of another model go on."""
    pool = Pool(dict.fromkeys("ab", SMALL))
    pool.add_many(8)
    first, second = pool.sent()
    other = pool.add(model=PLAIN)
    pool.answer(first, answers[0])
    pool.look()
    assert not pool.ended
    pool.answer(second, answers[1])
    pool.look()
    while pool.creating():
        pool.drain()
    ended = [pool.ended[job_id] for job_id in range(1, 9)]
    assert {type(job.state) for job in ended} == {end}
    for job in ended:
        assert isinstance(job.state, Failed | NotAdmitted)
        assert job.state.failure.kind is kind
        assert "a: " in job.state.failure.message
        assert "b: " in job.state.failure.message
    served = not all(each.breaker.stopped for each in pool.plan.upstreams.values())
    assert isinstance(pool.ended[other.id].state, Done if served else NotAdmitted)


def test_an_account_that_serves_a_model_no_more_is_short_of_items() -> None:
    """Those that wait for a model that it does not have count for it no more: more are taken in, of other models."""
    pool = Pool(dict.fromkeys("ab", SMALL)).trusted()
    pool.add_many(8)
    pool.look()
    assert not pool.plan.plan.wants_more(1)
    pool.answer(pool.creating("b")[0], "model gone")
    assert pool.plan.plan.wants_more(1)


def test_a_job_that_was_lost_ends_unknown_when_its_account_goes() -> None:
    """A lost item that waits for its second sending is not called unsent when its account stops."""
    pool = Pool(dict.fromkeys("ab", ROOMY)).trusted()
    (job_id, other) = pool.add_many(2, "a", resubmits=1)
    pool.look()
    pool.answer(job_id, "lost")
    pool.answer(other, "no credit")
    pool.look()
    state = pool.ended[job_id].state
    assert isinstance(state, Unknown)
    assert state.failure.is_a(UnknownOutcome)


# ------------------------------------------------------------------------------------------------------ policies


def accounts_of(pool: Pool, jobs: Iterable[int]) -> list[str]:
    return [pool.talking[job_id].account for job_id in jobs]


def test_spread_gives_to_whoever_can_send_soonest() -> None:
    """Equal accounts share a volley to the last place of each, however their prices differ."""
    pool = Pool(dict.fromkeys("abc", SMALL)).trusted()
    jobs = pool.add_many(8)
    assert pool.sent() == jobs[:6]
    assert sorted(accounts_of(pool, jobs[:6])) == ["a", "a", "b", "b", "c", "c"]


def test_cheapest_waits_for_the_cheapest() -> None:
    """The cheapest account gets all while it can be reached, also where others could send sooner."""
    pool = Pool(dict.fromkeys("abc", SMALL), "cheapest").trusted()
    jobs = pool.add_many(6)
    assert pool.sent() == jobs[:2]
    for job_id in jobs[:2]:
        pool.answer(job_id, "accepted")
    assert pool.sent() == []
    pool.drain()
    assert {create.account for job_id in jobs for create in pool.creates[job_id]} == {"b"}


@pytest.mark.parametrize("trouble", ["not sent", "maintenance", "no credit", "model gone"])
@pytest.mark.parametrize("policy", ["cheapest", "in_order"])
def test_the_next_in_order_stands_in_for_one_that_is_stopped_or_paused(policy: Policy, trouble: str) -> None:
    """Others get its items from the instant that the first is in trouble, the next best of them first."""
    order = "bac" if policy == "cheapest" else "abc"
    pool = Pool(dict.fromkeys("abc", SMALL), policy).trusted()
    jobs = pool.add_many(3)
    first, second = pool.sent()
    assert set(accounts_of(pool, [first, second])) == {order[0]}
    pool.answer(first, trouble)
    pool.look()
    assert set(accounts_of(pool, [first, jobs[2]])) == {order[1]}


def test_in_order_the_next_does_not_stand_in_for_one_that_waits_for_its_limit() -> None:
    """A single 429 is waited out, and its items stay."""
    pool = Pool(dict.fromkeys("ab", SMALL), "in_order").trusted()
    jobs = pool.add_many(5)
    first, _ = pool.sent()
    pool.answer(first, "limited")
    assert pool.sent() == []
    assert pool.upstream("a").health(pool.now).state == "limited"
    pool.drain()
    assert {create.account for job_id in jobs for create in pool.creates[job_id]} == {"a"}


def test_items_come_back_to_the_first_once_it_does() -> None:
    """An account that was paused gets its items again from its first answered create on."""
    pool = Pool(dict.fromkeys("ab", ROOMY), "in_order").trusted()
    (first,) = pool.add_many(1)
    pool.look()
    pool.answer(first, "not sent")
    assert accounts_of(pool, pool.sent()) == ["b"]
    pool.now += 5.0
    (probe, *others) = pool.add_many(4)
    pool.look()
    assert accounts_of(pool, [probe, *others]).count("a") == 1
    pool.answer(pool.creating("a")[0], "accepted")
    assert set(accounts_of(pool, pool.add_many(3) and pool.sent())) == {"a"}


@LONG
@given(prices=st.lists(st.sampled_from([None, 0, 1.0, 2.0]), min_size=3, max_size=3))
def test_preferred_are_the_best_that_are_open_and_reachable(prices: list[float | None]) -> None:
    """Those that a forecast counts on are the best rank of what is open and not paused, or of what is open."""
    pool = Pool(dict.fromkeys("abc", ROOMY), "cheapest", dict(zip("abc", prices, strict=True)))
    real = [provider(name, price).find(FAST) for name, price in zip("abc", prices, strict=True)]
    costs = {name: model.credits for name, model in zip("abc", real, strict=True) if model is not None}
    by_cost = sorted(costs, key=lambda name: math.inf if costs[name] is None else costs[name] or 0.0)
    route = pool.route()
    cheapest = {name for name in costs if costs[name] == costs[by_cost[0]]}
    assert pool.plan.upstreams.preferred(route) == cheapest
    for name in cheapest:
        pool.upstream(name).take_submit(0.0)
        pool.upstream(name).settle_submit(ConnectFailed(failure(TransportError, "down")), FAST, 0.0)
        assert pool.upstream(name).breaker.is_paused
    others = set("abc") - cheapest
    assert bool(pool.plan.upstreams.preferred(route) & others) == bool(others)
    for name in others:
        pool.stop(name)
    assert pool.plan.upstreams.preferred(route) == cheapest, "they are paused, and there is nobody else"
    for name in cheapest:
        pool.stop(name)
    assert pool.plan.upstreams.preferred(route) == set()


# -------------------------------------------------------------------------------------------------------- health


def test_a_new_account_is_ready() -> None:
    """An account that nothing has happened to yet is ready, has no error, and may do what it was set to."""
    health = upstream("a", SMALL).health(0.0)
    assert (health.name, health.state, health.error, health.limit, health.rate, health.running) == (
        "a",
        "ready",
        None,
        SMALL.submit,
        0.0,
        0,
    )


def test_health_counts_what_was_sent_and_what_runs() -> None:
    """The rate is that of the last window, the tasks are those on the way or at the provider."""
    pool = Pool({"a": SMALL}).trusted()
    first, _ = pool.add_many(2)
    pool.look()
    health = pool.upstream("a").health(pool.now)
    assert (health.rate, health.running, health.state) == (1.0, 2, "ready")
    pool.answer(first, "refused")
    assert pool.upstream("a").health(pool.now).running == 1
    pool.drain()
    assert pool.upstream("a").health(pool.now + 2.0).rate == 0.0


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        ("limited", "limited"),
        ("limited long", "limited"),
        ("not sent", "paused"),
        ("maintenance", "paused"),
        ("no credit", "stopped"),
        ("wrong key", "stopped"),
        ("model gone", "ready"),
        ("refused", "ready"),
        ("silent", "ready"),
        ("accepted", "ready"),
        ("lost", "ready"),
    ],
)
def test_one_accounts_trouble_is_its_own(answer: str, state: str) -> None:
    """What one answer makes of its account, with the error that says why; the other account stays ready."""
    pool = Pool(dict.fromkeys("ab", ROOMY))
    (job_id,) = pool.add_many(1, "a")
    pool.look()
    pool.answer(job_id, answer)
    health = pool.upstream("a").health(pool.now)
    assert health.state == state
    assert (health.error is None) == (state == "ready")
    assert pool.upstream("b").health(pool.now).state == "ready"
    others = pool.add_many(3, "b")
    pool.drain()
    assert all(isinstance(pool.ended[other].state, Done) for other in others)


def test_a_limited_account_tells_its_lowered_limit_until_it_is_back() -> None:
    """After a 429 its limit is below what it was set to; it climbs back window by window, and is ready then."""
    limits = Limits(submit=Rate(4, per=2), status=Rate(9, per=1), running=99)
    pool = Pool({"a": limits}).trusted()
    pool.add_many(40)
    first, *others = pool.sent()
    pool.answer(first, "limited")
    for job_id in others:
        pool.answer(job_id, "accepted")
    assert pool.upstream("a").health(pool.now).limit.count < 4
    seen = []
    while pool.upstream("a").health(pool.now).state != "ready":
        seen.append(pool.upstream("a").health(pool.now).limit.count)
        pool.wake()
        while pool.talking:
            pool.answer_any(0, "accepted", "succeeded", "saved", None)
    assert seen == sorted(seen)
    assert pool.upstream("a").health(pool.now).limit.count == 4


def test_an_account_of_one_create_at_a_time_is_limited_while_it_waits() -> None:
    """A limit that cannot be lowered any more is told as limited for as long as the 429 is waited out."""
    pool = Pool({"a": Limits(submit=Rate(1, per=4), running=9)}).trusted()
    (job_id,) = pool.add_many(1)
    pool.look()
    pool.answer(job_id, "limited")
    assert pool.upstream("a").health(pool.now).state == "limited"
    assert isinstance(pool.upstream("a").health(pool.now).error, RateLimited)
    assert pool.upstream("a").health(pool.now + 4.0).state == "ready"


@pytest.mark.parametrize(("answer", "tries"), [("not sent", 1), ("maintenance", 1), ("lost", LOST_IN_A_ROW)])
def test_a_paused_account_is_probed_and_comes_back(answer: str, tries: int) -> None:
    """Single creates further and further apart, while another account goes on; the first answer ends the pause."""
    pool = Pool(dict.fromkeys("ab", ROOMY)).trusted()
    pool.add_many(20, "a")
    pool.add_many(60)
    pool.look()
    probes = []
    for _ in range(60):
        if len(probes) == 6:
            break
        for job_id in pool.creating("a"):
            pool.answer(job_id, answer)
        while pool.talking:
            pool.answer_any(0, "accepted", "succeeded", "saved", None)
        assert pool.upstream("a").health(pool.now).state == "paused"
        pool.wake()
        assert len(pool.creating("a")) <= 1
        probes += [pool.now] * len(pool.creating("a"))
    gaps = [later - earlier for earlier, later in itertools.pairwise(probes)]
    assert gaps == [2.0, 4.0, 8.0, 16.0, 32.0]
    assert pool.upstream("b").health(pool.now).state == "ready"
    (probe,) = pool.creating("a")
    pool.answer(probe, "accepted")
    assert pool.upstream("a").health(pool.now).state == "ready"
    assert pool.upstream("a").health(pool.now).error is None
    pool.add_many(5, "a")
    pool.look()
    assert len(pool.creating("a")) >= 5


def test_an_account_that_refuses_all_for_its_rate_is_paused() -> None:
    """A second 429 with nothing accepted in between is no rate: others go first, and one create at a time probes it."""
    pool = Pool(dict.fromkeys("ab", SMALL), "in_order").trusted()
    pool.add_many(30)
    pool.look()
    for expected in ("limited", "paused"):
        while not pool.creating("a"):
            pool.wake()
        for job_id in pool.creating("a"):
            pool.answer(job_id, "limited")
        assert pool.upstream("a").health(pool.now).state == expected
    pool.look()
    assert pool.creating("b")
    assert not pool.creating("a")
    pool.drain()
    assert pool.upstream("a").health(pool.now + 100.0).state != "paused"
    assert all(isinstance(job.state, Done) for job in pool.ended.values())


@pytest.mark.parametrize(("answer", "pause"), [("limited", 1.0), ("limited long", 8.0)])
@pytest.mark.parametrize("trouble", ["not sent", "maintenance"])
def test_a_429_to_a_probe_is_waited_out(answer: str, pause: float, trouble: str) -> None:
    """A paused account that answers its probe with a 429 gets no create for a window, or for as long as it asks."""
    pool = Pool({"a": ROOMY}).trusted()
    pool.add_many(5)
    for job_id in pool.sent():
        pool.answer(job_id, trouble)
    pool.wake()
    (probe,) = pool.creating("a")
    pool.now += 0.125
    at = pool.now
    pool.answer(probe, answer)
    assert pool.upstream("a").health(pool.now).state in ("limited", "paused")
    assert pool.sent() == []
    pool.wake()
    assert pool.now >= at + pause


def test_an_account_that_was_never_reached_stops_and_others_take_its_items() -> None:
    """Five failed connections to a server that never answered stop that account alone, and nothing is lost."""
    pool = Pool(dict.fromkeys("ab", ROOMY), "in_order")
    for _ in range(40):
        pool.add_many(2)
        pool.look()
        for job_id in pool.creating("a"):
            pool.answer(job_id, "not sent")
        pool.look()
        while pool.talking:
            pool.answer_any(0, "accepted", "succeeded", "saved", None)
        pool.now += 1.0
    assert pool.upstream("a").health(pool.now).state == "stopped"
    assert sum(create.account == "a" for creates in pool.creates.values() for create in creates) == FIRST_CONTACT_TRIES
    pool.drain()
    assert len(pool.ended) == 80
    assert all(isinstance(job.state, Done) for job in pool.ended.values())


@LONG
@given(script=SCRIPT)
def test_health_agrees_with_what_is_sent(script: list[tuple[Any, ...]]) -> None:
    """A stopped account gets nothing, a paused one a create at a time, and each has the error that is its reason."""
    pool = Pool()
    for step in script:
        before = {name: each.health(pool.now).state for name, each in pool.plan.upstreams.items()}
        talked = set(pool.creating())
        play(pool, step)
        for name, each in pool.plan.upstreams.items():
            health = each.health(pool.now)
            fresh = [job_id for job_id in pool.creating(name) if job_id not in talked]
            assert (health.state == "stopped") == (each.breaker.stopped is not None)
            assert health.state not in ("stopped", "paused") or health.error is not None
            assert health.state != "ready" or health.error is None
            assert before[name] != "stopped" or not fresh
            assert health.state != "paused" or len(fresh) <= 1
            expected = [job for job in pool.plan.jobs if job.account == name]
            assert health.running == sum(isinstance(job.state, Submitting | Running) for job in expected)
            assert health.limit.per == each.limits.submit.per
            assert 1 <= health.limit.count <= each.limits.submit.count


# ------------------------------------------------------------------------------------- owners of the same pool


def test_a_budget_ends_no_item_of_another_owner() -> None:
    """What one owner may not spend any more is no word about the others."""
    pool = Pool({"a": SMALL})
    pool.plan.open(1, budget=Budget(0.9))
    mine, others = pool.add_many(4), pool.add_many(4, owner=2)
    pool.drain()
    assert [type(pool.ended[job_id].state) for job_id in mine] == [Done, NotAdmitted, NotAdmitted, NotAdmitted]
    assert all(isinstance(pool.ended[job_id].state, Done) for job_id in others)
    failures = [job.state.failure for job in pool.ended.values() if isinstance(job.state, NotAdmitted)]
    assert all(each.kind is BudgetReached for each in failures)


def test_leaving_one_owner_leaves_the_others_in_line() -> None:
    """The queued items of an owner who goes are left at once, and those behind them are sent."""
    pool = Pool({"a": SMALL}).trusted()
    mine, others = pool.add_many(4), pool.add_many(2, owner=2)
    pool.look()
    pool.plan.leave(1, pool.now)
    pool.look()
    assert [type(pool.ended[job_id].state) for job_id in mine[2:]] == [Left, Left]
    pool.drain()
    assert all(isinstance(pool.ended[job_id].state, Done) for job_id in others)


def test_what_is_ready_is_saved_with_all_accounts_stopped() -> None:
    """A picture that is paid for is fetched whatever its account says now."""
    pool = Pool(dict.fromkeys("ab", SMALL))
    for name in "ab":
        pool.stop(name)
    outcome = event("succeeded")
    assert isinstance(outcome, Succeeded)
    job = pool.add(state=Fetching("t", outcome), save_to="out", expires_at=5.0)
    pool.drain()
    assert isinstance(pool.ended[job.id].state, Done)
