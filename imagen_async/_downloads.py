"""From a link to a verified file: temporary name, length, first bytes, its end, sha256, rename. Free to repeat."""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator
from contextlib import nullcontext
from typing import Any, TypeVar, TypeVarTuple

import aiohttp
import anyio
import backoff
import msgspec
from anyio.lowlevel import RunVar

from ._core.answer_headers import request_id
from ._core.file_kinds.kinds import FileKind, is_text, kind_of
from ._core.file_names import file_stem, plain_stem
from ._core.mask import Mask
from ._core.values import ImageFile, Result
from ._decoding import runs_out
from ._folders import cannot_write
from ._handles import waits_for_handles
from ._off_loop import OffLoop
from ._part_file import PartFile, Place
from ._patience import Patience
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

_LOOKED_AT = 4096
"""Bytes in which a secret is looked for, however it is written there, before the first of them are shown."""

_NOT_THERE = frozenset({401, 403, 404, 410})

_PIECE = 1 << 20


async def save_all(
    session: FileSession, off_loop: OffLoop, result: Result, folder: str, *, within: float = math.inf
) -> tuple[ImageFile, ...]:
    """Fetch every picture of a result into a folder, which is made if missing; a text is written there.

    What broke off each time is kept there as `.part`, and what is of no known kind as `.bin`, until the picture is had;
    the error names it.

    Args:
        session: Fetches them.
        off_loop: Where they are written and looked at.
        result: Whose they are.
        folder: Where they are to lie.
        within: Seconds for all of it.

    Raises:
        DownloadFailed: `local` when this machine is the reason; `files` are the pictures that were saved.
    """
    files: list[ImageFile] = []
    failed: tuple[ImagenError | OSError, str, Place] | None = None
    try:
        with nullcontext() if within == math.inf else Patience(within):
            if not result.urls:
                return (await _save_text(off_loop, result, folder),)
            for url, place in _places(result, folder):
                try:
                    files.append(await _save(session, off_loop, url, place, result.provider))
                except (ImagenError, OSError) as error:
                    failed = failed or (error, url, place)
                    # A file that is spoilt keeps nobody from the others; a full disk does, or a host that is down.
                    if isinstance(error, OSError) or (isinstance(error, TransportError) and not error.sent):
                        break
    except TimeoutError as error:
        what = f"after {round(within, 1):g} seconds of saving, {len(files)} of {len(result.urls)} pictures are here"
        message = f"The picture is made and paid for, but {what}. Save it again soon: links die."
        raise _failed(message, result, tuple(files)) from error
    if failed is not None:
        raise _failure(*failed, result, tuple(files)) from failed[0]
    return tuple(files)


def _places(result: Result, folder: str) -> Iterator[tuple[str, Place]]:
    """Each picture's URL, and where it is to lie."""
    for number, url in enumerate(result.urls, start=1):
        place = _place(result, folder, url)
        yield url, place if number == 1 else msgspec.structs.replace(place, name=f"{place.name}-{number}")


def _place(result: Result, folder: str, otherwise: str) -> Place:
    """Where its first file is to lie; without a task, it is told from any other by something else."""
    mark = hashlib.blake2b((result.task_id or otherwise).encode(errors="replace"), digest_size=4).hexdigest()
    return Place(folder, _stem(result, mark), mark)


def _stem(result: Result, mark: str) -> str:
    # A task that is collected by its id has no prompt.
    stem = file_stem(result.index, result.request.prompt or result.key, mark)
    try:
        os.fsencode(stem)
    except UnicodeEncodeError:  # a locale whose names of files have fewer letters
        return plain_stem(stem)
    return stem


async def _save_text(off_loop: OffLoop, result: Result, folder: str) -> ImageFile:
    place = _place(result, folder, result.key)
    try:
        return await _do(off_loop, _written, result.text, place)
    except OSError as error:
        message = f"The result is made and paid for. {cannot_write(folder, error)} It is a text, which is here still."
        raise _failed(message, result, (), local=True) from error


def _written(text: str, place: Place) -> ImageFile:
    """Write a text as durably as a picture."""
    part = PartFile(place.folder)
    try:
        part.open()
        part.pending += text.encode()
        part.size = len(part.pending)
        part.flush()
        return part.finish(place, ".json", "application/json", "")
    finally:
        part.discard()


async def _fetch(session: FileSession, off_loop: OffLoop, url: str, place: Place, account: str) -> ImageFile:
    """Fetch one picture once."""
    part = PartFile(place.folder)
    try:
        await _do(off_loop, part.open)
        async with session.get(url, account) as response:
            _check_head(response, session.mask)
            await _copy(response, part, off_loop)
        async with _examining():
            kind = await _do(off_loop, _examine, part, session.mask)
        return await _do(off_loop, part.finish, place, kind.suffix, kind.media_type, url)
    except (TransportError, _BrokenOff):
        await off_loop.run(part.leave, place.broken)
        raise
    except _Unknown:
        await off_loop.run(part.leave, place.unknown)
        raise
    finally:
        await off_loop.wait(asyncio.wrap_future(off_loop.begin(part.discard)))


@waits_for_handles
async def _do(off_loop: OffLoop, act: Callable[[*Ts], T], *arguments: *Ts) -> T:
    return await off_loop.run(act, *arguments)


_limiter = RunVar[anyio.CapacityLimiter]("imagen_async files that are examined")


def _examining() -> anyio.CapacityLimiter:
    """Two at a time: each is in memory as a whole, and a picture's pixels too."""
    try:
        return _limiter.get()
    except LookupError:
        _limiter.set(limiter := anyio.CapacityLimiter(2))
        return limiter


def _examine(part: PartFile, mask: Mask) -> FileKind:
    """Tell what has come; raises for what is no whole file of a known kind."""
    data = part.read()
    kind = kind_of(data)
    # Masked before it is cut: half a key is not found.
    begins = mask.content(data[:_LOOKED_AT])[:_SHORTEST]
    if kind is None and (not data or is_text(data)):
        raise _NotAPicture(f"what came is no picture: it begins with {begins!r}" if data else "nothing came")
    if kind is None and len(data) >= _SHORTEST:
        raise _Unknown(f"what came is of no kind that is known here: it begins with {begins!r}")
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


def _check_head(response: aiohttp.ClientResponse, mask: Mask) -> None:
    if response.status != 200:
        answered = f"the file's server answered HTTP {response.status}"
        is_there = response.status not in _NOT_THERE
        failure = TransportError(answered) if is_there else _NotThere(answered, code=response.status)
        failure.status, failure.at = response.status, time.time()
        failure.request_id = request_id(response.headers, mask.text)
        raise failure
    if (response.content_length or 0) > MAX_PICTURE:
        # Of a kind that is not tried again: it would be as long the next time.
        raise DownloadFailed(f"the file is longer than {MAX_PICTURE:,} bytes")


async def _copy(response: aiohttp.ClientResponse, part: PartFile, off_loop: OffLoop) -> None:
    """Write in pieces of a megabyte, each off the loop, which never waits for the disk."""
    while chunk := await response.content.readany():
        part.size += len(chunk)
        if part.size > MAX_PICTURE:
            raise DownloadFailed(f"the file is longer than {MAX_PICTURE:,} bytes")
        part.pending += chunk
        if len(part.pending) >= _PIECE:
            await off_loop.run(part.flush)
    expected = response.content_length
    # A length is that of what was sent, before it was unpacked.
    if expected is not None and "Content-Encoding" not in response.headers and part.size != expected:
        raise TransportError(f"the file broke off after {part.size:,} of {expected:,} bytes")


def _failure(
    error: ImagenError | OSError, url: str, place: Place, result: Result, files: tuple[ImageFile, ...]
) -> DownloadFailed:
    if isinstance(error, OSError):
        message = f"The picture is made and paid for. {cannot_write(place.folder, error)} Its URL: {url}"
        return _failed(message, result, files, local=True)
    kept = f" What came of it is kept as {' and '.join(place.kept)}." if place.kept else ""
    why = f"{error.message} ({url}).{kept}"
    message = f"The picture is made and paid for, but could not be fetched: {why} Fetch it soon: links die."
    failure = _failed(message, result, files, gone=isinstance(error, _NotThere), code=error.code)
    failure.status, failure.request_id, failure.at = error.status, error.request_id, error.at
    return failure


def _failed(message: str, result: Result, files: tuple[ImageFile, ...], **more: Any) -> DownloadFailed:
    return DownloadFailed(message, files=files, provider=result.provider, task_id=result.task_id, **more)
