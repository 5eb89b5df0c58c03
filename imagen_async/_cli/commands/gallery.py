"""`gallery`: writes the page that shows the pictures of a folder, and prints where it is."""

from __future__ import annotations

from ..exits import ALL_DONE
from ..folder import journal_of
from ..gallery.page import write_gallery
from ..grammar import Options, Parser, Work
from ..library import JournalReader
from ..prompt_files import PromptLine
from ..wording import say, show


class GalleryOptions(Options, frozen=True):
    """What `gallery` is told."""

    dir: str

    @classmethod
    def declare(cls, parser: Parser) -> None:
        """Add what may be written to a parser."""
        parser.add_argument("dir", metavar="DIR")


def _run(options: GalleryOptions) -> int:
    with JournalReader(journal_of(options.dir), PromptLine) as journal:
        path, summary = write_gallery(options.dir, journal)
    show(str(path))
    say(summary)
    return ALL_DONE


WORK = Work(GalleryOptions, _run)
