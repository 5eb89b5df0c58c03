"""The last words of a `batch` command: what became of all its requests, and what to run next."""

from __future__ import annotations

import argparse
import math
import shlex
from collections.abc import Sequence

from .._core.routing import Router
from .._core.values import Result
from .._job_factory import with_defaults
from .._journal import Journal
from .._progress import AccountProgress, Progress
from ..errors import BudgetReached, ImagenError, JournalError
from ._counts import ResultCounts
from ._manifest import FAILURES
from ._options import request_of, words_of
from ._progress import account_text
from ._prompt_files import PromptFile
from ._wording import amount, duration, say


class Summary:
    """Says on stderr what became of a batch.

    Args:
        requests: What was to be made; nothing where only the journal's was to be finished.
        journal: The folder's, or None where nothing is saved.
        router: Finds who can take a request.
        options: Of the command line; `command_line` is the line itself.
    """

    def __init__(
        self, requests: PromptFile | None, journal: Journal | None, router: Router, options: argparse.Namespace
    ) -> None:
        self._requests = requests
        self._journal = journal
        self._router = router
        self._options = options

    def say(
        self, progress: Progress, counts: ResultCounts, left: Sequence[Result], ended_by: ImagenError | None
    ) -> None:
        """Say it.

        Args:
            progress: How the batch stood when it was left.
            counts: Of its results.
            left: Of these, those whose tasks were left running.
            ended_by: What ended it before its time, or None.
        """
        earlier_done = progress.earlier - counts.earlier_failed
        parts = [_with_note(f"{counts.done:,} done", f"{earlier_done:,} earlier" if earlier_done else "")]
        held = f"{counts.unknown:,} with the create's answer lost: maybe billed, not sent again"
        parts.append(_with_note(f"{counts.failed - len(left):,} failed", held if counts.unknown else ""))
        if left:
            parts.append(f"{len(left):,} left running and paid for")
        unsent = self._unsent(counts)
        if unsent > 0:
            parts.append(f"{unsent:,} not sent")
        say(f"{', '.join(parts)}; {amount(progress.credits)} credits in {duration(progress.elapsed)}")
        _say_accounts(progress.accounts)
        if isinstance(ended_by, JournalError):
            say(f"What the journal could not take is in {self._options.out}/{FAILURES}, with the task ids.")
        elif (left or unsent > 0) and self._journal is not None:
            self._say_how_to_go_on(self._journal, is_budget_reached=isinstance(ended_by, BudgetReached))
        elif left:
            self._say_how_to_collect(left)
        elif counts.failed and self._journal is not None:
            folder = shlex.quote(self._options.out)
            say(f"Why is in {self._options.out}/{FAILURES}; what to do: imagen-async status {folder}")

    def _unsent(self, counts: ResultCounts) -> int:
        """How many requests wait to be sent yet."""
        if self._journal is None or self._requests is None:
            return len(self._requests or ()) - counts.done - counts.failed
        rows = self._journal.counts()
        return int(self._journal.notes()["total"]) - rows.total() + rows["queued"]

    def _say_how_to_go_on(self, journal: Journal, *, is_budget_reached: bool) -> None:
        command: str = self._options.command_line
        if is_budget_reached and self._requests is not None:
            command = self._with_enough(command, journal, self._requests)
        # `status` is to say the same.
        journal.note({"command": command})
        say(f"Nothing is lost; go on with: {command}")

    def _with_enough(self, command: str, journal: Journal, requests: PromptFile) -> str:
        """The command line with a budget that pays for everything, in place of the one that is used up."""
        spent = sum(bill.total * count for bill, count in journal.bills())
        # At the dearest account each, so that it is enough whoever makes them.
        enough = math.ceil(spent + self._dearest(journal, requests))
        words = shlex.split(command)
        for at, word in enumerate(words):
            if word == "--max-credits":
                words[at + 1] = str(enough)
            elif word.startswith("--max-credits="):
                words[at] = f"--max-credits={enough}"
        return shlex.join(words)

    def _dearest(self, journal: Journal, requests: PromptFile) -> float:
        """Credits that what is not sent costs at most."""
        defaults = request_of(self._options, "-")
        credits = 0.0
        for line in requests:
            entry = journal.find(str(line.key))
            if entry is None or entry.state == "queued":
                request, route = self._router.route(with_defaults(line, defaults))
                credits += max(offer.model.price(request) or 0.0 for offer in route.offers)
        return credits

    def _say_how_to_collect(self, left: Sequence[Result]) -> None:
        for account in dict.fromkeys(result.provider for result in left):
            words = shlex.join(words_of(self._options, account))
            say(f"Collect each of {account}, by its task id above, with: imagen-async collect TASK_ID {words}")


def _say_accounts(accounts: Sequence[AccountProgress]) -> None:
    """Who did what, where there are several; and whoever ended badly."""
    for account in accounts:
        if len(accounts) > 1 or (account.state == "stopped" and account.done):
            say(f"  {account_text(account)}")


def _with_note(text: str, note: str) -> str:
    return f"{text} ({note})" if note else text
