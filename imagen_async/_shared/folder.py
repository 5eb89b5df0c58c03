"""Where the files lie by which processes share a key's limits, and what they are called."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath

from yarl import URL

VARIABLE = "IMAGEN_ASYNC_STATE"
"""The environment variable that names the folder."""

_NAME = "imagen_async"

_NETWORKS = (
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "9p", "lustre", "glusterfs", "beegfs", "gfs2", "ocfs2"),
    *("fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone"),
)
"""File systems that other machines write to as well: their clocks are others, and locks may mean nothing there."""


def folders(given: str | PurePath | None, environment: Mapping[str, str]) -> Iterator[Path]:
    """The folders to try, the best first: the one that was named, alone, or those that a user's processes agree on.

    Args:
        given: The folder that the program has named, or None.
        environment: The process's.
    """
    named = given or environment.get(VARIABLE)
    if named:
        yield Path(named).expanduser().absolute()
        return
    # As the XDG specification has it: of what is not absolute nothing is to be made.
    runtime, state = (Path(environment.get(name) or ".") for name in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME"))
    if runtime.is_absolute():
        yield runtime / _NAME
    with contextlib.suppress(RuntimeError):  # nobody knows of a home
        if sys.platform == "win32":
            yield Path(environment.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / _NAME
        elif sys.platform == "darwin":
            yield Path.home() / "Library" / "Application Support" / _NAME
        else:
            yield (state if state.is_absolute() else Path.home() / ".local" / "state") / _NAME
    yield Path(tempfile.gettempdir()) / f"{_NAME}-{os.getuid() if hasattr(os, 'getuid') else ''}"


def is_named(given: str | PurePath | None, environment: Mapping[str, str]) -> bool:
    """True where somebody has named the folder: then whoever has it shares, in whatever container that runs."""
    return bool(given or environment.get(VARIABLE))


def make(folder: Path, *, is_ours: bool) -> None:
    """Make a folder where it is missing.

    Args:
        folder: Which.
        is_ours: True for one that nobody has named: then it must be this user's, and nobody else's.

    Raises:
        OSError: It cannot be used.
    """
    folder.mkdir(mode=0o700 if is_ours else 0o777, parents=True, exist_ok=True)
    found = folder.stat(follow_symlinks=not is_ours)
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(f"{folder} is no folder")
    # In a folder for everybody's temporary files somebody else may have been there first.
    if is_ours and hasattr(os, "getuid") and (found.st_uid != os.getuid() or found.st_mode & 0o022):
        raise PermissionError(f"{folder} is another user's, or others may write there")
    kind = file_system(folder)
    if kind in _NETWORKS:
        raise OSError(f"{folder} is on a network file system ({kind})")


def file_system(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """The kind of file system that a folder is on, where the system tells; else nothing."""
    best, found = -1, ""
    with contextlib.suppress(OSError):
        real = folder.resolve()
        for line in mounts.read_text(errors="replace").splitlines():
            _, where, kind, *_ = line.split(" ")
            point = Path(where.replace("\\040", " "))
            if (point == real or point in real.parents) and len(point.parts) >= best:
                best, found = len(point.parts), kind
    return found


def name_of(key: str, address: str, *, is_for_this_machine: bool) -> str:
    """What a key's files are called at an address: by it nobody learns either.

    Args:
        key: The account's.
        address: Its base URL, however that is spelled.
        is_for_this_machine: True where the folder may be another machine's, too, as a home on a network is.
    """
    url = URL(address)
    where = f"{url.scheme}://{url.host}:{url.port}{url.path.rstrip('/')}"
    machine = _machine() if is_for_this_machine else ""
    return hashlib.blake2b(f"{where}\n{key}\n{machine}".encode(), digest_size=12).hexdigest()


def is_name(name: str) -> bool:
    """True for what a key's files may be called."""
    return re.fullmatch("[0-9a-f]{24}", name) is not None


def _machine() -> str:
    with contextlib.suppress(OSError):
        return Path("/etc/machine-id").read_text().strip()
    return platform.node()
