"""File handles, of which a process has few: where none is left for a file or a connection, one is waited for."""

from __future__ import annotations

import errno
import functools
import logging
import os
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

import anyio

from ._watch.log import log
from .errors import TransportError

P = ParamSpec("P")
T = TypeVar("T")

_PAUSE = 0.1
"""Seconds between two tries: handles come back as connections and files are closed."""

_NONE_LEFT = frozenset({errno.EMFILE, errno.ENFILE})

_waiting: set[object] = set()
"""Who waits now: that is said once, however many do."""


class NoHandleLeft(TransportError):
    """No connection could be opened, for want of a handle: no byte has left, and no network is to blame."""


def is_for_want_of_a_handle(error: BaseException) -> bool:
    """True where this process, or its machine, has too many files open for what was to be done."""
    return isinstance(error, NoHandleLeft) or (isinstance(error, OSError) and error.errno in _NONE_LEFT)


def is_none_left() -> bool:
    """Try to open a file: a name that cannot be looked up for want of a handle is told as one that is not known."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno in _NONE_LEFT
    return False


def waits_for_handles(act: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """Do again what could not be done for want of a handle, until there is one. For what is safe to begin anew."""

    @functools.wraps(act)
    async def wait_and_act(*args: P.args, **kwargs: P.kwargs) -> T:
        me = object()
        try:
            while True:
                try:
                    return await act(*args, **kwargs)
                except (OSError, NoHandleLeft) as error:
                    if not is_for_want_of_a_handle(error):
                        raise
                if not _waiting:
                    log(logging.WARNING, "no file handle is left; one is waited for (`ulimit -n` allows more)")
                _waiting.add(me)
                await anyio.sleep(_PAUSE)
        finally:
            _waiting.discard(me)

    return wait_and_act


def connections_within(wanted: int, sessions: int) -> int:
    """How many connections each session may have, so that all of them and their files find handles.

    Args:
        wanted: By the settings.
        sessions: Those with a key; the one for files needs as many again, and a file for each.
    """
    try:
        import resource  # only here: there is none on Windows, nor such a limit

        allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        free = allowed - len(os.listdir("/dev/fd"))
    except (ImportError, OSError):
        return wanted
    # All of them are idle at times, and stay open then: what is left is for the journal and the program itself.
    share = free // (sessions + 3)
    return wanted if allowed < 0 else max(2, min(wanted, share))
