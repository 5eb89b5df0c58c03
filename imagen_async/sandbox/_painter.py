"""Paints a PNG of the asked shape that shows its prompt and differs by prompt and seed."""

from __future__ import annotations

import hashlib
import io
import struct
import textwrap
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image, ImageFont

SIZES = {"1:1": (288, 288), "16:9": (384, 216), "9:16": (216, 384), "4:3": (336, 252), "3:4": (252, 336)}
"""Pixels for each shape: enough to look at, four thousandths of a second to paint."""

Colour = tuple[int, int, int]


def paint(prompt: str, aspect_ratio: str, variant: str, inputs: Sequence[bytes] = ()) -> bytes:
    """Make the picture: with Pillow where it is installed, else a plain gradient. The same for the same arguments.

    Args:
        prompt: What it is to show.
        aspect_ratio: Its shape.
        variant: By what it differs from others of the prompt.
        inputs: Pictures that went in, which it shows in a corner.
    """
    size = SIZES.get(aspect_ratio, SIZES["1:1"])
    # JSON may hold half a character, which UTF-8 has no bytes for.
    digest = hashlib.sha256(f"{prompt}\0{variant}".encode("utf-8", "replace"))
    for data in inputs:
        digest.update(hashlib.sha256(data).digest())
    return _painted(prompt, size, digest.digest(), inputs)


def _painted(prompt: str, size: tuple[int, int], digest: bytes, inputs: Sequence[bytes]) -> bytes:
    try:
        return _paint_with_pillow(prompt, size, digest, inputs)
    except ImportError:
        return _gradient(size, digest)


def _colours(digest: bytes) -> tuple[Colour, Colour]:
    """A dark and a light colour, so that white text reads on the one and shapes show on the other."""
    return (digest[0] // 3, digest[1] // 3, digest[2] // 3 + 30), (
        digest[3] // 2 + 90,
        digest[4] // 2 + 70,
        digest[5] // 2 + 90,
    )


def _paint_with_pillow(prompt: str, size: tuple[int, int], digest: bytes, inputs: Sequence[bytes]) -> bytes:
    from PIL import Image, ImageDraw  # only here: an extra

    dark, light = _colours(digest)
    shade = _shade(size, digest[6] % 4)
    picture = Image.composite(Image.new("RGB", size, light), Image.new("RGB", size, dark), shade)
    draw = ImageDraw.Draw(picture, "RGBA")
    for index in range(5):
        x, y, radius = (digest[7 + 3 * index + offset] for offset in range(3))
        centre = (x * size[0] // 255, y * size[1] // 255)
        colour = (digest[22 + index], digest[27 + index % 4], digest[24 + index], 90)
        draw.circle(centre, 12 + radius // 3, fill=colour)
    for place, data in enumerate(inputs[:3]):
        _show_input(picture, data, place)
    lines = textwrap.wrap(prompt, width=size[0] // 10)[:7] or [""]
    text = "\n".join(lines)
    position = (16, size[1] - 26 * len(lines) - 12)
    draw.multiline_text(position, text, fill="white", font=_font(), spacing=6, stroke_width=2, stroke_fill=dark)
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=1)
    return out.getvalue()


def _show_input(picture: Image.Image, data: bytes, place: int) -> None:
    """Show a picture that went in, small, at the upper edge; one that cannot be read is left out."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as source:
            small = source.convert("RGB")
            small.thumbnail((picture.width // 3, picture.height // 3))
            picture.paste(small, (8 + place * picture.width // 3, 8))
    except Exception:  # a file of somebody's own: Pillow has a kind of error for each way of being none
        return


@lru_cache
def _shade(size: tuple[int, int], quarter: int) -> Image.Image:
    """How much of the light colour each place has: from one edge to the other, in one of four ways."""
    from PIL import Image

    return Image.linear_gradient("L").rotate(90 * quarter).resize(size)


@lru_cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(size=18)


def _gradient(size: tuple[int, int], digest: bytes) -> bytes:
    """A PNG from the dark colour to the light one, made with zlib alone."""
    (width, height), (dark, light) = size, _colours(digest)
    row = bytearray(1 + 3 * width)
    for colour, (d, b) in enumerate(zip(dark, light, strict=True), start=1):
        row[colour::3] = bytes([d + (b - d) * x // width for x in range(width)])
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = (_chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(row * height, 1)), _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
