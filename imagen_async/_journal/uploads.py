"""What a journal remembers of files that were uploaded: a note each, for as long as the provider has them."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping

import msgspec

from .._core.job_events import Upload

_PREFIX = "upload"

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Upload).decode


def notes_of(account: str, uploads: Iterable[Upload]) -> dict[str, str]:
    """What is to be noted of an account's uploads."""
    return {f"{_PREFIX} {account} {upload.sha256}": _encode(upload).decode() for upload in uploads}


def news_of(known: dict[str, set[Upload]], account: str, uploads: Iterable[Upload]) -> dict[str, str]:
    """What is to be noted of an account's uploads that are not known yet; from here on they are."""
    mine = known.setdefault(account, set())
    new = [upload for upload in uploads if upload not in mine]
    mine.update(new)
    return notes_of(account, new)


def uploads_in(notes: Mapping[str, str]) -> dict[str, set[Upload]]:
    """The uploads that were noted and are good yet, by account."""
    found = defaultdict[str, set[Upload]](set)
    for name, note in notes.items():
        if not name.startswith(f"{_PREFIX} "):
            continue
        try:
            upload = _decode(note)
        except msgspec.MsgspecError:
            continue
        if upload.until > time.time():
            found[name.split(" ")[1]].add(upload)
    return found
