"""The seam between the pure part and the network: plain requests, plain answers, and what an answer can mean."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from .._text import one_line
from ..errors import ProtocolError
from .failure import Failure
from .forgiving_json import NOT_JSON, forgiving

Operation = Literal["create", "status", "renewal", "credits", "models", "upload", "file"]
"""What an exchange is for; a `file` is fetched from anywhere, the others are calls to a provider's API."""


# gc=False here and below: what holds no cycle need not be looked at; with many alive that costs 22 µs a request.
class HttpRequest(msgspec.Struct, frozen=True, gc=False):
    """One call to a provider's API.

    Attributes:
        method: GET or POST.
        path: Path and query below the account's base URL, percent-encoded, starting with `/`.
        body: Bytes, or None for none; as a bytearray of one that is put together, it may change until it leaves.
        operation: What it is for.
        media_type: Of the body.
    """

    method: str
    path: str
    body: bytes | bytearray | None = None
    operation: Operation = "status"
    media_type: str = "application/json"


class HttpResponse(msgspec.Struct, frozen=True, gc=False):
    """One answer, its body bounded by the shell.

    Attributes:
        status: HTTP status.
        body: The whole body, undecoded.
        retry_after: Seconds for which it asks to be left alone, or None.
        location: Where a redirect points (it is never followed), or None.
        headers: All of its headers, their names in any case.
    """

    status: int
    body: bytes
    retry_after: float | None = None
    location: str | None = None
    headers: Mapping[str, str] = {}


class Remedy(enum.Enum):
    """What a refused create asks for next."""

    FAIL = "this item fails"
    NEW_TASK = "this item fails, or is asked for again where the caller wants retries"
    CLOSE_MODEL = "this item and the others of its model fail"
    STOP = "the account stops; its items were not sent"
    BACK_OFF = "send again after a full window"
    PAUSE = "send again, slowly"
    REPEAT = "send the same again, slowly, by its name"
    RENEW = "what its name stands for has failed: send it for a new task"


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """A create that made a task.

    Attributes:
        task_id: Its id.
        field: The field that names it, where that is not `taskId`; else empty.
        is_named: True where the create has a name by which it is known: an earlier one of that name whose answer was
            lost has made no other task.
        waits: True while the task's own time has not begun: it waits for its turn where it is.
    """

    task_id: str
    field: str = ""
    is_named: bool = False
    waits: bool = False


class Rejected(msgspec.Struct, frozen=True):
    """A create that the provider refused: no task exists.

    Attributes:
        failure: What to tell the caller.
        remedy: What it means for the item and its account.
        retry_after: The provider's own delay in seconds, or None.
        callback_wait: As in Lost, for the create before this one, where that was lost.
    """

    failure: Failure
    remedy: Remedy
    retry_after: float | None = None
    callback_wait: float = 0.0


class ConnectFailed(msgspec.Struct, frozen=True):
    """A create that found no connection, so that no byte of it left: nothing happened."""

    failure: Failure


class Lost(msgspec.Struct, frozen=True):
    """A create that was sent and has no usable answer: the task may exist and be billed.

    Attributes:
        failure: What came in the answer's place.
        retry_after: The provider's own delay in seconds, or None.
        callback_wait: Seconds for which a callback may yet tell of the task; 0: none will. Known to the plan alone.
        is_named: True where the create has a name by which it is known: sent again, it makes no second task.
    """

    failure: Failure
    retry_after: float | None = None
    callback_wait: float = 0.0
    is_named: bool = False


Created = Accepted | Rejected | ConnectFailed | Lost


class Pending(msgspec.Struct, frozen=True, gc=False):
    """The task waits or runs.

    Attributes:
        state: The provider's word.
        known: False for a word that is in no documentation.
        waits: As in Accepted.
    """

    state: str
    known: bool = True
    waits: bool = False


class Succeeded(msgspec.Struct, frozen=True, gc=False):
    """The pictures are there.

    Attributes:
        urls: Sometimes more than were asked for; none where the result is one of words alone.
        latency: Seconds from creation to completion by the provider's clock, or None where it tells none.
        credits: What the provider says it billed, or None.
        raw: The answer's body.
        ignored: Fields of the input that it has dropped, or changed, as far as it tells.
        text: What it is where it is one of words alone, as JSON.
        model: Our name of the model that has made it, where a service tells it; else empty.
    """

    urls: tuple[str, ...]
    latency: float | None
    credits: float | None
    raw: bytes
    ignored: tuple[str, ...] = ()
    text: str = ""
    model: str = ""


class TaskFailed(msgspec.Struct, frozen=True):
    """The task ended without a picture.

    Attributes:
        failure: Why.
        credits: What the provider says it billed, or None.
        raw: The answer's body.
        is_unsent: True where nothing has come of it, and nothing will, by a service's word: it may be sent again.
    """

    failure: Failure
    credits: float | None
    raw: bytes
    is_unsent: bool = False


class LinksMissing(msgspec.Struct, frozen=True):
    """The task has succeeded, and no link to a picture is told: perhaps not yet.

    Attributes:
        outcome: What it comes to where none is told later either. It may have been billed.
    """

    outcome: TaskFailed


class TaskRefused(msgspec.Struct, frozen=True):
    """The provider refuses to tell: no such task, wrong key. Transient just after creation, else final."""

    failure: Failure


class NoAnswer(msgspec.Struct, frozen=True):
    """Nothing was learned; ask again.

    Attributes:
        failure: Why.
        limited: True when the status limit was the reason.
        retry_after: The provider's own delay in seconds, or None.
    """

    failure: Failure
    limited: bool = False
    retry_after: float | None = None


Told = Pending | Succeeded | LinksMissing | TaskFailed
"""What the provider says of a task that it knows."""

TaskStatus = Told | TaskRefused | NoAnswer


_LONGEST_WORDS = 500


def clean(text: str) -> str:
    """Make a server's words safe to print: one line, nothing in it that is not seen, at most 500 characters."""
    # Cut twice: what is escaped is longer, and a body may be of megabytes.
    return one_line(text[: 2 * _LONGEST_WORDS]).strip()[:_LONGEST_WORDS]


_decode_json = forgiving(msgspec.json.Decoder().decode)


def decode_json(body: bytes | str) -> Any:
    """Decode JSON of any shape, or what is nearly JSON; raises ProtocolError for what is neither."""
    try:
        return _decode_json(body)
    except NOT_JSON as error:
        raise ProtocolError(f"The answer is not JSON: {error}") from None


def loose_json(text: str | bytes) -> Any:
    """Decode JSON; None for what is none."""
    try:
        return decode_json(text)
    except ProtocolError:
        return None
