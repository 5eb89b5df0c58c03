"""How a service of this library (`imagen-async serve`) talks: named tasks, in groups, and a stream of their ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ...errors import (
    AccountError,
    AuthenticationError,
    BudgetReached,
    ConfigurationError,
    GenerationFailed,
    ImagenError,
    InvalidRequest,
    ModelUnavailable,
    ProtocolError,
    RateLimited,
    TransportError,
    UnknownOutcome,
)
from ..failure import Failure, kind_named
from ..fields import CONTENT
from ..model import Model
from ..naming import CreateName, Joined
from ..values import ImageRequest
from ..wire import (
    Accepted,
    Created,
    HttpRequest,
    HttpResponse,
    Lost,
    NoAnswer,
    Pending,
    Rejected,
    Remedy,
    Succeeded,
    TaskFailed,
    TaskRefused,
    TaskStatus,
    clean,
)
from .answers import figure
from .few_questions import FewQuestions

TASKS = "/v1/tasks"
STATUS = "/v1/tasks/status"
CALLING_OFF = "/v1/tasks/cancel"
ENDS = "/v1/tasks/events"
FILES = "/v1/files"

LONGEST_NAME = 1000
"""Characters of a name that a service takes."""

NO_SUCH = "no_such_order"
"""The code of an answer about a task that a service does not know."""

FAILED_BEFORE = "failed_before"
"""The code of a create whose name stands for what has failed, where a new task is wanted then."""

_PASSING = frozenset({429, 503})
"""Statuses by which a service says: not now, and nothing was taken."""

_FIELDS = tuple(name for name in CONTENT if name != "model")
"""Of a request, those that travel as they are."""

_encode = msgspec.json.Encoder().encode


class TaskReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a service says of a task, in the answer to its create, or to a question.

    Attributes:
        id: Its own; empty where there is none.
        status: `queued`, `running`, `done`, `failed`; `unsent`: nothing was sent, and it is not to be waited for;
            `later`: to be asked again, for the answer was full.
        waits: True while it waits for its turn, and its time has not begun.
        urls: Where its pictures are.
        credits: What it has cost, or may have; None: nobody knows.
        latency: Seconds that its provider took.
        ignored: Fields of the request that were dropped.
        text: What was made where that is no file, as JSON.
        model: Our name of the model that has made it.
        error: Why there is none, as the error of any answer of the service.
    """

    id: str = ""
    status: str = ""
    waits: bool = False
    urls: tuple[str, ...] = ()
    credits: float | None = None
    latency: float | None = None
    ignored: tuple[str, ...] = ()
    text: str = ""
    model: str | None = None
    error: dict[str, Any] | None = None


class _Group(msgspec.Struct):
    tasks: list[msgspec.Raw]


_decode_report = msgspec.json.Decoder(TaskReport).decode
_decode_group = msgspec.json.Decoder(_Group).decode
_decode_ends = msgspec.json.Decoder(tuple[str, ...] | None).decode


class ServedDialect(FewQuestions, frozen=True):
    """A service of this library, as `NamingDialect` has it."""

    ends_path: str = ENDS
    takes_raw_models: bool = True

    def build_create(self, request: ImageRequest, model: Model, callback_url: str | None = None) -> HttpRequest:
        """Write a create without a name, which no service takes; see `build_named`."""
        return self.build_named(request, model, CreateName("", 900.0))

    def build_named(self, request: ImageRequest, model: Model, name: CreateName) -> HttpRequest:
        """Write the create of that name for a request that was checked against `model`."""
        # Its own fields, whatever else a program has added to its class.
        given = ((each, getattr(request, each)) for each in _FIELDS)
        asked = {each: value for each, value in given if value not in (None, "", {}, ())}
        # By its first model, as it is known: what may be made in its place makes no other request of it.
        asked["model"] = request.model or model.name
        task: dict[str, Any] = {"key": name.key, "request": asked, "deadline": name.deadline}
        said = {
            "waits": name.waits,
            "after": name.after,
            "retry_failed": name.renews,
            "instead": name.instead,
            "on_refused": "next" if name.next_if_refused else None,
        }
        task |= {word: value for word, value in said.items() if value}
        return _request(TASKS, b"tasks", [_encode(task)], "create")

    def read_created(self, response: HttpResponse) -> Created:
        """Say what became of a create. What is no word of the service is lost: it may have it."""
        told = _read(response)
        if told is not None and told.error is not None:
            return _refused(told.error, response)
        if told is not None and told.id and response.status == 200:
            return Accepted(told.id, is_named=True, waits=told.waits)
        return _not_its_word(response)

    def build_status(self, task_id: str) -> HttpRequest:
        """Write the question for a task's state; free to repeat."""
        return _request(STATUS, b"ids", [_encode(task_id)], "status")

    def read_status(self, response: HttpResponse, task_id: str, field: str = "") -> TaskStatus:
        """Say how a task stands; an answer about another one is none."""
        told = _read(response)
        if told is None or response.status != 200 or told.id not in ("", task_id):
            return _no_status(told, response)
        if not told.id:
            if told.error is None:
                return _no_status(told, response)
            # Of all that it does not tell, such a task is none of its own, or of this key's.
            failure = _failure(told.error, int(figure(told.error.get("status")) or 404))
            if failure.code == NO_SUCH:
                failure = msgspec.structs.replace(failure, message=_FORGOTTEN)
            return TaskRefused(failure) if failure.kind is not TransportError else NoAnswer(failure)
        match told.status:
            case "done":
                return _succeeded(told, response.body)
            case "failed" | "unsent":
                return _failed(told, response.body)
            case "later":
                return NoAnswer(Failure(TransportError, "The service had no room for it in its answer."))
        return Pending(clean(told.status), known=told.status in ("queued", "running"), waits=told.waits)

    def build_calling_off(self, task_ids: Sequence[str]) -> HttpRequest:
        """Write that no more is to be sent for these tasks; what was sent is made. Free to repeat."""
        return _request(CALLING_OFF, b"ids", list(map(_encode, task_ids)), "status")

    def join(self, requests: Sequence[HttpRequest]) -> Joined:
        """Make one of several calls, all to one path."""
        head = bytes(requests[0].body or b"").partition(b"[")[0] + b"["
        body, places = bytearray(head), []
        for request in requests:
            if len(body) > len(head):
                body += b","
            inner = memoryview(request.body or b"")[len(head) : -2]
            places.append((len(body), len(body) + len(inner)))
            body += inner
        body += b"]}"
        return Joined(msgspec.structs.replace(requests[0], body=body), tuple(places))

    def split(self, response: HttpResponse, count: int) -> list[HttpResponse]:
        """The answer to each of so many calls that went as one, as if each had gone by itself."""
        parts: list[msgspec.Raw] = []
        if response.status == 200:
            try:
                parts = _decode_group(response.body).tasks
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                parts = []
        if len(parts) != count:
            # Whatever it is, it is said to each of them.
            return [response] * count
        return [msgspec.structs.replace(response, body=bytes(part)) for part in parts]

    def read_ends(self, line: bytes) -> tuple[str, ...] | None:
        """The tasks that have ended by a line of the stream; None: any may have, and all are to be asked about."""
        if not line.startswith(b"data:"):
            return ()
        try:
            return _decode_ends(line[5:])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None


def _request(path: str, field: bytes, parts: Sequence[bytes], operation: Any) -> HttpRequest:
    return HttpRequest("POST", path, b'{"%b":[%b]}' % (field, b",".join(parts)), operation)


def _read(response: HttpResponse) -> TaskReport | None:
    """What a service says; None for what is not its word."""
    try:
        return _decode_report(response.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _refused(error: dict[str, Any], response: HttpResponse) -> Created:
    """What a refusal in the service's own words asks for next."""
    is_own = response.status == 200
    status = int(figure(error.get("status")) or 400) if is_own else response.status
    failure = _failure(error, status)
    wait = figure(error.get("retry_after")) if is_own else response.retry_after
    if error.get("code") == FAILED_BEFORE:
        return Rejected(failure, Remedy.RENEW)
    if status in _PASSING:
        return Rejected(failure, Remedy.REPEAT, wait)
    # By a fault of its own it may have it.
    if status >= 500 or error.get("code") == "fault":
        return Lost(failure, wait, is_named=True)
    if failure.is_a(AccountError, BudgetReached) or (failure.is_a(ConfigurationError) and not is_own):
        return Rejected(failure, Remedy.STOP)
    return Rejected(failure, Remedy.CLOSE_MODEL if failure.is_a(ModelUnavailable) else Remedy.FAIL)


_KINDS: dict[int, type[ImagenError]] = {
    401: AuthenticationError,
    402: BudgetReached,
    403: AccountError,
    404: ConfigurationError,
    405: ConfigurationError,
    429: RateLimited,
    503: TransportError,
}
"""What a refusal is that is none of the library's errors, by its status."""

_BY_CODE: dict[str, type[ImagenError]] = {
    "model_not_found": ModelUnavailable,
    "model_not_allowed": ModelUnavailable,
    NO_SUCH: InvalidRequest,
}


def _failure(error: dict[str, Any], status: int) -> Failure:
    """An error of a service as it would be if it had been met here."""
    kind, code, message = error.get("kind"), error.get("code"), error.get("message")
    if isinstance(kind, str):
        # Its own code is that of its provider; what the service calls it is for those who have no classes.
        found, own = kind_named(kind), error.get("provider_code")
    elif isinstance(code, str) and code in _BY_CODE:
        found, own = _BY_CODE[code], code
    else:
        found, own = _KINDS.get(status, InvalidRequest if status < 500 else TransportError), code
    task_id = error.get("id")
    return Failure(
        found,
        message if isinstance(message, str) and message else f"The service answered HTTP {status}.",
        code=own if isinstance(own, str | int) and not isinstance(own, bool) else None,
        task_id=task_id if isinstance(task_id, str) else None,
        credits=figure(error.get("may_have_cost")) if issubclass(found, UnknownOutcome) else None,
    )


def _not_its_word(response: HttpResponse) -> Created:
    """What an answer to a create means that is none of a service's."""
    status, said = response.status, clean(bytes(response.body[:200]).decode("utf-8", "replace"))
    if 300 <= status < 400:
        where = clean(response.location or "another address")
        message = f"The server redirects to {where}; the key follows no redirect. Set base_url to the service's address"
        return Rejected(Failure(ConfigurationError, f"{message}.", code=status), Remedy.STOP)
    if status in (404, 405):
        message = f"There is no service of this library at the base URL, or an older one: {said}"
        return Rejected(Failure(ConfigurationError, message, code=status), Remedy.STOP)
    if status in (401, 403, 407):
        kind = AuthenticationError if status == 401 else AccountError
        message = f"What stands before the service refuses this key or program: {said}"
        return Rejected(Failure(kind, message, code=status), Remedy.STOP)
    if status == 413:
        message = f"What stands before the service takes no body of this length: {said}"
        return Rejected(Failure(InvalidRequest, message, code=status), Remedy.FAIL)
    if status == 429:
        failure = Failure(RateLimited, f"What stands before the service refused for a rate limit: {said}", code=status)
        return Rejected(failure, Remedy.REPEAT, response.retry_after)
    message = f"An answer that is none of a service (HTTP {status}): {said}"
    return Lost(Failure(ProtocolError, message, code=status), response.retry_after, is_named=True)


def _no_status(told: TaskReport | None, response: HttpResponse) -> TaskStatus:
    """What an answer to a question means that tells nothing of the task."""
    status = response.status
    if told is not None and told.error is not None:
        failure = _failure(told.error, status)
        if status in (401, 403):
            return TaskRefused(failure)
    else:
        said = clean(bytes(response.body[:200]).decode("utf-8", "replace"))
        # Nothing of a service has come to see it, as far as anybody can tell.
        message = f"An answer that is none of a service (HTTP {status}): {said}"
        failure = Failure(TransportError, message, code=status, was_sent=False)
    return NoAnswer(failure, retry_after=response.retry_after)


def _succeeded(told: TaskReport, raw: bytes) -> Succeeded:
    ignored, model = tuple(map(clean, told.ignored)), clean(told.model or "")
    return Succeeded(told.urls, told.latency, told.credits, raw, ignored, told.text, model)


def _failed(told: TaskReport, raw: bytes) -> TaskFailed:
    failure = _failure(told.error or {}, 424) if told.error else _UNSENT if told.status == "unsent" else _UNTOLD
    # By its own id it is collected here, whatever its provider calls it.
    failure = msgspec.structs.replace(failure, task_id=None)
    is_unsent = told.status == "unsent" and not failure.is_a(InvalidRequest, ModelUnavailable, GenerationFailed)
    return TaskFailed(failure, 0.0 if told.status == "unsent" else told.credits, raw, is_unsent)


_FORGOTTEN = (
    "The service does not know this task, which it has taken: it runs on another folder, or the key is another "
    "caller's. Have it run on the folder that it had; a new task is paid for again."
)
_UNSENT = Failure(TransportError, "The service has not sent it, and nothing was billed.", was_sent=False)
_UNTOLD = Failure(GenerationFailed, "The service says that it failed, and not why.")
