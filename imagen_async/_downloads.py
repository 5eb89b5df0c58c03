"""From a link to a verified file: temporary name, length, first bytes, its end, sha256, rename. Free to repeat."""

from __future__ import annotations

import hashlib
import re
import unicodedata
import warnings
from collections.abc import Awaitable, Callable
from typing import TypeVar, TypeVarTuple, Unpack

import aiohttp
import anyio
import anyio.to_thread
import backoff
from anyio.lowlevel import RunVar

from ._core.file_kinds.kinds import FileKind, is_text, kind_of
from ._core.values import ImageFile, Result
from ._decoding import runs_out
from ._folders import cannot_write
from ._handles import waits_for_handles
from ._part_file import PartFile, Place
from ._transport.file_session import FileSession
from .errors import DownloadFailed, ImagenError, TransportError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

MAX_PICTURE = 64 << 20
"""Bytes of one picture; Imagen 4's are 1 to 3 MB."""

TRIES = 5
"""Of 44 pictures of one user, 8 failed once, after billing; the delays are 0 to 1, 2, 4 and 8 seconds."""

TRIES_NOT_THERE = 2
"""Of a file that its host says it does not have; then its link is taken for dead, and new ones are asked for."""

TRIES_UNKNOWN = 2
"""Of a file of no known kind: a second time may bring another; what comes again is what there is."""

_SHORTEST = 16
"""Bytes: no file of any kind is shorter."""

_NOT_THERE = frozenset({401, 403, 404, 410})

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

    What broke off each time is kept there as `.part`, and what is of no known kind as `.bin`, until the picture is had;
    the error names it.

    Raises:
        DownloadFailed: `local` when this machine is the reason; `files` are the pictures that were saved.
    """
    files: list[ImageFile] = []
    failed: tuple[ImagenError | OSError, str, Place] | None = None
    # A task that is collected by its id has no prompt.
    stem = file_stem(result.index, result.request.prompt or result.key)
    for number, url in enumerate(result.urls, start=1):
        mark = hashlib.blake2b((result.task_id or url).encode(errors="replace"), digest_size=4).hexdigest()
        place = Place(folder, stem if number == 1 else f"{stem}-{number}", mark)
        try:
            files.append(await _save(session, url, place))
        except (ImagenError, OSError) as error:
            failed = failed or (error, url, place)
            # A file that is spoilt keeps nobody from the others; a disk that is full does, or a host that is down.
            if isinstance(error, OSError) or (isinstance(error, TransportError) and not error.sent):
                break
    if failed is not None:
        raise _failure(*failed, result, tuple(files)) from failed[0]
    return tuple(files)


async def _fetch(session: FileSession, url: str, place: Place) -> ImageFile:
    """Fetch one picture once."""
    part = await _in_thread(PartFile, place.folder)
    try:
        async with session.get(url) as response:
            _check_head(response)
            await _copy(response, part)
        kind = await _in_thread(_examine, part, limiter=_examining())
        return await _in_thread(part.finish, place, kind, url)
    except (TransportError, _BrokenOff):
        await anyio.to_thread.run_sync(part.leave, place.broken)
        raise
    except _Unknown:
        await anyio.to_thread.run_sync(part.leave, place.unknown)
        raise
    finally:
        part.discard()


@waits_for_handles
async def _in_thread(act: Callable[[Unpack[Ts]], T], *args: *Ts, limiter: anyio.CapacityLimiter | None = None) -> T:
    return await anyio.to_thread.run_sync(act, *args, limiter=limiter)


_limiter = RunVar[anyio.CapacityLimiter]("imagen_async files that are examined")


def _examining() -> anyio.CapacityLimiter:
    """Two at a time: each is in memory as a whole, and a picture's pixels too."""
    try:
        return _limiter.get()
    except LookupError:
        _limiter.set(limiter := anyio.CapacityLimiter(2))
        return limiter


def _examine(part: PartFile) -> FileKind:
    """Tell what has come; raises for what is no whole file of a known kind."""
    data = part.read()
    kind = kind_of(data)
    if kind is None and (not data or is_text(data)):
        raise _NotAPicture(f"what came is no picture: it begins with {data[:16]!r}" if data else "nothing came")
    if kind is None and len(data) >= _SHORTEST:
        raise _Unknown(f"what came is of no kind that is known here: it begins with {data[:16]!r}")
    if kind is None or not kind.is_whole(data) or runs_out(kind.media_type, data):
        raise _BrokenOff(f"the {kind.name if kind else 'file'} broke off after {len(data):,} bytes")
    return kind


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


class _Unknown(DownloadFailed):
    """What came is a file, and nobody here knows of what kind."""


class _BrokenOff(DownloadFailed):
    """What came is the beginning of a file."""


_save = _retrying(_fetch, _NotThere, tries=TRIES_NOT_THERE)
_save = _retrying(_save, _Unknown, tries=TRIES_UNKNOWN)
_save = _retrying(_save, TransportError, _NotAPicture, _BrokenOff, tries=TRIES)


def _check_head(response: aiohttp.ClientResponse) -> None:
    if response.status in _NOT_THERE:
        raise _NotThere(f"the file's server answered HTTP {response.status}", code=response.status)
    if response.status != 200:
        raise TransportError(f"the file's server answered HTTP {response.status}")
    if (response.content_length or 0) > MAX_PICTURE:
        # Of a kind that is not tried again: it would be as long the next time.
        raise DownloadFailed(f"the file is longer than {MAX_PICTURE:,} bytes")


async def _copy(response: aiohttp.ClientResponse, part: PartFile) -> None:
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


def _failure(
    error: ImagenError | OSError, url: str, place: Place, result: Result, files: tuple[ImageFile, ...]
) -> DownloadFailed:
    if isinstance(error, OSError):
        message = f"The picture is made and paid for. {cannot_write(place.folder, error)} Its URL: {url}"
    else:
        kept = f" What came of it is kept as {' and '.join(place.kept)}." if place.kept else ""
        why = f"{error.message} ({url}).{kept}"
        message = f"The picture is made and paid for, but could not be fetched: {why} Fetch it soon: links die."
    return DownloadFailed(
        message,
        local=isinstance(error, OSError),
        gone=isinstance(error, _NotThere),
        files=files,
        provider=result.provider,
        task_id=result.task_id,
        code=error.code if isinstance(error, ImagenError) else None,
    )
