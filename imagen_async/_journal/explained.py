"""What SQLite's errors mean for whoever has a journal, in words that say what to do."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator

import msgspec

from .._core.failure import Failure
from ..errors import ImagenError, JournalError


class Locked(JournalError):
    """Another program is writing; nothing was changed, and the same call may succeed soon."""


@contextlib.contextmanager
def explained(path: str) -> Iterator[None]:
    """Turn the errors of a block that is about this file into ours."""
    try:
        yield
    except sqlite3.Error as error:
        kind = Locked if code_of(error).startswith("SQLITE_BUSY") else JournalError
        raise kind(_explanation(path, error)) from error
    except msgspec.MsgspecError as error:
        raise JournalError(damaged(path, str(error))) from error
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise JournalError(_unwritable(path, error.strerror)) from error
    except OSError as error:
        raise JournalError(f"{path} cannot be used: {error.strerror or error}. Nothing was sent.") from error
    except UnicodeError as error:
        raise JournalError(f"{path!r} cannot be used: its name is not UTF-8. Nothing was sent.") from error


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


def code_of(error: sqlite3.Error) -> str:
    """SQLite's name of an error; nothing where Python's own module raised it."""
    return getattr(error, "sqlite_errorname", "")


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
