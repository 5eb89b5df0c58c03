"""A plan and all that is around it: who talks, what is answered, what was seen, and books of what it may have cost."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import inner
import msgspec
from builders import DrivenPlan, failure, make_job, upstream

from imagen_async import errors
from imagen_async.providers import PROVIDERS

FAST, PLAIN, ULTRA = "imagen4-fast", "imagen4", "imagen4-ultra"
REQUEST = inner.ImageRequest("a red fox", model=PLAIN)
ROOMY = inner.Limits(submit=inner.Rate(100, per=1), status=inner.Rate(100, per=1), running=100)
SMALL = inner.Limits(submit=inner.Rate(2, per=2), status=inner.Rate(4, per=1), running=4)
USUAL = {FAST: 4, PLAIN: 8, ULTRA: 12}
PRICES = {"a": 0.5, "b": 0.3, "c": 1.0}
"""Of a picture, in credits."""

SUCCESS = inner.Succeeded(("https://files.example/1.png",), 1.0, None, b"{}")
KNOWN = inner.Pending | inner.Succeeded | inner.LinksMissing | inner.TaskFailed
"""What the provider says of a task that it knows."""


def refused(kind: type, code: int, remedy: inner.Remedy, retry_after: float | None = None) -> inner.Rejected:
    """A create that the provider refused."""
    return inner.Rejected(failure(kind, f"{kind.__name__} told", code=code), remedy, retry_after)


CREATED: dict[str, inner.Event] = {
    "accepted": inner.Accepted(""),
    "lost": inner.Lost(failure(errors.TransportError, "reset")),
    "refused": refused(errors.InvalidRequest, 422, inner.Remedy.FAIL),
    "silent": refused(errors.GenerationFailed, 408, inner.Remedy.NEW_TASK),
    "model gone": refused(errors.ModelUnavailable, 404, inner.Remedy.CLOSE_MODEL),
    "no credit": refused(errors.InsufficientCredits, 402, inner.Remedy.STOP),
    "wrong key": refused(errors.AuthenticationError, 401, inner.Remedy.STOP),
    "limited": refused(errors.RateLimited, 429, inner.Remedy.BACK_OFF),
    "limited long": refused(errors.RateLimited, 429, inner.Remedy.BACK_OFF, 4.0),
    "maintenance": refused(errors.TransportError, 455, inner.Remedy.PAUSE),
    "maintenance long": refused(errors.TransportError, 455, inner.Remedy.PAUSE, 3.0),
}
UNSENT: dict[str, inner.Event] = {
    "not noted": inner.SendAborted(failure(errors.JournalError, "the disk is full")),
    "unsendable": inner.Unsendable(failure(errors.InvalidRequest, "it cannot be written")),
    "not sent": inner.ConnectFailed(failure(errors.TransportError, "no route", was_sent=False)),
}
"""Creates that do not leave after all; after the last it is tried again."""
ASKED: dict[str, inner.Event] = {
    "pending": inner.Pending("waiting"),
    "succeeded": SUCCESS,
    "broken": inner.TaskFailed(failure(errors.GenerationFailed, "too dark", code="500"), None, b"{}"),
    "no urls": inner.TaskFailed(failure(errors.GenerationFailed, "no picture", code="no_urls"), None, b"{}"),
    "no links": inner.LinksMissing(
        inner.TaskFailed(failure(errors.GenerationFailed, "no picture", code="no_urls"), None, b"{}")
    ),
    "denied": inner.TaskRefused(failure(errors.InvalidRequest, "recordInfo is null", code=422)),
    "unreadable": inner.NoAnswer(failure(errors.TransportError, "502")),
    "asked too often": inner.NoAnswer(failure(errors.RateLimited, "429"), limited=True),
}
FETCHED: dict[str, inner.Event] = {
    "saved": inner.Saved(()),
    "not saved": inner.NotSaved(failure(errors.DownloadFailed, "502")),
    "gone": inner.NotSaved(failure(errors.DownloadFailed, "404", is_gone=True)),
}
NAMED = CREATED | UNSENT | ASKED | FETCHED

FREE_TO_REPEAT = ("limited", "limited long", "maintenance", "maintenance long")
"""Answers after which a create goes again by itself."""
MAY_MOVE = (*FREE_TO_REPEAT, "model gone", "no credit", "wrong key")
"""Answers after which it is known that nothing was made, and that others may have the item."""


class EverySecond(inner.PollSchedule):
    """Asks every second until the age of 4, then every 2 seconds."""

    def next_age(self, kind: inner.Kind, asked: float, announced: float = 0.0, part: float = 1.0) -> float:
        """A fixed interval for each stretch of a task's age."""
        return asked + (1.0 if asked < 4 else 2.0)


def exact(credits: float | None) -> Fraction:
    """An amount as a person reads it."""
    return Fraction(credits or 0.0).limit_denominator(10_000)


class Create(msgspec.Struct):
    """A create that has left.

    Attributes:
        number: Which one of its job, from 1; 0 for a task that an earlier run has made.
        account, price: Where it went, and the price of its task.
        retried: New tasks that its job was given for failed ones before it.
        answer, end: What came of it, and of its task, by name; empty while that is not known.
        cost: What it has cost, once nobody can tell more of it.
    """

    number: int
    account: str
    price: Fraction
    retried: int = 0
    answer: str = ""
    end: str = ""
    cost: Fraction | None = None


def doing(job: inner.Job) -> str:
    """What a job talks about that was handed out: a `create`, a `status` call or a `file`."""
    if isinstance(job.state, inner.Submitting):
        return "create"
    return "status" if isinstance(job.state, inner.BeingAsked) else "file"


class Turn(msgspec.Struct):
    """A job that talks, as it was handed out, since when, and its create once that has left."""

    job: inner.Job
    since: float
    create: Create | None = None


class World:
    """A plan of some accounts, by their limits, and everything around it that a shell and some servers would be.

    Attributes:
        is_noting: True while connections take their time: then no create leaves before it is answered.
        added: Every job as it came in.
        talking, stale: Turns under way, and those that a callback or an owner has called off.
        taken: What the last look has handed out.
        ended: The jobs that ended, in order.
        creates: Those of each job that have left.
        lost: Creates of each job whose answer was lost.
        told_at, named: How often a job had been retried when a callback named its task, and those names.
        believed: Tasks of each job that the provider itself has told of.
    """

    def __init__(
        self,
        limits: Mapping[str, inner.Limits] | None = None,
        policy: inner.Policy = "spread",
        prices: Mapping[str, float | None] | None = None,
        *,
        callbacks: bool = False,
        connections: int = 12,
        **account: Any,
    ) -> None:
        limits, prices = limits or {"a": ROOMY}, prices or {}
        self.policy = policy
        self.providers = {
            name: msgspec.structs.replace(PROVIDERS["apikley"], name=name, prices=prices.get(name, USUAL))
            for name in limits
        }
        prior = inner.LatencyPrior(median=5, sigma=0.5)
        accounts = [upstream(name, each, EverySecond(prior), connections, **account) for name, each in limits.items()]
        self.plan = DrivenPlan(accounts, saving_at_once=2, expects_callbacks=callbacks)
        self.now, self.is_noting = 0.0, False
        self.added, self.talking = dict[int, inner.Job](), dict[int, Turn]()
        self.stale, self.taken, self.ended = list[Turn](), list[inner.Job](), list[inner.Job]()
        self.creates = defaultdict[int, list[Create]](list)
        self.trips = defaultdict[tuple[str, str], list[tuple[float, float]]](list)
        self.gone, self.withheld = set[int](), set[int]()
        self.told_at, self.budgets = dict[int, int](), dict[int, inner.Budget]()
        self.lost = defaultdict[int, set[int]](set)
        self.named, self.believed = defaultdict[int, set[str]](set), defaultdict[int, set[str]](set)

    def upstream(self, name: str = "a") -> inner.Upstream:
        """An account's turns."""
        return self.plan.upstreams[name]

    def limit(self, owner: int, credits: float) -> inner.Budget:
        """Let an owner spend no more than that."""
        budget = self.budgets[owner] = inner.Budget(credits)
        self.plan.open(owner, budget=budget)
        return budget

    def route(self, accounts: str = "", request: inner.ImageRequest = REQUEST) -> inner.Route:
        """The way to some accounts, or to all."""
        chosen = {name: each for name, each in self.providers.items() if name in (accounts or self.providers)}
        return inner.Router(chosen, self.policy).route(request)[1]

    def add(self, accounts: str = "", model: str = PLAIN, images: int | None = None, **place: Any) -> inner.Job:
        """Take in a job for some accounts, or for all."""
        number, request = len(self.added) + 1, inner.ImageRequest("a red fox", model=model, num_images=images)
        route = self.route(accounts, request)
        terms = {"account": route.offers[0].account, "route": route, "request": request, **place}
        job = msgspec.structs.replace(make_job(number, **terms), model=route.offers[0].model)
        self.added[number] = job
        self.plan.add(job, self.now)
        return job

    def add_many(self, number: int, accounts: str = "", **place: Any) -> list[int]:
        """Take in so many alike; their numbers."""
        return [self.add(accounts, **place).id for _ in range(number)]

    def take_up(self, state: inner.State, accounts: str = "", **place: Any) -> inner.Job:
        """Take in a job that an earlier run has begun."""
        number = len(self.added) + 1
        create = Create(0, accounts or next(iter(self.providers)), Fraction(0), answer="accepted")
        terms: dict[str, Any] = {"expires_at": self.now + 900.0, **place}
        if isinstance(state, inner.AwaitingCallback | inner.Confirming):
            create = msgspec.structs.replace(create, number=1, answer="lost")
            self.lost[number].add(1)
            terms |= {"attempts": 1, "lost": 1, "lost_creates": (1,)}
        if not isinstance(state, inner.AwaitingCallback):
            (self.named if isinstance(state, inner.Confirming) else self.believed)[number].add(state.task_id)
        create.price = exact(self.route(create.account).offers[0].model.price(REQUEST))
        if not isinstance(state, inner.Running):
            # Its task has ended, or is unknown: the journal's figure has it already.
            create.cost = create.price
            if (budget := self.budgets.get(terms.get("owner", 1))) is not None:
                budget.add_spent(float(create.price))
        self.creates[number].append(create)
        return self.add(create.account, state=state, **terms)

    def trusted(self) -> World:
        """Let every account answer once, so that none of them is at its first contact; the world of before is over."""
        for name in self.plan.upstreams:
            self.add(name, owner=99)
        self.drain()
        self.now += 1000.0
        return self

    def look(self) -> list[inner.Job]:
        """What the loop does: take what may talk now, deliver what ended, and find out when to look again."""
        self._call_off()
        self.taken = self.plan.take(self.now)
        over = {job.id for job in self.ended}
        for job in self.taken:
            assert job.id not in self.talking, "a job that talks was handed out again"
            assert job.id not in over, "a job that ended was handed out"
            assert job.owner not in self.gone, "a job was handed out for an owner who had left"
            turn = self.talking[job.id] = Turn(job, self.now)
            if doing(job) == "create":
                assert job.owner not in self.withheld, "a create was handed out for an owner who withholds it"
                assert self.is_noting or self.send(turn), "a create whose turn it is may not leave"
        self.deliver()
        assert self.plan.wake_at(self.now) > self.now, "after a look nothing is to be done at once"
        return self.taken

    def send(self, turn: Turn) -> bool:
        """Let a create leave, if it may."""
        job = turn.job
        if not self.plan.leaves(job, self.now):
            return False
        assert job.owner not in self.gone | self.withheld, "a create left for an owner who had left, or withheld it"
        assert job.retried > self.told_at.get(job.id, -1), "a callback had named its task, and it was sent again"
        turn.create = Create(job.attempts, job.account, exact(job.model.price(job.request)), job.retried)
        self.creates[job.id].append(turn.create)
        return True

    def _call_off(self) -> None:
        for job_id in self.noting():
            if getattr(self.plan.find(job_id), "state", None) is not self.talking[job_id].job.state:
                self.stale.append(self.talking.pop(job_id))

    def deliver(self) -> list[inner.Job]:
        """Take out the jobs that ended."""
        self._call_off()
        new = list(self.plan.finished)
        self.plan.finished.clear()
        for job in new:
            assert job.id not in self.talking or job.owner in self.gone, "a job that talks ended without its answer"
            self._close(job.id)
        self.ended += new
        return new

    def answer(self, job_id: int, what: str | inner.Event, credits: float | None = None) -> inner.Job | None:
        """Settle a job that talks, with an event or that of a name, and with what was billed; the job as it is then."""
        turn = self.talking.pop(job_id)
        name, event = (what, NAMED[what]) if isinstance(what, str) else ("", what)
        is_noting = isinstance(turn.job.state, inner.Noting) and turn.create is None
        if is_noting and name not in UNSENT and not self.send(turn):
            assert turn.job.is_due(self.now), "a create whose turn it is may not leave"
            name, event = "", inner.SendAborted()
        match event:
            case inner.Accepted(task_id=""):
                event = inner.Accepted(f"t{job_id}-{turn.job.attempts}")
            case inner.Succeeded(credits=None) | inner.TaskFailed(credits=None):
                event = msgspec.structs.replace(event, credits=credits)
        return self._settle(turn, name, event)

    def settle_stale(self) -> None:
        """Say of a create that may leave no more that it has not left."""
        turn = self.stale.pop(0)
        before = self.plan.find(turn.job.id)
        assert not self.plan.leaves(turn.job, self.now), "a create leaves that was called off"
        self._settle(turn, "", inner.SendAborted())
        assert self.plan.find(turn.job.id) is before, "nothing but its place is given back"

    def _settle(self, turn: Turn, name: str, event: inner.Event) -> inner.Job | None:
        job, before = turn.job, self.plan.find(turn.job.id)
        self.trips[job.account, doing(job)].append((turn.since, self.now))
        after = self.plan.settle(job, event, self.now)
        if turn.create is not None:
            turn.create.answer = name
        if before is None or after is None:
            return after
        if turn.create is not None:
            self._created(turn.create, before, event, after)
        elif isinstance(event, KNOWN | inner.TaskRefused):
            self._asked(job, name, event, after)
        return after

    def _created(self, create: Create, before: inner.Job, event: inner.Event, after: inner.Job) -> None:
        """Note what came of a create."""
        claim = getattr(before.state, "claim", None)
        if isinstance(event, inner.Accepted):
            self.believed[before.id].add(event.task_id)
        elif isinstance(event, inner.Lost) or (claim is not None and claim.create == create.number):
            self.lost[before.id].add(create.number)
            if not isinstance(after.state, inner.AwaitingCallback | inner.Confirming):
                create.cost = create.price
        else:
            create.cost = Fraction(0)

    def _asked(self, job: inner.Job, name: str, event: inner.Event, after: inner.Job) -> None:
        """Note what the provider said of a task."""
        is_held = isinstance(job.state, inner.Confirming)
        number = job.lost_creates[-1] if is_held else int(job.state.task_id.rpartition("-")[2])
        (create,) = [each for each in self.creates[job.id] if each.number == number]
        if isinstance(event, KNOWN):
            self.believed[job.id].add(job.state.task_id)
        if isinstance(event, inner.Succeeded | inner.TaskFailed):
            create.end = create.end or name
            self._close(job.id, event.credits)
        elif isinstance(event, inner.LinksMissing):
            # It has come to an end where that goes on for a while, or its time is over.
            create.end = create.end or (name if isinstance(after.state, inner.Failed) else "")
        elif isinstance(after.state, inner.Queued):
            # It was denied, and is to be replaced.
            create.end = name
            self._close(job.id)

    def _close(self, job_id: int, credits: float | None = None) -> None:
        """What is open of a job has cost that, or, where nobody tells, its price."""
        for create in self.creates[job_id]:
            if create.cost is None:
                create.cost = create.price if credits is None else exact(credits)

    def hear(self, job: inner.Job, create: int | None = None, task_id: str | None = "") -> inner.Job | None:
        """Let a callback come; without more, the true one about the last create. The job, where it is news."""
        live = self.plan.find(job.id)
        create = (live or job).attempts if create is None else create
        task_id = f"t{job.id}-{create}" if task_id == "" else task_id
        told = self.plan.on_callback(job.id, create, task_id, self.now, job.account)
        if told is not None and task_id is not None:
            self.named[job.id].add(task_id)
            self.told_at[job.id] = told.retried
        return told

    def sleep(self, until: float) -> None:
        """Let time pass without an answer: nothing before `wake_at`, and something at it."""
        wake_at, ended, self.now = self.plan.wake_at(self.now), len(self.ended), until
        something = bool(self.look()) or len(self.ended) > ended
        is_late = until >= wake_at + inner.LATE
        assert is_late or something == (until >= wake_at), f"something happened: {something}; it was to be at {wake_at}"

    def wake(self) -> None:
        """Look, and where there is nothing to do, sleep until there is."""
        if not self.look():
            assert self.plan.wake_at(self.now) < math.inf, "nothing will ever happen"
            self.sleep(self.plan.wake_at(self.now))

    def wake_for(self, job_id: int) -> None:
        """Let time pass until a job talks."""
        while job_id not in self.talking:
            self.wake()

    def go(self, how: str, owner: int = 1) -> None:
        """An owner goes: it may `withhold` its creates, `leave`, or `abandon` even what is on the way."""
        (self.withheld if how == "withhold" else self.gone).add(owner)
        if how == "abandon":
            self.plan.leave(owner, self.now)
        getattr(self.plan, how)(owner, self.now)

    def go_well(self) -> None:
        """Answer one that talks with the best that there is."""
        best = {"create": "accepted", "status": "succeeded", "file": "saved"}
        self.answer(min(self.talking), best[doing(self.talking[min(self.talking)].job)])

    def drain(self) -> None:
        """Let everything go well from here on, until nothing is left to do."""
        self.is_noting = False
        for _ in range(100 + 30 * len(self.added)):
            self.look()
            if self.stale:
                self.settle_stale()
            elif self.talking:
                self.go_well()
            elif len(self.plan):
                self.sleep(self.plan.wake_at(self.now))
            else:
                return
        raise AssertionError("the plan came to no end")

    def sent(self) -> list[int]:
        """Look, and say whose creates had their turn."""
        return [job.id for job in self.look() if doing(job) == "create"]

    def asked(self) -> list[int]:
        """Look, and say who is asked about."""
        return [job.id for job in self.look() if doing(job) == "status"]

    def creating(self, account: str = "") -> list[int]:
        """Whose creates were handed out, or are on the way."""
        turns = [turn.job for turn in self.talking.values() if account in ("", turn.job.account)]
        return sorted(job.id for job in turns if doing(job) == "create")

    def noting(self) -> list[int]:
        """Whose creates were handed out and have not left."""
        return [job_id for job_id in self.creating() if self.talking[job_id].create is None]

    def end_of(self, job: inner.Job | int) -> inner.Job:
        """A job as it ended."""
        self.deliver()
        (ended,) = [each for each in self.ended if each.id == (job if isinstance(job, int) else job.id)]
        return ended

    def ends(self, *job_ids: int) -> list[type[inner.State]]:
        """How these jobs ended."""
        return [type(self.end_of(job_id).state) for job_id in job_ids]

    def turns(self, account: str) -> Counter[str]:
        """How many creates and status calls of an account are on the way, those that were called off included."""
        turns = (*self.talking.values(), *self.stale)
        return Counter(doing(turn.job) for turn in turns if turn.job.account == account)

    def books(self, owner: int) -> tuple[Fraction, Fraction]:
        """What an owner's creates have cost, and what those may cost of which nothing is known yet."""
        creates = [each for job_id in self.added for each in self.creates[job_id] if self.added[job_id].owner == owner]
        noting = [self.talking[job_id].job for job_id in self.noting()]
        reserved = sum(exact(job.model.price(job.request)) for job in noting if job.owner == owner)
        spent = sum((each.cost for each in creates if each.cost is not None), Fraction(0))
        return spent, reserved + sum((each.price for each in creates if each.cost is None), Fraction(0))

    def is_at_rest(self) -> bool:
        """True where nothing is left to be done, and every place was given back."""
        later, accounts = self.now + 1e6, self.plan.upstreams.values()
        counts = {(each.running, each.submit.taken(later), each.status.taken(later)) for each in accounts}
        watched = [each.poll_queue._watched for each in accounts if each.poll_queue._watched]
        kept = (len(self.plan), watched, [*self.plan.plan._course._listened])
        return (kept, counts, self.plan.wake_at(self.now)) == ((0, [], []), {(0, 0, 0)}, math.inf)
