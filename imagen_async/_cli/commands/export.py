"""`export`: writes the pictures of a folder as shards, and prints where these are."""

from __future__ import annotations

from pathlib import Path

from .. import words
from ..exits import ALL_DONE, SOME_FAILED
from ..export import FORMATS
from ..export.folder import export
from ..export.shards import ShardSize
from ..folder import journal_of
from ..grammar import Options, Parser, Work
from ..library import JournalReader
from ..pictures import removed_text
from ..prompt_files import PromptLine
from ..wording import counted, say, show


class ExportOptions(Options, frozen=True):
    """What `export` is told."""

    dir: str
    to: str
    out: str | None
    shard_size: ShardSize

    @classmethod
    def declare(cls, parser: Parser) -> None:
        """Add what may be written to a parser."""
        parser.add_argument("dir", metavar="DIR")
        parser.add_argument("--to", required=True, choices=tuple(FORMATS), help="shards of this form")
        parser.add_argument(
            "-o", "--out", type=words.filled, metavar="DIR", help="where the shards go (beside the folder: DIR-FORM)"
        )
        parser.add_argument(
            "--shard-size",
            type=words.shard_size,
            default=ShardSize(bytes=500_000_000),
            metavar="SIZE",
            help="of a shard at most: a number of pictures, such as 1000, or of bytes, such as 500MB (the default)",
        )


def _run(options: ExportOptions) -> int:
    out = options.out or f"{Path(options.dir).resolve()}-{options.to}"
    with JournalReader(journal_of(options.dir), PromptLine) as journal:
        made = export(options.dir, journal, FORMATS[options.to], out, options.shard_size)
    show(*map(str, made.shards))
    for path in made.spoilt:
        say(f"Left out: {path} is missing, or is not as it was saved")
    if made.removed:
        say(removed_text(made.removed))
    say(f"{counted(made.pictures, 'picture')} in {counted(len(made.shards), 'shard')}")
    return SOME_FAILED if made.spoilt else ALL_DONE


WORK = Work(ExportOptions, _run)
