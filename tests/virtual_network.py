"""A network without sockets for the virtual-time loop: the sandbox's service behind jittered round trips."""

from __future__ import annotations

import asyncio
import functools
import random
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import Executor, Future
from contextlib import AsyncExitStack, asynccontextmanager
from types import SimpleNamespace
from typing import Any, Self
from urllib.parse import urlsplit

import anyio

from imagen_async import Account, Client
from imagen_async._batch.batch import Batch
from imagen_async._callbacks import CallbackRegistry
from imagen_async._core.change import Change
from imagen_async._core.job import Job
from imagen_async._core.limiter import Limiter
from imagen_async._core.provider import Limits, Provider
from imagen_async._core.routing import Router
from imagen_async._core.states import Ended
from imagen_async._core.values import ImageFile, ImageRequest, Result
from imagen_async._core.wire import HttpRequest, HttpResponse
from imagen_async._core.wording import result_of
from imagen_async._job_factory import JobFactory, JobOptions
from imagen_async._journal.batch_journal import BatchJournal
from imagen_async._opening import OpenClient, listeners, new_scheduler, window
from imagen_async._plain_group import PlainGroup
from imagen_async._scheduler.callback_desk import CallbackDesk
from imagen_async._scheduler.change_stream import Owner
from imagen_async._scheduler.scheduler import Scheduler
from imagen_async._session_pool import MAX_ANSWER
from imagen_async._watch.observer import Observer
from imagen_async.errors import ProtocolError, TransportError
from imagen_async.sandbox import Create, Faults, Latency, Ledger
from imagen_async.sandbox._service import Service
from imagen_async.sandbox._webhook_sender import WebhookSender
from imagen_async.sandbox._webhooks import Webhook
from imagen_async.testing import VirtualTimeLoop
from imagen_async.webhooks import Receiver

KEY = "a-key-for-tests"


class Loop(VirtualTimeLoop):
    """Virtual time that ends: a test in which nothing will ever happen again fails after four months of it."""

    def __init__(self) -> None:
        super().__init__()
        self.call_at(1e7, self._give_up)

    def _give_up(self) -> None:
        # Once more later: what is left of the test may hang, too, as it comes down.
        self.call_at(self.time() + 1e7, self._give_up)
        self.stop()


VIRTUAL_TIME = ("asyncio", {"loop_factory": Loop})
"""What the fixture `anyio_backend` of a module is whose tests run on virtual time."""
PUBLIC_URL = "https://example.com/imagen"
"""Where a `VirtualClient` is called back by its networks: at its receiver, without a socket between them."""


class Network:
    """One provider at the other end of a jittered line; `service` is for the sandbox's own settings of it.

    Attributes:
        ledger: What the provider saw, in virtual time.
        round_trip: Longest way there and longest way back, in seconds.
        is_down: True while no connection can be made.
        takes_no_creates: True while no connection can be made for a create.
        limiter: The limit of its creates; None: this process's own window.
        price: What its account is told that a picture costs; None: as published.
        call_back: Hears of each callback that is to be sent, when its task is made.
        unheard: Callbacks that were not taken yet, for the client that comes next.
        arrived: Set whenever a request has arrived.
    """

    def __init__(
        self,
        provider: Provider,
        *,
        limits: Limits | None = None,
        latency: Latency | None = None,
        faults: Faults | None = None,
        round_trip: float = 0.3,
        limiter: Limiter | None = None,
        price: float | None = None,
        **service: Any,
    ) -> None:
        self.provider = provider
        self.limiter = limiter
        self.price = price
        self.limits = limits or provider.limits
        self.ledger = Ledger()
        self.faults = faults or Faults()
        self.round_trip = round_trip
        self.is_down = self.takes_no_creates = False
        self.call_back: Callable[[Webhook], None] | None = None
        self.unheard: list[Webhook] = []
        self.arrived = asyncio.Event()
        self._chance = random.Random(1)
        self._service = Service(
            provider,
            key=KEY,
            limits=self.limits,
            latency=latency or Latency(median=13, minimum=2),
            faults=self.faults,
            ledger=self.ledger,
            files="https://files.example",
            **service,
        )

    async def __call__(self, account: str, request: HttpRequest, *, within: float | None = None) -> HttpResponse:
        """Carry a request there and its answer back, each way as slow as chance will have it."""
        if self.is_down or (self.takes_no_creates and request.operation == "create"):
            raise TransportError("No connection.", sent=False)
        try:
            with anyio.fail_after(within):
                await anyio.sleep(self._chance.uniform(0, self.round_trip))
                reply = self._reply(request, asyncio.get_running_loop().time())
                self.arrived.set()
                await anyio.sleep(self._chance.uniform(0, self.round_trip))
        except TimeoutError:
            raise TransportError("no answer in time") from None
        if reply.ending != "whole":
            raise TransportError("The connection broke.")
        if len(reply.body) > MAX_ANSWER:
            raise ProtocolError("The answer is too long.")
        return HttpResponse(reply.status, reply.body)

    def _reply(self, request: HttpRequest, now: float) -> Any:
        authorization, body = f"Bearer {KEY}", request.body or b""
        match request.operation:
            case "create":
                reply = self._service.create(authorization, body, now, now)
                while self._service.webhooks and self.call_back is not None:
                    self.call_back(self._service.webhooks.popleft())
                return reply
            case "renewal":
                return self._service.renew(authorization, body, now)
        return self._service.status(authorization, request.path.rpartition("=")[2].rpartition("/")[2], now)

    async def has_seen(self, creates: int) -> None:
        """Wait until so many creates have arrived."""
        while len(self.ledger.creates) < creates:
            self.arrived.clear()
            await self.arrived.wait()


class Disk(Executor):
    """Does a journal's work at once, in the caller's thread: on virtual time nothing may wait for a thread.

    Attributes:
        is_held: True while it does nothing; what has gathered is done when it goes on.
    """

    def __init__(self) -> None:
        self.is_held = False
        self._waiting: deque[Callable[[], None]] = deque()

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        """Do it, or keep it."""
        future: Future[Any] = Future()

        def do() -> None:
            try:
                future.set_result(work(*arguments, **named))
            except Exception as error:
                future.set_exception(error)

        self._waiting.append(do)
        if not self.is_held:
            self.go_on()
        return future

    def go_on(self) -> None:
        """Do what has gathered, and from now on all at once."""
        self.is_held = False
        while self._waiting:
            self._waiting.popleft()()


class CallbackLine:
    """Stands where a provider's HTTP session does, and brings its callbacks to a receiver, which answers them.

    Args:
        receiver: Takes them.
        after: What a body waits for, on its way; None: nothing.
    """

    def __init__(self, receiver: Receiver, after: asyncio.Event | None = None) -> None:
        self._receiver = receiver
        self._after = after

    @asynccontextmanager
    async def post(
        self, url: str, *, data: bytes, headers: Mapping[str, str], **session: object
    ) -> AsyncIterator[SimpleNamespace]:
        """Deliver one callback, as an ASGI server would; what comes has the status."""
        lines = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "method": "POST", "path": urlsplit(url).path, "headers": lines}
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            if self._after is not None:
                await self._after.wait()
            return {"type": "http.request", "body": data}

        async def send(message: Any) -> None:
            sent.append(message)

        await self._receiver(scope, receive, send)
        yield SimpleNamespace(status=sent[0]["status"])


async def save_nothing(result: Result, folder: str) -> tuple[ImageFile, ...]:
    """Stand where downloads do, for tests that are not about them."""
    return ()


Save = Callable[[Result, str], Any]


class VirtualClient(Client):
    """A client that has networks in the place of sessions, an account at each; all else of it is what users have.

    Args:
        networks: Each is the server of one account, which is named like its provider.
        save: Fetches a result's pictures; without one nothing is saved.
        disk: Does what a journal does in its thread; without one at once.
        settings: As of any client.
    """

    def __init__(
        self, *networks: Network, save: Save = save_nothing, disk: Disk | None = None, **settings: Any
    ) -> None:
        self._disk = disk or Disk()
        self.networks = {network.provider.name: network for network in networks}
        self._fetch = save
        accounts = [
            Account(
                name,
                api_key=KEY,
                base_url=f"https://{name}.example",
                limits=network.limits,
                credits=network.price,
            )
            for name, network in self.networks.items()
        ]
        super().__init__(*accounts, limiter=self._limit, **settings)

    def _limit(self, account: str, kind: Any, rate: Any) -> Limiter:
        own = self.networks[account].limiter if kind == "submit" else None
        return own or window(account, kind, rate)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            registry = await self._begin_to_hear(stack)
            is_token = None if registry is None else registry.is_token
            observer = Observer(listeners(self._on_event), self._savable, is_token)
            group = await stack.enter_async_context(PlainGroup())
            self._upstreams = {name: self._new_upstream(name) for name in self.networks}
            line: Any = SimpleNamespace(send=self._send, files=None)
            upstreams = self._upstreams.values()
            scheduler = new_scheduler(group, line, upstreams, self._accounts, self._save, registry, observer)
            stack.push_async_callback(scheduler.close)
            scheduler.start(scheduler.run)
            desk = None if registry is None else CallbackDesk(registry, scheduler)
            self._opened = OpenClient(scheduler, line, asyncio.get_running_loop(), desk, stack.pop_all())
        return self

    @property
    def scheduler(self) -> Scheduler:
        """The loop of the open client."""
        return self._open().scheduler

    async def _send(self, account: str, request: HttpRequest, *, within: float | None = None) -> HttpResponse:
        return await self.networks[account](account, request, within=within)

    async def _save(self, result: Result, folder: str) -> tuple[ImageFile, ...]:
        files: tuple[ImageFile, ...] = await self._fetch(result, folder)
        return files

    def _journal(self, *terms: Any) -> BatchJournal:
        journal = super()._journal(*terms)
        journal._thread = self._disk
        return journal

    async def _begin_to_hear(self, stack: AsyncExitStack) -> CallbackRegistry | None:
        """Have the networks' callbacks delivered from now on, also those that an earlier client did not take."""
        if self._callback is None:
            return None
        group = await stack.enter_async_context(PlainGroup())
        stack.callback(group.cancel)
        line: Any = CallbackLine(Receiver(self))
        for network in self.networks.values():
            sender = WebhookSender(line, network.ledger, 0.5)
            network.call_back = functools.partial(group.start_soon, _announce, network, sender)
            unheard, network.unheard = network.unheard, []
            for webhook in unheard:
                network.call_back(webhook)
        return CallbackRegistry(self._callback.public_url, self._signing_keys)

    async def call(self, create: Create, task_id: str | None = None, *, after: asyncio.Event | None = None) -> int:
        """Call back about a create, with its own task's id or another; the status that is answered.

        Args:
            create: Whose token is used.
            task_id: The task that is named; None: the one that it has made.
            after: What the body waits for, once the callback has begun; None: nothing.
        """
        body = f'{{"data": {{"taskId": "{task_id or create.task_id}"}}}}'.encode()
        line = CallbackLine(Receiver(self), after)
        async with line.post(str(create.callback_url), data=body, headers={}) as answer:
            status: int = answer.status
            return status


async def _announce(network: Network, sender: WebhookSender, webhook: Webhook) -> None:
    network.unheard.append(webhook)
    await sender.announce(webhook)
    network.unheard.remove(webhook)


def prompts(count: int, name: str = "prompt") -> list[str]:
    """So many prompts, which differ."""
    return [f"{name} {number}" for number in range(count)]


def billed(*networks: Network) -> Counter[str]:
    """How many tasks each prompt has made, anywhere."""
    return sum((network.ledger.tasks_by_prompt() for network in networks), Counter())


def busiest_window(times: Iterable[float], per: float) -> int:
    """The most arrivals that any window of `per` seconds held, both ends within it."""
    ordered = sorted(times)
    first = busiest = 0
    for last, time in enumerate(ordered):
        while time - ordered[first] >= per:
            first += 1
        busiest = max(busiest, last - first + 1)
    return busiest


class Listener:
    """An owner that keeps the results of its jobs."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self._heard = asyncio.Event()

    def owner(self) -> Owner:
        """Itself, as a scheduler takes it."""
        return Owner(self.on_change, closing=lambda: None)

    def on_change(self, change: Change, now: float) -> None:
        """Note when a job has ended."""
        if isinstance(change.after.state, Ended):
            self.results.append(result_of(change.after))
            self._heard.set()

    async def heard(self, *, finished: int) -> None:
        """Wait until so many jobs have ended."""
        while len(self.results) < finished:
            self._heard.clear()
            await self._heard.wait()


@asynccontextmanager
async def scheduler_over(*networks: Network) -> AsyncIterator[Scheduler]:
    """A scheduler with an account for each network, which is its server, named like its provider."""
    async with VirtualClient(*networks) as client:
        yield client.scheduler


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
