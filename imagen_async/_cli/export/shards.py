"""How samples are dealt out into shards, and how large one may get."""

from __future__ import annotations

import itertools
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


class Dealer:
    """Deals out samples, in their order.

    Attributes:
        number: Of the shard that the last one went into, from 0; -1 before the first.
        dealt: How many there were.
    """

    def __init__(self, size: ShardSize) -> None:
        self.number = -1
        self.dealt = 0
        self._size = size
        self._pictures = self._bytes = 0

    def shard(self, sample: Sample) -> int:
        """The number of the shard that the next one goes into."""
        most, size = self._size, sample.file.size
        is_full = self._pictures == most.pictures or (most.bytes is not None and self._bytes + size > most.bytes)
        if is_full or self.number < 0:
            self.number += 1
            self._pictures = self._bytes = 0
        self.dealt += 1
        self._pictures += 1
        self._bytes += size
        return self.number


def shards_of(samples: Iterable[Sample], dealer: Dealer) -> Iterator[Iterator[Sample]]:
    """Deal out samples; each shard is to be taken before the next one."""
    return (shard for _, shard in itertools.groupby(samples, dealer.shard))
