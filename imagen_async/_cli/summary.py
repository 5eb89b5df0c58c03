"""The last words of a `batch` command: what became of all its requests, and what to run next."""

from __future__ import annotations

import contextlib
import math
import shlex
from collections.abc import Container, Iterable, Iterator, Sequence

from .. import AccountProgress, Progress, Result
from ..errors import BudgetReached, ImagenError, JournalError
from .accounts import words_of
from .checking import JournalLines, identity_of, lines_in
from .counts import ResultCounts
from .library import Journal, Router
from .manifest import FAILURES
from .next_commands import going_on, next_run_of, with_budget
from .options import RunOptions
from .progress import account_text
from .prompt_files import PromptFile
from .remaining import Remaining, remaining_of
from .wording import GONE_TEXT, amount, duration, say

_SHORT = 5000
"""Requests that are soon looked through once more."""


class Summary:
    """Says on stderr what became of a batch.

    Args:
        requests: What was to be made; nothing where only the journal's was to be finished.
        journal: The folder's, or None where nothing is saved.
        router: Finds who can take a request.
        options: What the run is told.
        gone_accounts: Those whose tasks end with the command.
    """

    def __init__(
        self,
        requests: PromptFile | None,
        journal: Journal | None,
        router: Router,
        options: RunOptions,
        gone_accounts: Container[str] = (),
    ) -> None:
        self._requests = requests
        self._journal = journal
        self._router = router
        self._options = options
        self._gone_accounts = gone_accounts

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
        unsent = self._unsent(counts)
        gone = [result for result in left if result.provider in self._gone_accounts]
        say(ending_text(progress, counts, len(left), unsent, len(gone), cost=self._cost_of(unsent)))
        for line in account_lines(progress.accounts):
            say(line)
        if self._journal is None:
            for account in dict.fromkeys(result.provider for result in left if result not in gone):
                say(how_to_collect(account, words_of(self._options.accounts, account)))
            if gone:
                say(gone_text(len(gone)))
            return
        out = str(self._options.output.out)
        if isinstance(ended_by, JournalError):
            if left or counts.failed:
                say(f"What the journal could not take is in {out}/{FAILURES}, with the task ids.")
        elif left or unsent > 0:
            self._say_how_to_go_on(self._journal, len(gone), is_budget_reached=isinstance(ended_by, BudgetReached))
        elif counts.failed:
            say(f"Why is in {out}/{FAILURES}; what to do: imagen-async status {shlex.quote(out)}")

    def _unsent(self, counts: ResultCounts) -> int:
        """How many requests wait to be sent yet."""
        if self._journal is None or self._requests is None:
            return len(self._requests or ()) - counts.done - counts.failed
        rows = self._journal.counts()
        return int(self._journal.notes()["total"]) - rows.total() + rows["queued"]

    def _cost_of(self, unsent: int) -> str:
        """What so many requests will cost; those of a long file, lest one waits, at the mean price of what was sent."""
        if self._journal is not None and self._requests is not None and 0 < unsent <= len(self._requests) <= _SHORT:
            remaining = self._remaining(self._journal, self._requests, ())
            if remaining.unsent == unsent and remaining.credits is not None:
                return remaining.cost()
        bills = [] if self._journal is None else self._journal.bills()
        prices = [(bill.price, count) for bill, count in bills if bill.price is not None]
        if not prices:
            return ""
        mean = sum(price * count for price, count in prices) / sum(count for _, count in prices)
        return f"about {amount(unsent * mean)} credits"

    def _say_how_to_go_on(self, journal: Journal, gone: int, *, is_budget_reached: bool) -> None:
        command = going_on(self._options.command_line)
        if is_budget_reached and self._requests is not None:
            spent = sum(bill.total * count for bill, count in journal.bills())
            # At the dearest account each, so that it is enough whoever makes them.
            remaining = self._remaining(journal, self._requests, self._gone_accounts)
            command = with_budget(command, math.ceil(spent + (remaining.credits or 0.0)))
        if self._requests is not None:
            # `status` is to say the same; what collects one task is not how the batch goes on.
            with contextlib.suppress(JournalError):  # another program may have the file just now
                journal.note({"command": command})
                next_run = next_run_of(str(self._options.output.out), journal.notes())
                command = command if next_run is None else next_run.line()
        what = f"{gone_text(gone)} The same again makes them anew" if gone else "Nothing is lost; go on with"
        say(f"{what}: {command}")

    def _remaining(self, journal: Journal, requests: PromptFile, gone: Container[str]) -> Remaining:
        """What is not sent, or ran at an account that is gone, and costs so much at most."""
        defaults, going_on = self._options.picture.request("-"), self._options.going_on
        identity = identity_of(journal, defaults, self._router, add=going_on.add)
        known = lines_in(requests, identity, gone)
        return remaining_of(requests, known or JournalLines(), defaults, self._router)


def ending_text(progress: Progress, counts: ResultCounts, left: int, unsent: int, gone: int = 0, cost: str = "") -> str:
    """How a batch ended, in a line: so many of its tasks were left running, and so many requests, at so much, not sent.

    Of those that were left, so many are gone with their sandbox.
    """
    earlier_done = progress.earlier - counts.earlier_failed
    parts = [_with_note(f"{counts.done:,} done", f"{earlier_done:,} earlier" if earlier_done else "")]
    held = f"{counts.unknown:,} with the create's answer lost: maybe billed, not sent again"
    parts.append(_with_note(f"{counts.failed - left:,} failed", held if counts.unknown else ""))
    if left > gone:
        parts.append(f"{left - gone:,} left running and paid for")
    if gone:
        parts.append(f"{gone:,} gone with the sandbox")
    if unsent > 0:
        parts.append(_with_note(f"{unsent:,} not sent", cost))
    return f"{', '.join(parts)}; {amount(progress.credits)} credits in {duration(progress.elapsed)}"


def account_lines(accounts: Sequence[AccountProgress]) -> Iterator[str]:
    """Who did what, where there are several; and whoever ended badly."""
    for account in accounts:
        if len(accounts) > 1 or (account.state == "stopped" and account.done):
            yield f"  {account_text(account)}"


def gone_text(count: int) -> str:
    """What became of tasks that ran in a sandbox of the command's own."""
    what = "1 task is" if count == 1 else f"{count:,} tasks are"
    return f"{what} {GONE_TEXT}."


def how_to_collect(account: str, words: Iterable[str]) -> str:
    """What to run for tasks of an account that were left running, and that no journal has."""
    return f"Collect each of {account}, by its task id above, with: imagen-async collect TASK_ID {shlex.join(words)}"


def _with_note(text: str, note: str) -> str:
    return f"{text} ({note})" if note else text
