"""A process that can die at any step: a journal, a network and a disk that count steps, on virtual time."""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
from builders import upstream
from virtual_network import Network, batch_over

from imagen_async import ImageFile, ImageRequest, Result
from imagen_async._callbacks import CallbackRegistry
from imagen_async._core.journal_entry import JournalEntry
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
from imagen_async.sandbox._webhooks import Webhook
from imagen_async.testing import VirtualTimeLoop

CALLED = "https://example.com/imagen"
"""Where the provider is told to call back; nothing is sent there."""


@contextmanager
def quick_folder() -> Iterator[Path]:
    """A folder in memory where there is one: it is the process that dies here, not the machine."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


class Life:
    """The steps of one process.

    Args:
        dies_at: The step at which it dies: from there on nothing that it does has any effect.
        leaves_at: The step at which it is cancelled, as by Ctrl-C, and leaves in good order.

    Attributes:
        steps: What it did, in order.
        is_dead: True from the step of its death on.
        scope: What it runs in; cancelled at its death, so that what is left of it comes down.
    """

    def __init__(self, dies_at: int | None = None, *, leaves_at: int | None = None) -> None:
        self.steps: list[str] = []
        self.is_dead = False
        self.scope: anyio.CancelScope | None = None
        self._dies_at = dies_at
        self._leaves_at = leaves_at

    def step(self, name: str) -> bool:
        """Take a step; False when the process is dead, by this step or by one before it."""
        if not self.is_dead:
            self.steps.append(name)
            number = len(self.steps) - 1
            self.is_dead = number == self._dies_at
            if number in (self._dies_at, self._leaves_at):
                assert self.scope is not None
                self.scope.cancel()
        return not self.is_dead


class Inline(Executor):
    """Does the work at once, in the caller's thread: on virtual time nothing may wait for a thread."""

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        """Do it."""
        future: Future[Any] = Future()
        try:
            future.set_result(work(*arguments, **named))
        except Exception as error:
            future.set_exception(error)
        return future


class MortalJournal(Journal):
    """A real journal whose writes are steps."""

    def __init__(self, path: Path, life: Life, watch: Callable[[str, str], None]) -> None:
        self._life = life
        self._watch = watch
        super().__init__(path)

    def write(self, entries: Iterable[JournalEntry]) -> None:
        """Write, if the process lives."""
        rows = list(entries)
        for entry in rows:
            for file in entry.files:
                self._watch("done", file.path)
        if self._life.step(f"before writing {_named(rows)}"):
            super().write(rows)
            self._life.step(f"after writing {_named(rows)}")

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

    def __init__(self, folder: Path, network: Network, *, expects_callbacks: bool = False) -> None:
        self.network = network
        self.expects_callbacks = expects_callbacks
        self.calls: list[Webhook] = []
        self.watch: Callable[[str, str], None] = lambda what, about: None
        self.folder = folder / "out"
        self.journal = folder / "run.db"
        self._clock = 0.0
        self._unfinished = 0
        self.folder.mkdir()

    def live(self, requests: Sequence[str | ImageRequest], life: Life | None = None, **terms: Any) -> list[Result]:
        """Run a process until it has all results, or dies; what was handed out is returned."""
        life = life or Life()
        with asyncio.Runner(loop_factory=self._new_loop) as runner:
            return runner.run(self._run(requests, life, **terms))

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
        terms = JobOptions(deadline=deadline, retries=retries, resubmits=resubmits, save_to=str(self.folder))
        provider = self.network.provider
        factory = JobFactory(Router({provider.name: provider}), ImageRequest("-"), terms)
        results: list[Result] = []
        life.scope = anyio.CancelScope()
        try:
            with closing(MortalJournal(self.journal, life, self.watch)) as journal, life.scope:
                terms_again = frozenset({"queued", *again})
                kept = BatchJournal(
                    journal, factory, again=terms_again, expects_callbacks=self.expects_callbacks, executor=Inline()
                )
                await self._work(requests, life, factory, kept, results)
        finally:
            self._clock = asyncio.get_running_loop().time()
        return results

    async def _work(
        self,
        requests: Sequence[str | ImageRequest],
        life: Life,
        factory: JobFactory,
        journal: BatchJournal,
        results: list[Result],
    ) -> None:
        provider, network = self.network.provider, self.network

        async def send(account: str, request: HttpRequest, *, within: float | None = None) -> HttpResponse:
            """Carry a request; what a dead process was about to say or hear, it does not."""
            self.watch(request.method, _subject(request))
            if not life.step(f"before the server sees a {request.method}"):
                await anyio.sleep_forever()
            answer: HttpResponse | Exception
            try:
                answer = await network(account, request, within=within)
            except Exception as error:
                answer = error
            if not life.step(f"before the answer to a {request.method} arrives"):
                await anyio.sleep_forever()
            if isinstance(answer, Exception):
                raise answer
            return answer

        async def save(result: Result, folder: str) -> tuple[ImageFile, ...]:
            return tuple([await self._save(life, result, url) for url in result.urls])

        account = upstream(provider.name, network.limits, PollSchedule(provider.latency))
        registry = CallbackRegistry(CALLED, {}) if self.expects_callbacks else None
        plan = Plan([account], SAVING_AT_ONCE, expects_callbacks=self.expects_callbacks)
        callback_url = None if registry is None else registry.url_of
        exchange = Exchange({provider.name: provider.dialect}, send, save, callback_url)
        async with PlainGroup() as group:
            scheduler = Scheduler(group, plan, exchange, Observer(), registry)
            scheduler.start(scheduler.run)
            if registry is not None:
                self._call_back(life, registry, scheduler, group)
            try:
                async with batch_over(
                    scheduler, network, requests, factory=factory, window=100, journal=journal
                ) as batch:
                    async for result in batch:
                        results.append(result)
            finally:
                await scheduler.close()

    def _call_back(self, life: Life, registry: CallbackRegistry, scheduler: Scheduler, group: PlainGroup) -> None:
        """Have every callback delivered to this process that no other one has answered."""
        desk = CallbackDesk(registry, scheduler)

        async def deliver(webhook: Webhook) -> None:
            await anyio.sleep(max(0.0, webhook.ends - asyncio.get_running_loop().time()))
            # Only until the journal is open, which takes no time here: a batch without work ends in the same instant.
            while (call := registry.find(webhook.url.rpartition("/")[2])) is None:
                await anyio.lowlevel.checkpoint()
            if not life.step("before a callback is heard"):
                await anyio.sleep_forever()
            await desk.take(call, webhook.task_id)
            if not life.step("before a callback is answered"):
                await anyio.sleep_forever()
            self.calls.remove(webhook)
            life.step("after a callback was answered")

        def begin(webhook: Webhook) -> None:
            self.calls.append(webhook)
            group.start_soon(deliver, webhook)

        self.network.call_back = begin
        for webhook in self.calls:
            group.start_soon(deliver, webhook)

    async def _save(self, life: Life, result: Result, url: str) -> ImageFile:
        """Write a picture under another name and rename it; it is told from others by its task."""
        await anyio.sleep(0.1)
        content = f"the picture at {url}".encode()
        name = f"{result.index}-{result.request.prompt}.png"
        self._unfinished += 1
        part = self.folder / f".part-{self._unfinished}"
        self.watch("save", url)
        if not life.step("before a rename"):
            await anyio.sleep_forever()
        part.write_bytes(content)
        part.replace(self.folder / name)
        if not life.step("after a rename"):
            await anyio.sleep_forever()
        return ImageFile(str(self.folder / name), hashlib.sha256(content).hexdigest(), len(content), "image/png", url)


def _subject(request: HttpRequest) -> str:
    if request.body is not None:
        return str(json.loads(request.body)["input"]["prompt"])
    return request.path.rpartition("=")[2]


def _named(entries: Iterable[JournalEntry]) -> str:
    return ", ".join(f"{entry.request.prompt} {entry.state}" for entry in entries) or "nothing"
