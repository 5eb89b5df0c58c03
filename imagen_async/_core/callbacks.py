"""Callbacks: the token that tells which create one is about, the task that it names, and how it is signed. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

import msgspec

from .forgiving_json import unwrapped
from .task_ids import id_of

TOLERANCE = 300.0
"""Seconds by which a signature's time may differ from ours: five minutes, for clocks and for the way."""

TIMESTAMP, SIGNATURE = "x-webhook-timestamp", "x-webhook-signature"
"""The headers of a signed callback, in small letters."""

_NAME = 8
_CREATE = 4
_MARK = 15
_LENGTH = (_NAME + _CREATE + _MARK) * 4 // 3
"""Characters of a token: what it is made of comes to a multiple of three bytes, so nothing is padded."""


class Address(msgspec.Struct, frozen=True):
    """Which create a token belongs to.

    Attributes:
        name: Stands for the job.
        create: The create's number among its `attempts`.
    """

    name: bytes
    create: int


class Seal:
    """Makes the tokens of one secret, and opens them: nobody else can make one that opens."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def name(self, text: str) -> bytes:
        """What stands for a job in its tokens; it does not tell the text."""
        return hashlib.blake2b(text.encode(), key=self._secret, digest_size=_NAME, person=b"name").digest()

    def token(self, address: Address) -> str:
        """The token of a create: 36 characters that are safe in a URL."""
        content = address.name + address.create.to_bytes(_CREATE, "big")
        return base64.urlsafe_b64encode(content + self._mark(content)).decode()

    def opened(self, token: str) -> Address | None:
        """Whose token it is; None for one that was not made here. Takes as long for a good one as for a bad one."""
        try:
            # By its length first: base64 would also take a token with something behind it.
            whole = base64.urlsafe_b64decode(token.encode()) if len(token) == _LENGTH else b""
        except (ValueError, binascii.Error):
            whole = b""
        content, mark = whole[: _NAME + _CREATE], whole[_NAME + _CREATE :]
        if not hmac.compare_digest(mark, self._mark(content)):
            return None
        return Address(content[:_NAME], int.from_bytes(content[_NAME:], "big"))

    def _mark(self, content: bytes) -> bytes:
        return hmac.digest(self._secret, content, "sha256")[:_MARK]


def task_named_by(document: Mapping[str, Any]) -> str | None:
    """The task that a callback is about; None where it names none, or names several that differ."""
    data = document.get("data")
    inner = data if isinstance(data, dict) else {}
    # kie.ai signs the id in any of these places: of two that differ nobody could say which one is signed.
    places = (inner.get("taskId"), inner.get("task_id"), document.get("taskId"))
    named = {id_of(place) for place in places if not _is_nothing(place)}
    return named.pop() if len(named) == 1 else None


def task_hinted_at(document: Mapping[str, Any]) -> str | None:
    """The same, read more generously, as answers to creates are: for providers that do not say what they send."""
    data = unwrapped(document.get("data"))
    inner = data if isinstance(data, dict) else {}
    places = (inner.get("recordId"), inner.get("id"), document.get("task_id"), document.get("id"))
    return task_named_by({**document, "data": inner}) or next(filter(None, map(id_of, places)), None)


def _is_nothing(value: object) -> bool:
    """Nothing at all is no contradiction."""
    return value is None or (isinstance(value, str) and not value.strip())


def is_signed(
    headers: Mapping[str, str], document: Mapping[str, Any], key: str, *, now: float, tolerance: float = TOLERANCE
) -> bool:
    """Say whether kie.ai has signed a callback: its task id and its time, and nothing else of it.

    Args:
        headers: Of the callback, in any case.
        document: Its body, decoded.
        key: The account's webhook key.
        now: Unix time.
        tolerance: Seconds by which the signature's time may differ.
    """
    lower = {name.lower(): value for name, value in headers.items()}
    timestamp, signature = lower.get(TIMESTAMP, ""), lower.get(SIGNATURE, "")
    task_id = task_named_by(document)
    # "²" is a digit to isdigit and none to int, which also refuses thousands of them.
    is_time = timestamp.isascii() and timestamp.isdigit() and len(timestamp) < 16
    # With `not … <=` nothing is within a tolerance that is not a number.
    if task_id is None or not is_time or not abs(now - int(timestamp)) <= tolerance:
        return False
    # Whatever bytes a header had, aiohttp makes a text of them.
    given = signature.strip().encode(errors="surrogateescape")
    return hmac.compare_digest(signature_of(task_id, timestamp, key).encode(), given)


def signature_of(task_id: str, timestamp: str, key: str) -> str:
    """kie.ai's signature of a task id and a time in Unix seconds: base64 of HMAC-SHA256 over both, with a dot."""
    return base64.b64encode(hmac.digest(key.encode(), f"{task_id}.{timestamp}".encode(), "sha256")).decode()
