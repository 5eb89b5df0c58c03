"""Whether a picture is whole, by the structure of its format. Bytes after its end are nobody's harm.

Each may raise what `FileKind.check` may, for bytes that end where a field should be.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from struct import unpack_from
from xml.parsers import expat
from zlib import crc32

# Between a scan's bytes a marker follows an FF: not a stuffed zero, a restart, nor a fill byte.
_find_marker = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]").search

_EOI, _SOS = 0xD9, 0xDA
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers that nothing belongs to."""


def is_whole_png(data: bytes) -> bool:
    """Chunk by chunk to IEND; those without which there is no picture are as their checksum says."""
    at = 8
    while True:
        length, kind = unpack_from(">I4s", data, at)
        end = at + 8 + length
        (checksum,) = unpack_from(">I", data, end)
        # Of a text or a profile with a wrong checksum every viewer shows the picture.
        if kind[:1].isupper() and crc32(memoryview(data)[at + 4 : end]) != checksum:
            return False
        if kind == b"IEND":
            return True
        at = end + 4


def is_whole_jpeg(data: bytes) -> bool:
    """Segment by segment, scan by scan, to EOI: a thumbnail's own lies inside of a segment."""
    at, has_scan = 2, False
    while found := _find_marker(data, at):
        at, kind = found.end(), data[found.end() - 1]
        if kind == _EOI:
            return has_scan
        if kind not in _ALONE:
            has_scan |= kind == _SOS
            at += int(unpack_from(">H", data, at)[0])
    return False


def is_whole_gif(data: bytes) -> bool:
    """Block by block to the trailer."""
    at = 13 + _colours(data[10])
    while (kind := data[at]) != 0x3B:
        if kind == 0x2C:
            at += 11 + _colours(data[at + 9])
        elif kind == 0x21:
            at += 2
        else:
            return False
        while length := data[at]:
            at += 1 + length
        at += 1
    return True


def _colours(flags: int) -> int:
    """Bytes of a colour table."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def is_whole_webp(data: bytes) -> bool:
    """As long as its RIFF header says."""
    (length,) = unpack_from("<I", data, 4)
    return 12 <= int(length) <= len(data) - 8


def is_whole_bmp(data: bytes) -> bool:
    """As long as its header says."""
    (length,) = unpack_from("<I", data, 2)
    return 26 < int(length) <= len(data)


_TYPE_SIZES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)
"""Bytes of a value, by the number of its type."""

_MOST_DIRECTORIES = 100
"""Of a TIFF that are looked at: one a page, or a size."""

_PIXELS = {273: 279, 324: 325, 513: 514}
"""Fields of a TIFF that tell where pixels begin, in strips, in tiles or as a JPEG, and those with their lengths."""


def is_whole_tiff(data: bytes) -> bool:
    """Every directory, and all that its fields point to, lies in the file."""
    return all(end <= len(data) for end in _tiff_ends(data))


def _tiff_ends(data: bytes) -> Iterator[int]:
    order = "<" if data[:1] == b"I" else ">"
    is_big = data[2:4] in (b"+\0", b"\0+")
    number, entry, count_form, width = ("Q", 20, "Q", 8) if is_big else ("I", 12, "H", 2)
    at_next, seen = 8 if is_big else 4, set[int]()
    while (at := unpack_from(order + number, data, at_next)[0]) and at not in seen and len(seen) < _MOST_DIRECTORIES:
        seen.add(at)
        (fields,) = unpack_from(order + count_form, data, at)
        at_next = at + width + fields * entry
        # Before the fields are read: their number may be anything.
        yield at_next
        values = dict(_tiff_field(data, order, number, at + width + n * entry) for n in range(fields))
        yield from (end for end, _ in values.values())
        for begins, lengths in _PIXELS.items():
            pairs = zip(values.get(begins, (0, ()))[1], values.get(lengths, (0, ()))[1], strict=False)
            yield from (begin + length for begin, length in pairs)
    yield len(data) if seen else len(data) + 1


def _tiff_field(data: bytes, order: str, number: str, at: int) -> tuple[int, tuple[int, tuple[int, ...]]]:
    """A field's tag; where its values end; and these, where they are the places or lengths of pixels."""
    tag, kind, count = unpack_from(f"{order}HH{number}", data, at)
    room = 4 if number == "I" else 8
    size = _TYPE_SIZES[kind] * count if kind < len(_TYPE_SIZES) else 0
    begin = at + 4 + room
    if size > room:
        (begin,) = unpack_from(order + number, data, begin)
    form = {3: "H", 4: "I", 16: "Q"}.get(kind)
    is_read = form and (tag in _PIXELS or tag in _PIXELS.values()) and begin + size <= len(data)
    return tag, (begin + size, unpack_from(f"{order}{count}{form}", data, begin) if is_read else ())


_RUN_OUT = frozenset(
    expat.errors.codes[message]
    for message in (
        expat.errors.XML_ERROR_NO_ELEMENTS,
        expat.errors.XML_ERROR_UNCLOSED_TOKEN,
        expat.errors.XML_ERROR_PARTIAL_CHAR,
        expat.errors.XML_ERROR_UNCLOSED_CDATA_SECTION,
    )
)
"""What expat says of a text that ends too early; of one that is wrong it says other things."""


def is_whole_svg(data: bytes) -> bool:
    """Its outermost element is closed, or it is so wrong that nobody can tell."""
    depth: list[str] = []
    is_closed = False

    def close(name: str) -> None:
        nonlocal is_closed
        depth.pop()
        is_closed |= not depth

    parser = expat.ParserCreate()
    parser.StartElementHandler = lambda name, attributes: depth.append(name)
    parser.EndElementHandler = close
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        return is_closed or error.code not in _RUN_OUT
    return True
