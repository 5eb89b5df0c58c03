"""What the command writes to: nothing that is shown, and nobody who does not look, can end or hold up what is paid for.

A stream is written by a thread: a reader that stands still, as a pager or a terminal after Ctrl-S, stops the thread and
not the event loop. A stream that fails is remembered as failed, and takes what comes then without a word.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import threading
from collections import deque
from typing import Any

AT_MOST = 1 << 20
"""Bytes that wait to be written before whoever writes waits too, and bytes kept of what could not be written."""

PATIENCE = 2.0
"""Seconds for which messages wait for somebody to take them; then they are dropped. Data waits for as long as it takes.
"""

_LAST_PLACE = 2
"""The number of stderr, after those of stdin and stdout."""


class _Pen:
    """The thread that writes to one file, in the order of the asking, whichever descriptors lead there."""

    def __init__(self) -> None:
        self.size = 0
        self._pieces: deque[tuple[_Descriptor, bytes]] = deque()
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None

    def put(self, descriptor: _Descriptor, data: bytes, patience: float | None) -> None:
        """Have something written; waits for room so long, then drops it."""
        with self._change:
            if not self._has_begun():
                descriptor.write_now(data)
            elif self._is_below(AT_MOST, patience):
                self._pieces.append((descriptor, data))
                self.size += len(data)
                self._change.notify_all()

    def finish(self, patience: float | None) -> None:
        """Wait until all is written, or until so long nothing has been."""
        with self._change:
            self._is_below(1, patience)

    def _is_below(self, size: int, patience: float | None) -> bool:
        """Wait until less is waiting; False where nothing moves for so long."""
        while (before := self.size) >= size:
            if not self._change.wait_for(lambda: self.size < before, patience):
                return False
        return True

    def _has_begun(self) -> bool:
        """Start the thread where there is none yet; False where none can be started."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="imagen-terminal", daemon=True)
            with contextlib.suppress(RuntimeError):
                thread.start()
                self._thread = thread
        return self._thread is not None

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._pieces)
                descriptor, data = self._pieces.popleft()
            descriptor.write_now(data)
            with self._change:
                self.size -= len(data)
                self._change.notify_all()


class _Descriptor(io.RawIOBase):
    """A raw stream that a pen writes to.

    Attributes:
        pen: Does the writing.
        failure: Why nothing more is written; None while all is well.
        unwritten: What could not be, as far as there is room for it.
    """

    def __init__(self, raw: io.RawIOBase, pen: _Pen, patience: float | None) -> None:
        self.pen = pen
        self.failure: OSError | None = None
        self.unwritten = bytearray()
        self._raw = raw
        self._patience = patience

    def writable(self) -> bool:
        """True: that is what it is for."""
        return True

    def fileno(self) -> int:
        """Its number."""
        return self._raw.fileno()

    def isatty(self) -> bool:
        """True for a terminal."""
        return self._raw.isatty()

    def write(self, data: Any) -> int:
        """Have it written, or dropped: to whoever prints, it is done."""
        self.pen.put(self, bytes(data), self._patience)
        return len(data)

    def write_now(self, data: bytes) -> None:
        """Write it; what cannot be written is kept, as far as there is room for it."""
        rest = memoryview(data)
        try:
            while rest and self.failure is None:
                taken = self._raw.write(rest)
                if taken is None:  # somebody made it non-blocking for all who have it, as ssh does
                    select.select([], [self], [], PATIENCE)
                rest = rest[taken or 0 :]
        except OSError as error:
            self.failure = error
        self.unwritten += rest[: AT_MOST - len(self.unwritten)]

    def finish(self, patience: float | None) -> None:
        """Wait until it is written, or until so long nothing has been."""
        self.pen.finish(self._patience if patience is None else patience)


class Lasting(io.TextIOWrapper):
    """A stream that takes whatever is printed, whatever has become of its file.

    Args:
        stream: What is written to.
        pen: Writes to its file.
        patience: Seconds that a text waits for whoever reads it, before it is dropped; None: as long as it takes.

    Attributes:
        descriptor: Knows what has become of what was printed.
    """

    def __init__(self, stream: io.TextIOWrapper, pen: _Pen, patience: float | None) -> None:
        raw: Any = getattr(stream.buffer, "raw", stream.buffer)  # without a buffer where Python was asked for none
        self.descriptor = _Descriptor(raw, pen, patience)
        # Forgotten, it would close its file.
        self._stream = stream
        buffer = io.BufferedWriter(self.descriptor)
        super().__init__(buffer, stream.encoding, "backslashreplace", line_buffering=stream.line_buffering)


def hold_places() -> None:
    """Put nothing in the places of stdin, stdout and stderr that whoever started us has closed.

    Else the next thing opened has one: a journal or a picture, that gets what is written to stderr, or a socket, on
    whose closing uvloop aborts the process.
    """
    with contextlib.suppress(OSError):
        while (place := os.open(os.devnull, os.O_RDWR)) <= _LAST_PLACE:
            pass
        os.close(place)


def lasting(out: Any, messages: Any) -> tuple[Any, Any]:
    """Streams in the place of stdout and stderr, to which also a prompt may be written that their encoding lacks."""
    pen = _Pen()
    is_one = _file_of(out) is not None and _file_of(out) == _file_of(messages)
    return _lasting(out, pen, None), _lasting(messages, pen if is_one else _Pen(), PATIENCE)


def finish(stream: Any, patience: float | None = None) -> OSError | None:
    """Wait until what was printed is written, or until so long nothing has been; returns what kept it from that."""
    if isinstance(stream, Lasting):
        stream.flush()
        stream.descriptor.finish(patience)
    return failure_of(stream)


def failure_of(stream: Any) -> OSError | None:
    """Why a stream takes no more, or None."""
    return stream.descriptor.failure if isinstance(stream, Lasting) else None


def has_room(stream: Any) -> bool:
    """False where whoever prints more would soon wait for whoever reads."""
    return not isinstance(stream, Lasting) or stream.descriptor.pen.size < AT_MOST // 2


def unwritten(stream: Any) -> str:
    """What was printed and could not be written, as far as it was kept."""
    return stream.descriptor.unwritten.decode(stream.encoding, "replace") if isinstance(stream, Lasting) else ""


def reader_has_left(failure: OSError) -> bool:
    """True where whoever read it has had enough, as `head` has, or never was there (`>&-`): that is no failure."""
    return failure.errno in (errno.EPIPE, errno.EBADF)


def _lasting(stream: Any, pen: _Pen, patience: float | None) -> Any:
    if stream is None:  # its descriptor was closed by whoever started us: another takes as little, and says so
        stream = io.TextIOWrapper(io.FileIO(os.open(os.devnull, os.O_RDONLY), "w"), encoding="utf-8")
    if not isinstance(stream, io.TextIOWrapper) or isinstance(stream, Lasting):
        return stream
    if _file_of(stream) is None:
        stream.reconfigure(errors="backslashreplace")
        return stream
    return Lasting(stream, pen, patience)


def _file_of(stream: Any) -> tuple[int, int] | None:
    """What tells a stream's file from others; None where it has none."""
    try:
        found = os.fstat(stream.fileno())
    except (AttributeError, OSError, ValueError):
        return None
    return found.st_dev, found.st_ino
