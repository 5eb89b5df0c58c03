"""A file on its way to its name: under another one until it is whole, and kept when it never gets there."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from pathlib import Path
from typing import BinaryIO

import msgspec

from ._core.file_kinds.kinds import is_text
from ._core.file_names import plain_stem
from ._core.values import ImageFile
from ._folders import PART_SUFFIX, give_name, new_part, sync_file, sync_folder

_NO_SUCH_NAMES = frozenset({errno.EILSEQ, errno.EINVAL, errno.ENAMETOOLONG})
"""How file systems say that they have no such letters, or take more bytes for them."""


class Place(msgspec.Struct, frozen=True):
    """Where a picture is to be saved.

    Attributes:
        folder: In which.
        name: Its name, without the ending.
        mark: What tells it from any other picture that may have the same name.
    """

    folder: str
    name: str
    mark: str

    @property
    def broken(self) -> str:
        """What is kept of it while it could not be had whole: the longest of all that came."""
        return os.path.join(self.folder, f"{self.name}-{self.mark}{PART_SUFFIX}")

    @property
    def unknown(self) -> str:
        """What came in its place, and is of no kind that is known."""
        return os.path.join(self.folder, f"{self.name}-{self.mark}.bin")

    @property
    def kept(self) -> list[str]:
        """Which of these there are."""
        return list(filter(os.path.exists, (self.broken, self.unknown)))


class PartFile:
    """A file under its temporary name. All that it does may wait for the disk: do it off the loop.

    Each may be called again where it could not open what it needs.

    Args:
        folder: Where it is to lie; made by `open`.
    """

    _file: BinaryIO | None = None

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._sha256 = hashlib.sha256()
        self.size = 0
        self.pending = bytearray()

    def open(self) -> None:
        """Begin it; before anything else but `discard`."""
        try:
            os.makedirs(self._folder, exist_ok=True)
            self._file = new_part(self._folder)
        except ValueError as error:  # what can be no name: of half a character, or with a zero in it
            raise OSError(errno.EINVAL, "it is no name of a folder") from error

    @property
    def _opened(self) -> BinaryIO:
        assert self._file is not None
        return self._file

    def flush(self) -> None:
        """Write what has gathered in `pending`."""
        self._sha256.update(self.pending)
        self._opened.write(self.pending)
        self.pending.clear()

    def read(self) -> bytes:
        """All that has come."""
        self.flush()
        self._opened.seek(0)
        return self._opened.read()

    def finish(self, place: Place, suffix: str, media_type: str, url: str) -> ImageFile:
        """Make it durable and give it its name."""
        # On the disk before it has its name: a picture that has one is whole, whatever ends the process.
        self._to_disk()
        path = self._claim(Path(place.folder), place.name, suffix)
        sync_folder(place.folder)
        for kept in (place.broken, place.unknown):
            with contextlib.suppress(OSError):
                os.unlink(kept)
        return ImageFile(str(path), self._sha256.hexdigest(), self.size, media_type, url)

    def leave(self, path: str) -> None:
        """Keep what is no whole picture in another place, where it is more than what is there; a text is nothing."""
        with contextlib.suppress(OSError):  # why it is no picture is what is told, and not this
            data = self.read()
            if data and not is_text(data) and (not os.path.exists(path) or os.path.getsize(path) < len(data)):
                self._to_disk()
                os.replace(self._opened.name, path)

    def discard(self) -> None:
        """Close and remove what was not finished; also after a link: the picture has two names then."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            with contextlib.suppress(OSError):
                os.unlink(self._file.name)

    def _to_disk(self) -> None:
        if not self._opened.closed:
            sync_file(self._opened)
            self._opened.close()

    def _claim(self, folder: Path, name: str, suffix: str) -> Path:
        """Take a name without ever overwriting another picture; the same picture again keeps its place."""
        sha256 = self._sha256.hexdigest()
        for candidate in (f"{name}{suffix}", f"{name}-{sha256[:8]}{suffix}"):
            path = folder / candidate
            try:
                give_name(self._opened.name, str(path))
            except FileExistsError:
                if _sha256_of(path) == sha256:
                    return path
            except OSError as error:
                if name.isascii() or error.errno not in _NO_SUCH_NAMES:
                    raise
                return self._claim(folder, plain_stem(name), suffix)
            else:
                return path
        raise FileExistsError(f"{folder / name}{suffix} is taken by another picture")


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
