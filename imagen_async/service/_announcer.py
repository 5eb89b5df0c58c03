"""Tells callers of the end of what they have asked for: signed, again and again where nobody takes it, and no further
than the caller's own address.

Signed as Standard Webhooks has it (standardwebhooks.com): the base64 of HMAC-SHA256, by the caller's secret, over the
id, the time and the body, with dots between.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import backoff
import msgspec

from .._core.wire import clean
from .._patience import Patience
from .._transport.departure import OUTGOING, Departure
from .._transport.sessions import SessionSettings, connector_for, open_session
from .._watch.log import log

TRIES = 9
"""In all, over about eight minutes: 2, 4, 8 … 256 seconds lie between them."""

FIRST_WAIT = 2.0
"""Seconds to the first repeat."""

PATIENCE = 15.0
"""Seconds that an answer may take."""

SECRET = "whsec_"


class Callback(msgspec.Struct, frozen=True):
    """Where the end of an order is announced, and as what its pictures are named there.

    Attributes:
        url: The caller's address.
        address: The service's, as the caller has asked it.
    """

    url: str
    address: str


def signed(order_id: str, body: bytes, secret: str, now: float) -> dict[str, str]:
    """The headers of a callback that is sent now, in Unix seconds."""
    key = base64.b64decode(secret.removeprefix(SECRET))
    told = b"%b.%d.%b" % (order_id.encode(), now, body)
    signature = base64.b64encode(hmac.digest(key, told, hashlib.sha256)).decode()
    own = {"webhook-id": order_id, "webhook-timestamp": str(int(now)), "webhook-signature": f"v1,{signature}"}
    return {"Content-Type": "application/json", **own}


class Announcer:
    """Calls callers back.

    Args:
        settings: How it connects.
        is_private: True where a caller's address may be one of this machine and its networks.
        first_wait: As `FIRST_WAIT`.
    """

    def __init__(self, settings: SessionSettings, *, is_private: bool, first_wait: float = FIRST_WAIT) -> None:
        self._settings = settings
        self._is_private = is_private
        self._post_until_taken: Callable[..., Any] = backoff.on_predicate(
            backoff.expo,
            lambda status: not 200 <= status < 300,
            # Not `max_time`: for that backoff reads the wall clock.
            max_tries=TRIES,
            factor=first_wait,
            logger=None,
        )(self._post)

    async def open(self) -> None:
        """Open its connections."""
        async with AsyncExitStack() as stack:
            connector = connector_for(self._settings, only_public=not self._is_private)
            self._session = await stack.enter_async_context(open_session({}, connector))
            self._stack = stack.pop_all()

    async def close(self) -> None:
        """Close them."""
        await self._stack.aclose()

    async def announce(self, order_id: str, url: str, body: bytes, secret: str) -> bool:
        """Tell of an end until it is taken; True once it is, False where it is given up."""
        status: int = await self._post_until_taken(order_id, url, body, secret)
        if not 200 <= status < 300:
            log(logging.WARNING, "nobody has taken the callback of %s at %s: it is given up", order_id, clean(url))
        return 200 <= status < 300

    async def _post(self, order_id: str, url: str, body: bytes, secret: str) -> int:
        """Call once; returns the HTTP status, 0 where there was no answer."""
        headers = signed(order_id, body, secret, time.time())
        OUTGOING.set(Departure())
        try:
            with Patience(PATIENCE):
                # Where it leads on to is no address that the caller has named.
                async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                    return response.status
        except (aiohttp.ClientError, OSError, ValueError, RuntimeError) as error:
            log(logging.DEBUG, "the callback of %s was not taken: %s", order_id, error)
            return 0
        except Exception as error:  # such as a host that is none of the Internet
            log(logging.INFO, "the callback of %s cannot be sent to %s: %r", order_id, clean(url), error)
            return 0
