"""What a file is, by its first bytes, and what it is called for that."""

from __future__ import annotations

import codecs
import re
import struct
from collections.abc import Callable

import msgspec

from . import containers, pictures


class FileKind(msgspec.Struct, frozen=True):
    """A kind of picture, video or sound.

    Attributes:
        name: As people call it.
        media_type: As HTTP calls it.
        suffix: That of its files' names.
        check: Whether a file of it is whole; may raise struct.error, IndexError or OverflowError for one that ends too
            early, or points to where no file reaches.
    """

    name: str
    media_type: str
    suffix: str
    check: Callable[[bytes], bool]

    def is_whole(self, data: bytes) -> bool:
        """True where the file is all there, as far as its format tells."""
        try:
            return self.check(data)
        except (struct.error, IndexError, OverflowError):
            return False


_has_film = containers.holds_boxes(b"moov|moof", b"mdat")

_KINDS: list[tuple[bytes, FileKind]] = [
    (rb"\x89PNG\r\n\x1a\n", FileKind("PNG", "image/png", ".png", pictures.is_whole_png)),
    (rb"\xff\xd8\xff", FileKind("JPEG", "image/jpeg", ".jpg", pictures.is_whole_jpeg)),
    (rb"RIFF.{4}WEBP", FileKind("WebP", "image/webp", ".webp", pictures.is_whole_webp)),
    (rb"GIF8[79]a", FileKind("GIF", "image/gif", ".gif", pictures.is_whole_gif)),
    (
        # Some encoders name the family first, and the format among what they are compatible with.
        rb".{4}ftyp(?:avi[fs]|m[is]f1.{4}(?:.{4}){0,15}?avi[fs])",
        FileKind("AVIF", "image/avif", ".avif", containers.is_whole_heif),
    ),
    (
        rb".{4}ftyp(?:hei[cmsx]|hev[cmsx]|m[is]f1)",
        FileKind("HEIC", "image/heic", ".heic", containers.is_whole_heif),
    ),
    (rb"II[*+]\0|MM\0[*+]", FileKind("TIFF", "image/tiff", ".tiff", pictures.is_whole_tiff)),
    (
        rb"BM.{4}\0{4}.{4}[\x0c\x28\x34\x38\x40\x6c\x7c]\0{3}",
        FileKind("BMP", "image/bmp", ".bmp", pictures.is_whole_bmp),
    ),
    (
        rb"\0{3}\x0cJXL \r\n\x87\n",
        FileKind("JPEG XL", "image/jxl", ".jxl", containers.holds_boxes(b"jxlc|jxlp")),
    ),
    (rb"\0{3}\x0cjP  \r\n\x87\n", FileKind("JPEG 2000", "image/jp2", ".jp2", containers.holds_boxes(b"jp2c"))),
    (
        # Atomic: what stood before is not read in another way, of which a page of remarks has very many.
        rb"(?:\xef\xbb\xbf)?\s*(?>(?:<\?.*?\?>|<!--.*?-->|<!DOCTYPE\s+svg\b[^\[>]*(?:\[.*?\]\s*)?>)\s*)*"
        rb"<(?:\w+:)?svg[\s>/]",
        FileKind("SVG", "image/svg+xml", ".svg", pictures.is_whole_svg),
    ),
    (rb".{4}ftypqt  ", FileKind("QuickTime", "video/quicktime", ".mov", _has_film)),
    (rb".{4}ftypM4[AB] ", FileKind("M4A", "audio/mp4", ".m4a", _has_film)),
    (rb".{4}ftyp", FileKind("MP4", "video/mp4", ".mp4", _has_film)),
    (
        rb"\x1aE\xdf\xa3(?!.{0,60}matroska)",
        FileKind("WebM", "video/webm", ".webm", containers.is_whole_ebml),
    ),
    (rb"\x1aE\xdf\xa3", FileKind("Matroska", "video/x-matroska", ".mkv", containers.is_whole_ebml)),
    (rb"RIFF.{4}WAVE", FileKind("WAV", "audio/wav", ".wav", containers.is_whole_wav)),
    (rb"OggS.{0,60}theora", FileKind("Ogg", "video/ogg", ".ogv", containers.is_whole_ogg)),
    (rb"OggS", FileKind("Ogg", "audio/ogg", ".ogg", containers.is_whole_ogg)),
    (rb"fLaC", FileKind("FLAC", "audio/flac", ".flac", lambda data: len(data) > 42)),
    # With a tag before it, or with a frame of layer III at once.
    (
        rb"ID3[\2-\4]|\xff[\xe2\xe3\xf2\xf3\xfa\xfb][\x10-\xef]",
        FileKind("MP3", "audio/mpeg", ".mp3", containers.is_whole_mp3),
    ),
]

_BY_FIRST_BYTES = [(re.compile(pattern, re.DOTALL).match, kind) for pattern, kind in _KINDS]
"""The first that fits is it."""

_LOOKED_AT = 4096


def kind_of(data: bytes) -> FileKind | None:
    """Tell a file's kind, whatever its name and its headers say; None for what is not known."""
    head = data[:_LOOKED_AT]
    return next((kind for fits, kind in _BY_FIRST_BYTES if fits(head)), None)


# Without what a terminal's colours and the layout of a text are made of.
_has_control = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]").search


def is_text(data: bytes) -> bool:
    """True where a file is a page, JSON or any other text: what servers say in place of a file."""
    head = data[:_LOOKED_AT]
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return True
    if _has_control(head):
        return False
    try:
        # The last character may be cut.
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return head.lstrip()[:1] in (b"<", b"{", b"[")
    return True
