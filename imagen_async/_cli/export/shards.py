"""How samples are dealt out into shards, and how large one may get."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import msgspec

from .samples import Sample

_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


class ShardSize(msgspec.Struct, frozen=True):
    """How large a shard may get.

    Attributes:
        pictures: At most so many; None: any number.
        bytes: Of pictures, at most; None: any number. A shard has one picture at least.
    """

    pictures: int | None = None
    bytes: int | None = None


def shard_size(text: str) -> ShardSize | None:
    """Read `1000` (pictures) or `500MB` (bytes of pictures; KB, MB or GB); None for anything else."""
    found = re.fullmatch(r"([1-9]\d{0,11})(KB|MB|GB)?", text)
    if found is None:
        return None
    number = int(found[1])
    return ShardSize(bytes=number * _UNITS[found[2]]) if found[2] else ShardSize(pictures=number)


def shards_of(samples: Iterable[Sample], size: ShardSize) -> Iterator[list[Sample]]:
    """Deal out samples, in their order."""
    shard: list[Sample] = []
    weight = 0
    for sample in samples:
        is_full = len(shard) == size.pictures or (size.bytes is not None and weight + sample.file.size > size.bytes)
        if shard and is_full:
            yield shard
            shard, weight = [], 0
        shard.append(sample)
        weight += sample.file.size
    if shard:
        yield shard
