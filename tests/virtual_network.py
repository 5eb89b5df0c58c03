"""A network without sockets for the virtual-time loop: the sandbox's service behind jittered round trips."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from builders import upstream

from imagen_async._batch.batch import Batch
from imagen_async._core.change import Change
from imagen_async._core.job import Job
from imagen_async._core.limiter import Limiter
from imagen_async._core.plan import Plan
from imagen_async._core.poll_schedule import PollSchedule
from imagen_async._core.provider import Limits, Provider
from imagen_async._core.routing import Router
from imagen_async._core.states import Ended
from imagen_async._core.values import ImageFile, ImageRequest, Result
from imagen_async._core.wire import Accepted, HttpRequest, HttpResponse
from imagen_async._core.wording import result_of
from imagen_async._job_factory import JobFactory, JobOptions
from imagen_async._plain_group import PlainGroup
from imagen_async._scheduler.change_stream import Owner
from imagen_async._scheduler.exchange import Exchange
from imagen_async._scheduler.scheduler import Scheduler
from imagen_async._session_pool import MAX_ANSWER
from imagen_async._watch.observer import Observer
from imagen_async.errors import ProtocolError, TransportError
from imagen_async.sandbox import Faults, Latency, Ledger
from imagen_async.sandbox._service import Service
from imagen_async.sandbox._webhooks import Webhook

KEY = "a-key-for-tests"


class Network:
    """One provider at the other end of a jittered line.

    Attributes:
        ledger: What the provider saw, in virtual time.
        round_trip: Longest way there and longest way back, in seconds.
        is_down: True while no connection can be made.
        takes_no_creates: True while no connection can be made for a create.
        believed: The limits that its account is set to; None: its own.
        limiter: The limit of its creates; None: this process's own window.
        call_back: Hears of each callback that is to be sent, when its task is made.
    """

    def __init__(
        self,
        provider: Provider,
        *,
        limits: Limits | None = None,
        latency: Latency | None = None,
        faults: Faults | None = None,
        round_trip: float = 0.3,
        balance: float = math.inf,
        believed: Limits | None = None,
        limiter: Limiter | None = None,
    ) -> None:
        self.provider = provider
        self.believed = believed
        self.limiter = limiter
        self.limits = limits or provider.limits
        self.ledger = Ledger()
        self.faults = faults or Faults()
        self.round_trip = round_trip
        self.is_down = self.takes_no_creates = False
        self.call_back: Callable[[Webhook], None] | None = None
        self._chance = random.Random(1)
        self._service = Service(
            provider,
            key=KEY,
            limits=self.limits,
            latency=latency or Latency(median=13, minimum=2),
            faults=self.faults,
            ledger=self.ledger,
            balance=balance,
            files="https://files.example",
        )

    async def __call__(self, account: str, request: HttpRequest, *, within: float | None = None) -> HttpResponse:
        """Carry a request there and its answer back, each way as slow as chance will have it."""
        if self.is_down or (self.takes_no_creates and request.method == "POST"):
            raise TransportError("No connection.", sent=False)
        await anyio.sleep(self._chance.uniform(0, self.round_trip))
        now = asyncio.get_running_loop().time()
        authorization = f"Bearer {KEY}"
        if request.method == "POST":
            reply = self._service.create(authorization, request.body or b"", now, now)
            while self._service.webhooks and self.call_back is not None:
                self.call_back(self._service.webhooks.popleft())
        else:
            task_id = request.path.rpartition("=")[2].rpartition("/")[2]
            reply = self._service.status(authorization, task_id, now)
        await anyio.sleep(self._chance.uniform(0, self.round_trip))
        if reply.ending != "whole":
            raise TransportError("The connection broke.")
        if len(reply.body) > MAX_ANSWER:
            raise ProtocolError("The answer is too long.")
        return HttpResponse(reply.status, reply.body)


class Listener:
    """An owner that keeps what it hears."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.finish_times: list[float] = []
        self.accepted_jobs: list[Job] = []
        self._heard = asyncio.Event()

    def owner(self) -> Owner:
        """Itself, as a scheduler takes it."""
        return Owner(self.on_change, closing=lambda: None)

    def on_change(self, change: Change, now: float) -> None:
        """Note when a job has its task id, and when it has ended."""
        job = change.after
        if isinstance(job.state, Ended):
            self.results.append(result_of(job))
            self.finish_times.append(now)
            self._heard.set()
        elif isinstance(change.event, Accepted):
            self.accepted_jobs.append(job)
            self._heard.set()

    async def heard(self, *, finished: int = 0, accepted: int = 0) -> None:
        """Wait until so many jobs ended and so many were accepted."""
        while len(self.results) < finished or len(self.accepted_jobs) < accepted:
            self._heard.clear()
            await self._heard.wait()


def busiest_window(times: Iterable[float], per: float) -> int:
    """The most arrivals that any window of `per` seconds held, both ends within it."""
    ordered = sorted(times)
    first = busiest = 0
    for last, time in enumerate(ordered):
        while time - ordered[first] >= per:
            first += 1
        busiest = max(busiest, last - first + 1)
    return busiest


async def save_nothing(result: Result, folder: str) -> tuple[ImageFile, ...]:
    """Stand where downloads do, for tests that are not about them."""
    return ()


@asynccontextmanager
async def scheduler_over(*networks: Network) -> AsyncIterator[Scheduler]:
    """A scheduler with an account for each network, which is its server, named like its provider."""
    by_name = {network.provider.name: network for network in networks}
    upstreams = [
        upstream(
            name,
            network.believed or network.limits,
            PollSchedule(network.provider.latency),
            submit=network.limiter,
        )
        for name, network in by_name.items()
    ]

    async def send(account: str, request: HttpRequest, *, within: float | None = None) -> HttpResponse:
        return await by_name[account](account, request, within=within)

    group = PlainGroup()
    async with group:
        dialects = {name: network.provider.dialect for name, network in by_name.items()}
        plan, exchange = Plan(upstreams, 8), Exchange(dialects, send, save_nothing)
        scheduler = Scheduler(group, plan, exchange, Observer())
        scheduler.start(scheduler.run)
        try:
            yield scheduler
        finally:
            await scheduler.close()


def batch_over(
    scheduler: Scheduler,
    networks: Network | Iterable[Network],
    requests: Iterable[str | ImageRequest],
    *,
    factory: JobFactory | None = None,
    **settings: Any,
) -> Batch:
    """A batch of such a scheduler, without a folder unless its admission has one."""
    networks = [networks] if isinstance(networks, Network) else networks
    providers = {network.provider.name: network.provider for network in networks}
    terms = JobOptions(deadline=1e5, retries=0, resubmits=0, save_to=None)
    factory = factory or JobFactory(Router(providers), ImageRequest("-"), terms)
    return Batch(scheduler, requests, factory, lambda result: result, **settings)


def jobs_for(scheduler: Scheduler, provider: Provider, owner: int, count: int, **fields: object) -> list[Job]:
    """As many jobs of one owner, each with a prompt of its own."""
    model = provider.models[0]
    return [
        Job(
            id=scheduler.new_id(),
            owner=owner,
            index=index,
            key=f"k{index}",
            request=ImageRequest(f"prompt {index}", model=model.name),
            account=provider.name,
            model=model,
            deadline=900.0,
            **fields,  # type: ignore[arg-type]
        )
        for index in range(count)
    ]
