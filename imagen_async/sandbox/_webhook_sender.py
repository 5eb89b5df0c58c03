"""Calls back, as the providers do: once a task has ended, again where nobody took it."""

from __future__ import annotations

import asyncio
import time

import aiohttp
import anyio
import backoff

from .._addresses import http_host, is_loopback
from ._ledger import Ledger
from ._webhooks import Webhook

_TRIES = 4
"""kie.ai and LiangXin call again a few times, "briefly", where the answer is not 2xx."""

_PATIENCE = 15.0
"""Seconds that an answer may take: kie.ai's own figure."""

_LATE = 1.0
"""Seconds by which a late callback is late."""


class WebhookSender:
    """Delivers callbacks.

    Args:
        session: Carries them.
        ledger: Counts them.
        retry: Seconds to the first repeat of one that was not taken; each further one waits twice as long.
        anywhere: False where only this machine is called: a try-out is not to post prompts to an example's address.
    """

    def __init__(self, session: aiohttp.ClientSession, ledger: Ledger, retry: float, *, anywhere: bool = True) -> None:
        self._anywhere = anywhere
        self._session = session
        self._ledger = ledger
        self._post_until_taken = backoff.on_predicate(
            backoff.expo,
            lambda status: not 200 <= status < 300,
            # Not `max_time`: for that backoff reads the wall clock.
            max_tries=_TRIES,
            factor=retry,
            jitter=None,
            logger=None,
        )(self._post)

    async def announce(self, webhook: Webhook) -> None:
        """Wait for the end of a task, then call back as it is ordered: not at all, twice, late."""
        fault = webhook.fault
        if fault == "lost":
            return
        if not self._anywhere and not is_loopback(http_host(webhook.url) or ""):
            self._ledger.withheld[webhook.task_id] += 1
            return
        due = webhook.ends + (_LATE if fault == "late" else 0.0)
        await anyio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
        for _ in range(2 if fault == "twice" else 1):
            await self._post_until_taken(webhook)

    async def _post(self, webhook: Webhook) -> int:
        """Call once; returns the HTTP status, 0 where there was no answer."""
        headers, body = webhook.message(asyncio.get_running_loop().time(), time.time())
        try:
            timeout = aiohttp.ClientTimeout(_PATIENCE)
            async with self._session.post(
                webhook.url, data=body, headers=headers, timeout=timeout, allow_redirects=self._anywhere
            ) as response:
                status = response.status
        except Exception:  # whatever an address that nobody has looked at makes of a call: nobody took it
            status = 0
        self._ledger.callbacks[webhook.task_id] += 1
        self._ledger.callback_answers[status] += 1
        if 200 <= status < 300:
            self._ledger.announced.add(webhook.task_id)
        return status
