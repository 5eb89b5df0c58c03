"""Files from bytes alone: what each is, and whether it is all there."""

from __future__ import annotations

import os
import struct

import pytest
from files import AVIF, CLUSTER, EBML, FILES, FRAME, JPEG, MDAT, MOOV, TAG, box, chunk, element, encoded, page, sound
from hypothesis import given
from hypothesis import strategies as st

from imagen_async._core.file_kinds.kinds import is_text, kind_of

AFTER = {"nothing": b"", "padding": bytes(99), "a trailer": b"VENDOR trailer 12\xff\xd9", "a sign": b"<"}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_told_by_its_first_bytes_and_whole_at_its_last(name: str) -> None:
    """Each kind has its media type and ending; no beginning of a file is whole, and what follows its end is no harm."""
    media_type, suffix, data = FILES[name]
    kind = kind_of(data)
    assert kind is not None
    assert (name.startswith(kind.name), kind.media_type, kind.suffix) == (True, media_type, suffix)
    assert [end for end in range(len(data)) if kind.is_whole(data[:end])] == []
    assert {after: kind.is_whole(data + more) for after, more in AFTER.items()} == dict.fromkeys(AFTER, True)


PNG = FILES["PNG"][2]
OPEN = b"\x01" + b"\xff" * 7
STREAM = EBML + b"\x18\x53\x80\x67" + OPEN
OPEN_AVIF = AVIF[: AVIF.rindex(b"mdat") - 4] + bytes(4) + AVIF[AVIF.rindex(b"mdat") :]
FTYP = box(b"ftyp", b"isom\0\0\2\0")

ODD: dict[str, tuple[bytes, bool]] = {
    "a flipped bit in its pixels": (PNG[:60] + bytes([PNG[60] ^ 1]) + PNG[61:], False),
    "no scan": (JPEG[:2] + b"\xff\xe0\0\2\xff\xd9" + bytes(20), False),
    "a block that there is not": (b"GIF89a" + bytes(8) + b"\x99" + bytes(20) + b";", False),
    "a directory in a circle": (b"II*\0\x08\0\0\0\0\0\x08\0\0\0", True),
    "no directory": (b"II*\0" + bytes(40), False),
    "a field of no known type": (b"II*\0\x08\0\0\0\1\0\x11\1\x13\0" + b"\xff" * 8 + bytes(4), True),
    "a length of nothing": (b"RIFF\0\0\0\0WEBPVP8 " + bytes(99), False),
    "a box to the end": (OPEN_AVIF, True),
    "a box to the end, cut": (OPEN_AVIF[:-1], False),
    "nothing known but a box to the end": (box(b"ftyp", b"avif\0\0\0\0") + bytes(200), True),
    "a picture without a list of its items": (box(b"ftyp", b"heic\0\0\0\0") + box(b"meta", bytes(4)) + MDAT, True),
    "items without pixels": (box(b"ftyp", b"heic\0\0\0\0") + box(b"meta", bytes(4)), False),
    "a film in pieces, the last of them cut": (FTYP + MOOV + box(b"moof") + MDAT + box(b"moof") + MDAT[:-1], False),
    "a film without its index": (FTYP + MDAT, False),
    "a sound that was written as it came": (b"RIFF\xff\xff\xff\xffWAVEdata" + bytes(40), True),
    "a sound that did not come": (b"RIFF\0\0\0\0WAVEfmt " + bytes(28), False),
    "one that tells less": (sound()[:4] + b"\4\0\0\0" + sound()[8:], True),
    "boxes that there are not": (box(b"ftyp", b"mp42") + b"x" * 99, True),
    "elements that there are not": (b"\x1a\x45\xdf\xa3" + b"w" * 99, True),
    "elements without an end": (EBML[:4] + OPEN, True),
    "no elements": (EBML[:4] + bytes(99), True),
    "a header": (EBML, False),
    "pages that there are not": (b"OggSx" + b"x" * 99, True),
    "a live film": (STREAM + CLUSTER + b"\x1f\x43\xb6\x75" + OPEN + element(b"\xa3", b"frame"), True),
    "a live film, padded": (STREAM + CLUSTER + bytes(9), True),
    "a live film, cut": (STREAM + CLUSTER + CLUSTER[:-1], False),
    "a live film, cut in a length": (STREAM + CLUSTER + CLUSTER[:6], False),
    "an Ogg that tells no last page": (page(b"x", 2) + page(b"x", 0) + b"a tag", True),
    "an Ogg of one page": (page(b"x", 2), False),
    "an MP3 that tells nothing": (TAG + FRAME[:36] + bytes(40), True),
    "an MP3 that tells no length": (TAG + FRAME[:43] + b"\1" + FRAME[44:48] + b"\xff" * 40, True),
    "an MP3 that tells its length only, cut": (FRAME[:43] + b"\2" + FRAME[48:] + bytes(3), False),
    "an MP3 that tells its length only": (FRAME[:43] + b"\2" + FRAME[48:] + bytes(4), True),
    "a tag": (TAG, False),
    "a drawing with a style of its own": (b'<?a b=">"?><!DOCTYPE svg [<!ENTITY c "]">]><svg/>', True),
    "a picture of boxes, cut before it": (FILES["JPEG XL"][2][:12] + box(b"Exif", bytes(9))[:-1], False),
    "a drawing with a mistake": (b"<svg>&nope;</svg>", True),
    "a drawing of a family, cut": (b'<!DOCTYPE svg>\n<s:svg xmlns:s="x"><a></a>', False),
}


@pytest.mark.parametrize("what", ODD)
def test_what_shows_that_a_file_is_cut(what: str) -> None:
    """A file that tells its end has to have it; one that tells none is cut where a piece of it is."""
    data, is_whole = ODD[what]
    kind = kind_of(data)
    assert kind is not None
    assert kind.is_whole(data) == is_whole


def heif(version: int, end: int) -> bytes:
    """A HEIC with a piece in another file, one in its list itself, and one here, whose second part ends there."""
    wide = ">I" if version == 2 else ">H"

    def item(method: int, source: int, *parts: tuple[int, int]) -> bytes:
        head = [
            struct.pack(wide, 9),
            struct.pack(">H", method) * (version > 0),
            struct.pack(">HIH", source, 16, len(parts)),
        ]
        number = b"\xff\xff" * (version > 0)
        return b"".join([*head, *(number + struct.pack(">IH", begin, length) for begin, length in parts)])

    items = [item(0, 1, (9**9, 9)), item(1, 0, (9**9, 9))[: 99 * (version > 0)], item(16, 0, (0, 4), (end - 21, 5))]
    count = struct.pack(wide, 3 if version else 2)
    places = box(b"iloc", bytes([version, 0, 0, 0, 0x42, 0x42]), count, *items)
    return box(b"ftyp", b"heic") + box(b"meta", bytes(4), box(b"hdlr"), places) + box(b"mdat", bytes(8))


@pytest.mark.parametrize("version", [0, 1, 2])
def test_a_picture_is_whole_where_all_its_pieces_are(version: int) -> None:
    """Of a list of any version those count that lie in the file, to the last byte of the last."""
    size = len(heif(version, 30))
    kind = kind_of(heif(version, size))
    assert kind is not None
    assert [kind.is_whole(heif(version, end)) for end in (size - 1, size, size + 1)] == [True, True, False]


@pytest.mark.parametrize(
    "odd",
    [
        box(b"ftyp", b"heic")
        + box(b"meta", bytes(4), box(b"iloc", bytes(6), b"\3\xe8", 1000 * b"\0\1\0\0\xff\xff"), box(b"free", bytes(9))),
        struct.pack("<2sHHHQ", b"II", 43, 8, 0, 2**63),
    ],
    ids=["65 million parts of no bytes", "a directory where no file reaches"],
)
def test_no_number_in_a_file_holds_anybody_up(odd: bytes) -> None:
    """What a small file says of many parts, or of a far place, is looked at once."""
    kind = kind_of(odd)
    assert kind is not None
    assert kind.is_whole(odd) == (kind.name == "HEIC")


@given(st.sampled_from(sorted(FILES)), st.data())
def test_no_bytes_are_too_odd(name: str, data: st.DataObject) -> None:
    """Whatever stands behind a file's first bytes, it is whole or not, and nothing is raised: no number is trusted."""
    file = FILES[name][2]
    at = data.draw(st.integers(12, len(file)))
    odd = file[:at] + data.draw(st.binary(max_size=40)) + file[at + 8 :]
    kind = kind_of(odd)
    assert kind is None or kind.is_whole(odd) in (True, False)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"<html>\n<body>502", True),
        (b'{"error": "\xe7\x8b\x90"}', True),
        ("Zugriff verweigert, bitte sp\N{LATIN SMALL LETTER A WITH DIAERESIS}ter".encode(), True),
        (b"\xe7\x8b\x90" * 1365 + b"\xe7\x8b\x90", True),
        (b"  <error>verg\xe4nglich</error>", True),
        ("gone".encode("utf-16"), True),
        (b"", True),
        (b"<!-- -->" * 99 + b"<html>", True),
        (b"verg\xe4nglich", False),
        (b"text\0", False),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3", False),
        (encoded("PCX"), False),
    ],
)
def test_a_text_is_no_file(data: bytes, text: bool) -> None:
    """Pages, JSON and plain words are what servers say in place of a file; neither is of a known kind."""
    assert (kind_of(data), is_text(data)) == (None, text)


def test_some_first_bytes_are_not_enough() -> None:
    """Words that begin as files do, and chance, are no files."""
    for data in (b"BM is short for bitmap, and so on" * 9, b"ID3 is a tag", b"\xff\xfe<\0h\0t\0", b"II*", bytes(64)):
        assert kind_of(data) is None, data
    assert kind_of(b"\x89PNG\r\n\x1a\n" + os.urandom(99)) is not None
    assert chunk(b"IEND", b"") == PNG[-12:]
