"""The paths of our own client: tasks in groups, how they stand, the stream of their ends, and pictures that go in."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import msgspec
from aiohttp import web

from .._core.dialects.served import CALLING_OFF, ENDS, FAILED_BEFORE, FILES, NO_SUCH, STATUS, TASKS, TaskReport
from .._watch.log import log
from ..errors import ImagenError
from ._board import error_of, placed
from ._bodies import read_body, read_content
from ._book import OrderRow
from ._callers import Caller
from ._demand import Demand
from ._doors import check_models, json_of
from ._guard import CALLER
from ._orders import Order
from ._refusals import FAULT, Refusal, Refused, refusal_of, wrong
from ._task_reading import Task, kept, read_task, task_in

if TYPE_CHECKING:
    from ._service import Service

MOST_AT_ONCE = 1000
"""Tasks in one request."""

MOST_BYTES = 32 << 20
"""Bytes of one."""

MOST_UNFINISHED = 10_000
"""Tasks of a caller that may be unfinished at once: beyond that it is told to come again."""

LONGEST_SILENCE = 10.0
"""Seconds for which a stream says nothing at most: our own client takes one that is silent for three times as long for
dead.
"""

LONGEST_ANSWER = 600 << 10
"""Bytes of an answer from which on what is left is told to ask again: no client reads one without end."""

_NO_SUCH = TaskReport(error=error_of(Refusal(404, NO_SUCH, "There is no such task, or not any more.")))

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Group(msgspec.Struct):
    tasks: list[msgspec.Raw]


class _Ids(msgspec.Struct):
    ids: list[str]


T = TypeVar("T", _Group, _Ids)


class Tasks:
    """Takes tasks over HTTP.

    Args:
        service: What there is behind it.
        heartbeat: Seconds between two signs of life of a stream, `LONGEST_SILENCE` at most.
    """

    def __init__(self, service: Service, heartbeat: float) -> None:
        self._service = service
        self._heartbeat = min(heartbeat, LONGEST_SILENCE)

    def routes(self) -> tuple[tuple[str, str, Answer], ...]:
        """Each path with what answers there."""
        return (
            ("POST", TASKS, self.take),
            ("POST", STATUS, self.status),
            ("POST", CALLING_OFF, self.call_off),
            ("GET", ENDS, self.ends),
            ("POST", FILES, self.keep),
        )

    async def take(self, request: web.Request) -> web.StreamResponse:
        """Take tasks, each once, however often it comes: an aiohttp handler."""
        caller = request[CALLER]
        group = await _decoded(request, _Group)
        self._make_room(caller)
        told = await asyncio.gather(*(self._taken(caller, bytes(each)) for each in group.tasks))
        return self._answer(request, told)

    async def status(self, request: web.Request) -> web.StreamResponse:
        """How tasks stand: an aiohttp handler. Free to repeat."""
        ids = (await _decoded(request, _Ids)).ids
        return self._answer(request, await self._stand(request[CALLER], ids))

    async def call_off(self, request: web.Request) -> web.StreamResponse:
        """Send no more of tasks; what runs by then is made: an aiohttp handler. Free to repeat."""
        caller, ids = request[CALLER], (await _decoded(request, _Ids)).ids
        live = [order for each in ids if (order := self._live(caller, each)) is not None]
        for order in live:
            order.withhold()
        waiting = [order.over.wait() for order in live if not order.parts[0].is_on_its_way]
        await asyncio.gather(*waiting)
        return self._answer(request, await self._stand(caller, ids))

    async def ends(self, request: web.Request) -> web.StreamResponse:
        """The ends of a caller's tasks from now on, as a stream: an aiohttp handler."""
        headers = {"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}
        response = web.StreamResponse(headers={**headers, "Cache-Control": "no-store"})
        caller = request[CALLER].name
        listener = self._service.board.listen(caller)
        try:
            await response.prepare(request)
            # Whoever reads this hears every end from here on.
            await response.write(b": here\n\n")
            while not listener.is_over:
                await response.write(await listener.next(self._heartbeat))
        finally:
            self._service.board.leave(caller, listener)
        return response

    async def keep(self, request: web.Request) -> web.StreamResponse:
        """Keep a picture that is to go in: an aiohttp handler. Free to repeat."""
        service = self._service
        body = await read_body(request, "tasks", service.inputs, service.off_loop)
        if len(body.pictures) != 1:
            raise wrong("One picture is to be in the form, as a file.", "image", "invalid_form")
        file = body.pictures[0].file
        url = f"{service.address(request)}{FILES}/{file.sha256}"
        return json_of({"data": {"url": url, "media_type": file.media_type, "size": file.size}})

    async def _taken(self, caller: Caller, content: bytes) -> TaskReport:
        """What is said to a task that has come."""
        # What was taken out of a group that had been put together.
        if content.strip() == b"null":
            return TaskReport()
        try:
            return await self._ordered(caller, task_in(content))
        except Refused as refused:
            return TaskReport(error=error_of(refused.refusal))
        except ImagenError as error:
            return TaskReport(error=error_of(refusal_of(error)))
        except Exception:  # a fault of ours: one task must not keep the others of its group from their answers
            log(logging.ERROR, "a task was not taken by a fault of the service: %s", traceback.format_exc())
            return TaskReport(error=error_of(FAULT))

    async def _ordered(self, caller: Caller, task: Task) -> TaskReport:
        service = self._service
        body = kept(task.terms, await service.files.brought.named(task.request))
        asked = read_task(service.reader, body)
        check_models(caller, asked)
        content = msgspec.json.encode(msgspec.structs.replace(body, model=asked.parts[0].model or ""))
        demand = Demand(caller, asked, content, task.key, after=task.after)
        if task.retry_failed and (failed := await self._failed_before(demand)) is not None:
            return failed
        self._check_room(caller)
        wait = await service.desk.wait(demand)
        try:
            if not wait.order.over.is_set():
                service.board.taken(caller.name, wait.order.id)
            return TaskReport(wait.order.id, "queued", waits=asked.waits)
        finally:
            service.desk.leave(wait, demand)

    def _make_room(self, caller: Caller) -> None:
        """Forget tasks of whose end nobody has told, such as one that could not be noted, where they take up the room.

        Once for a group: it costs a look at each of many.
        """
        board, desk = self._service.board, self._service.desk
        unfinished = board.unfinished(caller.name)
        if len(unfinished) >= MOST_UNFINISHED:
            for each in [each for each in unfinished if desk.live(each) is None]:
                board.gone(caller.name, each)

    def _check_room(self, caller: Caller) -> None:
        """Refuse a caller that has too many tasks; raises Refused."""
        if len(self._service.board.unfinished(caller.name)) >= MOST_UNFINISHED:
            message = f"{MOST_UNFINISHED:,} tasks of this key are unfinished. This one was not taken: come again"
            raise Refused(Refusal(429, "too_many_unfinished", f"{message}."))

    async def _failed_before(self, demand: Demand) -> TaskReport | None:
        """What is said of the task that a key stands for, where that has failed; None where it has not."""
        service = self._service
        row = await service.archive.last(demand.caller.name, demand.name)
        if demand.after is not None or row is None or row.ended_at is None or row.is_unsent:
            return None
        # At hand first: what has just ended may not be on disk yet.
        told = service.board.last(row.caller, row.id)
        told = told or service.board.told(row.id, await service.archive.order(row), row.error)
        if told.status != "failed" or told.error is None:
            return None
        return TaskReport(error={**told.error, "code": FAILED_BEFORE, "id": row.id, "status": 424})

    async def _stand(self, caller: Caller, ids: Sequence[str]) -> list[TaskReport]:
        """How tasks of a caller stand, in their order."""
        found = {each: told for each in ids if (told := self._at_hand(caller, each)) is not None}
        others = [each for each in dict.fromkeys(ids) if each not in found]
        rows = await self._service.archive.rows(others) if others else []
        own = [row for row in rows if row is not None and row.caller == caller.name and row.tasks == 1]
        for row, order in zip(own, await self._service.archive.orders(own), strict=True):
            if order is not None:
                found[row.id] = self._service.board.told(row.id, order, row.error)
                if row.ended_at is None:
                    found[row.id] = await self._gone_on(row, found[row.id])
        return [found.get(each, _NO_SUCH) for each in ids]

    async def _gone_on(self, row: OrderRow, told: TaskReport) -> TaskReport:
        """What is said of a task that nobody makes, and whose end is not noted, as on a full disk: it is made on."""
        if row.is_called_off:
            return told
        await self._service.go_on(row)
        return _until_noted(told, row.id)

    def _at_hand(self, caller: Caller, order_id: str) -> TaskReport | None:
        """How a task stands that is being made, or has ended lately."""
        board, order = self._service.board, self._live(caller, order_id)
        if order is None:
            return board.last(caller.name, order_id)
        return _until_noted(board.told(order_id, order), order_id)

    def _live(self, caller: Caller, order_id: str) -> Order | None:
        """A caller's task, while it is being made."""
        order = self._service.desk.live(order_id)
        return order if order is not None and order.caller == caller.name and len(order.parts) == 1 else None

    def _answer(self, request: web.Request, told: Sequence[TaskReport]) -> web.Response:
        address, length, parts = self._service.address(request), 0, []
        for each in told:
            part = msgspec.json.encode(placed(each, address))
            # The first in any case, however long it is.
            if length and length + len(part) > LONGEST_ANSWER:
                part = msgspec.json.encode(TaskReport(each.id, "later"))
            length += len(part)
            parts.append(msgspec.Raw(part))
        return json_of({"tasks": parts})


def _until_noted(told: TaskReport, order_id: str) -> TaskReport:
    """What is said of a task whose end, if it has one, is still to be noted: its pictures are not to be had before."""
    return told if told.status in ("queued", "running") else TaskReport(order_id, "running")


async def _decoded(request: web.Request, kind: type[T]) -> T:
    """The body of a request; raises Refused for one that is none, or too long."""
    content = await read_content(request, MOST_BYTES, "send fewer tasks at once")
    try:
        found = msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise wrong(f"The body is no group of tasks: {error}.", code="invalid_json") from None
    if len(found.tasks if isinstance(found, _Group) else found.ids) > MOST_AT_ONCE:
        message = f"More than {MOST_AT_ONCE:,} tasks: send fewer at once."
        raise Refused(Refusal(413, "too_long", message))
    return found
