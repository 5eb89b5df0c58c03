"""The programs of a world: a batch and what reads it, or requests one by one; as users write them, and no wiser."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aiohttp import web

from imagen_async import Account, Callback, Client, ImageRequest, Limits, Rate, errors
from imagen_async.webhooks import Receiver

from .accidents import Accident, Terms
from .wire import KEY

if TYPE_CHECKING:
    from .process import Process
    from .world import World

CALLED_BACK_AT = 8099
CONNECT_TIMEOUT = 4.0
"""Seconds that a connection may take."""

SIGNING_KEY = "a-key-for-signing"


class InputBroke(Exception):
    """What the input of a program raised."""


class ListenerBroke(Exception):
    """What a listener of a program raised."""


class Program:
    """One run of a program.

    Args:
        world: Where its accidents come from, and who is told what it hears.
        process: In which it runs.
        number: Which run it is.
        accidents: Those of this run that are the program's own.
    """

    def __init__(self, world: World, process: Process, number: int, accidents: Sequence[Accident]) -> None:
        self._world, self._process, self._number = world, process, number
        self._terms: Terms = world.terms
        self._own = {each.what: each for each in accidents if each.kind == "own"}
        breaks = [each.at for each in accidents if each.what == "break"]
        self._breaks_after = min(breaks) if breaks else None
        self.task: asyncio.Task[Any] | None = None

    async def main(self) -> None:
        """Do what its terms say."""
        self.task = asyncio.current_task()
        client = Client(
            *accounts_of(self._world),
            connections=self._terms.connections,
            connect_timeout=CONNECT_TIMEOUT,
            timeout=60.0 if self._world.is_calm else self._terms.timeout,
            callback=self._callback(),
            shared=False,
            on_event=self._listen if "listener raises" in self._own else None,
        )
        async with client, self._receiving(client):
            await (self._batch(client) if self._terms.program == "batch" else self._singles(client))

    def _callback(self) -> Callback | None:
        if not self._terms.calls_back:
            return None
        signs = self._terms.signs and {"kie", "sandbox"} & set(self._terms.accounts)
        return Callback(f"http://127.0.0.1:{CALLED_BACK_AT}/imagen", SIGNING_KEY if signs else None)

    async def _batch(self, client: Client) -> None:
        terms, folder = self._terms, self._world.folder
        batch = client.batch(
            self._requests(),
            journal=self._world.journal if terms.has_journal else None,
            save_to=folder / "pictures" if terms.saves else None,
            ordered=terms.ordered,
            max_credits=terms.max_credits,
            retries=terms.retries,
            on_unknown="resubmit" if terms.resubmits and not self._world.is_calm else "hold",
            on_exit="drain" if terms.drains else "detach",
            deadline=900.0 if self._world.is_calm else terms.deadline,
            model=self._world.model,
            **({"num_images": terms.images} if self._world.has_many else {}),
        )
        try:
            async with batch as results:
                try:
                    await self._read(results)
                finally:
                    self._world.witness.leave(self._process)
        finally:
            for result in batch.leftover:
                self._world.witness.tell(self._process, result, is_left=True)

    async def _read(self, results: Any) -> None:
        count = 0
        async for result in results:
            self._world.witness.tell(self._process, result)
            count += 1
            if self._breaks_after is not None and count > self._breaks_after:
                return
            if (slow := self._own.get("slow reader")) is not None:
                await asyncio.sleep(slow.amount)

    async def _singles(self, client: Client) -> None:
        # Of several accounts a job does not say whose its task is, so that it cannot be collected by its id.
        ways = 3 if len(self._terms.accounts) == 1 else 2
        async with asyncio.TaskGroup() as group:
            for number, prompt in enumerate(self._world.prompts(self._number)):
                group.create_task(self._single(client, prompt, number % ways))

    async def _single(self, client: Client, prompt: str, way: int) -> None:
        """Make one picture in one of three ways, and save it; its errors are its own."""
        # With a key by which the log names it, too.
        terms: dict[str, Any] = {"model": self._world.model, "deadline": self._terms.deadline, "key": prompt}
        try:
            if way == 0:
                result = await client.generate(prompt, **terms)
            else:
                job = await client.submit(prompt, **terms)
                self._world.witness.hear(self._process, job.task_id)
                result = await job if way == 1 else await client.collect(job.task_id, provider=self._terms.accounts[0])
            self._world.witness.tell(self._process, result)
            await result.save(self._world.folder / "pictures")
        except errors.ImagenError as error:
            self._world.witness.tell_error(self._process, prompt, error)
        except BaseException:
            self._world.witness.leave(self._process, prompt)
            raise

    def _requests(self) -> Iterator[ImageRequest | str]:
        breaks = self._own.get("input raises")
        for number, prompt in enumerate(self._world.prompts(self._number)):
            if breaks is not None and number >= breaks.at:
                raise InputBroke
            yield prompt if number % 2 else ImageRequest(prompt)

    def _listen(self, event: object) -> None:
        if self._process.chance.random() < 0.3:
            raise ListenerBroke

    @asynccontextmanager
    async def _receiving(self, client: Client) -> AsyncIterator[None]:
        if not self._terms.calls_back:
            yield
            return
        application = web.Application()
        application.add_subapp("/imagen", Receiver(client).application())
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            with contextlib.suppress(OSError):  # another process is called back there
                await web.TCPSite(runner, "127.0.0.1", CALLED_BACK_AT).start()
            yield
        finally:
            await _to_its_end(runner.cleanup())


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Wait for it, however often this is cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)


def accounts_of(world: World) -> list[Account]:
    """The accounts of a world's program, all at its sandbox."""
    limits = limits_of(world.terms)
    price = 8.0 if world.terms.max_credits is not None else None
    return [
        Account(name, KEY, world.url_of(name), limits, price if name in ("liangxin", "apikley") else None)
        for name in world.terms.accounts
    ]


def limits_of(terms: Terms) -> Limits:
    """What accounts and sandbox go by."""
    return Limits(Rate(terms.submit, per=terms.per), Rate(terms.status, per=1.0), terms.running)


def prompts_of(terms: Terms, accidents: Sequence[Accident], run: int, chance: random.Random) -> list[str]:
    """The input of a run, after what befell it in this one and before."""
    prompts = [f"a fox, number {number}" for number in range(terms.requests)]
    for each in accidents:
        if each.run > run:
            continue
        if each.what == "input repeats":
            prompts += prompts[: int(each.at) + 1]
        elif each.what == "input is edited":
            chance.shuffle(prompts)
            prompts[0:1] = [f"a heron, number {each.run}"]
    return prompts
