"""Who of several processes lives: each that works on a file with others holds a place in a file beside it.

A place is a byte that is locked by the open file, so that it is free with its process, however that ended. A number
alone would come again with the next process, so each has a word of its own beside it.
"""

from __future__ import annotations

import contextlib
import os
import secrets

from ._held_file import HeldFile, Span

PLACES = 4096
"""Processes that may hold a place at once."""

_RECORD = 64
_WORD = 16
_PID = 16
_SAID = 32
"""Bytes of a place's record: a word, a process's number, and what that says of itself."""

_LOCKS = 0x40001000
"""Where the bytes lie that are locked, one a place: far behind all that is written."""


class Roster:
    """One process's place in the file.

    Args:
        path: The file's, made if missing; it holds nothing else.

    Attributes:
        name: What it is called there: no other place has had that name, nor will have it.

    Raises:
        OSError: The file cannot be used; or its locks are not the open file's, so that nobody could tell who lives.
    """

    def __init__(self, path: str) -> None:
        with contextlib.ExitStack() as stack:
            self._file = stack.enter_context(contextlib.closing(HeldFile(path, is_made=True)))
            self._number = self._taken()
            word = secrets.token_hex(_WORD // 2)
            self._file.write_at(self._number * _RECORD, f"{word}{os.getpid():<{_PID}}".encode() + bytes(_SAID))
            self.name: str = f"{self._number}-{word}"
            stack.pop_all()

    def _taken(self) -> int:
        for number in range(PLACES):
            if self._file.lock(Span(_LOCKS + number, 1), alone=True):
                break
        else:
            raise OSError(f"{PLACES} processes have a place there, and that is all that there are")
        if not self._file.is_owner:
            raise OSError("its file system, or this system, has no locks of open files")
        return number

    def is_in_place(self) -> bool:
        """True while the file is the one that others would find."""
        return self._file.is_in_place()

    def is_alive(self, name: str) -> bool:
        """True while the process runs that has the place of that name. Raises OSError."""
        if name == self.name:
            return True
        number, word = _read(name)
        is_locked = 0 <= number < PLACES and self._file.is_locked(Span(_LOCKS + number, 1))
        # Its word is written once the place is had: what stands there before is of one that is dead.
        return bool(is_locked) and self._file.read_at(number * _RECORD, _WORD) == word

    def pid(self, name: str) -> int | None:
        """The number of the process that has, or had, a place; None once the place is another's. For messages alone."""
        record = self._record(name)
        return int(record[_WORD : _WORD + _PID]) if record else None

    def say(self, content: bytes, start: int = 0) -> None:
        """Say something of itself, in 32 bytes, which others read also after its death. Raises OSError."""
        assert start + len(content) <= _SAID
        self._file.write_at(self._number * _RECORD + _WORD + _PID + start, content)

    def said(self, name: str) -> bytes | None:
        """What was said at a place last; None once the place is another's. Raises OSError."""
        record = self._record(name)
        return record[_WORD + _PID :] if record else None

    def close(self) -> None:
        """Give the place up; once more, or in a fork of its process, is nothing."""
        self._file.close()

    def _record(self, name: str) -> bytes:
        number, word = _read(name)
        record = self._file.read_at(number * _RECORD, _RECORD) if 0 <= number < PLACES else b""
        return record if len(record) == _RECORD and record.startswith(word) else b""


def is_anybody_in(path: str) -> bool:
    """True while any process has a place in the file; raises OSError where nobody can tell."""
    with contextlib.closing(HeldFile(path)) as file:
        is_locked = file.is_locked(Span(_LOCKS, PLACES))
    if is_locked is None:
        raise OSError(f"{path}: its file system, or this system, has no locks of open files")
    return is_locked


def _read(name: str) -> tuple[int, bytes]:
    number, _, word = name.partition("-")
    return (int(number), word.encode()) if number.isdecimal() and len(word) == _WORD else (-1, b"")
