"""A plan over several accounts, the scripts of answers that drive it, and books of what its creates cost."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

import msgspec
from builders import DrivenPlan, failure, upstream
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from imagen_async._core.job import Job
from imagen_async._core.job_events import Event, NotSaved, Saved, SendAborted
from imagen_async._core.latency import LatencyPrior
from imagen_async._core.poll_schedule import Kind, PollSchedule
from imagen_async._core.provider import Limits, Provider
from imagen_async._core.rate_limit import Rate
from imagen_async._core.routing import Policy, Route, Router
from imagen_async._core.states import Ended, Noting, Queued, Running
from imagen_async._core.upstream import Upstream
from imagen_async._core.values import ImageRequest
from imagen_async._core.wire import (
    Accepted,
    ConnectFailed,
    Lost,
    NoAnswer,
    Pending,
    Rejected,
    Remedy,
    Succeeded,
    TaskFailed,
    TaskRefused,
)
from imagen_async.errors import (
    AccountError,
    AuthenticationError,
    DownloadFailed,
    GenerationFailed,
    ImagenError,
    InsufficientCredits,
    InvalidRequest,
    JournalError,
    ModelUnavailable,
    RateLimited,
    TransportError,
)
from imagen_async.providers import PROVIDERS

FAST, PLAIN = "imagen4-fast", "imagen4"
ROOMY = Limits(submit=Rate(100, per=1), status=Rate(100, per=1), running=100)
SMALL = Limits(submit=Rate(2, per=2), status=Rate(4, per=1), running=4)
CONNECTIONS = 12
PRICES = {"a": 0.5, "b": 0.3, "c": 1.0}


class EverySecond(PollSchedule):
    """Asks once a second, and learns nothing."""

    def next_age(self, kind: Kind, asked: float, announced: float = 0.0) -> float:
        """A second later."""
        return asked + 1.0


SCHEDULE = EverySecond(LatencyPrior(median=5, sigma=0.5))


def provider(name: str, price: float | None = None) -> Provider:
    """kie.ai's record as that of another account, at another price."""
    return msgspec.structs.replace(PROVIDERS["kie"], name=name, prices=price)


def refused(kind: type[ImagenError], code: int, remedy: Remedy, retry_after: float | None = None) -> Rejected:
    """A create that the provider refused."""
    return Rejected(failure(kind, f"{kind.__name__} told", code=code), remedy, retry_after)


CREATED: dict[str, Event] = {
    "accepted": Accepted("t"),
    "lost": Lost(failure(TransportError, "reset")),
    "not sent": ConnectFailed(failure(TransportError, "no route", was_sent=False)),
    "refused": refused(InvalidRequest, 422, Remedy.FAIL),
    "silent": refused(GenerationFailed, 408, Remedy.NEW_TASK),
    "model gone": refused(ModelUnavailable, 404, Remedy.CLOSE_MODEL),
    "no credit": refused(InsufficientCredits, 402, Remedy.STOP),
    "wrong key": refused(AuthenticationError, 401, Remedy.STOP),
    "limited": refused(RateLimited, 429, Remedy.BACK_OFF),
    "limited long": refused(RateLimited, 429, Remedy.BACK_OFF, 8.0),
    "maintenance": refused(TransportError, 455, Remedy.PAUSE),
    "withheld": SendAborted(failure(JournalError, "the disk is full")),
}
ASKED: dict[str, Event] = {
    "succeeded": Succeeded(("https://files.example/1.png",), 1.0, None, b"{}"),
    "pending": Pending("waiting"),
    "broken": TaskFailed(failure(GenerationFailed, "too dark", code="500"), None, b"{}"),
    "denied": TaskRefused(failure(InvalidRequest, "recordInfo is null", code=422)),
    "unreadable": NoAnswer(failure(TransportError, "502")),
}
FETCHED: dict[str, Event] = {"saved": Saved(()), "not saved": NotSaved(failure(DownloadFailed, "502"))}
MAY_MOVE = {"not sent", "model gone", "no credit", "wrong key", "limited", "limited long", "maintenance"}
"""Answers to a create after which it is known that nothing was made, and that others may have the item."""


def event(name: str, credits: float | None = None, task_id: str = "t") -> Event:
    """An answer by its name, with what was billed."""
    match {**CREATED, **ASKED, **FETCHED}[name]:
        case Accepted():
            return Accepted(task_id)
        case Succeeded() | TaskFailed() as ended:
            return msgspec.structs.replace(ended, credits=credits)
        case other:
            return other


class Create(msgspec.Struct):
    """A create whose turn came, or a task that was taken up.

    Attributes:
        account: Where.
        price: Of its task.
        has_left: False while it may be taken back.
        answer: What came of it.
        after: What came of its task.
        cost: What it has cost, once that is known.
    """

    account: str
    price: Fraction
    has_left: bool = True
    answer: str = ""
    after: str = ""
    cost: Fraction | None = None


def exact(credits: float | None) -> Fraction:
    """An amount as a person reads it."""
    return Fraction(credits or 0.0).limit_denominator(10_000)


class Pool:
    """A plan over several accounts, and what a shell and some servers would see of it.

    Attributes:
        talking: The jobs that talk, as their turn gave them.
        fresh: Those that ended by the last look.
        gone: Owners that have left.
        notes_slowly: True while creates leave only when they are answered, so that they may be taken back before.
    """

    def __init__(
        self,
        limits: Mapping[str, Limits] | None = None,
        policy: Policy = "spread",
        prices: Mapping[str, float | None] = PRICES,
    ) -> None:
        limits = limits or dict.fromkeys("abc", SMALL)
        self.providers = {name: provider(name, prices[name]) for name in limits}
        self.policy = policy
        self.plan = DrivenPlan([upstream(name, each, SCHEDULE, CONNECTIONS) for name, each in limits.items()], 2)
        self.now = 0.0
        self.jobs: dict[int, Job] = {}
        self.talking: dict[int, Job] = {}
        self.ended: dict[int, Job] = {}
        self.creates: dict[int, list[Create]] = defaultdict(list)
        self.fresh: list[Job] = []
        self.gone: set[int] = set()
        self.notes_slowly = False

    def upstream(self, name: str) -> Upstream:
        return self.plan.upstreams[name]

    def stop(self, name: str) -> None:
        """Let an account take nothing more, if it still does; no job is told."""
        breaker = self.upstream(name).breaker
        breaker.stopped = breaker.stopped or failure(AccountError, "stopped")

    def route(self, accounts: Iterable[str] = "", images: int | None = None, model: str = FAST) -> Route:
        chosen = {name: each for name, each in self.providers.items() if not accounts or name in accounts}
        return Router(chosen, self.policy).route(ImageRequest("a red fox", model=model, num_images=images))[1]

    def add(self, accounts: Iterable[str] = "", images: int | None = None, model: str = FAST, **place: Any) -> Job:
        """Take in a job for some accounts, or for all."""
        number = len(self.jobs) + 1
        route = self.route(accounts, images, model)
        first = route.offers[0]
        request = ImageRequest("a red fox", model=model, num_images=images)
        place = {"owner": 1, "deadline": 900.0, "route": route, **place}
        owner = place.pop("owner")
        job = Job(number, owner, number, f"k{number}", request, first.account, first.model, **place)
        self.jobs[number] = job
        if not isinstance(job.state, Queued):
            self.creates[number].append(Create(job.account, exact(job.model.price(request)), answer="accepted"))
        self.plan.add(job, self.now)
        return job

    def add_many(self, number: int, accounts: Iterable[str] = "", **place: Any) -> list[int]:
        return [self.add(accounts, **place).id for _ in range(number)]

    def look(self) -> list[Job]:
        """Hand out what may talk, collect what ended."""
        taken = self.plan.take(self.now)
        for job in taken:
            assert job.id not in self.talking, "an item was at two places at once"
            assert job.id not in self.ended
            self.talking[job.id] = job
            if isinstance(job.state, Noting):
                (offer,) = [offer for offer in self.jobs[job.id].way.offers if offer.account == job.account]
                assert offer.model == job.model
                has_left = not self.notes_slowly and self.plan.leaves(job, self.now)
                self.creates[job.id].append(Create(job.account, exact(job.model.price(job.request)), has_left))
        self.fresh = list(self.plan.finished)
        self.plan.finished.clear()
        for job in self.fresh:
            assert job.id not in self.ended
            assert isinstance(job.state, Ended)
            self.ended[job.id] = job
            for create in self.creates[job.id]:
                if create.cost is None:
                    create.cost = create.price if create.has_left else Fraction(0)
        return taken

    def sent(self) -> list[int]:
        """Look, and say whose creates left."""
        return [job.id for job in self.look() if isinstance(job.state, Noting)]

    def creating(self, account: str = "") -> list[int]:
        """Whose creates are on the way."""
        jobs = sorted(self.talking.items())
        return [n for n, job in jobs if isinstance(job.state, Noting) and account in ("", job.account)]

    def answer(self, job_id: int, name: str, credits: float | None = None) -> Job | None:
        """Settle a job that talks, and keep the books."""
        job = self.talking.pop(job_id)
        last = self.creates[job_id][-1]
        answer = event(name, credits, f"t{job_id}-{len(self.creates[job_id])}")
        if isinstance(job.state, Noting):
            name, answer = self._sent(job, last, name, answer)
            last.answer = name
            if name == "lost":
                last.cost = last.price
            elif name != "accepted":
                last.cost = Fraction(0)
        elif isinstance(job.state, Running) and name in ("succeeded", "broken"):
            last.after = name
            if last.cost is None:
                last.cost = last.price if credits is None else exact(credits)
        return self.plan.settle(job, answer, self.now)

    def _sent(self, job: Job, create: Create, name: str, answer: Event) -> tuple[str, Event]:
        """What became of a create: it may have to leave first, and can be withheld until it has."""
        if create.has_left:
            return (name, answer) if name != "withheld" else ("not sent", CREATED["not sent"])
        create.has_left = name != "withheld" and self.plan.leaves(job, self.now)
        return (name, answer) if create.has_left or name == "withheld" else ("withheld", SendAborted())

    def answer_any(self, number: int, created: str, asked: str, fetched: str, quarters: int | None) -> None:
        """Settle one of those that talk with the answer that fits it; it is billed in quarters of its price."""
        job_id = sorted(self.talking)[number % len(self.talking)]
        state = self.talking[job_id].state
        price = self.creates[job_id][-1].price
        credits = None if quarters is None else float(price * quarters / 4)
        name = created if isinstance(state, Noting) else asked if isinstance(state, Running) else fetched
        self.answer(job_id, name, credits)

    def sleep(self, until: float) -> None:
        """Let time pass: nothing before `wake_at`, and something at it."""
        wake_at = self.plan.wake_at(self.now)
        self.now = until
        something = bool(self.look()) or bool(self.fresh)
        assert something == (until >= wake_at)

    def wake(self) -> None:
        """Do what is to be done by now, or sleep until something is."""
        wake_at = self.plan.wake_at(self.now)
        assert wake_at < math.inf
        if wake_at <= self.now:
            self.look()
        else:
            self.sleep(wake_at)

    def drain(self) -> None:
        """Let everything go well until nothing is left."""
        for _ in range(100 + 40 * len(self.jobs)):
            self.look()
            if self.talking:
                self.answer_any(0, "accepted", "succeeded", "saved", None)
            elif len(self.plan):
                self.wake()
            else:
                return
        raise AssertionError("the plan came to no end")

    def trusted(self) -> Pool:
        """Let every account answer once, so that none of them is at its first contact."""
        for name in self.plan.upstreams:
            self.add(name, owner=99)
        self.drain()
        self.now += 100.0
        return self


# ------------------------------------------------------------------------------------------------ scripts

ANSWER = st.tuples(
    st.just("answer"),
    st.integers(0, 9),
    st.sampled_from(["accepted"] * 12 + list(CREATED)),
    st.sampled_from(["succeeded"] * 4 + list(ASKED)),
    st.sampled_from(list(FETCHED)),
    st.sampled_from([None, 4, 4, 0, 1, 3]),
)
ADD = st.builds(
    lambda accounts, model, jobs, images, place: ("add", accounts, model, jobs, images, place),
    st.sampled_from(["abc", "abc", "ab", "bc", "a", "c"]),
    st.sampled_from([FAST, FAST, FAST, PLAIN]),
    st.integers(1, 3),
    st.integers(1, 4),
    st.fixed_dictionaries(
        {
            "owner": st.integers(1, 3),
            "retries": st.integers(0, 2),
            "resubmits": st.integers(0, 1),
            "deadline": st.sampled_from([900.0, 900.0, 20.0]),
            "save_to": st.sampled_from(["out", None]),
        }
    ),
)
GO = st.just(("wake",)) | st.tuples(st.just("wait"), st.integers(1, 80).map(lambda eighths: eighths / 8))
SLOW = st.tuples(st.just("note slowly"), st.booleans())
LEAVE = st.tuples(st.sampled_from(["leave", "abandon", "withhold"]), st.integers(2, 3))
STEP: st.SearchStrategy[tuple[Any, ...]] = st.one_of(*[ADD] * 5, *[ANSWER] * 14, *[GO] * 5, LEAVE, SLOW)
SCRIPT = st.lists(STEP, min_size=15, max_size=60)
POLICIES = st.sampled_from(["spread", "cheapest", "in_order"])
LONG = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])


def play(pool: Pool, step: tuple[Any, ...]) -> None:
    """Do one step of a script, and look."""
    match step:
        case ("add", accounts, model, jobs, images, place):
            for _ in range(jobs if place["owner"] not in pool.gone else 0):
                pool.add(accounts, images if model == FAST else None, model, **place)
        case ("answer", *what):
            if pool.talking:
                pool.answer_any(*what)
        case ("wait", seconds):
            pool.sleep(pool.now + seconds)
        case ("wake",):
            if pool.plan.wake_at(pool.now) < math.inf:
                pool.wake()
        case ("note slowly", is_slow):
            pool.notes_slowly = is_slow
        case ("leave", owner):
            pool.gone.add(owner)
            pool.plan.leave(owner, pool.now)
        case ("abandon", owner):
            pool.gone.add(owner)
            pool.plan.leave(owner, pool.now)
            pool.plan.abandon(owner, pool.now)
        case ("withhold", owner):
            pool.plan.withhold(owner, pool.now)
    pool.look()
    assert pool.plan.wake_at(pool.now) > pool.now
