"""`plan`: checks every line of a file as `batch` would, and tells what it will cost in credits and time."""

from __future__ import annotations

import json

from .. import words
from ..accounts import pool_of
from ..balances import balances_of
from ..checking import JournalLines, checked_file, identity_of, lines_in
from ..estimate import Estimator
from ..exits import ALL_DONE, WRONG_USE
from ..folder import journal_in
from ..grammar import Options, Parser, Work
from ..library import Budget, JournalReader, latencies_of, router_of, schedule_of
from ..options import ADD, AccountOptions, BudgetOptions, FileOptions, PictureOptions
from ..own_columns import OwnColumns, resolved
from ..wording import show


class PlanOptions(Options, frozen=True):
    """What `plan` is told."""

    file: FileOptions
    accounts: AccountOptions
    picture: PictureOptions
    budget: BudgetOptions
    out: str | None
    add: bool
    json: bool

    @classmethod
    def declare(cls, parser: Parser) -> None:
        """Add what may be written to a parser."""
        for part in (FileOptions, AccountOptions, PictureOptions):
            part.declare(parser)
        parser.add_argument(
            "-o",
            "--out",
            type=words.filled,
            metavar="DIR",
            help="a batch's folder: leave out what its journal has, learn from it",
        )
        parser.add_argument("--add", action="store_true", help=ADD)
        BudgetOptions.declare(parser)
        parser.add_argument("--json", action="store_true", help="a JSON object on stdout")


def _run(options: PlanOptions) -> int:
    pool, max_credits = pool_of(options.accounts), options.budget.max_credits
    router = router_of(pool, options.accounts.policy, needs_price=max_credits is not None)
    defaults = resolved(options.picture, router, options.out).request("-")
    own = OwnColumns(router, defaults.model, options.file.file, options.out)
    requests = checked_file(options.file, defaults, router, own)
    if requests is None:
        return WRONG_USE
    schedules = {name: schedule_of(account) for name, account in pool.items()}
    known: JournalLines | None = JournalLines()
    spent = 0.0
    if (path := journal_in(options.out)) is not None:
        with JournalReader(path) as journal:
            known = lines_in(requests, identity_of(journal, defaults, router, add=options.add))
            spent = sum(bill.total * count for bill, count in journal.bills())
            for name, schedule in schedules.items():
                schedule.recall(latencies_of(journal, name))
    if known is None:
        return WRONG_USE
    # A queued one was noted and never sent, so that it is still to be paid for.
    unsent = (request for place, request in enumerate(requests) if known.state(place) in (None, "queued"))
    estimator = Estimator(pool, router, schedules, Budget(max_credits, spent) if max_credits else None)
    balances = balances_of(pool, proxy=options.accounts.proxy, own_sandbox=False)
    found = estimator.estimate(unsent, defaults, balances, known=known.counts.total() - known.counts["queued"])
    show(*([json.dumps(found.to_json())] if options.json else found.text().split("\n")))
    return ALL_DONE


WORK = Work(PlanOptions, _run)
