"""Calls about no task's state, for a new link or the balance: each waits for a place among the status calls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from .._clock import now
from .._core import origin
from .._core.dialect import Dialect
from .._core.dialects.answers import open_answer
from .._core.failure import Failure
from .._core.upstream import Upstream, ease
from .._core.wire import HttpRequest, HttpResponse
from ..errors import ConfigurationError, ImagenError, TransportError
from .exchange import Transport

LONGEST_WAIT = 30.0
"""Seconds that a busy provider may ask for so that an errand is sent once more: somebody waits for it."""

LEFT = "The client was left; open it again, and make this anew."
"""What is said to whoever comes too late."""


class Errands:
    """Sends them, for all accounts of a client. Free to repeat, which is why each may be sent once more.

    Args:
        upstreams: The accounts: the plan lets each go in its time.
        send: Carries requests.
        notice: Has the plan looked at.
    """

    def __init__(self, upstreams: Mapping[str, Upstream], send: Transport, notice: Callable[[], None]) -> None:
        self._upstreams = upstreams
        self._send = send
        self._notice = notice
        self._waiting: set[asyncio.Future[None]] = set()
        self._is_closed = False

    async def send(self, account: str, request: HttpRequest) -> HttpResponse:
        """Send one; raises as `SessionPool.send` does, and ConfigurationError when the client was left."""
        try:
            response = await self._send_once(account, request)
        except TransportError:
            return await self._send_once(account, request)
        code = open_answer(response).code
        # 408 is what some servers say of a connection that was idle, to whatever is asked on it meanwhile.
        will_pass = (code in (408, 429) or code >= 500) and (response.retry_after or 0.0) <= LONGEST_WAIT
        return await self._send_once(account, request) if will_pass else response

    async def balance(self, account: str, dialect: Dialect, mask: Callable[[str], str]) -> float | Failure | None:
        """Ask for an account's balance, in its provider's credits; None where its API has no such question.

        Args:
            account: Whose.
            dialect: How its API talks.
            mask: Masks what is secret in a failure.
        """
        question = dialect.build_credits()
        if question is None:
            return None
        response: HttpResponse | None = None
        try:
            response = await self.send(account, question)
            balance = dialect.read_credits(response)
        except ImagenError as error:
            balance = Failure.of(error)
        return origin.failure_of(balance, response, time.time(), mask) if isinstance(balance, Failure) else balance

    async def _send_once(self, account: str, request: HttpRequest) -> HttpResponse:
        upstream = self._upstreams[account]
        async with self._place(upstream):
            response = await self._send(account, request)
            ease(upstream.status, now(), response.retry_after, limited=open_answer(response).code == 429)
            return response

    @asynccontextmanager
    async def _place(self, upstream: Upstream) -> AsyncIterator[None]:
        if self._is_closed:
            raise ConfigurationError(LEFT)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        upstream.add_errand(lambda: _let_go(turn))
        self._waiting.add(turn)
        self._notice()
        try:
            await turn
            yield
        finally:
            self._waiting.discard(turn)
            # Also where whoever waits was cancelled in the very moment in which its turn had come.
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                upstream.end_call(now())
                self._notice()

    def close(self) -> None:
        """Let nobody wait any more for what will not come."""
        self._is_closed = True
        for turn in self._waiting:
            if not turn.done():
                turn.set_exception(ConfigurationError(LEFT))


def _let_go(turn: asyncio.Future[None]) -> bool:
    if turn.done():
        return False
    turn.set_result(None)
    return True
