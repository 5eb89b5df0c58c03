"""A network without sockets for the virtual-time loop: the sandbox's service behind jittered round trips."""

from __future__ import annotations

import asyncio
import functools
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from types import SimpleNamespace
from typing import Any, Self
from urllib.parse import urlsplit

import anyio
import inner
import msgspec
import pytest
from builders import make_job
from inner import HttpRequest, HttpResponse, Provider, Scheduler, Webhook
from journals import Inline

from imagen_async import Account, Client, ImageFile, ImageRequest, Limits, Result, errors
from imagen_async._batch.batch import Batch
from imagen_async._limits import new_upstreams, window
from imagen_async._opening import (
    OpenClient,
    file_threads,
    new_observer,
    new_scheduler,
    new_uploader,
    open_durable,
)
from imagen_async._scheduler.callback_desk import CallbackDesk
from imagen_async._scheduler.change_stream import Owner
from imagen_async.ports import Limiter
from imagen_async.sandbox import Create, Faults, Latency, Ledger
from imagen_async.sandbox._webhook_sender import WebhookSender
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
PUBLIC_URL = "https://example.com/imagen"
"""Where a `VirtualClient` is called back by its networks: at its receiver, without a socket between them."""

EPOCH = 1_800_000_000.0
"""The Unix time at which the virtual clock stood at 0: in a year that can be."""


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Tests of a module that imports this run on virtual time."""
    return VIRTUAL_TIME


class Network:
    """One provider at the other end of a jittered line; what is not said here is for the sandbox's own service.

    Attributes:
        ledger: What the provider saw, in virtual time.
        round_trip: Longest way there and longest way back, in seconds.
        limiter: The limit of its creates; None: this process's own window.
        price: What its account is told that a picture costs; None: as published.
        connecting: Seconds that it takes a create to get its connection.
        is_down: True while no connection can be made; `takes_no_creates`: none for a create.
        call_back: Hears of each callback that is to be sent, when its task is made.
        unheard: Callbacks that were not taken yet, for the client that comes next.
    """

    def __init__(
        self,
        provider: Provider,
        *,
        limits: Limits | None = None,
        round_trip: float = 0.3,
        limiter: Limiter | None = None,
        price: float | None = None,
        **service: Any,
    ) -> None:
        self.provider, self.limits = provider, limits or provider.limits
        self.round_trip, self.limiter, self.price = round_trip, limiter, price
        self.ledger, self.faults = Ledger(), service.pop("faults", None) or Faults()
        self.connecting, self.is_down, self.takes_no_creates = 0.0, False, False
        self.call_back: Callable[[Webhook], None] | None = None
        self.unheard: list[Webhook] = []
        self._arrived = asyncio.Event()
        self._chance = random.Random(1)
        terms = {"limits": self.limits, "latency": Latency(13, minimum=2), "files": "https://files.example", **service}
        self._service = inner.Service(provider, key=KEY, faults=self.faults, ledger=self.ledger, **terms)

    async def __call__(
        self, account: str, request: HttpRequest, *, within: float | None = None, leaves: Any = None
    ) -> HttpResponse:
        """Carry a request there and its answer back, each way as slow as chance will have it."""
        if self.is_down or (self.takes_no_creates and request.operation == "create"):
            raise errors.TransportError("No connection.", sent=False)
        if leaves is not None:
            await anyio.sleep(self.connecting)
            if not leaves():
                raise errors.TransportError("Not to go any more.", sent=False)
        try:
            with anyio.fail_after(within):
                await anyio.sleep(self._chance.uniform(0, self.round_trip))
                reply = self._reply(request, asyncio.get_running_loop().time())
                self._arrived.set()
                await anyio.sleep(self._chance.uniform(0, self.round_trip))
        except TimeoutError:
            raise errors.TransportError("no answer in time") from None
        if reply.ending != "whole":
            raise errors.TransportError("The connection broke.")
        if len(reply.body) > inner.MAX_ANSWER:
            raise errors.ProtocolError("The answer is too long.")
        return HttpResponse(reply.status, reply.body)

    def _reply(self, request: HttpRequest, now: float) -> Any:
        authorization, body = f"Bearer {KEY}", request.body or b""
        if request.operation == "renewal":
            return self._service.renew(authorization, body, now)
        if request.operation != "create":
            return self._service.status(authorization, request.path.rpartition("=")[2].rpartition("/")[2], now)
        reply = self._service.create(authorization, body, now, EPOCH + now)
        while self._service.webhooks and self.call_back is not None:
            self.call_back(self._service.webhooks.popleft())
        return reply

    async def has_seen(self, creates: int) -> None:
        """Wait until so many creates have arrived."""
        while len(self.ledger.creates) < creates:
            self._arrived.clear()
            await self._arrived.wait()


def line_to(receiver: Receiver, after: asyncio.Event | None = None) -> Any:
    """What stands where a provider's HTTP session does, and brings its callbacks to a receiver, which answers them.

    Their bodies wait for `after` on the way, if there is one.
    """

    @asynccontextmanager
    async def post(url: str, *, data: bytes, headers: Mapping[str, str], **session: Any) -> AsyncIterator[Any]:
        lines = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "method": "POST", "path": urlsplit(url).path, "headers": lines}
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            if after is not None:
                await after.wait()
            return {"type": "http.request", "body": data}

        async def send(message: Any) -> None:
            sent.append(message)

        await receiver(scope, receive, send)
        yield SimpleNamespace(status=sent[0]["status"])

    return SimpleNamespace(post=post)


class VirtualClient(Client):
    """A client that has networks in the place of sessions, an account at each, which is named like its provider.

    All else of it is what users have; but `save` fetches pictures, and `thread` does what a journal's thread does.
    """

    def __init__(self, *networks: Network, save: Any = None, thread: Any = None, **settings: Any) -> None:
        self.networks = {network.provider.name: network for network in networks}
        self._fetch = save
        accounts = [
            Account(name, api_key=KEY, base_url=f"https://{name}.example", limits=each.limits, credits=each.price)
            for name, each in self.networks.items()
        ]
        super().__init__(*accounts, limiter=self._limit, **settings)
        self._keeping = msgspec.structs.replace(self._keeping, thread=thread or Inline())

    def _limit(self, account: str, kind: Any, rate: Any) -> Limiter:
        own = self.networks[account].limiter if kind == "submit" else None
        return own or window(account, kind, rate)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            registry = await self._begin_to_hear(stack)
            observer = new_observer(self._on_event, self._savable, registry)
            group = await stack.enter_async_context(inner.PlainGroup())
            given = self._accounts, self._schedules, self._settings.connections, self._limiter
            self._upstreams = new_upstreams(stack, *given, self._upstreams)
            line: Any = SimpleNamespace(send=self._send, files=None, mask=inner.Mask(()))
            threads = file_threads(None)
            uploader = await new_uploader(stack, {}, {}, self._settings, threads)
            parts = self._upstreams, self._accounts, self._save, registry, observer, uploader
            scheduler = new_scheduler(group, line, *parts)
            durable = await open_durable(stack, self._keeping, scheduler, self._router, uploader, self._savable)
            stack.push_async_callback(scheduler.close)
            scheduler.start(scheduler.run)
            desk = None if registry is None else CallbackDesk(registry, scheduler, line.mask.text)
            self._opened = OpenClient(scheduler, line, desk, stack.pop_all(), threads, None, uploader, durable)
        return self

    @property
    def scheduler(self) -> Scheduler:
        """The loop of the open client."""
        return self._open().scheduler

    async def _send(self, account: str, *request: Any, **terms: Any) -> HttpResponse:
        return await self.networks[account](account, *request, **terms)

    async def _save(self, result: Result, folder: str, within: float = 0) -> tuple[ImageFile, ...]:
        async with asyncio.timeout(within):
            return () if self._fetch is None else await self._fetch(result, folder)

    async def _begin_to_hear(self, stack: AsyncExitStack) -> inner.CallbackRegistry | None:
        """Have the networks' callbacks delivered from now on, also those that an earlier client did not take."""
        if self._callback is None:
            return None
        group = await stack.enter_async_context(inner.PlainGroup())
        stack.callback(group.cancel)
        line = line_to(Receiver(self))
        for network in self.networks.values():
            sender = WebhookSender(line, network.ledger, 0.5)
            network.call_back = functools.partial(group.start_soon, _announce, network, sender)
            unheard, network.unheard = network.unheard, []
            for webhook in unheard:
                network.call_back(webhook)
        return inner.CallbackRegistry(self._callback.public_url, self._signing_keys)

    async def call(self, create: Create, task_id: str | None = None, *, after: asyncio.Event | None = None) -> int:
        """Call back about a create, with its own task's id or another, and a body that waits; the answer's status."""
        body = f'{{"data": {{"taskId": "{task_id or create.task_id}"}}}}'.encode()
        async with line_to(Receiver(self), after).post(create.callback_url, data=body, headers={}) as answer:
            return int(answer.status)


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


class Listener:
    """An owner that keeps the results of its jobs."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self._ends = asyncio.Semaphore(0)

    def owner(self) -> Owner:
        """Itself, as a scheduler takes it."""
        return Owner(self.on_change, closing=lambda: None)

    def on_change(self, change: Any, now: float) -> None:
        """Note when a job has ended."""
        if isinstance(change.after.state, inner.Ended):
            self.results.append(inner.result_of(change.after))
            self._ends.release()

    async def heard(self, *, finished: int) -> None:
        """Wait until so many jobs have ended."""
        for _ in range(finished):
            await self._ends.acquire()


@asynccontextmanager
async def scheduler_over(*networks: Network) -> AsyncIterator[Scheduler]:
    """A scheduler with an account for each network, which is its server, named like its provider."""
    async with VirtualClient(*networks) as client:
        yield client.scheduler


def batch_over(
    scheduler: Scheduler, networks: Any, requests: Any, *, factory: inner.JobFactory | None = None, **settings: Any
) -> Batch:
    """A batch of such a scheduler, without a folder unless its admission has one."""
    networks = [networks] if isinstance(networks, Network) else networks
    providers = {network.provider.name: network.provider for network in networks}
    terms = inner.JobOptions(deadline=1e5, retries=0, resubmits=0, save_to=None)
    factory = factory or inner.JobFactory(inner.Router(providers), ImageRequest("-"), terms)
    return Batch(scheduler, requests, factory, lambda result: result, off_loop=file_threads(None), **settings)


def jobs_for(scheduler: Scheduler, provider: Provider, owner: int, count: int) -> list[inner.Job]:
    """As many jobs of one owner."""
    own: dict[str, Any] = {"owner": owner, "account": provider.name, "model": provider.models[0]}
    return [msgspec.structs.replace(make_job(scheduler.new_id()), index=index, **own) for index in range(count)]
