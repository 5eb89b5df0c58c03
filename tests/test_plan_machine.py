"""The whole plan under any course of things: accounts, answers, callbacks, budgets, owners that leave, time."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from typing import Any

from builders import failure
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from plan_world import (
    ASKED,
    FAST,
    FETCHED,
    FREE_TO_REPEAT,
    MAY_MOVE,
    PLAIN,
    PRICES,
    SMALL,
    SUCCESS,
    UNSENT,
    World,
    exact,
    most_at_the_server,
)

from imagen_async._core.job import Job
from imagen_async._core.provider import Limits
from imagen_async._core.rate_limit import Rate
from imagen_async._core.states import (
    AwaitingCallback,
    BeingAsked,
    Collected,
    Confirming,
    Done,
    Doubted,
    Ended,
    Failed,
    Fetching,
    NotAdmitted,
    Noting,
    Queued,
    Running,
    Submitting,
    Unknown,
)
from imagen_async.errors import BudgetReached, JournalError, ModelUnavailable, UnknownOutcome

WIDE = Limits(submit=Rate(3, per=2), status=Rate(2, per=1), running=5)
NARROW = Limits(submit=Rate(1, per=0.5), status=Rate(3, per=2), running=2)
ACCOUNTS = st.sampled_from([{"a": WIDE}, {"a": WIDE, "b": NARROW}, {"a": SMALL, "b": SMALL, "c": WIDE}])
CONNECTIONS = 6

# Sums of eighths are exact, so a test at the very edge of a window is a test of the rule and not of rounding.
SECONDS = st.sampled_from([0.125, 0.5, 1.0, 1.375, 2.0, 5.0, 31.0])
WHICH = st.integers(0, 9)
TERMS = st.fixed_dictionaries(
    {
        "owner": st.sampled_from([1, 2, 2, 3, 3]),
        "retries": st.sampled_from([0, 0, 1, 2]),
        "resubmits": st.integers(0, 1),
        "deadline": st.sampled_from([900.0, 900.0, 900.0, 8.0, 2.0]),
        "save_to": st.sampled_from(["out", None]),
    }
)
# Without those that close an account or a model: who ends for that is compared with how things are after the step.
VOLLEY = ["accepted"] * 14 + [*FREE_TO_REPEAT, "lost", "lost", "refused", "silent"]
STATUS = st.sampled_from(["succeeded"] * 5 + ["pending", "broken", "denied"] + list(ASKED))
QUARTERS = st.sampled_from([None, 0, 1, 3, 4])


class AnyCourse(RuleBasedStateMachine):
    """A plan, and whatever may happen to it; what it promises is looked at after each step, and at the end."""

    world: World

    # ------------------------------------------------------------------------------------------------ what happens

    @initialize(
        accounts=ACCOUNTS,
        policy=st.sampled_from(["spread", "cheapest", "in_order"]),
        callbacks=st.sampled_from([True, True, False]),
        is_noting=st.booleans(),
        tenths=st.sampled_from([(), (), (12, 40), (30, 90)]),
        jobs=st.integers(1, 5),
        terms=TERMS,
    )
    def begin(
        self, accounts: Any, policy: Any, callbacks: bool, is_noting: bool, tenths: Any, jobs: int, terms: Any
    ) -> None:
        self.world = World(
            accounts, policy, PRICES, connections=CONNECTIONS, delay=lambda n, longest: 1.0, callbacks=callbacks
        )
        self.callbacks = callbacks
        self.most = {}
        self.looked_at = self.closings = 0
        for owner, limit in enumerate(tenths, 1):
            self.most[owner] = exact(self.world.limit(owner, limit / 10).limit)
        self.world.is_noting = is_noting
        self.world.add_many(jobs, **terms)
        self.world.look()

    @rule(accounts=st.sampled_from(["abc", "abc", "ab", "a"]), images=st.integers(0, 4), jobs=WHICH, terms=TERMS)
    def add(self, accounts: str, images: int, jobs: int, terms: dict[str, Any]) -> None:
        for _ in range(1 + jobs // 3 if terms["owner"] not in self.world.gone else 0):
            self.world.add(accounts, FAST if images else PLAIN, images or None, **terms)
        self.world.look()

    @rule(kind=st.sampled_from([Running, Collected, Doubted, Fetching, AwaitingCallback, Confirming]), terms=TERMS)
    def take_up(self, kind: type, terms: dict[str, Any]) -> None:
        if terms["owner"] in self.world.gone:
            return
        now, number = self.world.now, len(self.world.added) + 1
        lost = {"unknown": failure(UnknownOutcome, "lost", credits=0.5), "since": now, "until": now + 40.0}
        fields = {
            Fetching: {"task_id": "old-0", "outcome": SUCCESS},
            AwaitingCallback: lost,
            Confirming: {**lost, "task_id": f"t{number}-1"},
        }.get(kind, {"task_id": "old-0", "since": now})
        self.world.take_up(kind(**fields), **{**terms, "save_to": "out"})
        # What earlier runs have left may be more than the budget has.
        if terms["owner"] in self.most:
            spent_and_reserved = sum(self.world.books(terms["owner"]))
            self.most[terms["owner"]] = max(self.most[terms["owner"]], spent_and_reserved)
        self.world.look()

    @precondition(lambda self: self.world.talking)
    @rule(
        which=WHICH,
        created=st.sampled_from(VOLLEY),
        status=STATUS,
        quarters=QUARTERS,
        fetched=st.sampled_from(list(FETCHED)),
    )
    def answer(self, which: int, created: str, status: str, quarters: int | None, fetched: str) -> None:
        job_id = sorted(self.world.talking)[which % len(self.world.talking)]
        job = self.world.talking[job_id].job
        if isinstance(job.state, Noting):
            self.world.answer(job_id, created)
        elif isinstance(job.state, BeingAsked):
            price = job.model.price(job.request) or 0.0
            self.world.answer(job_id, status, None if quarters is None else price * quarters / 4)
        else:
            self.world.answer(job_id, fetched)
        self.world.look()

    @precondition(lambda self: self.world.creating())
    @rule(names=st.lists(st.sampled_from(VOLLEY), min_size=1, max_size=4))
    def answer_creates(self, names: list[str]) -> None:
        for job_id, name in zip(self.world.creating(), names, strict=False):
            self.world.answer(job_id, name)
        self.world.look()

    @precondition(lambda self: self.world.creating() and self.closings < 2)
    @rule(which=WHICH, name=st.sampled_from(["no credit", "wrong key", "model gone"]))
    def close(self, which: int, name: str) -> None:
        self.closings += 1
        creating = self.world.creating()
        self.world.answer(creating[which % len(creating)], name)
        self.world.look()

    @precondition(lambda self: set(self.world.talking) - set(self.world.creating()))
    @rule(names=st.lists(STATUS, min_size=1, max_size=4))
    def answer_statuses(self, names: list[str]) -> None:
        asked = [job_id for job_id, turn in self.world.talking.items() if isinstance(turn.job.state, BeingAsked)]
        for job_id, name in zip(asked, names, strict=False):
            self.world.answer(job_id, name)
        self.world.look()

    @precondition(lambda self: self.world.noting())
    @rule(which=WHICH, why=st.sampled_from(list(UNSENT)))
    def does_not_leave(self, which: int, why: str) -> None:
        noting = self.world.noting()
        self.world.answer(noting[which % len(noting)], why)
        self.world.look()

    @precondition(lambda self: self.world.stale)
    @rule()
    def hears_that_it_is_called_off(self) -> None:
        self.world.settle_stale()
        self.world.look()

    @precondition(lambda self: self.callbacks)
    @rule(
        which=WHICH,
        create=st.sampled_from(["last", "last", "last", "first", "before", "next"]),
        task=st.sampled_from(["its own"] * 4 + ["stranger", "another's", None]),
    )
    def call_back(self, which: int, create: str, task: str | None) -> None:
        world = self.world
        waiting = [job.id for job in world.plan.jobs if job.lost or isinstance(job.state, Submitting)] or [*world.added]
        job = world.added[waiting[-1 - which % len(waiting)]]
        live = world.plan.find(job.id)
        attempts = len(world.creates[job.id]) if live is None else live.attempts
        number = {"last": attempts, "first": 1, "before": attempts - 1, "next": attempts + 1}[create]
        names = {"its own": "", "stranger": f"stranger-{number}", "another's": "t1-1", None: None}
        world.hear(job, number, names[task])
        world.look()

    @precondition(lambda self: self.callbacks and self.world.creating())
    @rule(which=WHICH, is_early=st.booleans(), answer=st.sampled_from(["lost"] * 4 + ["limited", "refused", "silent"]))
    def name_the_task_of_a_create(self, which: int, is_early: bool, answer: str) -> None:
        creating = self.world.creating()
        turn = self.world.talking[creating[which % len(creating)]]
        assert turn.create or self.world.send(turn)
        if is_early:
            self.world.hear(turn.job)
        self.world.answer(turn.job.id, answer)
        if not is_early:
            self.world.hear(turn.job)
        self.world.look()

    @rule(seconds=SECONDS)
    def wait(self, seconds: float) -> None:
        self.world.sleep(self.world.now + seconds)

    @precondition(lambda self: self.world.plan.wake_at(self.world.now) < math.inf)
    @rule()
    def wake(self) -> None:
        self.world.sleep(self.world.plan.wake_at(self.world.now))

    @rule(times=st.integers(1, 6))
    def go_well(self, times: int) -> None:
        for _ in range(times):
            if self.world.talking:
                self.world.go_well()
                self.world.look()
            elif self.world.plan.wake_at(self.world.now) < math.inf:
                self.world.sleep(self.world.plan.wake_at(self.world.now))

    @precondition(lambda self: self.world.creating() and len(self.world.gone | self.world.withheld) < 2)
    @rule(how=st.sampled_from(["leave", "abandon", "withhold"]), owner=st.integers(2, 3))
    def go(self, how: str, owner: int) -> None:
        getattr(self.world, how)(owner)
        self.world.look()

    # -------------------------------------------------------------------------------- what holds after every step

    @invariant()
    def no_more_tasks_run_than_may(self) -> None:
        """No create is handed out that could make one task too many, and `running` counts those that there may be."""
        for name, upstream in self.world.plan.upstreams.items():
            own = [job for job in self.world.plan.jobs if job.account == name]
            running = sum(isinstance(job.state, Submitting | Running) for job in own)
            assert upstream.running == running, f"{name} counts other tasks than there may be"
            if any(job.account == name and isinstance(job.state, Noting) for job in self.world.taken):
                assert running <= upstream.limits.running, f"a create went to {name} for which there was no room"

    @invariant()
    def creates_leave_half_of_the_connections_to_status_calls(self) -> None:
        """Creates hold at most half of an account's connections, both together all, and each is given back."""
        for name, upstream in self.world.plan.upstreams.items():
            creating, asking = self.world.turns(name)
            assert creating <= CONNECTIONS // 2, f"{creating} creates at a time"
            assert creating + asking <= CONNECTIONS, f"{creating} creates and {asking} status calls at a time"
            assert (upstream._creating, upstream._asking) == (creating, asking), "a connection is lost, or not counted"

    @invariant()
    def so_many_are_saved_at_once(self) -> None:
        """Never more downloads than the plan was made for."""
        saving = [job_id for job_id, turn in self.world.talking.items() if isinstance(turn.job.state, Fetching)]
        assert len(saving) <= 2, "more are saved at once than may be"

    @invariant()
    def nothing_is_sent_that_is_not_wanted(self) -> None:
        """From the instant that an owner leaves nothing goes out for it, and no create for one that withholds."""
        assert not self.world.unwanted, "something went out for an owner who had left, or withheld it"

    @invariant()
    def nothing_is_sent_after_a_callback_s_word(self) -> None:
        """A lost create that a callback has named is not paid for again, unless its task failed and may be retried."""
        assert not self.world.overheard, "a callback had named its task, and it was sent again"

    @invariant()
    def only_the_provider_is_believed(self) -> None:
        """A job has the task that its provider has told of; one that a callback has named is asked about first."""
        for job in self.world.plan.jobs:
            if isinstance(job.state, Confirming):
                assert job.state.task_id in self.world.named[job.id], "a name that nobody gave is asked about"
            elif job.task_id is not None:
                assert job.task_id in self.world.believed[job.id], "a callback was believed by itself"

    @invariant()
    def lost_creates_are_counted(self) -> None:
        """What was lost and not found again is counted, by its number; and none but a lost one waits for a callback."""
        for job in self.world.plan.jobs:
            assert job.lost == len(job.lost_creates) == len(set(job.lost_creates)), "counted wrongly"
            assert set(job.lost_creates) <= self.world.lost[job.id], "one counts as lost that was not"
            if isinstance(job.state, AwaitingCallback | Confirming):
                assert job.lost, "nothing was lost, and it waits for a callback"
                is_told = bool(self.world.named[job.id])
                assert is_told or job.expires_at is None or job.state.until <= job.expires_at, "beyond its deadline"
                assert self.callbacks or job.attempts == 1, "no callback will come"

    @invariant()
    def budgets_are_kept(self) -> None:
        """Spent is what is known to be gone, reserved what is not known yet, and both together stay in the budget."""
        for owner, budget in self.world.budgets.items():
            spent, reserved = self.world.books(owner)
            assert (exact(budget.spent), exact(budget.reserved)) == (spent, reserved), "the books say otherwise"
            assert budget.is_idle == (reserved == 0), "idle is who has nothing reserved"
            assert spent + reserved <= self.most[owner], "the budget is exceeded"

    @invariant()
    def a_budget_is_used_up_before_any_is_turned_away(self) -> None:
        """None ends for the budget that could be sent on it, now or later, and none waits that never can be."""
        for job in self.world.ended[self.looked_at :]:
            if isinstance(job.state, NotAdmitted) and job.state.failure.is_a(BudgetReached):
                assert self.world.budgets[job.owner].is_idle, "something in flight may turn out to cost less"
                assert not self._fits(job), "there was room for it"
        for owner, budget in self.world.budgets.items():
            queued = [job for job in self.world.plan.jobs if job.owner == owner and isinstance(job.state, Queued)]
            assert not queued or not budget.is_idle or any(map(self._fits, queued)), "they wait for nothing"

    def _fits(self, job: Job) -> bool:
        offers = self.world.plan.upstreams.open_offers(job.way)
        return any(self.world.budgets[job.owner].fits(job, offer) for offer in offers)

    @invariant()
    def nobody_is_unsent_while_an_account_takes_it(self) -> None:
        """A job ends for its accounts' sake only once all of them refuse it, and its error names each of several."""
        for job in self.world.ended[self.looked_at :]:
            state = job.state
            if not isinstance(state, NotAdmitted | Failed) or state.failure.is_a(BudgetReached, JournalError):
                continue
            if isinstance(state, NotAdmitted) or state.failure.is_a(ModelUnavailable):
                route = self.world.added[job.id].way if not job.lost else job.way
                refusals = {
                    offer.account: self.world.upstream(offer.account).breaker.refusal(offer.model.name)
                    for offer in route.offers
                }
                assert all(refusals.values()), f"an account of its route takes it: {refusals}"
                is_gone = all(why is not None and why.is_a(ModelUnavailable) for why in refusals.values())
                assert isinstance(state, Failed) == is_gone, (
                    "it failed where its model is gone everywhere, and only there"
                )
                if len(refusals) > 1:
                    assert all(f"{name}: " in state.failure.message for name in refusals), "not all accounts are named"
        self.looked_at = len(self.world.ended)
        for job in self.world.plan.jobs:
            takers = self.world.plan.upstreams.open_offers(job.way)
            assert takers or not isinstance(job.state, Queued), "it waits, and no account takes it"

    @invariant()
    def an_account_is_as_it_says(self) -> None:
        """A stopped account is sent nothing, a new or troubled one a create at a time, and each says why."""
        for name, upstream in self.world.plan.upstreams.items():
            health = upstream.health(self.world.now)
            fresh = [job for job in self.world.taken if job.account == name and isinstance(job.state, Noting)]
            assert (health.state == "stopped") == (upstream.breaker.stopped is not None), health
            assert (health.error is None) == (health.state == "ready") or health.state == "limited", health
            assert health.state != "stopped" or not fresh, "a create went to an account that had stopped"
            if fresh and not upstream.breaker.is_trusted:
                assert self.world.turns(name)[0] == 1, "several creates are under way at an account in trouble"
            assert 1 <= health.limit.count <= upstream.limits.submit.count, health

    # ------------------------------------------------------------------------------------------ what holds at the end

    def teardown(self) -> None:
        """Let everything go well from here on, and look at the whole story."""
        if not hasattr(self, "world"):
            return
        queued = [job for job in self.world.plan.jobs if isinstance(job.state, Queued)]
        can_be_made = [
            job.id
            for job in queued
            if self.world.plan.upstreams.open_offers(job.way)
            and (job.expires_at or math.inf) > self.world.now + 100
            and job.deadline > 100
            and job.owner not in self.world.budgets
        ]
        self.world.drain()
        self.what_can_be_made_is_made(can_be_made)
        self.each_job_ends_once()
        self.the_plan_is_at_rest()
        self.each_change_begins_where_the_last_left_off()
        self.no_window_at_the_server_is_exceeded()
        self.first_creates_go_in_order()
        self.no_create_goes_again_without_leave()
        self.an_end_tells_what_is_known()
        self.budgets_are_kept()

    def what_can_be_made_is_made(self, job_ids: list[int]) -> None:
        """After any trouble, a job that waited with an account open, with time and money left, is done."""
        for job_id in job_ids:
            assert isinstance(self.world.end_of(job_id).state, Done), "it was left behind"

    def each_job_ends_once(self) -> None:
        """No job is lost, none ends twice, and each comes to a final state."""
        assert sorted(job.id for job in self.world.ended) == sorted(self.world.added), "not each ended exactly once"
        assert all(isinstance(job.state, Ended) for job in self.world.ended), "a job ended in a state that is no end"

    def the_plan_is_at_rest(self) -> None:
        """When all have ended nothing runs, waits, holds a place or is asked about, and the plan never wakes."""
        assert self.world.is_at_rest(), "something is left in the plan"
        assert not self.world.plan.take(self.world.now + 1e6), "somebody has a turn though all have ended"
        takes_creates = self.world.plan.upstreams.take_creates
        assert all(self.world.plan.plan.wants_more(owner) == takes_creates for owner in (1, 2, 3)), "nobody waits"

    def each_change_begins_where_the_last_left_off(self) -> None:
        """Who hears every change knows at any time how each job stands."""
        stands: dict[int, Job] = {}
        for change in self.world.plan.changes:
            assert stands.get(change.after.id) is change.before, "a change was not told"
            stands[change.after.id] = change.after
        assert all(stands[job.id] is job for job in self.world.ended), "it ended otherwise than was told"

    def no_window_at_the_server_is_exceeded(self) -> None:
        """Wherever in its round trip the server sees each call, no window holds more of them than may be."""
        for name, upstream in self.world.plan.upstreams.items():
            for kind, rate in (("create", upstream.limits.submit), ("status", upstream.limits.status)):
                most = most_at_the_server(self.world.trips[name, kind], rate.per)
                assert most <= rate.count, f"{most} {kind} calls in a window of {name}"

    def first_creates_go_in_order(self) -> None:
        """Those of an owner that may go the same ways are sent for the first time in the order in which they came."""
        order: dict[object, list[int]] = defaultdict(list)
        for job_id in self.world.first:
            job = self.world.added[job_id]
            order[job.owner, job.way.key, job.request.images].append(job_id)
        assert all(ids == sorted(ids) for ids in order.values()), order

    def no_create_goes_again_without_leave(self) -> None:
        """Two creates may both have made a task only with a retry or a resubmission that the caller asked for.

        Another create goes after one that made nothing, for a task that failed or was denied, or with leave after a
        loss; to another account never after a loss, nor while its own could have made the task.
        """
        for job in self.world.ended:
            creates, terms = self.world.creates[job.id], self.world.added[job.id]
            failed = sum(each.end == "broken" or each.answer == "silent" for each in creates)
            denied = sum(each.end == "denied" for each in creates)
            assert job.retried <= min(terms.retries, failed), "a retry without leave, or without a failure"
            resubmitted = 0
            for earlier, later in itertools.pairwise(creates):
                is_retried = later.retried > earlier.retried
                resubmitted += earlier.answer == "lost" and not is_retried
                made_nothing = earlier.answer in (*MAY_MOVE, "lost") or earlier.end == "denied"
                assert is_retried or made_nothing, f"sent again after {earlier.answer}"
                if earlier.answer == "lost" and not earlier.end:
                    assert later.account == earlier.account, "what was lost at one account was sent to another"
            assert resubmitted <= terms.resubmits, "a lost create was sent again without leave"
            assert job.attempts == len(creates) - (creates[:1] != [] and creates[0].number == 0), (creates, denied)

    def an_end_tells_what_is_known(self) -> None:
        """A task on a result is the provider's word, on an unknown one a callback's; what was lost stays counted."""
        for job in self.world.ended:
            assert job.lost == len(job.lost_creates) <= job.attempts, "counted wrongly"
            if isinstance(job.state, Unknown):
                assert job.lost, "unknown, and nothing was lost"
                assert job.task_id is None or job.task_id in self.world.named[job.id], "nobody has named that task"
            elif job.task_id is not None:
                assert job.task_id in self.world.believed[job.id], "the provider has not told of that task"


TestAnyCourse = AnyCourse.TestCase
TestAnyCourse.settings = settings(
    max_examples=120, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
