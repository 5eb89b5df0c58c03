"""Files of this machine that go in: looked at once, known by their content, kept on disk until they are uploaded."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Awaitable, Callable, Collection, Iterator
from threading import Lock
from typing import Any

import msgspec

from ._core.parameters import is_address
from ._core.plain_values import is_request, plain_item
from ._core.routing import Router
from ._core.values import ImageRequest, InputFile
from ._off_loop import OffLoop
from ._text import told
from .errors import InvalidRequest

LARGEST = 200 << 20
"""Bytes of a file that goes in at most: no provider takes as much."""

_SPOOLED = "sha256:"
"""What the name of a file begins with that was given as bytes, and lies in a folder of ours."""

_Mark = tuple[int, int, int, int]

Remembered = Callable[[str], InputFile | None]
"""Knows what was in a file that is gone, by its name, where it has gone in before."""


class InputFiles:
    """What is known of files that go in. To be asked in a thread: it reads them.

    Bytes are written into a folder of its own, so that a request that waits is small.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[_Mark, InputFile]] = {}
        self._spool: tempfile.TemporaryDirectory[str] | None = None
        self._lock = Lock()

    def close(self) -> None:
        """Remove what was written here."""
        with self._lock:
            spool, self._spool = self._spool, None
        if spool is not None:
            spool.cleanup()

    def prepared(
        self, request: ImageRequest, fields: Collection[str], remembered: Remembered = lambda name: None
    ) -> ImageRequest:
        """The request with each of its files looked at.

        Args:
            request: In plain values.
            fields: The fields of `extra` that take files.
            remembered: Is asked where one is gone.

        Raises:
            InvalidRequest: One cannot be read, or is no picture, video or sound.
        """
        images = tuple(self._spooled(each) if isinstance(each, bytes) else each for each in request.images)
        request = msgspec.structs.replace(request, images=images)
        new = (name for name in _names_in(request, fields) if name not in request.local_files)
        found = {name: self._looked_at(name, remembered) for name in new}
        return msgspec.structs.replace(request, local_files={**request.local_files, **found})

    def path_of(self, name: str) -> str:
        """Where a file lies that a request has under a name."""
        if self._spool is None or not name.startswith(_SPOOLED):
            return name
        return os.path.join(self._spool.name, name.removeprefix(_SPOOLED))

    def _spooled(self, data: bytes) -> str:
        with self._lock:
            self._spool = self._spool or tempfile.TemporaryDirectory(prefix="imagen-async-")
            folder = self._spool.name
        digest = hashlib.sha256(data).hexdigest()
        path = os.path.join(folder, digest)
        try:
            if not os.path.exists(path):
                # A name of its own: another thread may be at the same bytes.
                with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
                    file.write(data)
                os.replace(file.name, path)
        except OSError as error:
            raise InvalidRequest(f"A picture of {len(data):,} bytes cannot be kept: {error.strerror}.") from None
        return f"{_SPOOLED}{digest}"

    def _looked_at(self, name: str, remembered: Remembered) -> InputFile:
        path = self.path_of(name)
        try:
            found = os.stat(path)
            mark = (found.st_size, found.st_mtime_ns, found.st_ino, found.st_dev)
            known = self._known.get(path)
            if known is None or known[0] != mark:
                known = self._known[path] = (mark, look_at(path, name, found.st_size))
        except (OSError, ValueError) as error:
            before = remembered(name) if isinstance(error, FileNotFoundError) else None
            if before is not None:
                return before
            if "://" in name or name.startswith("data:"):
                hint = "it is no URL as providers take them (a blank is %20; what a data: URI holds, give as bytes)"
                raise InvalidRequest(f"{told(name)} goes in, and cannot be read: {hint}.") from None
            reason = getattr(error, "strerror", None) or error
            raise InvalidRequest(f"{told(name)} goes in, and cannot be read: {reason}.") from None
        return known[1]


class Unreadable(msgspec.Struct, frozen=True):
    """A request whose files cannot go in, and why."""

    request: ImageRequest
    error: InvalidRequest


class InputLooks:
    """Looks at the files of what comes in, beside the loop.

    Args:
        files: What is known of them.
        router: Knows which fields take files.
        model: The model of requests that name none.
        off_loop: Where it is done.
        remembered: Is asked where one is gone.
    """

    def __init__(
        self,
        files: InputFiles,
        router: Router,
        model: str | None,
        off_loop: OffLoop,
        remembered: Remembered = lambda name: None,
    ) -> None:
        self._files = files
        self._router = router
        self._model = model
        self._off_loop = off_loop
        self._remembered = remembered

    def at(self, item: object) -> Awaitable[object] | None:
        """What ends with the item, its files looked at, or with what says why that cannot be; None: it has none."""
        if type(item) is str or not is_request(item):
            return None
        try:
            if not (item.images or item.extra):
                return None
            request = plain_item(item)
            assert isinstance(request, ImageRequest)
            fields = self._router.file_fields(request.model or self._model)
            return self._look(request, fields) if has_files(request, fields) else None
        except Exception:  # of the user's own values: it is refused when its turn comes
            return None

    async def request(self, request: ImageRequest) -> ImageRequest:
        """The same for one request; raises InvalidRequest."""
        looking = self.at(request)
        found = request if looking is None else await looking
        if isinstance(found, Unreadable):
            raise found.error
        assert isinstance(found, ImageRequest)
        return found

    def at_defaults(self, defaults: ImageRequest) -> ImageRequest:
        """What a batch says for all its requests, its files looked at here and now; raises InvalidRequest."""
        return self._files.prepared(defaults, self._router.file_fields(defaults.model), self._remembered)

    async def _look(self, request: ImageRequest, fields: Collection[str]) -> object:
        try:
            return await self._off_loop.run(self._files.prepared, request, fields, self._remembered)
        except InvalidRequest as error:
            return Unreadable(request, error)


def has_files(request: ImageRequest, fields: Collection[str]) -> bool:
    """True where a request has files of this machine at which nobody has looked yet."""
    is_new = any(name not in request.local_files for name in _names_in(request, fields))
    return is_new or any(isinstance(each, bytes) for each in request.images)


def content_of(path: str, name: str, known: InputFile) -> bytes:
    """The bytes of a file that was looked at before; raises InvalidRequest where they are others now."""
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise InvalidRequest(f"{told(name)} goes in, and cannot be read: {error.strerror}.") from None
    if hashlib.sha256(data).hexdigest() != known.sha256:
        raise InvalidRequest(f"{told(name)} has changed since it was looked at. Nothing was sent: begin again.")
    return data


def _names_in(request: ImageRequest, fields: Collection[str]) -> Iterator[str]:
    """The files of this machine that a request names: what is no URL where a file is to be."""
    values: list[Any] = [request.images, *(request.extra[field] for field in request.extra if field in fields)]
    for value in values:
        for each in [value] if isinstance(value, str) else value if isinstance(value, list | tuple) else []:
            if isinstance(each, str) and each.strip() and not is_address(each):
                yield each


def look_at(path: str, name: str, size: int) -> InputFile:
    """What is in a file, by its content. Reads it: not for the loop.

    Args:
        path: Where it lies.
        name: What messages call it.
        size: Bytes.

    Raises:
        InvalidRequest: It is no picture, video or sound, or breaks off.
    """
    if size > LARGEST:
        raise InvalidRequest(f"{told(name)} goes in, and has {size / 1e6:,.0f} MB: no provider takes that.")
    from ._core.file_kinds.kinds import kind_of  # only here: who has nothing go in never loads what tells files apart

    with open(path, "rb") as file:
        data = file.read()
    kind = kind_of(data)
    if kind is None:
        raise InvalidRequest(f"{told(name)} goes in, and is no picture, video or sound that is known here.")
    if not kind.is_whole(data):
        raise InvalidRequest(f"{told(name)} goes in, and breaks off: it is no whole {kind.name}.")
    return InputFile(hashlib.sha256(data).hexdigest(), len(data), kind.media_type)
