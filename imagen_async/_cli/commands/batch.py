"""`batch`: makes a picture for every line of a file, or goes on with what an earlier run of the folder left."""

from __future__ import annotations

import os
import secrets
import shlex
from collections.abc import Mapping
from pathlib import Path

import msgspec

from ... import Account
from ...errors import ConfigurationError, ImagenError
from .. import words
from ..accounts import gone_accounts, open_pool_of, service_accounts, words_of
from ..batch_run import run_batch
from ..checking import checked_file, identity_of, lines_in, restate
from ..exits import WRONG_USE
from ..folder import JOURNAL, journal_in
from ..gallery.page import refuse_foreign_page, write_gallery
from ..grammar import Parser, Work
from ..library import Journal, Router, prepare_folder, router_of
from ..list_note import LISTS
from ..manifest import refuse_foreign_lists
from ..next_commands import going_on, next_run_of, with_more
from ..options import (
    AccountOptions,
    BudgetOptions,
    CallbackOptions,
    FileOptions,
    GoingOnOptions,
    NextModelOptions,
    OutputOptions,
    PictureOptions,
    RunOptions,
)
from ..own_columns import OwnColumns, resolved
from ..prompt_files import PromptFile, PromptLine
from ..receiving import callback_of
from ..remaining import remaining_of
from ..saving import price_of_not_saving
from ..standing import GONE, SERVICES
from ..summary import gone_text
from ..wording import counted, say


class BatchOptions(RunOptions, frozen=True, kw_only=True):
    """What `batch` is told."""

    file: FileOptions
    gallery: bool

    @classmethod
    def declare(cls, parser: Parser) -> None:
        """Add what may be written to a parser."""
        for part in (FileOptions, AccountOptions, PictureOptions, OutputOptions, BudgetOptions):
            part.declare(parser)
        parser.add_argument(
            "--retries", type=words.whole, default=0, metavar="N", help="new tasks for a failed generation (0)"
        )
        NextModelOptions.declare(parser)
        parser.add_argument("--ordered", action="store_true", help="print results in the order of the file")
        parser.add_argument(
            "--gallery", action="store_true", help="at the end write index.html, which shows the pictures"
        )
        CallbackOptions.declare(parser)
        GoingOnOptions.declare(parser)


def _run(options: BatchOptions) -> int:
    pool = open_pool_of(options.accounts)
    options = msgspec.structs.replace(options, command_line=_with_accounts(options, pool))
    # All of it is refused before the file is read.
    callback_of(options.callbacks)
    why = price_of_not_saving(options.output, pool)
    if why is not None:
        raise ConfigurationError(f"{why} Give it -o DIR, or --no-save where this is meant. Nothing was sent.")
    if options.gallery and options.output.out is None:
        raise ConfigurationError("--gallery shows the pictures of a folder: say which with -o DIR.")
    router = router_of(pool, options.accounts.policy, needs_price=options.budget.max_credits is not None)
    options = msgspec.structs.replace(options, picture=resolved(options.picture, router, options.output.out))
    own = OwnColumns(router, options.picture.model, options.file.file, options.output.out)
    requests = checked_file(options.file, options.picture.request("-"), router, own)
    if requests is None:
        return WRONG_USE
    if options.output.out is None:
        return run_batch(requests, None, None, pool, router, options)
    return _run_in(options.output.out, requests, pool, router, options, own)


def _run_in(
    out: str,
    requests: PromptFile,
    pool: Mapping[str, Account],
    router: Router,
    options: BatchOptions,
    own: OwnColumns,
) -> int:
    """Go on with a folder, which may be new."""
    defaults, gone = options.picture.request("-"), gone_accounts(pool)
    with Journal(_prepared(out, options), PromptLine) as journal:
        known = lines_in(requests, identity_of(journal, defaults, router, add=options.going_on.add), gone)
        if known is None:
            return WRONG_USE
        if known.moved or known.are_edited:
            journal.note({LISTS: ""})
        restate(known, requests, identity_of(journal, defaults, router, add=options.going_on.add), journal)
        _say_what_became_of(out, journal, pool)
        if known.counts.total():
            remaining = remaining_of(requests, known, defaults, router, options.going_on.again)
            say(remaining.text() if remaining.left else f"Nothing is left of {counted(len(requests), 'request')}.")
        # Galleries and exports are in the order of the file as it is now.
        journal.move(known.moved)
        total = journal.counts().total() + len(requests) - known.counts.total()
        notes = _notes(total, options, pool, journal.notes()) | {"file_sha256": requests.sha256}
        journal.note(notes | known.news | own.note)
        try:
            return run_batch(requests, known, journal, pool, router, options)
        finally:
            if options.gallery:
                _say_gallery(out, journal)


def _with_accounts(options: BatchOptions, pool: Mapping[str, Account]) -> str:
    """The command, saying whose account it is also where that was the only one whose key was set."""
    named = [] if options.accounts.provider else [word for name in pool for word in ("-p", name)]
    return shlex.join(with_more(shlex.split(options.command_line), named))


def _prepared(out: str, options: BatchOptions) -> str:
    """The path of a folder's journal; raises ConfigurationError where something in the folder would be written over."""
    prepare_folder(out)
    if journal_in(out) is None:
        refuse_foreign_lists(out)
    if options.gallery:
        refuse_foreign_page(out)
    return str(Path(out, JOURNAL))


def _notes(total: int, options: BatchOptions, pool: Mapping[str, Account], before: Mapping[str, str]) -> dict[str, str]:
    """What `status` is to know: how many requests there are, and the words that lead back to this batch."""
    return {
        "total": str(total),
        "command": going_on(options.command_line),
        "account": shlex.join(words_of(options.accounts)),
        "working_folder": os.getcwd(),
        GONE: " ".join(sorted(gone_accounts(pool))),
        SERVICES: " ".join(sorted(service_accounts(pool))),
        # What a copy of the folder has too, and another batch has not.
        "id": before.get("id") or secrets.token_hex(8),
    }


def _say_what_became_of(folder: str, journal: Journal, pool: Mapping[str, Account]) -> None:
    """Tell what is to be known of the folder before anything is sent."""
    next_run = next_run_of(folder, journal.notes())
    if next_run is not None and next_run.warning is not None:
        say(f"Warning: {next_run.warning}")
    gone = [entry for entry in journal.unfinished() if entry.account in gone_accounts(pool)]
    if gone:
        say(f"Of the run before: {gone_text(len(gone))} They are made anew.")


def _say_gallery(folder: str, journal: Journal) -> None:
    """Write the page at the end of a batch, however that ended: its pictures are there, and its error comes out."""
    try:
        path, _ = write_gallery(folder, journal)
        say(f"The pictures are shown by {path}")
    except ImagenError as error:
        say(f"The gallery was not written: {error.message}")


WORK = Work(BatchOptions, _run)
