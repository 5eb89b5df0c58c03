"""What the service answers where it refuses: OpenAI's own envelope, and whether a client may come again."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from .._text import one_line, shown

_TYPES = {
    **dict.fromkeys((400, 404, 405, 413, 415), "invalid_request_error"),
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    429: "rate_limit_error",
}

_AGAIN = frozenset({408, 429, 503})
"""Where nothing was sent to anybody, and a moment later it may be taken."""

_LONGEST = 8_000

_encode = msgspec.json.Encoder().encode


class Refusal(msgspec.Struct, frozen=True):
    """An answer that refuses.

    Attributes:
        status: The HTTP status.
        code: A word by which a program tells it from others.
        message: What happened and what to do, for a person.
        headers: That go with it: `x-should-retry: false` is among them where asking again is of no use, or could be
            paid for twice.
        param: The field of the request that it is about, or None.
    """

    status: int
    code: str
    message: str
    headers: Mapping[str, str] = {}
    param: str | None = None

    def __post_init__(self) -> None:
        if self.status not in _AGAIN:
            msgspec.structs.force_setattr(self, "headers", {**self.headers, "x-should-retry": "false"})

    @property
    def type(self) -> str:
        """OpenAI's word for its kind."""
        return _TYPES.get(self.status, "api_error")

    def body(self) -> bytes:
        """The body of the answer, JSON."""
        # It may quote what was sent, half characters included.
        message = one_line(shown(self.message, _LONGEST))
        return _encode({"error": {"message": message, "type": self.type, "param": self.param, "code": self.code}})
