"""A process that can die at any step: a journal, a network and a disk that count steps, on virtual time."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
from builders import upstream
from journals import Inline, quick_folder
from virtual_network import Network, batch_over

from imagen_async import ImageFile, ImageRequest, JournalError, Result
from imagen_async._callbacks import CallbackRegistry
from imagen_async._core.plan import Plan
from imagen_async._core.poll_schedule import PollSchedule
from imagen_async._core.routing import Router
from imagen_async._core.wire import HttpRequest, HttpResponse
from imagen_async._job_factory import JobFactory, JobOptions
from imagen_async._journal import Journal, JournalReader
from imagen_async._journal.batch_journal import BatchJournal
from imagen_async._opening import SAVING_AT_ONCE
from imagen_async._plain_group import PlainGroup
from imagen_async._scheduler.callback_desk import CallbackDesk
from imagen_async._scheduler.exchange import Exchange
from imagen_async._scheduler.scheduler import Scheduler
from imagen_async._watch.observer import Observer
from imagen_async.ports import JournalEntry
from imagen_async.sandbox._webhooks import Webhook
from imagen_async.testing import VirtualTimeLoop

__all__ = ["Life", "World", "quick_folder"]

CALLED = "https://example.com/imagen"
"""Where the provider is told to call back; nothing is sent there."""


class Life:
    """The steps of one process.

    Args:
        dies_at: The step at which it dies: from there on nothing that it does has any effect.
        leaves_at: The step at which it is cancelled, as by Ctrl-C, and leaves in good order.
        room: Groups of changes that its disk takes; None: any.

    Attributes:
        steps: What it did, in order.
        scope: What it runs in; cancelled at its death, so that what is left of it comes down.
    """

    def __init__(self, dies_at: int | None = None, *, leaves_at: int | None = None, room: int | None = None) -> None:
        self.steps: list[str] = []
        self.scope: anyio.CancelScope | None = None
        self.room = room
        self._is_dead = False
        self._ends_at = {dies_at, leaves_at}
        self._dies_at = dies_at

    def step(self, name: str) -> bool:
        """Take a step; False when the process is dead, by this step or by one before it."""
        if not self._is_dead:
            number = len(self.steps)
            self.steps.append(name)
            self._is_dead = number == self._dies_at
            if number in self._ends_at:
                assert self.scope is not None
                self.scope.cancel()
        return not self._is_dead

    async def reach(self, name: str) -> None:
        """Take a step of a task, which goes no further when the process is dead."""
        if not self.step(name):
            await anyio.sleep_forever()


class MortalJournal(Journal):
    """A real journal whose writes are steps."""

    def __init__(self, path: Path, life: Life, watch: Callable[[str, str], None]) -> None:
        self._life = life
        self._watch = watch
        super().__init__(path)

    def write(self, entries: Iterable[JournalEntry]) -> None:
        """Write, if the process lives and the disk has room."""
        rows = list(entries)
        for file in (file for entry in rows for file in entry.files):
            self._watch("done", file.path)
        if self._life.room == 0:
            raise JournalError("The disk is full. Make room first.")
        if self._life.room is not None:
            self._life.room -= 1
        named = ", ".join(f"{entry.request.prompt} {entry.state}" for entry in rows) or "nothing"
        if self._life.step(f"before writing {named}"):
            super().write(rows)
            self._life.step(f"after writing {named}")

    def note(self, notes: Mapping[str, str]) -> None:
        """Note, if the process lives."""
        if self._life.step("before the note"):
            super().note(notes)
            self._life.step("after the note")


class World:
    """What outlives a process: the provider, and a folder with the journal and the pictures.

    Attributes:
        network: The provider.
        folder: Of the pictures.
        journal: The journal's path.
        calls_back: True where the provider announces the end of each task, until it is answered.
        calls: Its callbacks that were not answered yet.
        watch: Called before each request leaves, each rename and each write of a job that is done, with what it is
            (`POST`, `GET`, `save`, `done`) and about what: the prompt, the task's id, the URL, the file's path.
    """

    def __init__(self, folder: Path, network: Network, *, calls_back: bool = False) -> None:
        self.network = network
        self.calls_back = calls_back
        self.calls: list[Webhook] = []
        self.watch: Callable[[str, str], None] = lambda what, about: None
        self.folder = folder / "out"
        self.journal = folder / "run.db"
        self._clock = 0.0
        self._unfinished = 0
        self.folder.mkdir(parents=True)

    def live(self, requests: Sequence[str | ImageRequest], life: Life | None = None, **terms: Any) -> list[Result]:
        """Run a process until it has all results, or dies; what was handed out is returned."""
        with asyncio.Runner(loop_factory=self._new_loop) as runner:
            return runner.run(self._run(requests, life or Life(), **terms))

    def entries(self) -> dict[str, JournalEntry]:
        """What the journal says, by prompt."""
        with JournalReader(self.journal) as reader:
            return {entry.request.prompt: entry for entry in reader.entries()}

    def snapshot(self) -> tuple[dict[str, JournalEntry], int, list[str]]:
        """All that another run could change."""
        return self.entries(), len(self.network.ledger.creates), sorted(path.name for path in self.folder.iterdir())

    def _new_loop(self) -> VirtualTimeLoop:
        """A loop whose clock goes on where that of the last process stood, for the provider's does."""
        loop = VirtualTimeLoop()
        loop.jump(self._clock)
        return loop

    async def _run(
        self,
        requests: Sequence[str | ImageRequest],
        life: Life,
        *,
        again: Iterable[str] = (),
        retries: int = 0,
        resubmits: int = 0,
        deadline: float = 900.0,
    ) -> list[Result]:
        provider = self.network.provider
        terms = JobOptions(deadline=deadline, retries=retries, resubmits=resubmits, save_to=str(self.folder))
        factory = JobFactory(Router({provider.name: provider}), ImageRequest("-"), terms)
        registry = CallbackRegistry(CALLED, {}) if self.calls_back else None
        plan = Plan(
            [upstream(provider.name, self.network.limits, PollSchedule(provider.latency))],
            SAVING_AT_ONCE,
            expects_callbacks=self.calls_back,
        )
        exchange = Exchange(
            {provider.name: provider.dialect},
            lambda *request, within=None: self._send(life, *request),
            lambda result, folder: self._save(life, result),
            None if registry is None else registry.url_of,
        )
        results: list[Result] = []
        life.scope = anyio.CancelScope()
        try:
            with closing(MortalJournal(self.journal, life, self.watch)) as store, life.scope:
                journal = BatchJournal(
                    store,
                    factory,
                    again=frozenset({"queued", *again}),
                    expects_callbacks=self.calls_back,
                    executor=Inline(),
                )
                async with PlainGroup() as group:
                    scheduler = Scheduler(group, plan, exchange, Observer(), registry)
                    scheduler.start(scheduler.run)
                    if registry is not None:
                        self._call_back(life, registry, scheduler, group)
                    try:
                        batch = batch_over(
                            scheduler, self.network, requests, factory=factory, window=100, journal=journal
                        )
                        async with batch:
                            async for result in batch:
                                results.append(result)
                    finally:
                        await scheduler.close()
        finally:
            self._clock = asyncio.get_running_loop().time()
        return results

    async def _send(self, life: Life, account: str, request: HttpRequest) -> HttpResponse:
        """Carry a request; what a dead process was about to say or hear, it does not."""
        created = None if request.body is None else json.loads(request.body)["input"]["prompt"]
        self.watch(request.method, created or request.path.rpartition("=")[2])
        await life.reach(f"before the server sees a {request.method}")
        try:
            return await self.network(account, request)
        finally:
            await life.reach(f"before the answer to a {request.method} arrives")

    async def _save(self, life: Life, result: Result) -> tuple[ImageFile, ...]:
        """Write pictures under another name and rename them; each is told from others by its task."""
        files = []
        for number, url in enumerate(result.urls):
            await anyio.sleep(0.1)
            content = f"the picture at {url}".encode()
            path = self.folder / f"{result.index}-{number}-{result.request.prompt}.png"
            self._unfinished += 1
            part = self.folder / f".part-{self._unfinished}"
            self.watch("save", url)
            await life.reach("before a rename")
            part.write_bytes(content)
            part.replace(path)
            await life.reach("after a rename")
            digest = hashlib.sha256(content).hexdigest()
            files.append(ImageFile(str(path), digest, len(content), "image/png", url))
        return tuple(files)

    def _call_back(self, life: Life, registry: CallbackRegistry, scheduler: Scheduler, group: PlainGroup) -> None:
        """Have every callback delivered to this process that no other one has answered."""
        desk = CallbackDesk(registry, scheduler)

        async def deliver(webhook: Webhook) -> None:
            await anyio.sleep(max(0.0, webhook.ends - asyncio.get_running_loop().time()))
            # Only until the journal is open, which takes no time here: a batch without work ends in the same instant.
            while (call := registry.find(webhook.url.rpartition("/")[2])) is None:
                await anyio.lowlevel.checkpoint()
            await life.reach("before a callback is heard")
            await desk.take(call, webhook.task_id)
            await life.reach("before a callback is answered")
            self.calls.remove(webhook)
            life.step("after a callback was answered")

        def begin(webhook: Webhook) -> None:
            self.calls.append(webhook)
            group.start_soon(deliver, webhook)

        self.network.call_back = begin
        for webhook in self.calls:
            group.start_soon(deliver, webhook)
