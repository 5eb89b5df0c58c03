"""`batch`: makes a picture for every line of a file, or goes on with what an earlier run of the folder left."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from ...errors import ConfigurationError, ImagenError
from ..accounts import open_pool_of, words_of
from ..batch_run import run_batch
from ..checking import checked_file, states_of
from ..exits import WRONG_USE
from ..folder import JOURNAL
from ..gallery.page import refuse_foreign_page, write_gallery
from ..grammar import Command, Parser
from ..library import Journal, prepare_folder, router_of
from ..manifest import refuse_foreign_lists
from ..next_commands import going_on
from ..options import (
    AccountOptions,
    BudgetOptions,
    CallbackOptions,
    FileOptions,
    GoingOnOptions,
    OutputOptions,
    PictureOptions,
    RunOptions,
)
from ..prompt_files import PromptLine
from ..receiving import callback_of
from ..wording import say


class BatchOptions(RunOptions, frozen=True, kw_only=True):
    """What `batch` is told."""

    file: FileOptions
    gallery: bool

    @classmethod
    def declare(cls, parser: Parser) -> None:
        """Add what may be written to a parser."""
        for part in (FileOptions, AccountOptions, PictureOptions, OutputOptions, BudgetOptions):
            part.declare(parser)
        parser.add_argument("--retries", type=int, default=0, metavar="N", help="new tasks for a failed generation (0)")
        parser.add_argument("--ordered", action="store_true", help="print results in the order of the file")
        parser.add_argument(
            "--gallery", action="store_true", help="at the end write index.html, which shows the pictures"
        )
        CallbackOptions.declare(parser)
        GoingOnOptions.declare(parser)


def _run(options: BatchOptions) -> int:
    pool, out = open_pool_of(options.accounts), options.output.out
    callback_of(options.callbacks)  # refused before the file is read
    router = router_of(pool, options.accounts.policy, needs_price=options.budget.max_credits is not None)
    defaults = options.picture.request("-")
    requests = checked_file(options.file, defaults, router)
    if requests is None:
        return WRONG_USE
    if out is None:
        if options.gallery:
            raise ConfigurationError("--gallery shows the pictures of a folder: say which with -o DIR.")
        return run_batch(requests, None, pool, router, options)
    path = str(Path(prepare_folder(out), JOURNAL))
    refuse_foreign_lists(out, path)
    if options.gallery:
        refuse_foreign_page(out)
    with Journal(path, PromptLine) as journal:
        known = states_of(requests, journal, defaults, router)
        if known is None:
            return WRONG_USE
        journal.note(_notes(journal.counts().total() + len(requests) - len(known), options))
        try:
            return run_batch(requests, journal, pool, router, options)
        finally:
            if options.gallery:
                _say_gallery(out, journal)


def _notes(total: int, options: BatchOptions) -> dict[str, str]:
    """What `status` is to know: how many requests there are, and the words that lead back to this batch."""
    stdin = "  # with the same prompts on stdin" if options.file.file == "-" else ""
    return {
        "total": str(total),
        "command": going_on(options.command_line) + stdin,
        "account": shlex.join(words_of(options.accounts)),
        "working_folder": os.getcwd(),
    }


def _say_gallery(folder: str, journal: Journal) -> None:
    """Write the page at the end of a batch, however that ended: its pictures are there, and its error comes out."""
    try:
        path, _ = write_gallery(folder, journal)
        say(f"The pictures are shown by {path}")
    except ImagenError as error:
        say(f"The gallery was not written: {error.message}")


BATCH = Command("batch", "make a picture for every line of a file; the same command again goes on", BatchOptions, _run)
