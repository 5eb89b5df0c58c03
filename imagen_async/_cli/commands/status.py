"""`status`: tells how the batch of a folder stands."""

from __future__ import annotations

import json

from ..exits import ALL_DONE
from ..folder import journal_of
from ..grammar import Options, Parser, Work
from ..library import JournalReader
from ..standing import status_of
from ..wording import show


class StatusOptions(Options, frozen=True):
    """What `status` is told."""

    dir: str
    json: bool

    @classmethod
    def declare(cls, parser: Parser) -> None:
        """Add what may be written to a parser."""
        parser.add_argument("dir", metavar="DIR")
        parser.add_argument("--json", action="store_true", help="a JSON object on stdout")


def _run(options: StatusOptions) -> int:
    with JournalReader(journal_of(options.dir)) as journal:
        found = status_of(journal)
    show(*([json.dumps(found.to_json(), ensure_ascii=False)] if options.json else found.text().split("\n")))
    return ALL_DONE


WORK = Work(StatusOptions, _run)
