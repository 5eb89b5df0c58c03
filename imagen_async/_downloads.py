"""From a link to a verified file: temporary name, length, first bytes, sha256, rename. Free to repeat."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
import unicodedata
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import anyio
import anyio.to_thread
import backoff

from ._core.values import ImageFile, Result
from ._folders import PART_SUFFIX, cannot_write, part_prefix, sync_folder
from ._transport.file_session import FileSession
from .errors import DownloadFailed, ImagenError, TransportError

MAX_PICTURE = 64 << 20
"""Bytes of one picture; Imagen 4's are 1 to 3 MB."""

TRIES = 5
"""Of 44 pictures of one user, 8 failed once, after billing; the delays are 0 to 1, 2, 4 and 8 seconds."""

TRIES_NOT_THERE = 2
"""Of a file that its host says it does not have; then its link is taken for dead, and new ones are asked for."""

_NOT_THERE = frozenset({401, 403, 404, 410})

# The mask can only be read by setting it, which other threads would see: read once, at import.
_UMASK = os.umask(0o022)
os.umask(_UMASK)

_PIECE = 1 << 20
_LONGEST_STEM = 56

# Hugging Face's ImageFolder takes a file with one of these words in its name for a split of its own, and then leaves
# out every other file of the folder (seen with datasets 5.2: "a single train" cost 1,541 of 1,572 pictures).
_SPLIT_WORDS = frozenset(
    {"train", "training", "validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation"}
)


def file_stem(index: int, prompt: str) -> str:
    """Make a file's name without its ending: `000012-a-red-fox`. ASCII, short, and nothing of it from a server."""
    plain = unicodedata.normalize("NFKD", prompt[:400]).encode("ascii", "ignore").decode().lower()
    stem = f"{index:06d}"
    for word in re.findall(r"[a-z0-9]+", plain):
        if len(stem) + len(word) >= _LONGEST_STEM:
            break
        stem += f"-{word}" if _SPLIT_WORDS.isdisjoint(re.split(r"\d+", word)) else ""
    return stem


async def save_all(session: FileSession, result: Result, folder: str) -> tuple[ImageFile, ...]:
    """Fetch every picture of a result into a folder, which is made if missing.

    Raises:
        DownloadFailed: `local` when this machine is the reason; `files` are the pictures saved before it.
    """
    files: list[ImageFile] = []
    # A task that is collected by its id has no prompt.
    stem = file_stem(result.index, result.request.prompt or result.key)
    for number, url in enumerate(result.urls, start=1):
        name = stem if number == 1 else f"{stem}-{number}"
        try:
            files.append(await _save(session, url, folder, name))
        except (ImagenError, OSError) as error:
            raise _failure(error, url, folder, result, tuple(files)) from error
    return tuple(files)


async def _fetch(session: FileSession, url: str, folder: str, name: str) -> ImageFile:
    """Fetch one picture once."""
    part = await anyio.to_thread.run_sync(_Part, folder)
    try:
        async with session.get(url) as response:
            _check_head(response)
            await _copy(response, part)
        return await anyio.to_thread.run_sync(part.finish, name, url)
    finally:
        # Also after a link: the picture has two names then, and this one goes.
        part.discard()


def _retrying(
    fetch: Callable[..., Awaitable[ImageFile]], *errors: type[Exception], tries: int
) -> Callable[..., Awaitable[ImageFile]]:
    with warnings.catch_warnings():
        # backoff 2.2.1 asks asyncio whether the function is a coroutine, which Python 3.14 warns about.
        warnings.simplefilter("ignore", DeprecationWarning)
        decorate = backoff.on_exception(
            backoff.expo,
            errors,
            # Not `max_time`: for that backoff reads the wall clock.
            max_tries=tries,
            max_value=8,
            jitter=backoff.full_jitter,
            logger=None,
        )
        decorated: Callable[..., Awaitable[ImageFile]] = decorate(fetch)
        return decorated


class _NotAPicture(DownloadFailed):
    """What came is no picture: often a proxy's passing error page."""


class _NotThere(DownloadFailed):
    """The host of the file says that it does not have it. Once was seen to pass; again, its link has died."""


_save = _retrying(_retrying(_fetch, _NotThere, tries=TRIES_NOT_THERE), TransportError, _NotAPicture, tries=TRIES)


class _Part:
    """A file under its temporary name. All but `discard` may wait for the disk: call them in a worker thread."""

    def __init__(self, folder: str) -> None:
        os.makedirs(folder, exist_ok=True)
        handle, self._path = tempfile.mkstemp(dir=folder, prefix=part_prefix(), suffix=PART_SUFFIX)
        self._file = os.fdopen(handle, "wb")
        self._folder = folder
        self._sha256 = hashlib.sha256()
        self._head = b""
        self.size = 0
        self.pending = bytearray()

    def flush(self) -> None:
        """Write what has gathered in `pending`."""
        self._head = self._head or bytes(self.pending[:16])
        self._sha256.update(self.pending)
        self._file.write(self.pending)
        self.pending.clear()

    def finish(self, name: str, url: str) -> ImageFile:
        """Check that it is a picture, make it durable and give it its name."""
        self.flush()
        media_type, ending = _kind(self._head)
        # On the disk before it has its name: a picture that has one is whole, whatever ends the process.
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        # mkstemp's file is private; a saved picture has the mode that any new file has here.
        os.chmod(self._path, 0o666 & ~_UMASK)
        path = _claim(Path(self._folder), name, ending, self._path, self._sha256.hexdigest())
        sync_folder(self._folder)
        return ImageFile(str(path), self._sha256.hexdigest(), self.size, media_type, url)

    def discard(self) -> None:
        """Close and remove what was not finished; nothing when it was."""
        self._file.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)


def _check_head(response: aiohttp.ClientResponse) -> None:
    if response.status in _NOT_THERE:
        raise _NotThere(f"the file's server answered HTTP {response.status}", code=response.status)
    if response.status != 200:
        raise TransportError(f"the file's server answered HTTP {response.status}")
    if (response.content_length or 0) > MAX_PICTURE:
        # Of a kind that is not tried again: it would be as long the next time.
        raise DownloadFailed(f"the file is longer than {MAX_PICTURE:,} bytes")


async def _copy(response: aiohttp.ClientResponse, part: _Part) -> None:
    """Write in pieces of a megabyte, each in a worker thread: the loop never waits for the disk."""
    while chunk := await response.content.readany():
        part.size += len(chunk)
        if part.size > MAX_PICTURE:
            raise DownloadFailed(f"the file is longer than {MAX_PICTURE:,} bytes")
        part.pending += chunk
        if len(part.pending) >= _PIECE:
            await anyio.to_thread.run_sync(part.flush)
    expected = response.content_length
    # A length is that of what was sent, before it was unpacked.
    if expected is not None and "Content-Encoding" not in response.headers and part.size != expected:
        raise TransportError(f"the file broke off after {part.size:,} of {expected:,} bytes")


def _kind(head: bytes) -> tuple[str, str]:
    """Tell a picture by its first bytes; raises for anything else."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png", ".png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg", ".jpg"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp", ".webp"
    raise _NotAPicture(f"what came is no PNG, JPEG or WebP picture: it begins with {head!r}")


def _claim(folder: Path, name: str, ending: str, temporary: str, sha256: str) -> Path:
    """Rename without ever overwriting another picture; the same picture again keeps its place."""
    for candidate in (f"{name}{ending}", f"{name}-{sha256[:8]}{ending}"):
        path = folder / candidate
        try:
            # A link fails where the name is taken; a rename would write over what is there.
            os.link(temporary, path)
        except FileExistsError:
            if _sha256_of(path) == sha256:
                return path
        except OSError:
            # A file system without hard links: what stands there is looked for first, then renamed over.
            if not path.exists() or _sha256_of(path) == sha256:
                os.replace(temporary, path)
                return path
        else:
            return path
    raise FileExistsError(f"{folder / name}{ending} is taken by another picture")


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _failure(
    error: ImagenError | OSError, url: str, folder: str, result: Result, files: tuple[ImageFile, ...]
) -> DownloadFailed:
    if isinstance(error, OSError):
        message = f"The picture is made and paid for. {cannot_write(folder, error)} Its URL: {url}"
    else:
        why = f"{error.message} ({url})"
        message = f"The picture is made and paid for, but could not be fetched: {why}. Fetch it soon: links die."
    return DownloadFailed(
        message,
        local=isinstance(error, OSError),
        gone=isinstance(error, _NotThere),
        files=files,
        provider=result.provider,
        task_id=result.task_id,
        code=error.code if isinstance(error, ImagenError) else None,
    )
