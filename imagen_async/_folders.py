"""Folders: made and tried before anything is paid for, made durable, swept of what a killed process left."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from pathlib import Path, PurePath

from .errors import ConfigurationError

PART_SUFFIX = ".part"
"""The ending of the temporary names of files that are not whole yet."""


def part_prefix() -> str:
    """The beginning of these names, by the process that writes the file."""
    return f".imagen-{os.getpid()}-"


def prepare_folder(folder: str | PurePath) -> str:
    """Make sure that a folder exists and can be written to, before anything is paid for; raises ConfigurationError."""
    path = str(folder)
    if not path.isascii() and any("\ud800" <= character <= "\udfff" for character in path):
        raise ConfigurationError(f"{path!r} cannot be used: its name is not UTF-8. Choose another folder.")
    try:
        os.makedirs(path, exist_ok=True)
        # A file is the proof: permissions say nothing of a disk that is full or takes no writing.
        with tempfile.NamedTemporaryFile(dir=path, prefix=part_prefix(), suffix=PART_SUFFIX):
            pass
    except OSError as error:
        raise ConfigurationError(cannot_write(path, error)) from error
    return path


def cannot_write(folder: str, error: OSError) -> str:
    """Say that a folder takes nothing, and what to do."""
    return f"Nothing can be written to {folder}: {error.strerror or error}. Free the disk or choose another folder."


def sync_folder(folder: str | PurePath) -> None:
    """Make the names in a folder durable: a file's own fsync does not keep its name through a power loss."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return  # a system that opens no folders, such as Windows, keeps names by itself
    try:
        with contextlib.suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)


def sweep(folder: str | PurePath) -> None:
    """Remove the unfinished files of processes that are no more."""
    for part in Path(folder).glob(f".imagen-*{PART_SUFFIX}"):
        found = re.match(r"\.imagen-(\d{1,9})-", part.name)
        if found is not None and not _is_alive(int(found[1])):
            with contextlib.suppress(OSError):
                part.unlink()


def _is_alive(process: int) -> bool:
    if sys.platform == "win32":
        return True  # there, asking would end it
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        # It is there, and somebody else's.
        return True
    return True
