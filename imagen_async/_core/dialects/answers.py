"""What the answers of both dialects have in common: envelope, codes, refusals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ...errors import (
    AccountError,
    AuthenticationError,
    DownloadFailed,
    InvalidRequest,
    ProtocolError,
    RateLimited,
    TransportError,
)
from ..failure import Failure
from ..field_names import folded
from ..forgiving_json import NOT_JSON, forgiving, unwrapped
from ..wire import (
    HttpResponse,
    NoAnswer,
    TaskRefused,
    TaskStatus,
    clean,
    loose_json,
)
from . import money
from .links import find_links

_NUMBERS = (int, float)
_SUCCESSES = frozenset({0, 200, 201, 202})


class Envelope(msgspec.Struct):
    """The outer object of an answer, of any of the recorded shapes; every field may be missing, or of any type.

    A message of a wrong type is no reason to lose a task id.
    """

    code: Any = None
    msg: Any = None
    message: Any = None
    error: Any = None
    data: msgspec.Raw = msgspec.Raw(b"null")


# By type, and only what is read: 0.5 µs an answer, where json takes 3.1 (measured).
_decode_envelope = forgiving(msgspec.json.Decoder(Envelope).decode, wants_object=True)


class Answer(msgspec.Struct, frozen=True):
    """An answer, opened.

    Attributes:
        code: What it says of itself: the body's code, else the HTTP status.
        text: Its message, clean and short enough to show.
        in_body: True when the code stood in the body, written by the API itself and not by something before it.
        data: The inner part, undecoded; empty where the body is no envelope.
        response: The whole.
    """

    code: int
    text: str
    in_body: bool
    data: bytes
    response: HttpResponse

    @property
    def is_good_http(self) -> bool:
        """True where the HTTP status is one of a success."""
        return 200 <= self.response.status < 300

    @property
    def is_success(self) -> bool:
        """True when the API says that it did what it was asked."""
        is_good = self.code in _SUCCESSES if self.in_body else 200 <= self.code < 300
        return bool(self.data) and is_good


def open_answer(response: HttpResponse) -> Answer:
    """Read the envelope: the body's code before the HTTP status, `msg` or `message` or `error.message`."""
    try:
        envelope = _decode_envelope(response.body)
    except NOT_JSON:
        # No envelope, or a part of one: then only the status speaks.
        return Answer(response.status, clean(_excerpt(response.body)), False, b"", response)
    detail = envelope.error if isinstance(envelope.error, dict) else {"message": envelope.error}
    code = code_number(envelope.code)
    # LiangXin's platform has "", null or a word there, too: then the HTTP status speaks.
    if code is None and envelope.error:
        code = code_number(detail.get("code"))
    # `msg`, an older page's `message`, and the `error.message` of the layers before the API.
    text = envelope.msg or envelope.message or detail.get("message") or ""
    in_body = code is not None
    if code is None:
        # An error envelope under HTTP 200 (never seen) is not a success, whatever else it holds.
        code = 0 if envelope.error and response.status < 300 else response.status
    return Answer(code, clean(str(text)), in_body, bytes(envelope.data), response)


def is_enveloped(document: Mapping[str, Any]) -> bool:
    """True for the API's own envelope, a code and what the code is about: nothing before it writes such a one."""
    told = {folded(key): value for key, value in document.items()}
    code = code_number(told.get("code"))
    # A failed task's code may come with no record.
    return code is not None and "data" in told and (code not in _SUCCESSES or bool(unwrapped(told["data"])))


def read_refused_status(answer: Answer) -> TaskStatus:
    """Say what a status answer without success means; nothing here fails a job at once."""
    code = answer.code
    if code == 429:
        failure = Failure(RateLimited, said("Too many status calls", answer), code=code)
        return NoAnswer(failure, limited=True, retry_after=answer.response.retry_after)
    if code in (401, 403):
        return TaskRefused(Failure(AuthenticationError, said("The key may not ask for this task", answer), code=code))
    # 422, "recordInfo is null", was seen just after creation: whether it is final, the task's age decides.
    if code in (404, 422):
        return TaskRefused(Failure(InvalidRequest, said(NO_SUCH_TASK, answer), code=code))
    # A silent upstream (408) and maintenance (455) pass: the task is asked about again.
    if 400 <= code < 500 and code not in (408, 455):
        return TaskRefused(Failure(AccountError, said("The status call was refused", answer), code=code))
    failure = Failure(TransportError, said("The status call failed", answer), code=code)
    return NoAnswer(failure, retry_after=answer.response.retry_after)


KEY_REFUSED = "The provider refuses the key: check it"
NO_SUCH_TASK = "The provider knows no such task (it may belong to another provider or account, or be too old)"


def said(meaning: str, answer: Answer) -> str:
    """A meaning with the server's own words."""
    return f"{meaning}: {answer.text or 'no message'}"


def read_balance(answer: Answer) -> float | Failure:
    """Read `data` of a credits answer: a number (a float was seen where an integer is documented)."""
    # An answer without `data` may have it beside its code.
    told = (loose_json(answer.data), loose_json(answer.response.body)) if answer.is_success else ()
    amount = next((found for each in told if (found := money.balance(each)) is not None), None)
    if amount is not None:
        return amount
    if answer.code in (401, 403):
        return Failure(AuthenticationError, said(KEY_REFUSED, answer), code=answer.code)
    if answer.code == 429:
        return Failure(RateLimited, said("Too many calls", answer), code=answer.code)
    if answer.code == 408 or answer.code >= 500:
        return Failure(TransportError, said("The question for the balance failed", answer), code=answer.code)
    return Failure(ProtocolError, said("The answer holds no balance", answer), code=answer.code)


def read_renewal(answer: Answer) -> str | Failure:
    """Read `data` of a new link's answer: the link, which lives 20 minutes. 422, "url is wrong", is a picture gone."""
    urls = find_links(loose_json(answer.data)) if answer.is_success else ()
    if urls:
        return urls[0]
    # By the API's own word alone: a proxy's page does not give up a picture that is paid for.
    is_gone = answer.in_body and answer.code in (400, 404, 410, 422)
    what = said("The provider gave no new link", answer)
    return Failure(DownloadFailed, what, code=answer.code, is_gone=is_gone)


def figure(value: object) -> float | None:
    """A number of an answer as a finite float, or None for what is none."""
    if isinstance(value, bool) or not isinstance(value, _NUMBERS) or abs(value) > 1e18:
        return None
    return float(value)


def _excerpt(body: bytes) -> str:
    return body[:200].decode("utf-8", "replace")


def code_of(value: object) -> int | str | None:
    """A provider's code for a failure: a number, a clean word, or None."""
    if isinstance(value, str):
        return clean(value)
    # A number of thousands of digits is no code, and nothing could write it down.
    return value if isinstance(value, int) and abs(value) < 1 << 63 else None


def code_number(code: object) -> int | None:
    """A code as a number; None for a word, an empty string or nothing."""
    if isinstance(code, str) and code.isascii() and code.isdigit() and len(code) <= 6:
        return int(code)
    if isinstance(code, float) and code.is_integer():
        return int(code)
    return code if isinstance(code, int) and not isinstance(code, bool) else None
