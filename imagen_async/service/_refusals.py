"""What a caller gets in place of a picture: OpenAI's envelope, and a status that no client repeats once money may be
spent.

Of the statuses, 408, 409, 429 and all from 500 on are repeated by clients of their own accord (openai-python and
openai-node 2 times, Vercel's AI SDK too, which reads no `x-should-retry`). So these are for what sent nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from .._core.failure import Failure
from .._core.refused_prompts import refuses_prompt
from .._text import one_line, shown, well_formed
from ..errors import (
    AccountError,
    BudgetReached,
    DeadlineExceeded,
    DownloadFailed,
    GenerationFailed,
    ImagenError,
    InsufficientCredits,
    InvalidRequest,
    JournalError,
    ModelUnavailable,
    ProtocolError,
    RateLimited,
    TransportError,
    UnknownOutcome,
)

AGAIN = 5.0
"""Seconds after which a caller of whom nothing was sent is to come back."""

_TYPES = {401: "authentication_error", 402: "insufficient_quota", 403: "permission_error", 429: "rate_limit_error"}

_REPEATED = (429, 503)

_LONGEST = 8_000
"""Characters of a message."""


class Refusal(msgspec.Struct, frozen=True):
    """An answer without a picture.

    Attributes:
        status: Of HTTP.
        code: A word for programs, such as `model_not_found`.
        message: What happened and what to do.
        headers: More headers.
        param: The field that it is about, or None.
        again: Of a 429 or 503: seconds after which to come back.
        more: More fields of the error, such as `task_id`.
    """

    status: int
    code: str
    message: str
    headers: Mapping[str, str] = {}
    param: str | None = None
    again: float = AGAIN
    more: Mapping[str, Any] = {}

    @property
    def type(self) -> str:
        """OpenAI's word for this kind of error."""
        kind = "invalid_request_error" if self.status < 500 and self.status != 424 else "api_error"
        return _TYPES.get(self.status, kind)

    @property
    def error(self) -> dict[str, Any]:
        """The error as OpenAI's clients read it, and what we know beside that."""
        # It may quote what was sent, half characters included.
        message = one_line(shown(self.message, _LONGEST))
        param = None if self.param is None else well_formed(self.param)
        known = {"message": message, "type": self.type, "param": param, "code": self.code}
        return {**known, **{name: value for name, value in self.more.items() if value is not None}}

    @property
    def body(self) -> bytes:
        """What is sent."""
        return msgspec.json.encode({"error": self.error})

    @property
    def all_headers(self) -> dict[str, str]:
        """Those that go with it: whether, and when, it may be asked again."""
        is_repeated = self.status in _REPEATED
        when = {"Retry-After": str(max(1, math.ceil(self.again)))} if is_repeated else {"x-should-retry": "false"}
        return {**when, **self.headers}


class Refused(Exception):
    """Raised where a request ends with a refusal."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def wrong(message: str, param: str | None = None, code: str = "invalid_value", status: int = 400) -> Refused:
    """A request that is to be changed."""
    return Refused(Refusal(status, code, message, param=param))


def refusal_of(error: ImagenError, may_have_cost: float | None = None) -> Refusal:
    """What a caller is told of an error of the library.

    Args:
        error: Any of the tree.
        may_have_cost: Credits that were billed, or may have been; None: nothing was, or nobody knows.
    """
    status, code = _STATUS.get(type(error), (424, "failed"))
    is_unsent = error.task_id is None
    if isinstance(error, UnknownOutcome):
        may_have_cost = error.credits
    elif isinstance(error, GenerationFailed | InvalidRequest) and refuses_prompt(Failure.of(error)):
        status, code = 400, "content_policy_violation"
    elif status in _REPEATED and not is_unsent:
        status = 424
    elif isinstance(error, DeadlineExceeded) and is_unsent:
        status, code = 503, "not_sent_in_time"
    more = {
        "task_id": error.task_id,
        "provider": error.provider,
        "provider_code": error.code,
        "may_have_cost": may_have_cost,
        "kind": type(error).__name__,
    }
    return Refusal(status, code, str(error.message), more=more)


_STATUS: dict[type[ImagenError], tuple[int, str]] = {
    InvalidRequest: (400, "invalid_value"),
    ModelUnavailable: (404, "model_unavailable"),
    InsufficientCredits: (402, "insufficient_credits"),
    BudgetReached: (402, "budget_reached"),
    RateLimited: (429, "rate_limited"),
    GenerationFailed: (424, "generation_failed"),
    UnknownOutcome: (424, "unknown_outcome"),
    DeadlineExceeded: (424, "deadline_exceeded"),
    DownloadFailed: (424, "download_failed"),
    ProtocolError: (424, "protocol_error"),
    TransportError: (503, "not_reached"),
    JournalError: (503, "not_noted"),
    AccountError: (424, "account_unavailable"),
}
"""By the class of the error; what is not here, and none of which is sent anew by itself, is 424 `failed`."""

FAULT = Refusal(
    424,
    "fault",
    "The service has failed by a fault of its own; its log has more. What was sent is not lost: ask the same again.",
)
"""No status that is repeated: nobody knows what was sent."""

LEAVING = Refusal(503, "leaving", "The service is being restarted: ask again. What was sent already is not lost.")
"""Told also to those of whom something runs: the same request finds it, and nothing is paid twice."""
