"""Whether a file is whole that is made of boxes, elements or pages: newer pictures, video and sound.

Of sound and video only what shows that data run out counts: many are written as they come, and tell no end. Each may
raise what `FileKind.check` may, for bytes that end where a field should be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from struct import unpack_from
from typing import NamedTuple


class _Box(NamedTuple):
    """A box of an ISO base media file: its kind, where its content begins, where it ends; an open one has no end."""

    kind: bytes
    begin: int
    end: int
    is_open: bool = False


def _boxes(data: bytes, at: int, end: int) -> Iterator[_Box]:
    while at + 8 <= end:
        size, kind = unpack_from(">I4s", data, at)
        begin = at + 8
        if size == 1:
            (size,) = unpack_from(">Q", data, begin)
            begin = at + 16
        is_open = size == 0
        box = _Box(kind, begin, end if is_open else max(at + size, begin), is_open)
        yield box
        at = box.end


_KNOWN = frozenset(
    b"ftyp,styp,meta,mdat,idat,moov,moof,mfra,sidx,emsg,prft,free,skip,wide,uuid,jumb,"
    b"jP  ,jp2h,jp2c,xml ,JXL ,jxlc,jxlp,jxll,jbrd,jhgm,brob,Exif".split(b",")
)
"""Boxes that there are: what seems to be another may be anything, such as what somebody wrote after the end."""


def _top(data: bytes) -> dict[bytes, _Box] | None:
    """The outermost boxes, one of a kind; None where one is cut. What is no box that there is, is open."""
    found: dict[bytes, _Box] = {}
    for box in _boxes(data, 0, len(data)):
        if box.end > len(data) and box.kind in _KNOWN:
            return None
        found[box.kind] = box._replace(is_open=box.is_open or box.end > len(data))
    return found


def holds_boxes(*needed: bytes) -> Callable[[bytes], bool]:
    """A check: no box is cut, and there is one of each of these kinds, an `a|b` being of either.

    Where a box is open, to the end of the file, nobody can tell what may be missing.
    """
    kinds = [frozenset(each.split(b"|")) for each in needed]

    def is_whole(data: bytes) -> bool:
        found = _top(data)
        if found is None:
            return False
        return any(box.is_open for box in found.values()) or all(each & found.keys() for each in kinds)

    return is_whole


_has_pixels = holds_boxes(b"meta", b"mdat")


def is_whole_heif(data: bytes) -> bool:
    """Every piece that its list of items tells lies in the file, also where its last box is open."""
    found = _top(data)
    if found is None:
        return False
    # Four bytes of version and flags come before the boxes in it.
    inner = _boxes(data, found[b"meta"].begin + 4, found[b"meta"].end) if b"meta" in found else ()
    items = next((box for box in inner if box.kind == b"iloc"), None)
    if items is None:
        return _has_pixels(data)
    return all(end <= len(data) for end in _item_ends(data, items.begin))


def _item_ends(data: bytes, at: int) -> Iterator[int]:
    """Where the pieces of a picture end, of those that lie in the file itself (ISO/IEC 14496-12, `iloc`)."""
    version, sizes, more = data[at], data[at + 4], data[at + 5]
    wide = 4 if version == 2 else 2
    at += 6

    def number(width: int) -> int:
        nonlocal at
        if at + width > len(data):
            raise IndexError
        at += width
        return int.from_bytes(data[at - width : at], "big")

    for _ in range(number(wide)):
        number(wide)
        is_here = version == 0 or number(2) & 15 == 0
        is_here &= number(2) == 0
        base = number(more >> 4)
        widths = more & 15 if version else 0, sizes >> 4, sizes & 15
        parts = number(2)
        # Parts without a byte of their own are all the same one: a small file may tell of any number of them.
        for _ in range(parts if any(widths) else min(parts, 1)):
            _, begin, length = map(number, widths)
            end = base + begin + length
            if is_here:
                yield end


_HEADER, _SEGMENT = 0x1A45DFA3, 0x18538067

_LONGEST_HEADER = 4096


def is_whole_ebml(data: bytes) -> bool:
    """Each element of a WebM or Matroska is as long as it says; one that does not say is looked into."""
    at = 0
    has_segment = False
    while at < len(data):
        kind, at = _ebml_number(data, at, keeps_mark=True)
        length, at = _ebml_number(data, at)
        if kind is None or (kind == _HEADER and (length or _LONGEST_HEADER) >= _LONGEST_HEADER):
            return True  # no element, but padding, or what nobody can read
        if length is not None:
            at += length
            if kind == _SEGMENT:
                return at <= len(data)
        has_segment |= kind == _SEGMENT
    return has_segment and at == len(data)


def _ebml_number(data: bytes, at: int, *, keeps_mark: bool = False) -> tuple[int | None, int]:
    """A number whose first bit that is set tells its length, and where it ends; all ones, or no bit, are no number."""
    width = 9 - data[at].bit_length()
    if width > 8:
        return None, at + 1
    if at + width > len(data):
        raise IndexError
    value = int.from_bytes(data[at : at + width], "big")
    if keeps_mark:
        return value, at + width
    value &= (1 << 7 * width) - 1
    return None if value == (1 << 7 * width) - 1 else value, at + width


def is_whole_ogg(data: bytes) -> bool:
    """Page by page to one that says it is the last, or to what is no page."""
    at, is_last = 0, False
    while data[at : at + 5] == b"OggS\0":
        is_last = bool(data[at + 5] & 4)
        segments = data[at + 26]
        at += 27 + segments
        if at > len(data):
            return False
        at += sum(data[at - segments : at])
    return at <= len(data) and (is_last or len(data) - at > 4)


_STREAMED = 0x7FFF_F000
"""A length from here on, or none, is what stands in the header of a sound that was written as it came."""


def is_whole_wav(data: bytes) -> bool:
    """As long as its RIFF header says, if that says anything."""
    (length,) = unpack_from("<I", data, 4)
    if 0 < length < _STREAMED:
        return int(length) <= len(data) - 8
    return len(data) > 44


def is_whole_mp3(data: bytes) -> bool:
    """Longer than its tag, and as long as its first frame says, if that says anything."""
    at = 0
    if data[:3] == b"ID3":
        at = 10 + sum((data[6 + n] & 127) << 7 * (3 - n) for n in range(4))
    frame = data[at : at + 64]
    tag = max(frame.find(b"Xing"), frame.find(b"Info"))
    if tag < 0 or not data[at + tag + 7] & 2:
        return len(frame) == 64
    # Its length follows the number of its frames, where that is told.
    (length,) = unpack_from(">I", data, at + tag + 8 + 4 * (data[at + tag + 7] & 1))
    return at + int(length) <= len(data)
