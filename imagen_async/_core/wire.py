"""The seam between the pure part and the network: plain requests, plain answers, and what an answer can mean."""

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

from ..errors import ImagenError, ProtocolError

if TYPE_CHECKING:
    from .provider import Model
    from .values import ImageRequest


Operation = Literal["create", "status", "renewal", "credits", "file"]
"""What an exchange is for; a `file` is fetched from anywhere, the others are calls to a provider's API."""


class HttpRequest(msgspec.Struct, frozen=True, gc=False):
    """One call to a provider's API.

    Attributes:
        method: GET or POST.
        path: Path and query below the account's base URL, percent-encoded, starting with `/`.
        body: JSON bytes, or None for none.
        call: What it is for.
    """

    method: str
    path: str
    body: bytes | None = None
    operation: Operation = "status"


class HttpResponse(msgspec.Struct, frozen=True, gc=False):
    """One answer, its body bounded by the shell.

    Attributes:
        status: HTTP status.
        body: The whole body, undecoded.
        retry_after: The Retry-After header in seconds, or None.
        location: Where a redirect points (it is never followed), or None.
    """

    status: int
    body: bytes
    retry_after: float | None = None
    location: str | None = None


class Remedy(enum.Enum):
    """What a refused create asks for next."""

    FAIL = "this item fails"
    NEW_TASK = "this item fails, or is asked for again where the caller wants retries"
    CLOSE_MODEL = "this item and the others of its model fail"
    STOP = "the account stops; its items were not sent"
    BACK_OFF = "send again after a full window"
    PAUSE = "send again, slowly"


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """A create that made a task."""

    task_id: str


class Rejected(msgspec.Struct, frozen=True):
    """A create that the provider refused: no task exists.

    Attributes:
        error: What to tell the caller.
        remedy: What it means for the item and its account.
        retry_after: The provider's own delay in seconds, or None.
    """

    error: ImagenError
    remedy: Remedy
    retry_after: float | None = None


class ConnectFailed(msgspec.Struct, frozen=True):
    """A create of which no byte left: nothing happened."""

    error: ImagenError


class Lost(msgspec.Struct, frozen=True):
    """A create that was sent and has no usable answer: the task may exist and be billed."""

    error: ImagenError


Created = Accepted | Rejected | ConnectFailed | Lost


class Pending(msgspec.Struct, frozen=True, gc=False):
    """The task waits or runs.

    Attributes:
        state: The provider's word.
        known: False for a word that is in no documentation.
    """

    state: str
    known: bool = True


class Succeeded(msgspec.Struct, frozen=True, gc=False):
    """The pictures are there.

    Attributes:
        urls: At least one, sometimes more than were asked for.
        latency: Seconds from creation to completion by the provider's clock, or None where it tells none.
        credits: What the provider says it billed, or None.
        raw: The answer's body.
    """

    urls: tuple[str, ...]
    latency: float | None
    credits: float | None
    raw: bytes


class TaskFailed(msgspec.Struct, frozen=True):
    """The task ended without a picture.

    Attributes:
        error: Why.
        credits: What the provider says it billed, or None.
        raw: The answer's body.
    """

    error: ImagenError
    credits: float | None
    raw: bytes


class TaskRefused(msgspec.Struct, frozen=True):
    """The provider refuses to tell: no such task, wrong key. Transient just after creation, else final."""

    error: ImagenError


class NoAnswer(msgspec.Struct, frozen=True):
    """Nothing was learned; ask again.

    Attributes:
        error: Why.
        limited: True when the status limit was the reason.
        retry_after: The provider's own delay in seconds, or None.
    """

    error: ImagenError
    limited: bool = False
    retry_after: float | None = None


TaskStatus = Pending | Succeeded | TaskFailed | TaskRefused | NoAnswer


class Dialect(Protocol):
    """How one kind of API talks. Each method is pure; the `read_…` ones raise nothing but ProtocolError and its kin."""

    @property
    def takes_raw_models(self) -> bool:
        """True where any model of the API may be named, with unchecked input."""

    def build_create(self, request: ImageRequest, model: Model, callback_url: str | None = None) -> HttpRequest:
        """Write the create for a request that was checked against `model`; its end is to be announced at the URL."""

    def read_created(self, response: HttpResponse) -> Created:
        """Say what became of a create."""

    def build_status(self, task_id: str) -> HttpRequest:
        """Write the question for a task's state; free to repeat."""

    def read_status(self, response: HttpResponse) -> TaskStatus:
        """Say how a task stands."""

    def build_renewal(self, url: str) -> HttpRequest | None:
        """Write the question for a new link to a picture whose link died, or None where the API has none; free."""

    def read_renewal(self, response: HttpResponse) -> str:
        """Read the new link; raises DownloadFailed, `gone` where the provider does not have the picture any more."""

    def build_credits(self) -> HttpRequest | None:
        """Write the question for the balance, or None where the API has no such question."""

    def read_credits(self, response: HttpResponse) -> float:
        """Read the balance; raises ImagenError when the answer holds none."""


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


def clean(text: str) -> str:
    """Make a server's words safe to print: one line, no control characters, at most 500 characters."""
    return (text if text.isprintable() else _CONTROL.sub(" ", text)).strip()[:500]


NOT_JSON = (msgspec.DecodeError, UnicodeError, RecursionError)
"""What a decoder raises for bytes that somebody else wrote."""

_decode_json = msgspec.json.Decoder().decode


def decode_json(body: bytes | str) -> Any:
    """Decode JSON of any shape; raises ProtocolError for what is not JSON."""
    try:
        return _decode_json(body)
    except NOT_JSON as error:
        raise ProtocolError(f"The answer is not JSON: {error}") from None
