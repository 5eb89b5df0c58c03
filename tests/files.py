"""Small files of every kind that is known, each a real one, with its media type and the ending of its name."""

from __future__ import annotations

import io
import struct
import wave
import zlib
from typing import Any

from PIL import Image

PICTURE = Image.effect_noise((12, 9), 90).convert("RGB")
"""Nothing in it repeats, so that every byte of its files counts."""


def encoded(form: str, **options: Any) -> bytes:
    """The picture in a form that Pillow writes."""
    file = io.BytesIO()
    PICTURE.save(file, form, **options)
    return file.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def box(kind: bytes, *contents: bytes) -> bytes:
    """A box of an MP4 and its kin."""
    content = b"".join(contents)
    return struct.pack(">I4s", 8 + len(content), kind) + content


def page(content: bytes, flags: int) -> bytes:
    """A page of an Ogg; flag 4: its last."""
    return b"OggS\0" + bytes([flags]) + bytes(20) + bytes([1, len(content)]) + content


def element(kind: bytes, content: bytes) -> bytes:
    """An element of a WebM, with its length in eight bytes."""
    return kind + b"\x01" + len(content).to_bytes(7, "big") + content


def tiff(order: str, *, is_big: bool) -> bytes:
    """A TIFF whose directory stands before its pixels, which are in two strips."""
    number, few, more = "QQI" if is_big else "IHH"
    head = struct.pack(order + "HHHQ", 43, 8, 0, 16) if is_big else struct.pack(order + "HI", 42, 8)
    places_at = 2 + len(head) + struct.calcsize(f"={few}HH{number}{number}HH{number}{more}{more}{number}")
    pixels_at = places_at + struct.calcsize(f"={number}{number}")
    places = (273, 16 if is_big else 4, 2, places_at)
    lengths = (279, 4 if is_big else 3, 2, 5, 7)
    form = f"{order}{few}HH{number}{number}HH{number}{more}{more}{number}{number}{number}"
    directory = struct.pack(form, 2, *places, *lengths, 0, pixels_at, pixels_at + 5)
    return (b"II" if order == "<" else b"MM") + head + directory + b"12345" + b"1234567"


def sound() -> bytes:
    """A hundredth of a second."""
    file = io.BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setparams((1, 1, 8000, 0, "NONE", ""))
        wav.writeframes(bytes(range(80)))
    return file.getvalue()


JPEG = encoded("JPEG")
AVIF = encoded("AVIF")
MDAT = box(b"mdat", b"frames")
MOOV = box(b"moov", box(b"mvhd", bytes(100)))
CLUSTER = element(b"\x1f\x43\xb6\x75", element(b"\xa3", b"frame"))
EBML = element(b"\x1a\x45\xdf\xa3", element(b"\x42\x82", b"webm"))
# In its head a thumbnail with an end of its own.
EXIF = b"Exif\0\0" + JPEG
TAG = b"ID3\4\0\0\0\0\0\x02ab"
FRAME = b"\xff\xfb\x90\0" + bytes(32) + b"Info\0\0\0\3\0\0\0\1\0\0\0\x68" + bytes(52)

FILES: dict[str, tuple[str, str, bytes]] = {
    "PNG": ("image/png", ".png", encoded("PNG")),
    "PNG with a wrong text": (
        "image/png",
        ".png",
        encoded("PNG")[:33] + b"\0\0\0\4tEXta\0bc----" + encoded("PNG")[33:],
    ),
    "JPEG": ("image/jpeg", ".jpg", JPEG[:2] + struct.pack(">2sH", b"\xff\xe1", 2 + len(EXIF)) + EXIF + JPEG[2:]),
    "JPEG in many scans": ("image/jpeg", ".jpg", encoded("JPEG", progressive=True, restart_marker_blocks=1)),
    "WebP": ("image/webp", ".webp", encoded("WEBP")),
    "GIF": ("image/gif", ".gif", encoded("GIF", save_all=True, append_images=[PICTURE.rotate(90)], comment=b"c")),
    "AVIF": ("image/avif", ".avif", AVIF),
    "AVIF of a family": ("image/avif", ".avif", AVIF.replace(b"ftypavif", b"ftypmif1", 1)),
    "HEIC": ("image/heic", ".heic", AVIF.replace(b"ftypavif", b"ftypheic", 1)),
    "TIFF": ("image/tiff", ".tiff", encoded("TIFF", compression="jpeg")),
    "TIFF, large": ("image/tiff", ".tiff", encoded("TIFF", big_tiff=True, compression="tiff_lzw")),
    "TIFF with its pixels last": ("image/tiff", ".tiff", tiff("<", is_big=False)),
    "TIFF of the other order, large": ("image/tiff", ".tiff", tiff(">", is_big=True)),
    "BMP": ("image/bmp", ".bmp", encoded("BMP")),
    "JPEG 2000": ("image/jp2", ".jp2", encoded("JPEG2000")),
    "JPEG XL": ("image/jxl", ".jxl", box(b"JXL ", b"\r\n\x87\n") + box(b"jxlc", b"pixels")),
    "SVG": ("image/svg+xml", ".svg", b'<?xml version="1.0"?>\n<!-- <svg> -->\n<svg><svg/><g>\xc3\xa9</g></svg>'),
    "MP4": ("video/mp4", ".mp4", box(b"ftyp", b"isom\0\0\2\0") + MOOV + MDAT),
    "MP4 told last": (
        "video/mp4",
        ".mp4",
        box(b"ftyp", b"mp42") + struct.pack(">I4sQ", 1, b"mdat", 22) + b"frames" + box(b"free") + MOOV,
    ),
    "QuickTime": ("video/quicktime", ".mov", box(b"ftyp", b"qt  \0\0\0\0") + MOOV + MDAT),
    "M4A": ("audio/mp4", ".m4a", box(b"ftyp", b"M4A \0\0\0\0") + MOOV + MDAT),
    "WebM": ("video/webm", ".webm", EBML + element(b"\x18\x53\x80\x67", CLUSTER * 2)),
    "Matroska": (
        "video/x-matroska",
        ".mkv",
        element(b"\x1a\x45\xdf\xa3", element(b"\x42\x82", b"matroska")) + element(b"\x18\x53\x80\x67", CLUSTER),
    ),
    "WAV": ("audio/wav", ".wav", sound()),
    "Ogg": ("audio/ogg", ".ogg", page(b"\x7fvorbis", 2) + page(b"sound", 0) + page(b"sound", 4)),
    "Ogg with pictures": ("video/ogg", ".ogv", page(b"\x80theora", 2) + page(b"frames", 4)),
    "MP3": ("audio/mpeg", ".mp3", TAG + FRAME),
}
