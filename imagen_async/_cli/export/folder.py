"""From a folder of pictures to a folder of shards, which the next export there replaces."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from ...errors import ConfigurationError
from ..library import PART_SUFFIX, JournalReader
from ..pictures import removed_text
from ..wording import counted
from . import FORMATS
from .columns import columns_of
from .format import Format
from .samples import Sample, Samples
from .shards import Dealer, ShardSize, shards_of

MARK = ".imagen-async-export"
"""The file that says of a folder that it is an export of this command, and may be replaced by the next one."""


class Export(msgspec.Struct, frozen=True):
    """What an export has come to: its shards, how many pictures are in them, and what is not.

    Files that are not as they were saved are named; those that were removed are counted.
    """

    shards: list[Path]
    pictures: int
    spoilt: list[str]
    removed: int


def export(folder: str, journal: JournalReader, form: Format, out: str, size: ShardSize) -> Export:
    """Write the pictures of a folder into another one, as shards; an earlier export there is replaced at the end.

    An earlier export is not replaced while pictures are missing: it may be the last to have them.

    Raises:
        ConfigurationError: The other folder holds something else, cannot be written, or a library is missing.
    """
    form.refuse_missing()
    target = Path(out).resolve()
    if target.is_relative_to(Path(folder).resolve()):
        raise ConfigurationError(f"{out} lies in {folder}, which is an ImageFolder and stays one. Choose another -o.")
    refuse_foreign_files(target)
    samples, planned = Samples(journal, Path(folder)), Dealer(size)
    # Their types, and how many shards there are, stand in the first shard already.
    columns = columns_of(_dealt(samples, planned))
    if not planned.dealt and not samples.removed:
        raise ConfigurationError(f"{folder} has no picture to export.")
    names = [form.shard_name(number, planned.number + 1) for number in range(planned.number + 1)]
    try:
        with _part_of(target) as part:
            dealer, spoilt = Dealer(size), list[str]()
            for name, shard in zip(names, shards_of(samples, dealer), strict=False):
                spoilt += form.write(part / name, shard, columns)
            if (dealer.dealt, dealer.number) != (planned.dealt, planned.number):
                raise ConfigurationError(f"{folder} has changed meanwhile. Once nothing writes there, export it again.")
            _refuse_loss(target, spoilt, samples.removed, planned.dealt)
            _replace(target, part, names)
    except OSError as error:
        raise ConfigurationError(f"{target} cannot be written: {error.strerror or error}.") from error
    return Export([target / name for name in names], planned.dealt - len(spoilt), spoilt, samples.removed)


def _dealt(samples: Iterable[Sample], dealer: Dealer) -> Iterator[Sample]:
    for sample in samples:
        dealer.shard(sample)
        yield sample


@contextlib.contextmanager
def _part_of(target: Path) -> Iterator[Path]:
    """A folder for what is not whole yet, inside of where it will be, so that it need only be renamed."""
    part, is_new = target / PART_SUFFIX, not target.exists()
    try:
        part.mkdir(parents=True, exist_ok=True)
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if is_new:
            with contextlib.suppress(OSError):
                target.rmdir()  # where nothing came of it


def _refuse_loss(target: Path, spoilt: Sequence[str], removed: int, samples: int) -> None:
    """Raise ConfigurationError where an export would hold less than what it replaces may hold, or nothing at all."""
    is_earlier = (target / MARK).exists()
    if (spoilt or removed) and (len(spoilt) == samples or is_earlier):
        kept = "the earlier export stays" if is_earlier else "nothing is left to export"
        raise ConfigurationError(f"{_these(spoilt, removed)}; {kept}. Choose another -o, or mend it.")


def _these(spoilt: Sequence[str], removed: int) -> str:
    told = [removed_text(removed)] if removed else []
    if spoilt:
        more = f" and {counted(len(spoilt) - 1, 'other')}" if len(spoilt) > 1 else ""
        told.insert(0, f"{spoilt[0]}{more} {'are' if more else 'is'} missing, or not as saved")
    return ", and ".join(told)


def refuse_foreign_files(target: Path) -> None:
    """Raise ConfigurationError for a folder that holds anything but an earlier export."""
    if not target.exists():
        return
    names = set(os.listdir(target)) if target.is_dir() else {target.name}
    ours = set(filter(_is_shard, names)) if MARK in names else set()
    foreign = min(names - ours - {MARK, PART_SUFFIX}, default=None)
    if foreign is not None:
        message = f"{target} holds {foreign}, which is no export of this command, and is not replaced"
        raise ConfigurationError(f"{message}. Choose another -o.")


def _is_shard(name: str) -> bool:
    # Of whatever form: an export may be replaced by one of another form.
    return any(form.recognises(name) for form in FORMATS.values())


def _replace(target: Path, part: Path, shards: Sequence[str]) -> None:
    """Put the new shards in the place of the old ones; whoever dies in the midst leaves a folder that is ours still."""
    # Once more: to write the shards took its time, in which something else may have come here.
    refuse_foreign_files(target)
    (target / MARK).write_text("Made by imagen-async export, which may replace what is here.\n")
    for name in shards:
        os.replace(part / name, target / name)
    for name in set(os.listdir(target)) - {MARK, PART_SUFFIX, *shards}:
        (target / name).unlink()
