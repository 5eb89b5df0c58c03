"""What the command writes to: no character and no terminal that is gone is a reason to fail after paying."""

from __future__ import annotations

import errno
import io
import os
from typing import Any


class _Terminal(io.FileIO):
    """A terminal. It may be closed while the program runs: what is written then is for nobody."""

    def write(self, data: Any) -> int:
        """Write, if there still is somebody."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return len(data)


def lasting(stream: Any) -> Any:
    """The same stream, to which a prompt may be written that its encoding lacks, and that outlives its terminal."""
    if stream is None:  # its descriptor was closed by whoever started us
        return open(os.devnull, "w", encoding="utf-8")
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    if not stream.isatty():
        stream.reconfigure(errors="backslashreplace")
        return stream
    raw = io.BufferedWriter(_Terminal(stream.fileno(), "w", closefd=False))
    return io.TextIOWrapper(raw, stream.encoding, "backslashreplace", line_buffering=True)
