"""Every error of the package, in one tree sorted by what the caller can do about it.

ImagenError
├── ConfigurationError        set the client up differently: a key, a base URL, a setting
├── InvalidRequest            change this request
├── ModelUnavailable          choose another model or another provider
├── AccountError              the account takes nothing: look at it with the provider
│   ├── AuthenticationError       give the right key
│   └── InsufficientCredits       top up, or raise the key's own cap
├── BudgetReached             raise `max_credits`, or leave the rest
├── RateLimited               wait; the library does so by itself
├── GenerationFailed          ask for a new picture, or change the prompt
├── UnknownOutcome            a create whose answer was lost: look before paying again
├── DeadlineExceeded          collect the task later, by its task id
├── TransportError            try again when the network is back
├── ProtocolError             the server answered what nobody understands: report it
├── DownloadFailed            the picture exists and is paid for: fetch its URL again
└── JournalError              the file that remembers a batch cannot be used
"""

from __future__ import annotations

from typing import Any

from ._text import one_line, shown

__all__ = [
    "AccountError",
    "AuthenticationError",
    "BudgetReached",
    "ConfigurationError",
    "DeadlineExceeded",
    "DownloadFailed",
    "GenerationFailed",
    "ImagenError",
    "InsufficientCredits",
    "InvalidRequest",
    "JournalError",
    "ModelUnavailable",
    "ProtocolError",
    "RateLimited",
    "TransportError",
    "UnknownOutcome",
]


_LONGEST = 8_000
"""Characters of a message: what a library quotes, or a program says, may be a whole file."""


class ImagenError(Exception):
    """Something that this library has to say; the root of the tree.

    Attributes:
        message: What happened and what to do, one sentence or two, without the key.
        provider: Name of the provider or account concerned, or None.
        task_id: The provider's task, when one is known to exist; `Client.collect` takes it.
        code: The provider's own code, a number or a word, or None.
        status: HTTP status of the answer that told of it, or of the last before it was given up; None: no answer came.
        request_id: What the provider, or the edge before it, calls that request: its support finds it by this. From
            the answer's headers (`X-Request-Id`, `CF-Ray`, `traceparent` and their like) or its body; or None.
        at: When that answer came, or was given up, in Unix seconds by this machine's clock; or None.
    """

    def __init__(
        self,
        message: str,
        *,
        provider: str | None = None,
        task_id: str | None = None,
        code: int | str | None = None,
    ) -> None:
        # Whatever it quotes: an error is shown as it is, on a terminal and in a log.
        message = one_line(shown(message, _LONGEST))
        super().__init__(message)
        self.message = message
        self.provider = provider
        self.task_id = task_id
        self.code = code
        self.status: int | None = None
        self.request_id: str | None = None
        self.at: float | None = None

    def __str__(self) -> str:
        context = {"provider": self.provider, "task": self.task_id, "code": self.code, "request": self.request_id}
        # What the code says already, or that all was well with the way, is left out.
        if self.status not in (None, 200, self.code):
            context["HTTP"] = self.status
        named = ", ".join(f"{name} {one_line(str(value))}" for name, value in context.items() if value is not None)
        return f"{self.message} [{named}]" if named else self.message


class ConfigurationError(ImagenError):
    """The client cannot work as it was set up; raised before anything is sent."""


class InvalidRequest(ImagenError):
    """The request is wrong for its model, by our check or by the provider's answer; nothing was created."""


class ModelUnavailable(ImagenError):
    """The provider does not serve this model, any more or to this key; nothing was created."""


class AccountError(ImagenError):
    """The account takes nothing more for now; nothing was created."""


class AuthenticationError(AccountError):
    """The provider refuses the key."""


class InsufficientCredits(AccountError):
    """The account, or the key's own cap, is used up."""


class BudgetReached(ImagenError):
    """The batch may spend no more: `max_credits`. What is left was not sent, and a journal keeps it."""


class RateLimited(ImagenError):
    """The provider refused for going over a limit; nothing was created and nothing queued there."""


class GenerationFailed(ImagenError):
    """The provider took the task and could not make the picture."""


class UnknownOutcome(ImagenError):
    """A create was sent and its answer was lost: the task may exist and may be billed. Never sent again by itself.

    Attributes:
        credits: What it may have cost, or None where the price is unknown.
    """

    def __init__(
        self,
        message: str,
        *,
        credits: float | None = None,
        provider: str | None = None,
        task_id: str | None = None,
        code: int | str | None = None,
    ) -> None:
        super().__init__(message, provider=provider, task_id=task_id, code=code)
        self.credits = credits


class DeadlineExceeded(ImagenError):
    """The time for this job ran out. With a task id the task may still finish: collect it. Without, none exists."""


class TransportError(ImagenError):
    """The network or the server's connection failed.

    Attributes:
        sent: False when it is certain that no byte of the request left this machine.
    """

    def __init__(
        self,
        message: str,
        *,
        sent: bool = True,
        provider: str | None = None,
        task_id: str | None = None,
        code: int | str | None = None,
    ) -> None:
        super().__init__(message, provider=provider, task_id=task_id, code=code)
        self.sent = sent


class ProtocolError(ImagenError):
    """The server's answer does not fit its protocol: too long, not JSON, of a wrong shape."""


class DownloadFailed(ImagenError):
    """A finished picture could not be fetched or written; its URL is on the result.

    Attributes:
        local: True when this machine's disk or folder is the reason, so that the next picture would fail too.
        gone: True when the host of the files does not have it (any more): links die.
        files: Pictures of the same request that were saved before it failed.
    """

    def __init__(
        self,
        message: str,
        *,
        local: bool = False,
        gone: bool = False,
        files: tuple[Any, ...] = (),
        provider: str | None = None,
        task_id: str | None = None,
        code: int | str | None = None,
    ) -> None:
        super().__init__(message, provider=provider, task_id=task_id, code=code)
        self.local = local
        self.gone = gone
        self.files = files


class JournalError(ImagenError):
    """The journal of a batch cannot be read or written; what it could not note was not sent."""
