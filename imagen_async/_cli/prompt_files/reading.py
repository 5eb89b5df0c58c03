"""A prompt file's bytes: read, unpacked, and refused with a remedy where they are something else."""

from __future__ import annotations

import gzip
import io
import re
import sys
import zlib
from pathlib import Path

from ...errors import ConfigurationError
from ..library import file_kind_of

_GZIP = b"\x1f\x8b"

_LARGEST = 1 << 30
"""Bytes that a packed file may come to: ten million prompts, or what was made to fill a machine's memory."""

_PIECE = 1 << 20

_AS_CSV = "save it as CSV (UTF-8) there"
_UNPACK = "unpack it, and name the file in it"
_REMEDIES = {
    **dict.fromkeys(("xlsx", "xlsm", "xls", "ods", "numbers"), f"is a spreadsheet; {_AS_CSV}"),
    **dict.fromkeys(("zip", "7z", "rar", "tar", "tgz"), f"is an archive; {_UNPACK}"),
    "gz": "is packed twice; unpack it once",
    **dict.fromkeys(("bz2", "xz", "zst"), "is packed in a way that is not read here; unpack it"),
    **dict.fromkeys(("doc", "docx", "odt", "pdf", "rtf"), "is a document; save it as text, a prompt a line"),
    **dict.fromkeys(("ndjson", "jsonlines"), "is read as JSON lines; say --format jsonl"),
}
"""What files of other names are, and what to do with them."""

_BEGINNINGS = {
    _GZIP: "gz",
    rb"PK\x03\x04": "zip",
    rb"\xd0\xcf\x11\xe0": "xls",
    rb"BZh[1-9]1AY": "bz2",
    rb"\xfd7zXZ\0": "xz",
    rb"\x28\xb5\x2f\xfd": "zst",
    rb"7z\xbc\xaf": "7z",
    rb"Rar!\x1a": "rar",
    rb"%PDF-": "pdf",
    rb"\{\\rtf": "rtf",
}
"""Patterns of what a file that is no text begins with, and what it is."""


def read(path: str) -> bytes:
    """The bytes of a file, or of stdin for `-`; raises ConfigurationError where they cannot be read."""
    try:
        return sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except IsADirectoryError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}. Name a file in it.") from error
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error


def unpacked(data: bytes, name: str) -> bytes:
    """What a file holds, which gzip may have packed, whatever its name says.

    Raises:
        ConfigurationError: What is packed is cut short, damaged or too large; or it is a file of another kind.
    """
    content = _gunzipped(data, name) if data.startswith(_GZIP) else data
    _refuse_others(content, name)
    return content


def kind_of(path: str, known: tuple[str, ...]) -> str:
    """The kind of a file by its name, one of those known; raises ConfigurationError where that does not tell."""
    kind = "txt" if path == "-" else _suffix(path)
    if kind in known:
        return kind
    if kind in _REMEDIES:
        raise ConfigurationError(f"{path} {_REMEDIES[kind]}.")
    names = ", ".join(f".{name}" for name in known)
    raise ConfigurationError(f"{path}: its name does not tell its kind ({names}); say it with --format.")


def _suffix(path: str) -> str:
    return Path(path.lower().removesuffix(".gz")).suffix.removeprefix(".")


def _gunzipped(data: bytes, name: str) -> bytes:
    content = io.BytesIO()
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
            while piece := packed.read(_PIECE):
                content.write(piece)
                if content.tell() > _LARGEST:
                    raise ConfigurationError(f"{name}: its gzip unpacks to more than 1 GB; split it into several.")
    except (EOFError, OSError, zlib.error) as error:
        raise ConfigurationError(f"{name}: its gzip is cut short or damaged ({error}); get it anew.") from error
    return content.getvalue()


def _refuse_others(data: bytes, name: str) -> None:
    """Raise ConfigurationError for what its first bytes tell to be no text, though its name may say otherwise."""
    found = next((kind for beginning, kind in _BEGINNINGS.items() if re.match(beginning, data)), None)
    if found is not None:
        # The office's own are such files, and their names tell more.
        suffix = _suffix(name) if found in ("zip", "xls") else found
        raise ConfigurationError(f"{name} {_REMEDIES.get(suffix, _REMEDIES[found])}.")
    kind = file_kind_of(data)
    if kind is not None and kind.media_type != "image/svg+xml" and b"\0" in data[:4096]:
        raise ConfigurationError(f"{name} is no text but {kind.name}; name a file of prompts.")
