"""Folders: tried before anything is paid for, files named and made durable, what a killed process left swept up."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import BinaryIO

from ._core.plain_values import plain_or_same
from ._handles import is_for_want_of_a_handle
from ._text import told, well_formed
from .errors import ConfigurationError

PART_SUFFIX = ".part"
"""The ending of the temporary names of files that are not whole yet."""

_PART = re.compile(rf"\.imagen-(\d{{1,9}})-.*{re.escape(PART_SUFFIX)}", re.DOTALL)
"""The name of such a file, with the number of its process."""

LONGEST_NAME = 96
"""Characters that a file's name here has at most, its temporary one included."""


def new_part(folder: str | PurePath, mode: int = 0o666) -> BinaryIO:
    """Open a file that is not whole yet, to write and read it, under a name of this process that nothing else has.

    It has the mode that any new file has here, which no file system refuses; another one for what only its owner reads.
    """
    path = Path(folder, f".imagen-{os.getpid()}-{secrets.token_hex(8)}{PART_SUFFIX}")
    return open(path, "x+b", opener=lambda name, flags: os.open(name, flags, mode))


def folder_path(folder: str | PurePath) -> str:
    """A folder's path as a text; raises ConfigurationError for what is none, such as a None that nobody meant."""
    try:
        path = os.fspath(plain_or_same(folder))
    except Exception:  # no path, or of a class of the user's own
        path = b""
    if type(path) is not str:
        raise ConfigurationError(f"{told(folder)} is no folder: allowed is a path, as a text or a pathlib.Path.")
    return path


def prepare_folder(folder: str | PurePath) -> str:
    """Make sure that files can be saved in a folder, before anything is paid for; raises ConfigurationError."""
    path = folder_path(folder)
    if well_formed(path) != path or "\0" in path:
        raise ConfigurationError(f"{path!r} cannot be used: its name is not UTF-8. Choose another folder.")
    try:
        os.makedirs(path, exist_ok=True)
        _rehearse(path)
    except OSError as error:
        raise ConfigurationError(cannot_write(path, error)) from error
    return path


def _rehearse(folder: str) -> None:
    """Do what saving a picture does: permissions say nothing of a full disk, or of one that refuses a name."""
    part = new_part(folder)
    spare = LONGEST_NAME - len(os.path.basename(part.name))
    longest = f"{part.name.removesuffix(PART_SUFFIX)}{'0' * spare}{PART_SUFFIX}"
    try:
        with part:
            part.write(b"picture")
            sync_file(part)
        give_name(part.name, longest)
    finally:
        for name in (part.name, longest):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
    sync_folder(folder)


def cannot_write(folder: str, error: OSError) -> str:
    """Say that a folder takes nothing, and what to do."""
    return f"Nothing can be written to {folder}: {error.strerror or error}. Free the disk or choose another folder."


def give_name(part: str, name: str) -> None:
    """Give a part its name, under which it is whole or not at all; raises FileExistsError where the name is taken.

    The part may keep its own name beside the new one.
    """
    try:
        # A link fails where the name is taken; a rename would write over what is there.
        os.link(part, name)
    except FileExistsError:
        raise
    except OSError as error:
        # A file system without hard links: what stands there is looked for first, then renamed over.
        if os.path.lexists(name):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name) from error
        os.replace(part, name)


_NOT_SYNCED = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EACCES})
"""How file systems say that they know no fsync; anything else is trouble with the disk."""


def sync_file(file: BinaryIO) -> None:
    """Bring a file to the disk, where its file system can be asked to."""
    file.flush()
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in _NOT_SYNCED:
            raise


def sync_folder(folder: str | PurePath) -> None:
    """Make the names in a folder durable: a file's own fsync does not keep its name through a power loss."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        if is_for_want_of_a_handle(error):
            raise
        return  # a system that opens no folders, such as Windows, keeps names by itself
    try:
        with contextlib.suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)


def sweep(folder: str | PurePath) -> None:
    """Remove the unfinished files of processes that are no more."""
    for number, path in _parts(folder):
        if not _is_alive(number):
            with contextlib.suppress(OSError):
                os.unlink(path)


def _parts(folder: str | PurePath) -> Iterator[tuple[int, str]]:
    """The unfinished files, with the processes that have or had them; a folder may hold a million of others."""
    with contextlib.suppress(OSError), os.scandir(folder) as names:
        for each in names:
            found = _PART.fullmatch(each.name)
            if found is not None:
                yield int(found[1]), each.path


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
