"""A new caller in the file of callers: its keys are made here, and shown once."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import secrets
import sqlite3
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from .._folders import give_name, new_part, sync_file, sync_folder
from .._journal.lock import FileLock
from .._record_files import content_of
from .._text import told
from ..errors import ConfigurationError
from ._callers import ADMIN, NAME, NAME_RULE, SECRET, callers_in, stamp_of, table_name

PATIENCE = 10.0
"""Seconds that one waits for another process to add its caller, which takes a hundredth of one."""

_STEP = 0.01


class NewCaller(msgspec.Struct, frozen=True):
    """What a caller needs to know, which nobody can find out later on. In no repr.

    Attributes:
        key: `ia-` and 32 random bytes.
        callback_secret: By which it checks callbacks, as Standard Webhooks has it; None for the admin, who has none.
    """

    key: str
    callback_secret: str | None

    def __repr__(self) -> str:
        return "NewCaller(***)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """The same for whoever shows it in colours."""
        return []


def new_caller(path: str | os.PathLike[str], name: str) -> NewCaller:
    """Add a caller, or the admin, to a file, which is made where it is missing, for its owner's eyes alone.

    What stands there stays as it is; the file is written as a whole or not at all. Several processes may do so at once;
    whoever saves it in an editor meanwhile is not written over. It waits for the disk.

    Raises:
        ConfigurationError: The name is taken, or can be none; the file is no such file, or cannot be written.
    """
    if name != ADMIN and NAME.fullmatch(name) is None:
        raise ConfigurationError(f"A caller cannot be named {told(name)}: {NAME_RULE}.")
    secret = None if name == ADMIN else SECRET + base64.b64encode(secrets.token_bytes(32)).decode()
    made = NewCaller(f"ia-{secrets.token_urlsafe(32)}", secret)
    try:
        # What a link leads to is written, not the link.
        real = os.path.realpath(path)
        with _turn(real):
            before = stamp_of(real)
            content = b"" if before is None else content_of(real)
            _write(Path(real), _with(real, content, name, made), before)
    except (OSError, ValueError, sqlite3.Error) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"{path} cannot be written: {why}; nothing was added.") from None
    return made


def _with(path: str, content: bytes, name: str, made: NewCaller) -> bytes:
    """The file's content with one caller more."""
    if callers_in(path, content).by_name(name) is not None:
        remedy = "choose another name, or take that table out to give it a new key"
        raise ConfigurationError(f"{path} has {table_name(name)} already: {remedy}.")
    lines = [table_name(name), f'key_sha256 = "{hashlib.sha256(made.key.encode()).hexdigest()}"']
    lines += [] if made.callback_secret is None else [f'callback_secret = "{made.callback_secret}"']
    end = b"\r\n" if b"\r\n" in content else b"\n"
    gap = b"" if not content else end if content.endswith(b"\n") else end * 2
    whole = content + gap + b"".join(line.encode() + end for line in lines)
    try:
        callers_in(path, whole)
    except ConfigurationError as error:
        remedy = f"Write each caller as a table of its own, {table_name(name)}"
        raise ConfigurationError(f"Nothing can be added to {error.message} {remedy}.") from None
    return whole


@contextlib.contextmanager
def _turn(path: str) -> Iterator[None]:
    """Be the only one who adds to a file; whoever was killed at it keeps nobody out."""
    by = time.monotonic() + PATIENCE
    with contextlib.closing(FileLock(path)) as lock:
        while not lock.take():
            if time.monotonic() > by:
                raise ConfigurationError(f"{path} is being changed by another process: end that, or try again.")
            time.sleep(_STEP)
        yield


def _write(path: Path, content: bytes, before: object) -> None:
    """Put a content in the place of the one that was read."""
    part = new_part(path.parent, 0o600)
    try:
        with part:
            if before is not None:
                _own_alike(part.name, os.stat(path))
            part.write(content)
            sync_file(part)
        if stamp_of(path) != before:
            raise ConfigurationError(f"{path} was changed meanwhile, and nothing was added: try again.")
        if before is None:
            give_name(part.name, str(path))
        else:
            os.replace(part.name, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part.name)
    sync_folder(path.parent)


def _own_alike(path: str, other: os.stat_result) -> None:
    """Let a file belong to whom another one does: who serves may read it, and nobody else."""
    own = os.stat(path)
    if (own.st_uid, own.st_gid) != (other.st_uid, other.st_gid):
        os.chown(path, other.st_uid, other.st_gid)
    os.chmod(path, stat.S_IMODE(other.st_mode))
