"""What the answers of both dialects have in common: envelope, codes, words for states, where URLs hide."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import msgspec

from ...errors import (
    AccountError,
    AuthenticationError,
    ConfigurationError,
    DownloadFailed,
    GenerationFailed,
    ImagenError,
    InsufficientCredits,
    InvalidRequest,
    ModelUnavailable,
    ProtocolError,
    RateLimited,
    TransportError,
)
from ..failure import Failure
from ..wire import (
    NOT_JSON,
    Accepted,
    Created,
    HttpResponse,
    Lost,
    NoAnswer,
    Rejected,
    Remedy,
    TaskRefused,
    TaskStatus,
    clean,
    decode_json,
)

SUCCEEDED = frozenset({"success", "succeeded", "successful", "completed", "complete", "done", "finished"})
FAILED = frozenset({"fail", "failed", "failure", "error", "canceled", "cancelled", "expired"})
WAITING = frozenset({"waiting", "queuing", "generating", "in_progress", "queued", "pending", "processing", "running"})

_URL_KEYS = ("resultUrls", "result_urls", "resultUrl", "urls", "images", "output", "result", "url", "data")
_URL_SAFE = ":/?#[]@!$&'()*+,;=%~"
# At most one word between "model" and the verdict: "model input: aspect_ratio 2:3 is not supported" is one bad prompt.
_MODEL_GONE = re.compile(
    r"\bmodel( name)?( you specified)?( \S+)?( you specified)? (is |was )?"
    r"(not supported|unsupported|not found|does not exist)|unsupported model|price not configured",
    re.I,
)
_NO_CREDIT = re.compile(r"credits? (are |is )?insufficient|insufficient (credit|balance|quota)", re.I)
# What stands before kie.ai's API says so to a request without a User-Agent; it is no word about the account.
_EDGE = re.compile(r"error code: 1\d\d\d")
# Codes by which a server says that the request itself is wrong: nothing was begun.
_OWN_FAULT = frozenset({400, 405, 406, 409, 410, 411, 413, 414, 415, 422, 431})


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
_decode_envelope = msgspec.json.Decoder(Envelope).decode


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
    def is_success(self) -> bool:
        """True when the API says that it did what it was asked."""
        return bool(self.data) and (self.code == 200 or (not self.in_body and 200 <= self.code < 300))


def open_answer(response: HttpResponse) -> Answer:
    """Read the envelope: the body's code before the HTTP status, `msg` or `message` or `error.message`."""
    try:
        envelope = _decode_envelope(response.body)
    except NOT_JSON:
        # No envelope, or a part of one: then only the status speaks.
        return Answer(response.status, clean(_excerpt(response.body)), False, b"", response)
    detail = envelope.error if isinstance(envelope.error, dict) else {"message": envelope.error}
    code = _number(envelope.code)
    # LiangXin's platform has "", null or a word there, too: then the HTTP status speaks.
    if code is None and envelope.error is not None:
        code = _number(detail.get("code"))
    # `msg`, an older page's `message`, and the `error.message` of the layers before the API.
    text = envelope.msg or envelope.message or detail.get("message") or ""
    in_body = code is not None
    if code is None:
        # An error envelope under HTTP 200 (never seen) is not a success, whatever else it holds.
        code = 0 if envelope.error is not None and response.status < 300 else response.status
    return Answer(code, clean(str(text)), in_body, bytes(envelope.data), response)


def accepted(answer: Answer, *ids: object) -> Created:
    """The first of these that can be a task's id; a success that names none is lost: the task may exist."""
    for task_id in ids:
        if task_id and isinstance(task_id, str | int) and not isinstance(task_id, bool):
            return Accepted(str(task_id))
    return Lost(Failure(ProtocolError, "The provider says success and names no task.", code=answer.code))


def read_refused_create(answer: Answer, no_credit: frozenset[int]) -> Created:
    """Say what a create's answer without success means: the table of the provider facts, row by row."""
    code, text = answer.code, answer.text
    if 300 <= code < 400 and not answer.in_body:
        return _redirected(answer)
    is_known = code in _REFUSALS or code in _OWN_FAULT
    # A real 5xx or 408 may be a proxy's, behind which a task was made; in the body it is the API's own word.
    if not is_known or (not answer.in_body and (code >= 500 or code == 408)):
        return Lost(
            Failure(ProtocolError, _said("An answer that does not tell whether a task was made", answer), code=code)
        )
    kind, remedy = _refusal(code, text, no_credit)
    return Rejected(Failure(kind, _said(_MEANING[kind], answer), code=code), remedy, answer.response.retry_after)


def read_refused_status(answer: Answer) -> TaskStatus:
    """Say what a status answer without success means; nothing here fails a job at once."""
    code = answer.code
    if code == 429:
        failure = Failure(RateLimited, _said("Too many status calls", answer), code=code)
        return NoAnswer(failure, limited=True, retry_after=answer.response.retry_after)
    if code in (401, 403):
        return TaskRefused(Failure(AuthenticationError, _said("The key may not ask for this task", answer), code=code))
    # 422, "recordInfo is null", was seen just after creation: whether it is final, the task's age decides.
    if code in (404, 422):
        return TaskRefused(Failure(InvalidRequest, _said(NO_SUCH_TASK, answer), code=code))
    # A silent upstream (408) and maintenance (455) pass: the task is asked about again.
    if 400 <= code < 500 and code not in (408, 455):
        return TaskRefused(Failure(AccountError, _said("The status call was refused", answer), code=code))
    return NoAnswer(Failure(TransportError, _said("The status call failed", answer), code=code))


NO_SUCH_TASK = "The provider knows no such task (it may belong to another provider or account, or be too old)"

_MEANING: dict[type[ImagenError], str] = {
    InvalidRequest: "The provider refused the request",
    AuthenticationError: "The provider refuses the key: check it",
    InsufficientCredits: "The account, or the key's own cap, has no credit left: top it up",
    AccountError: "The provider, or the edge before it, refuses this account or program",
    ModelUnavailable: "The provider does not serve this model, or the base URL is wrong: choose another model",
    GenerationFailed: "The provider could not make the picture",
    RateLimited: "The provider refused for its rate limit",
    TransportError: "The provider is in maintenance",
}

_REFUSALS: dict[int, tuple[type[ImagenError], Remedy]] = {
    401: (AuthenticationError, Remedy.STOP),
    402: (InsufficientCredits, Remedy.STOP),
    403: (AccountError, Remedy.STOP),
    404: (ModelUnavailable, Remedy.CLOSE_MODEL),
    # In the body: the model's own maker was silent for ten minutes, and the task has failed.
    408: (GenerationFailed, Remedy.NEW_TASK),
    429: (RateLimited, Remedy.BACK_OFF),
    # A sub-key has reached its own cap, whatever the account has left.
    433: (InsufficientCredits, Remedy.STOP),
    455: (TransportError, Remedy.PAUSE),
    # kie.ai's 500 in the body was mostly a validation error ("This field is required"), unbilled (seen April 2026).
    500: (InvalidRequest, Remedy.FAIL),
    # A failed generation, for which kie.ai bills nothing.
    501: (GenerationFailed, Remedy.NEW_TASK),
    505: (ModelUnavailable, Remedy.CLOSE_MODEL),
}


def _refusal(code: int, text: str, no_credit: frozenset[int]) -> tuple[type[ImagenError], Remedy]:
    """The text decides where one code serves for several things (seen: 500 for no credit, 422 for an unknown model)."""
    if code == 403 and _EDGE.search(text):
        return AccountError, Remedy.STOP
    # A 429 is free to repeat, whatever its words are.
    if code in no_credit or (code != 429 and _NO_CREDIT.search(text)):
        return InsufficientCredits, Remedy.STOP
    if code in (400, 422) and _MODEL_GONE.search(text):
        return ModelUnavailable, Remedy.CLOSE_MODEL
    return _REFUSALS.get(code, (InvalidRequest, Remedy.FAIL))


def _redirected(answer: Answer) -> Rejected:
    where = answer.response.location or "another address"
    message = (
        f"The server redirects to {clean(where)}; the key follows no redirect. Set base_url to the API's own address"
    )
    return Rejected(Failure(ConfigurationError, f"{message}.", code=answer.code), Remedy.STOP)


def _said(meaning: str, answer: Answer) -> str:
    return f"{meaning}: {answer.text or 'no message'}"


def find_urls(value: Any, depth: int = 5) -> tuple[str, ...]:
    """Collect the picture URLs of a result, whatever it is wrapped in; each once, in order."""
    return tuple(dict.fromkeys(_urls(value, depth)))


def _urls(value: Any, depth: int) -> list[str]:
    if isinstance(value, str) and value.startswith(("https://", "http://")):
        # A URL is printed; what has no place in one is escaped.
        return [value if value.isprintable() and " " not in value else quote(value, safe=_URL_SAFE)]
    if not depth:
        return []
    match value:
        # `resultJson` is JSON in a string; other clients met it as an object, and nested.
        case str() if value[:1] in ("{", "["):
            return _urls(loose_json(value), depth - 1)
        case list():
            return [url for item in value for url in _urls(item, depth - 1)]
        case dict():
            # The first key that leads anywhere is the result; others may be thumbnails or copies of the input.
            found = (_urls(value[key], depth - 1) for key in _URL_KEYS if key in value)
            return next(filter(None, found), [])
    return []


def loose_json(text: str | bytes) -> Any:
    """Decode JSON; None for what is none."""
    try:
        return decode_json(text)
    except ProtocolError:
        return None


def read_balance(answer: Answer) -> float | Failure:
    """Read `data` of a credits answer: a number (a float was seen where an integer is documented)."""
    balance = loose_json(answer.data) if answer.is_success else None
    amount = figure(balance)
    if amount is not None:
        return amount
    if answer.code in (401, 403):
        return Failure(AuthenticationError, _said(_MEANING[AuthenticationError], answer), code=answer.code)
    return Failure(ProtocolError, _said("The answer holds no balance", answer), code=answer.code)


def read_renewal(answer: Answer) -> str | Failure:
    """Read `data` of a new link's answer: the link, which lives 20 minutes. 422, "url is wrong", is a picture gone."""
    urls = find_urls(loose_json(answer.data)) if answer.is_success else ()
    if urls:
        return urls[0]
    # By the API's own word alone: a proxy's page does not give up a picture that is paid for.
    is_gone = answer.in_body and answer.code in (400, 404, 410, 422)
    what = _said("The provider gave no new link", answer)
    return Failure(DownloadFailed, what, code=answer.code, is_gone=is_gone)


def figure(value: object) -> float | None:
    """A number of an answer as a finite float, or None for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e18:
        return None
    return float(value)


def _excerpt(body: bytes) -> str:
    return body[:200].decode("utf-8", "replace")


def code_of(value: object) -> int | str | None:
    """A provider's code for a failure: a number, a clean word, or None."""
    return clean(value) if isinstance(value, str) else value if isinstance(value, int) else None


def _number(code: object) -> int | None:
    """A code as a number; None for a word, an empty string or nothing."""
    if isinstance(code, str) and code.isascii() and code.isdigit() and len(code) <= 6:
        return int(code)
    if isinstance(code, float) and code.is_integer():
        return int(code)
    return code if isinstance(code, int) and not isinstance(code, bool) else None
