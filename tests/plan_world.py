"""A plan and all that is around it, as the tests of the plan drive it: what talks, what is answered, what is seen."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from builders import DrivenPlan, failure, make_job, upstream

from imagen_async._core.job import Job
from imagen_async._core.job_events import Event, NotSaved, Saved, SendAborted, Unsendable
from imagen_async._core.latency import LatencyPrior
from imagen_async._core.poll_schedule import Kind, PollSchedule
from imagen_async._core.provider import Limits
from imagen_async._core.rate_limit import Rate
from imagen_async._core.states import Fetching, Noting, Running, Submitting
from imagen_async._core.upstream import Upstream
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
    AuthenticationError,
    DownloadFailed,
    GenerationFailed,
    InsufficientCredits,
    InvalidRequest,
    JournalError,
    ModelUnavailable,
    RateLimited,
    TransportError,
)


class EverySecond(PollSchedule):
    """Knows nothing and learns nothing: a question a second up to the age of 4, then one every 2 seconds."""

    def next_age(self, kind: Kind, asked: float, announced: float = 0.0) -> float:
        """A fixed interval for each stretch of a task's age."""
        return asked + (1.0 if asked < 4 else 2.0)


SCHEDULE = EverySecond(LatencyPrior(median=5, sigma=0.5))
SUCCESS = Succeeded(("https://files.example/1.png",), 1.0, 8.0, b"{}")
SAVING_AT_ONCE = 2
LIMITS = {
    "wide": Limits(submit=Rate(3, per=2), status=Rate(2, per=1), running=5),
    "narrow": Limits(submit=Rate(1, per=0.5), status=Rate(3, per=2), running=2),
}
CONNECTIONS = 6

CREATED: dict[str, Callable[[str], Event]] = {
    "accepted": Accepted,
    "lost": lambda _: Lost(failure(TransportError, "reset")),
    "not sent": lambda _: ConnectFailed(failure(TransportError, "no route")),
    "refused": lambda _: Rejected(failure(InvalidRequest, "bad", code=422), Remedy.FAIL),
    "silent": lambda _: Rejected(failure(GenerationFailed, "silent", code=408), Remedy.NEW_TASK),
    "model gone": lambda _: Rejected(failure(ModelUnavailable, "gone", code=404), Remedy.CLOSE_MODEL),
    "no credit": lambda _: Rejected(failure(InsufficientCredits, "empty", code=402), Remedy.STOP),
    "wrong key": lambda _: Rejected(failure(AuthenticationError, "no", code=401), Remedy.STOP),
    "limited": lambda _: Rejected(failure(RateLimited, "slow down", code=429), Remedy.BACK_OFF),
    "limited long": lambda _: Rejected(failure(RateLimited, "slow down", code=429), Remedy.BACK_OFF, 4.0),
    "maintenance": lambda _: Rejected(failure(TransportError, "maintenance", code=455), Remedy.PAUSE),
    "maintenance long": lambda _: Rejected(failure(TransportError, "maintenance", code=455), Remedy.PAUSE, 3.0),
}
UNSENT: dict[str, Event] = {
    "not noted": SendAborted(failure(JournalError, "the disk is full")),
    "unsendable": Unsendable(failure(InvalidRequest, "it cannot be written")),
}
"""Creates that do not leave after all."""
FREE_TO_REPEAT = ("not sent", "limited", "limited long", "maintenance", "maintenance long")
ASKED: dict[str, Callable[[str], Event]] = {
    "pending": lambda _: Pending("waiting"),
    "succeeded": lambda _: SUCCESS,
    "broken": lambda _: TaskFailed(failure(GenerationFailed, "too dark", code="500"), 0.0, b"{}"),
    "no urls": lambda _: TaskFailed(failure(GenerationFailed, "no picture", code="no_urls"), 8.0, b"{}"),
    "denied": lambda _: TaskRefused(failure(InvalidRequest, "recordInfo is null", code=422)),
    "unreadable": lambda _: NoAnswer(failure(TransportError, "502")),
    "asked too often": lambda _: NoAnswer(failure(RateLimited, "429"), limited=True),
}


GONE = NotSaved(failure(DownloadFailed, "404", is_gone=True))
FETCHED: dict[str, Callable[[str], Event]] = {
    "saved": lambda _: Saved(()),
    "not saved": lambda _: NotSaved(failure(DownloadFailed, "502")),
    "gone": lambda _: GONE,
}

Trip = tuple[float, float]


def most_at_the_server(trips: Iterable[Trip], per: float) -> int:
    """The most calls that some server could see within less than `per` seconds.

    A server may see a call at any instant from its sending to its answer. Those that were answered at `start` or later
    and sent before `start + per` can all be seen in [start, start + per); to try each answer as start is enough.
    """
    trips = list(trips)
    return max(
        (sum(sent < start + per and answered >= start for sent, answered in trips) for _, start in trips),
        default=0,
    )


def make_upstream(
    name: str = "wide",
    limits: Limits | None = None,
    connections: int = CONNECTIONS,
    delay: Callable[[int, float], float] = lambda setbacks, longest: 1.0,
) -> Upstream:
    """An account whose tasks are asked about every second."""
    return upstream(name, limits or LIMITS[name], SCHEDULE, connections, delay)


class World:
    """A plan, and everything around it that a shell and a server would be: what talks, and what was seen of it.

    Attributes:
        is_noting: True while intents take their time: then no create leaves before it is answered.
        talking: The jobs that talk, as they were handed out, and since when.
        stale: Turns whose create may leave no more, as something else has become of their jobs.
        creates: How many creates of each job have left.
    """

    def __init__(self, *upstreams: Upstream, expects_callbacks: bool = False) -> None:
        accounts = upstreams or [make_upstream("wide"), make_upstream("narrow")]
        self.plan = DrivenPlan(accounts, SAVING_AT_ONCE, expects_callbacks=expects_callbacks)
        self.now = 0.0
        self.is_noting = False
        self.added: dict[int, Job] = {}
        self.talking: dict[int, tuple[Job, float]] = {}
        self.stale: list[tuple[Job, float]] = []
        self.ended: list[Job] = []
        self.creates: Counter[int] = Counter()
        self.leave_to_repeat: Counter[int] = Counter()
        self.first_creates: dict[str, list[int]] = defaultdict(list)
        self.trips: dict[tuple[str, str], list[Trip]] = defaultdict(list)
        self.left: set[int] = set()
        self.withheld: set[int] = set()
        self._on_the_way: set[int] = set()

    def check_creates(self) -> None:
        """Each job had one create, and one for each that made nothing, each retry and each resubmit."""
        for job in self.ended:
            again = job.retried + self.added[job.id].resubmits - job.resubmits
            assert job.retried <= job.retries
            assert job.attempts == self.creates[job.id] <= 1 + self.leave_to_repeat[job.id] + again

    def add(self, account: str = "wide", model: str = "imagen4", **place: Any) -> Job:
        """Take in a job."""
        number = len(self.added) + 1
        job = self.added[number] = make_job(number, model=model, account=account, **place)
        self.plan.add(job, self.now)
        return job

    def look(self) -> list[Job]:
        """What the loop does: take what may talk now, deliver what ended, and find out when to look again."""
        self._call_off()
        taken = self.plan.take(self.now)
        for job in taken:
            assert job.id not in self.talking, "a job that talks was handed out again"
            assert job.id not in {ended.id for ended in self.ended}, "a job that ended was handed out"
            self.talking[job.id] = (job, self.now)
            if isinstance(job.state, Noting):
                if job.attempts == 1:
                    self.first_creates[job.account].append(job.id)
                assert self.is_noting or self.send(job)
        self.deliver()
        assert self.plan.wake_at(self.now) > self.now
        return taken

    def send(self, job: Job) -> bool:
        """Let a create leave, if it may."""
        if not self.plan.leaves(job, self.now):
            return False
        assert job.owner not in self.left | self.withheld
        self.creates[job.id] += 1
        self._on_the_way.add(job.id)
        return True

    def noting(self) -> list[int]:
        """The jobs whose create was handed out and has not left."""
        talking = sorted(self.talking.items())
        return [n for n, (job, _) in talking if isinstance(job.state, Noting) and n not in self._on_the_way]

    def creating(self) -> list[int]:
        """The jobs whose create was handed out, or is on the way."""
        return [job_id for job_id, (job, _) in self.talking.items() if isinstance(job.state, Submitting)]

    def _call_off(self) -> None:
        for job_id in self.noting():
            live = self.plan.find(job_id)
            if live is None or live.state is not self.talking[job_id][0].state:
                self.stale.append(self.talking.pop(job_id))

    def deliver(self) -> list[Job]:
        """Take out the jobs that ended."""
        self._call_off()
        new = list(self.plan.finished)
        self.plan.finished.clear()
        for job in new:
            assert job.id not in self.talking or job.owner in self.left, "a job that talks ended without its answer"
        self.ended += new
        return new

    def answer(self, job_id: int, event: Event) -> Job | None:
        """Settle a job that talks."""
        job, sent = self.talking.pop(job_id)
        self._on_the_way.discard(job_id)
        return self._settle(job, sent, event)

    def settle_stale(self) -> None:
        """Say of a create that may leave no more that it has not left."""
        job, sent = self.stale.pop(0)
        assert not self.plan.leaves(job, self.now)
        before = self.plan.find(job.id)
        self._settle(job, sent, SendAborted())
        assert self.plan.find(job.id) is before, "nothing but its place is given back"

    def _settle(self, job: Job, sent: float, event: Event) -> Job | None:
        kind = (
            "create" if isinstance(job.state, Submitting) else "file" if isinstance(job.state, Fetching) else "status"
        )
        self.trips[job.account, kind].append((sent, self.now))
        return self.plan.settle(job, event, self.now)

    def answer_by_name(self, number: int, created: str, asked: str, fetched: str) -> None:
        """Settle one of the jobs that talk with the event of that name that fits it."""
        job_id = sorted(self.talking)[number % len(self.talking)]
        job, _ = self.talking[job_id]
        if isinstance(job.state, Submitting):
            if job_id not in self._on_the_way:
                assert self.send(job)
            self.leave_to_repeat[job_id] += created in FREE_TO_REPEAT and self.is_leave(job_id)
            self.answer(job_id, CREATED[created](f"t{job_id}-{job.attempts}"))
        elif isinstance(job.state, Fetching):
            self.answer(job_id, FETCHED[fetched](""))
        else:
            self.answer(job_id, ASKED[asked](""))

    def is_leave(self, job_id: int) -> bool:
        """True where an answer that says that nothing was made is leave to send a job's create again."""
        return True

    def sleep(self, until: float) -> None:
        """Let time pass without an answer: nothing before `wake_at`, and something at it."""
        wake_at = self.plan.wake_at(self.now)
        ended = len(self.ended)
        self.now = until
        something = bool(self.look()) or len(self.ended) > ended
        assert something == (until >= wake_at)

    def sleep_until_asked(self, job_id: int) -> None:
        """Let time pass until a job is asked about."""
        while job_id not in self.talking:
            self.sleep(self.plan.wake_at(self.now))

    def withhold(self, owner: int) -> None:
        """The owner wants no more to be sent."""
        self.withheld.add(owner)
        self.plan.withhold(owner, self.now)

    def wants_more(self, owner: int) -> bool:
        """Say whether an owner should add more jobs."""
        return self.plan.plan.wants_more(owner)

    def leave(self, owner: int) -> None:
        """The owner goes."""
        self.left.add(owner)
        self.plan.leave(owner, self.now)

    def abandon(self, owner: int) -> None:
        """The owner goes, and what was on the way is not heard out."""
        self.leave(owner)
        self.plan.abandon(owner, self.now)

    def drain(self) -> None:
        """Let everything go well from here on, until nothing is left to do."""
        self.is_noting = False
        for _ in range(100 + 30 * len(self.added)):
            self.look()
            if self.stale:
                self.settle_stale()
            elif self.talking:
                self.answer_by_name(0, "accepted", "succeeded", "saved")
            elif len(self.plan):
                self.sleep(self.plan.wake_at(self.now))
            else:
                return
        raise AssertionError("the plan came to no end")

    def all_trips(self, account: str, kind: str) -> list[Trip]:
        """Every call of this kind; those without an answer may be seen at any later time."""
        wanted = Submitting if kind == "create" else Running
        under_way = [
            (sent, math.inf)
            for job, sent in (*self.talking.values(), *self.stale)
            if job.account == account and isinstance(job.state, wanted)
        ]
        return self.trips[account, kind] + under_way


def play(world: World, step: tuple[Any, ...]) -> None:
    """Do one step of a script, but for those that add somebody, and look, as the loop does after each change."""
    match step:
        case ("answer", *what):
            if world.talking:
                world.answer_by_name(*what)
        case ("unsent", number, why):
            if noting := world.noting():
                world.answer(noting[number % len(noting)], UNSENT[why])
        case ("stale",):
            if world.stale:
                world.settle_stale()
        case ("noting", is_noting):
            world.is_noting = is_noting
        case ("wait", seconds):
            world.sleep(world.now + seconds)
        case ("wake",):
            if world.plan.wake_at(world.now) < math.inf:
                world.sleep(world.plan.wake_at(world.now))
        case ("leave" | "abandon" | "withhold" as what, owner):
            getattr(world, what)(owner)
    world.look()
