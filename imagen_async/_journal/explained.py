"""What SQLite's errors mean for whoever has a journal, in words that say what to do."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from types import TracebackType

import msgspec

from .._core.failure import Failure
from .._sqlite import code_of
from ..errors import ImagenError, JournalError


class Locked(JournalError):
    """Another program is writing; nothing was changed, and the same call may succeed soon."""


class explained:
    """Turn the errors of a block that is about this file into ours."""

    __slots__ = ("_path",)

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        """Begin the block: each row that is read is one."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ours = None if error is None else _ours(self._path, error)
        if ours is not None:
            raise ours from error


def _ours(path: str, error: BaseException) -> JournalError | None:
    match error:
        case sqlite3.Error():
            kind = Locked if code_of(error).startswith("SQLITE_BUSY") else JournalError
            return kind(_explanation(path, error))
        case msgspec.MsgspecError():
            return JournalError(damaged(path, str(error)))
        case FileNotFoundError() | PermissionError() | IsADirectoryError():
            return JournalError(_unwritable(path, error.strerror))
        case OSError():
            return JournalError(f"{path} cannot be used: {error.strerror or error}. Nothing was sent.")
        case UnicodeError():
            return JournalError(f"{path!r} cannot be used: its name is not UTF-8. Nothing was sent.")
    return None


@contextlib.contextmanager
def about_values() -> Iterator[None]:
    """Turn the errors of a block into ValueErrors where they are about what is to be stored, and not about the file."""
    try:
        yield
    except (sqlite3.DataError, sqlite3.InterfaceError, sqlite3.ProgrammingError) as error:
        raise ValueError(str(error)) from error
    except (UnicodeError, OverflowError) as error:
        raise ValueError(str(error)) from error


def told(error: BaseException) -> ImagenError:
    """What a user hears of an error of a store, which may be one of the user's own: an error of the tree."""
    if isinstance(error, ImagenError):
        return Failure.of(error).exception()
    return JournalError(f"The journal broke: {str(error) or type(error).__name__}")


def damaged(path: str, how: str) -> str:
    """Say that a file was a journal and is broken."""
    return (
        f"{path} is damaged ({how}). Nothing was sent. Restore it from a copy, or look at what it still tells with "
        "sqlite3; a batch without it would pay again for what it knew."
    )


def _explanation(path: str, error: sqlite3.Error) -> str:
    code = code_of(error)
    # Whoever has given a list of prompts by mistake is not to be told that a journal is damaged.
    if code == "SQLITE_NOTADB":
        return (
            f"{path} is no journal ({error}). Nothing was sent. Choose another file; where it was one, restore it: a "
            "batch without it would pay again for what it knew."
        )
    if code == "SQLITE_FORMAT" or code.startswith("SQLITE_CORRUPT"):
        return damaged(path, str(error))
    if code == "SQLITE_FULL" or code.startswith("SQLITE_IOERR"):
        return f"The disk of {path} is full or fails ({error}). What could not be noted was not sent. Make room first."
    if code.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM")):
        return _unwritable(path, error)
    if code.startswith("SQLITE_BUSY"):
        return f"{path} is locked by another program ({error}). Close that first."
    return f"{path} cannot be used: {error}."


def _unwritable(path: str, why: object) -> str:
    return f"{path} cannot be written ({why}). Nothing was sent. Mend its folder, or choose another."
