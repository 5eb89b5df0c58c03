"""What went wrong, as a value that travels: from an answer to a job's state, its journal entry and its result.

An exception is no value: raising it writes a traceback into it, and whoever holds it can change what others see. So
only what is raised is one, and `Failure.exception` makes it, anew for each that raises.
"""

from __future__ import annotations

from typing import Any

import msgspec

from .. import errors
from .._text import well_formed
from ..errors import DownloadFailed, ImagenError, TransportError, UnknownOutcome


class Failure(msgspec.Struct, frozen=True):
    """Why something did not come to what was asked for.

    Attributes:
        kind: Its class in the tree of errors.
        message: What happened and what to do, without the key.
        code: The provider's own code, a number or a word, or None.
        status: HTTP status of the answer that told it, or None. As the two below that of its cause, if it has none.
        request_id: What the provider calls the request, or None.
        at: When that was, in Unix seconds, or None.
        account: The account concerned, or None.
        task_id: The provider's task, when one is known to exist.
        credits: Of an UnknownOutcome: what it may have cost; None: unknown.
        cause: What led to it, or None.
        was_sent: Of a TransportError: False when it is certain that no byte of the request left this machine.
        is_local: Of a DownloadFailed: True when this machine's disk or folder is the reason.
        is_gone: Of a DownloadFailed: True when the host of the files does not have it (any more).
    """

    kind: type[ImagenError]
    message: str
    code: int | str | None = None
    account: str | None = None
    task_id: str | None = None
    credits: float | None = None
    cause: Failure | None = None
    was_sent: bool = True
    is_local: bool = False
    is_gone: bool = False
    status: int | None = None
    request_id: str | None = None
    at: float | None = None

    def __post_init__(self) -> None:
        # Here, where every error passes on its way to a journal, a list or a screen: whatever its words were made of.
        msgspec.structs.force_setattr(self, "message", well_formed(self.message))
        if isinstance(self.code, str):
            msgspec.structs.force_setattr(self, "code", well_formed(self.code))
        if self.cause is not None and self.at is None:
            for name in ("status", "request_id", "at"):
                msgspec.structs.force_setattr(self, name, getattr(self.cause, name))

    @staticmethod
    def of(error: ImagenError) -> Failure:
        """The value of an error that was raised."""
        return Failure(
            kind=_public_kind(error),
            message=error.message,
            code=error.code,
            account=error.provider,
            task_id=error.task_id,
            credits=error.credits if isinstance(error, UnknownOutcome) else None,
            # Only causes of the tree: any other may hold what nobody is to see, such as the key.
            cause=Failure.of(error.__cause__) if isinstance(error.__cause__, ImagenError) else None,
            was_sent=error.sent if isinstance(error, TransportError) else True,
            is_local=isinstance(error, DownloadFailed) and error.local,
            is_gone=isinstance(error, DownloadFailed) and error.gone,
            status=error.status,
            request_id=error.request_id,
            at=error.at,
        )

    def is_a(self, *kinds: type[ImagenError]) -> bool:
        """True where an `except` of one of these kinds would catch it."""
        return issubclass(self.kind, kinds)

    def about(self, *, account: str | None = None, task_id: str | None = None) -> Failure:
        """The same, with what the place that it came from could not know; what is set already stays."""
        if self.account is not None and (task_id is None or self.task_id is not None):
            return self
        return msgspec.structs.replace(self, account=self.account or account, task_id=self.task_id or task_id)

    def exception(self, files: tuple[Any, ...] = ()) -> ImagenError:
        """Make the error to raise, or to show a user: one of its own each time.

        Args:
            files: Of a DownloadFailed, the pictures that were saved before it.
        """
        # Nobody writes the keywords that a kind does not have: they are those of its own class.
        error = self.kind(
            self.message, provider=self.account, task_id=self.task_id, code=self.code, **self._details(files)
        )
        error.status, error.request_id, error.at = self.status, self.request_id, self.at
        if self.cause is not None:
            error.__cause__ = self.cause.exception()
        return error

    def _details(self, files: tuple[Any, ...]) -> dict[str, Any]:
        if self.is_a(UnknownOutcome):
            return {"credits": self.credits}
        if self.is_a(TransportError):
            return {"sent": self.was_sent}
        if self.is_a(DownloadFailed):
            return {"local": self.is_local, "gone": self.is_gone, "files": files}
        return {}


def _public_kind(error: ImagenError) -> type[ImagenError]:
    """The kind of the tree: a room may raise one of its own below it, which nobody outside knows."""
    return next(
        kind for kind in type(error).__mro__ if kind.__name__ in errors.__all__ and issubclass(kind, ImagenError)
    )


def kind_named(name: str) -> type[ImagenError]:
    """The kind of that name; the root of the tree for one that this version does not have."""
    kind: type[ImagenError] = getattr(errors, name) if name in errors.__all__ else ImagenError
    return kind
