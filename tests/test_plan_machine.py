"""The whole plan under any course of things: accounts, answers, callbacks, budgets, owners that leave, time."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from typing import Any

import inner
import plan_world
from builders import failure
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from plan_world import SMALL, World, doing, exact

from imagen_async import errors

WIDE = inner.Limits(submit=inner.Rate(3, per=2), status=inner.Rate(2, per=1), running=5)
NARROW = inner.Limits(submit=inner.Rate(1, per=0.5), status=inner.Rate(3, per=2), running=2)
ACCOUNTS = st.sampled_from([{"a": WIDE}, {"a": WIDE, "b": NARROW}, {"a": SMALL, "b": SMALL, "c": WIDE}])
CONNECTIONS = 6

# Sums of eighths are exact, so a test at the very edge of a window is a test of the rule and not of rounding.
SECONDS = st.sampled_from([None, None, 0.125, 0.5, None, 1.0, 1.375, 2.0, None, 5.0, 31.0])
"""None: until there is something to do."""
WHICH = st.integers(0, 9)
TERMS = st.fixed_dictionaries(
    {
        "owner": st.sampled_from([1, 2, 2, 3, 3]),
        "retries": st.sampled_from([0, 0, 1, 2]),
        "resubmits": st.integers(0, 1),
        "deadline": st.sampled_from([900.0, 900.0, 900.0, 8.0, 2.0]),
        "save_to": st.sampled_from(["out", None]),
        "caller": st.sampled_from(["", "", "x", "y"]),
        "share": st.sampled_from([1.0, 1.0, 2.0]),
    }
)
# Without those that close an account or a model: who ends for that is compared with how things are after the step.
VOLLEY = st.sampled_from(["accepted"] * 14 + [*plan_world.FREE_TO_REPEAT, "lost", "lost", "refused", "silent"])
STATUS = st.sampled_from(["succeeded"] * 5 + ["pending", "broken", "denied"] + list(plan_world.ASKED))
FILE = st.sampled_from(list(plan_world.FETCHED))
QUARTERS = st.sampled_from([None, 0, 1, 3, 4])


class AnyCourse(RuleBasedStateMachine):
    """A plan, and whatever may happen to it; what it promises is looked at after each step, and at the end."""

    world: World

    @initialize(
        accounts=ACCOUNTS,
        policy=st.sampled_from(["spread", "cheapest", "in_order"]),
        callbacks=st.sampled_from([True, True, False]),
        is_noting=st.booleans(),
        tenths=st.sampled_from([(), (), (12, 40), (30, 90)]),
        terms=TERMS,
    )
    def begin(self, accounts: Any, policy: Any, callbacks: bool, is_noting: bool, tenths: Any, terms: Any) -> None:
        account = {"connections": CONNECTIONS, "delay": lambda setbacks, longest: 1.0}
        self.world = World(accounts, policy, plan_world.PRICES, callbacks=callbacks, **account)
        self.callbacks = callbacks
        self.looked_at = self.closings = 0
        self.most = {owner: exact(self.world.limit(owner, each / 10).limit) for owner, each in enumerate(tenths, 1)}
        self.world.is_noting = is_noting
        self.world.add_many(3, **terms)
        self.world.look()

    @rule(accounts=st.sampled_from(["abc", "abc", "ab", "a"]), images=st.integers(0, 4), jobs=WHICH, terms=TERMS)
    def add(self, accounts: str, images: int, jobs: int, terms: dict[str, Any]) -> None:
        for _ in range(1 + jobs // 3 if terms["owner"] not in self.world.gone else 0):
            self.world.add(accounts, plan_world.FAST if images else plan_world.PLAIN, images or None, **terms)
        self.world.look()

    @rule(kind=st.integers(0, 5), terms=TERMS)
    def take_up(self, kind: int, terms: dict[str, Any]) -> None:
        if terms["owner"] in self.world.gone:
            return
        now, unknown = self.world.now, failure(errors.UnknownOutcome, "lost", credits=0.5)
        begun = [
            inner.Running("old-0", now),
            inner.Collected("old-0", now),
            inner.Doubted("old-0", now),
            inner.Fetching("old-0", plan_world.SUCCESS),
            inner.AwaitingCallback(unknown, now, now + 40.0),
            inner.Confirming(unknown, now, now + 40.0, f"t{len(self.world.added) + 1}-1"),
        ]
        self.world.take_up(begun[kind], **{**terms, "save_to": "out"})
        # What earlier runs have left may be more than the budget has.
        if terms["owner"] in self.most:
            self.most[terms["owner"]] = max(self.most[terms["owner"]], sum(self.world.books(terms["owner"])))
        self.world.look()

    @precondition(lambda self: self.world.talking)
    @rule(which=WHICH, created=VOLLEY, status=STATUS, quarters=QUARTERS, fetched=FILE)
    def answer(self, which: int, created: str, status: str, quarters: int | None, fetched: str) -> None:
        job = self.world.talking[sorted(self.world.talking)[which % len(self.world.talking)]].job
        told = {"create": created, "status": status, "file": fetched}[doing(job)]
        is_billed = doing(job) == "status" and quarters is not None
        self.world.answer(job.id, told, (job.model.price(job.request) or 0.0) * quarters / 4 if is_billed else None)
        self.world.look()

    @precondition(lambda self: self.world.talking)
    @rule(creates=st.lists(VOLLEY, min_size=1, max_size=4), statuses=st.lists(STATUS, min_size=1, max_size=4))
    def answer_several(self, creates: list[str], statuses: list[str]) -> None:
        asked = [job_id for job_id, turn in self.world.talking.items() if doing(turn.job) == "status"]
        answers = [*zip(self.world.creating(), creates, strict=False), *zip(asked, statuses, strict=False)]
        for job_id, name in answers:
            self.world.answer(job_id, name)
        self.world.look()

    @precondition(lambda self: self.world.creating() and self.closings < 2)
    @rule(which=WHICH, name=st.sampled_from(["no credit", "wrong key", "model gone"]))
    def close(self, which: int, name: str) -> None:
        self.closings += 1
        self.world.answer(self.world.creating()[which % len(self.world.creating())], name)
        self.world.look()

    @precondition(lambda self: self.world.noting())
    @rule(which=WHICH, why=st.sampled_from(list(plan_world.UNSENT)))
    def does_not_leave(self, which: int, why: str) -> None:
        self.world.answer(self.world.noting()[which % len(self.world.noting())], why)
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
        waiting = [job.id for job in world.plan.jobs if job.lost or isinstance(job.state, inner.Submitting)]
        waiting = waiting or [*world.added]
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
        if not turn.create and not self.world.send(turn):
            assert turn.job.is_due(self.world.now)
            return
        if is_early:
            self.world.hear(turn.job)
        self.world.answer(turn.job.id, answer)
        if not is_early:
            self.world.hear(turn.job)
        self.world.look()

    @rule(seconds=SECONDS)
    def wait(self, seconds: float | None) -> None:
        wake_at = self.world.plan.wake_at(self.world.now)
        if seconds is not None or wake_at < math.inf:
            self.world.sleep(wake_at if seconds is None else self.world.now + seconds)

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
        self.world.go(how, owner)
        self.world.look()

    @invariant()
    def no_more_tasks_run_than_may(self) -> None:
        """No create is handed out that could make one task too many, and `running` counts those that there may be."""
        for name, upstream in self.world.plan.upstreams.items():
            own = [job for job in self.world.plan.jobs if job.account == name]
            running = sum(isinstance(job.state, inner.Submitting | inner.Running) for job in own)
            assert upstream.running == running, f"{name} counts other tasks than there may be"
            if any(job.account == name and isinstance(job.state, inner.Noting) for job in self.world.taken):
                assert running <= upstream.limits.running, f"a create went to {name} for which there was no room"

    @invariant()
    def no_more_calls_are_on_the_way_than_may(self) -> None:
        """Creates hold half of an account's connections at most, with status calls all; two at most are saved."""
        for name, upstream in self.world.plan.upstreams.items():
            turns = self.world.turns(name)
            assert turns["create"] <= CONNECTIONS // 2, turns
            assert turns["create"] + turns["status"] <= CONNECTIONS, turns
            assert (upstream._creating, upstream._asking) == (turns["create"], turns["status"]), "lost, or not counted"
        saving = sum(doing(turn.job) == "file" for turn in self.world.talking.values())
        assert saving <= 2, "more are saved at once than may be"

    @invariant()
    def only_the_provider_is_believed(self) -> None:
        """A job has the task that its provider has told of; held or unknown, that which a callback has named."""
        for job in (*self.world.plan.jobs, *self.world.ended):
            task_id = job.state.task_id if isinstance(job.state, inner.Confirming) else job.task_id
            is_named = isinstance(job.state, inner.Confirming | inner.Unknown)
            told = (self.world.named if is_named else self.world.believed)[job.id]
            assert task_id is None or task_id in told, "nobody has told of that task, or a callback was believed"

    @invariant()
    def lost_creates_are_counted(self) -> None:
        """What was lost and not found again is counted, by its number; and none but a lost one waits for a callback."""
        held = inner.AwaitingCallback | inner.Confirming
        for job in (*self.world.plan.jobs, *self.world.ended):
            assert job.lost == len(job.lost_creates) == len(set(job.lost_creates)) <= job.attempts, "counted wrongly"
            assert job.lost or not isinstance(job.state, held | inner.Unknown), "held or unknown, and nothing was lost"
        for job in self.world.plan.jobs:
            assert set(job.lost_creates) <= self.world.lost[job.id], "one counts as lost that was not"
            if isinstance(job.state, held):
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
            if isinstance(job.state, inner.NotAdmitted) and job.state.failure.is_a(errors.BudgetReached):
                assert self.world.budgets[job.owner].is_idle, "something in flight may turn out to cost less"
                assert not self._fits(job), "there was room for it"
        for owner, budget in self.world.budgets.items():
            queued = [job for job in self.queued() if job.owner == owner]
            assert not queued or not budget.is_idle or any(map(self._fits, queued)), "they wait for nothing"

    def queued(self) -> list[inner.Job]:
        """Every job that waits to be sent."""
        return [job for job in self.world.plan.jobs if isinstance(job.state, inner.Queued)]

    def _fits(self, job: inner.Job) -> bool:
        offers = self.world.plan.upstreams.open_offers(job.way)
        return any(self.world.budgets[job.owner].fits(job, offer) for offer in offers)

    @invariant()
    def nobody_is_unsent_while_an_account_takes_it(self) -> None:
        """A job ends for its accounts' sake only once all of them refuse it, and its error names each of several."""
        for job in self.world.ended[self.looked_at :]:
            state, is_unsent = job.state, isinstance(job.state, inner.NotAdmitted)
            if is_unsent and state.failure.is_a(errors.BudgetReached, errors.JournalError):
                continue
            if is_unsent or (isinstance(state, inner.Failed) and state.failure.is_a(errors.ModelUnavailable)):
                came = self.world.added[job.id]
                # What was sent again after a loss is the same account's alone, for good: also once a callback has told
                # what came of the lost create, and in place of its failed task another one is wanted.
                is_bound = job.resubmits < came.resubmits
                refusals = {
                    offer.account: self.world.upstream(offer.account).breaker.refusal(offer.model.name)
                    for offer in came.way.offers
                    if not is_bound or offer.account == job.account
                }
                assert all(refusals.values()), f"an account of its route takes it: {refusals}"
                is_gone = all(why is not None and why.is_a(errors.ModelUnavailable) for why in refusals.values())
                assert is_unsent != is_gone, "it failed where its model is gone everywhere, and only there"
                if len(refusals) > 1:
                    assert all(f"{name}: " in state.failure.message for name in refusals), "not all accounts are named"
        self.looked_at = len(self.world.ended)
        for job in self.queued():
            assert self.world.plan.upstreams.open_offers(job.way), "it waits, and no account takes it"

    @invariant()
    def an_account_is_as_it_says(self) -> None:
        """A stopped account is sent nothing, a new or troubled one a create at a time, and each says why."""
        for name, upstream in self.world.plan.upstreams.items():
            health = upstream.health(self.world.now)
            fresh = [job for job in self.world.taken if job.account == name and isinstance(job.state, inner.Noting)]
            assert (health.state == "stopped") == (upstream.breaker.stopped is not None), health
            assert (health.error is None) == (health.state == "ready") or health.state == "limited", health
            assert health.state != "stopped" or not fresh, "a create went to an account that had stopped"
            if fresh and not upstream.breaker.is_trusted:
                assert self.world.turns(name)["create"] == 1, "several creates are under way at an account in trouble"
            assert 1 <= health.limit.count <= upstream.limits.submit.count, health

    def teardown(self) -> None:
        """Let everything go well from here on, and look at the whole story."""
        if not hasattr(self, "world"):
            return
        can_be_made = [
            job.id
            for job in self.queued()
            if min(job.expires_at or math.inf, self.world.now + job.deadline) > self.world.now + 100
            and job.owner not in self.world.budgets
        ]
        self.world.drain()
        ended = self.world.ended
        assert sorted(job.id for job in ended) == sorted(self.world.added), "not each ended exactly once"
        assert all(isinstance(job.state, inner.Ended) for job in ended), "it ended, and its state is no end"
        assert set(self.world.ends(*can_be_made)) <= {inner.Done}, "with time left and an account open one is not done"
        self.the_plan_is_at_rest()
        self.each_change_begins_where_the_last_left_off()
        self.no_window_at_the_server_is_exceeded()
        self.first_creates_go_in_order()
        self.no_create_goes_again_without_leave()
        self.only_the_provider_is_believed()
        self.lost_creates_are_counted()
        self.budgets_are_kept()

    def the_plan_is_at_rest(self) -> None:
        """When all have ended nothing runs, waits, holds a place or is asked about, and the plan never wakes."""
        assert self.world.is_at_rest(), "something is left in the plan"
        assert not self.world.plan.take(self.world.now + 1e6), "somebody has a turn though all have ended"
        takes_creates = self.world.plan.upstreams.take_creates
        assert all(self.world.plan.plan.wants_more(owner) == takes_creates for owner in (1, 2, 3)), "nobody waits"

    def each_change_begins_where_the_last_left_off(self) -> None:
        """Who hears every change knows at any time how each job stands."""
        stands: dict[int, inner.Job] = {}
        for change in self.world.plan.changes:
            assert stands.get(change.after.id) is change.before, "a change was not told"
            stands[change.after.id] = change.after
        assert all(stands[job.id] is job for job in self.world.ended), "it ended otherwise than was told"

    def no_window_at_the_server_is_exceeded(self) -> None:
        """Wherever in its round trip the server sees each call, no window holds more of them than may be.

        Those answered at `start` or later and sent before its window ends may all be seen in it; to try each answer as
        the start is enough.
        """
        for name, upstream in self.world.plan.upstreams.items():
            for kind, rate in (("create", upstream.limits.submit), ("status", upstream.limits.status)):
                trips = self.world.trips[name, kind]
                for _, start in trips:
                    seen = sum(sent < start + rate.per and answered >= start for sent, answered in trips)
                    assert seen <= rate.count, f"{seen} {kind} calls in a window of {name}"

    def first_creates_go_in_order(self) -> None:
        """Those of an owner and caller that may go the same ways are sent first in the order in which they came."""
        order: dict[object, list[int]] = defaultdict(list)
        taken = [change.after.id for change in self.world.plan.changes if isinstance(change.event, inner.Taken)]
        for job_id in dict.fromkeys(taken):
            job = self.world.added[job_id]
            # One that an earlier run has begun was sent by that; a new task for a failed one goes first.
            if isinstance(job.state, inner.Queued):
                order[job.owner, job.caller, job.way.key, job.request.count].append(job_id)
        assert all(ids == sorted(ids) for ids in order.values()), order

    def no_create_goes_again_without_leave(self) -> None:
        """Two creates may both have made a task only with a retry or a resubmission that the caller asked for.

        Another create goes after one that made nothing, for a task that failed or was denied, or with leave after a
        loss; to another account never after a loss, nor while its own could have made the task.
        """
        for job in self.world.ended:
            creates, terms = self.world.creates[job.id], self.world.added[job.id]
            failed = sum(each.end == "broken" or each.answer == "silent" for each in creates)
            assert job.retried <= min(terms.retries, failed), "a retry without leave, or without a failure"
            resubmitted = 0
            for earlier, later in itertools.pairwise(creates):
                is_retried = later.retried > earlier.retried
                resubmitted += earlier.answer == "lost" and not is_retried
                made_nothing = earlier.answer in (*plan_world.MAY_MOVE, "lost") or earlier.end == "denied"
                assert is_retried or made_nothing, f"sent again after {earlier.answer}"
                if earlier.answer == "lost" and not earlier.end:
                    assert later.account == earlier.account, "what was lost at one account was sent to another"
            assert resubmitted <= terms.resubmits, "a lost create was sent again without leave"
            assert job.attempts == len(creates) - (creates[:1] != [] and creates[0].number == 0), creates


TestAnyCourse = AnyCourse.TestCase
TestAnyCourse.settings = settings(max_examples=120, stateful_step_count=50, suppress_health_check=list(HealthCheck))
