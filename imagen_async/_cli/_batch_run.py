"""One `batch` command: prints and lists every result, and says at the end what became of all."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from typing import cast

from .._accounts import Account
from .._batch import Batch
from .._client import Client
from .._core.routing import Router
from .._core.values import PARAMETERS, Result
from .._job_factory import Parameters, with_defaults
from .._journal import Journal
from .._plain_group import PlainGroup
from .._progress import AccountProgress
from ..errors import BudgetReached, DeadlineExceeded, DownloadFailed, JournalError, UnknownOutcome
from ._arguments import request_of, words_of
from ._json import result_json
from ._manifest import FAILURES, Manifest
from ._progress import account_text, display
from ._prompt_files import PromptFile, PromptLine
from ._receiving import receiving
from ._wording import amount, duration, say

INTERRUPTED = 130


class BatchRun:
    """One `batch` command: prints and lists every result, and says at the end what became of all.

    Args:
        requests: What is to be made; nothing, to finish what the journal has.
        journal: The folder's, open for writing, or None where nothing is saved.
        router: Finds who can take a request.
        options: Of the command line; `command_line` is the line itself, `callback` where tasks are announced, or None.
    """

    def __init__(
        self, requests: PromptFile | None, journal: Journal | None, router: Router, options: argparse.Namespace
    ) -> None:
        self._requests = requests
        self._router = router
        self._journal = journal
        self._manifest = None if journal is None else Manifest(options.out, journal)
        self._options = options
        self._batch: Batch | None = None
        self._is_stopped = False
        self._is_noted = True
        self._is_budget_reached = False
        self._done = self._failed = self._unknown = self._earlier_failed = 0
        self._left: list[Result] = []
        self._held: dict[str, Result] = {}
        self._disk_error: OSError | None = None

    async def work(self, pool: Mapping[str, Account]) -> int:
        """Run the batch; returns the exit code."""
        options = self._options
        with self._manifest or contextlib.nullcontext():
            client = Client(
                *pool.values(), policy=options.policy, freshness=options.freshness, callback=options.callback
            )
            async with client, receiving(client, options):
                batch = client.batch(
                    self._requests or (),
                    journal=self._journal,
                    save_to=options.out,
                    ordered=options.ordered,
                    max_credits=options.max_credits,
                    retries=options.retries,
                    retry_failed=options.retry_failed,
                    on_unknown="resubmit" if options.resubmit_unknown else "hold",
                    on_exit=options.on_exit,
                    deadline=options.deadline,
                    **self._parameters(),
                )
                try:
                    await self._read(batch)
                except JournalError:
                    self._is_noted = False
                    raise
                except BudgetReached:
                    self._is_budget_reached = True
                    raise
                finally:
                    self._note_leftover(batch.leftover)
                    self._sum_up(batch)
        return INTERRUPTED if self._is_stopped else 1 if self._failed else 0

    def stop(self) -> bool:
        """Hear of Ctrl-C or SIGTERM; True when the run ends by itself then, with what runs still waited for."""
        if self._options.on_exit != "drain" or self._batch is None or self._is_stopped:
            return False
        self._is_stopped = True
        self._batch.stop()
        say("Stopping: nothing more is sent, and what runs is waited for. Once more leaves at once.")
        return True

    def _parameters(self) -> Parameters:
        names = ("model", "extra", *PARAMETERS)
        return cast(Parameters, {name: getattr(self._options, name) for name in names})

    def _title(self) -> str:
        to = "" if self._options.out is None else f" → {self._options.out}"
        return f"imagen-async: {getattr(self._requests, 'name', self._options.command)}{to}"

    async def _read(self, batch: Batch) -> None:
        show = display(self._title(), quiet=self._options.quiet)
        async with batch as results, PlainGroup() as beside:
            self._batch = batch
            if show is not None:
                beside.start_soon(show, lambda: batch.progress)
            async for result in results:
                self._note(result)
                self._print(result)
                if self._disk_error is not None:
                    reason = self._disk_error.strerror or self._disk_error
                    raise DownloadFailed(f"The lists in {self._options.out} cannot be written: {reason}.")
            beside.cancel()

    def _note_leftover(self, leftover: Sequence[Result]) -> None:
        """List what was paid for and not handed out: all of it before the first is printed, for stdout may be gone."""
        for result in leftover:
            is_left = isinstance(result.error, DeadlineExceeded)
            self._note(result, listed=not is_left or not self._is_known_to_run(result))
            if is_left:
                self._left.append(result)
        with contextlib.suppress(BrokenPipeError):
            for result in leftover:
                self._print(result)

    def _is_known_to_run(self, result: Result) -> bool:
        """True for a task that the journal has, so that no list need name it; false for one that has failed."""
        record = self._journal.find(result.key) if self._journal is not None else None
        return record is not None and record.task_id == result.task_id and record.error is None

    def _note(self, result: Result, *, listed: bool = True) -> None:
        if self._journal is not None:
            # Keys differ with a journal: what a callback has made of a held request comes in the place of its result.
            self._count(self._held.pop(result.key, None), -1)
            if isinstance(result.error, UnknownOutcome):
                self._held[result.key] = result
        self._count(result, 1)
        if self._manifest is None or result.earlier or not listed:
            return
        try:
            self._manifest.write(result)
        except OSError as error:
            self._disk_error = error
            say(f"Not listed, for the disk fails: {json.dumps(result_json(result), ensure_ascii=False)}")

    def _count(self, result: Result | None, sign: int) -> None:
        if result is not None:
            self._done += sign * result.ok
            self._failed += sign * (not result.ok)
            self._unknown += sign * isinstance(result.error, UnknownOutcome)
            self._earlier_failed += sign * (result.earlier and not result.ok)

    def _print(self, result: Result) -> None:
        if result.earlier:
            return  # the run that made it has printed it
        if self._options.json:
            print(json.dumps(result_json(result), ensure_ascii=False), flush=True)
        elif result.ok:
            print("\n".join(places(result)), flush=True)
        elif self._manifest is None and self._requests is not None:
            say(f"{self._requests.name}:{_line(result)}: {result.error}")

    def _sum_up(self, batch: Batch) -> None:
        progress = batch.progress
        earlier_done = progress.earlier - self._earlier_failed
        parts = [_with_note(f"{self._done:,} done", f"{earlier_done:,} earlier" if earlier_done else "")]
        held = f"{self._unknown:,} with the create's answer lost: maybe billed, not sent again" if self._unknown else ""
        parts.append(_with_note(f"{self._failed - len(self._left):,} failed", held))
        if self._left:
            parts.append(f"{len(self._left):,} left running and paid for")
        unsent = self._unsent()
        if unsent > 0:
            parts.append(f"{unsent:,} not sent")
        say(f"{', '.join(parts)}; {amount(progress.credits)} credits in {duration(progress.elapsed)}")
        self._say_accounts(progress.accounts)
        self._say_what_next(is_over=not self._left and unsent <= 0)

    def _say_accounts(self, accounts: Sequence[AccountProgress]) -> None:
        """Who did what, where there are several; and whoever ended badly."""
        for account in accounts:
            if len(accounts) > 1 or (account.state == "stopped" and account.done):
                say(f"  {account_text(account)}")

    def _unsent(self) -> int:
        """How many requests wait to be sent yet."""
        if self._journal is None or self._requests is None:
            return len(self._requests or ()) - self._done - self._failed
        counts = self._journal.counts()
        return int(self._journal.notes()["total"]) - counts.total() + counts["queued"]

    def _say_what_next(self, *, is_over: bool) -> None:
        if not self._is_noted:
            say(f"What the journal could not take is in {self._options.out}/{FAILURES}, with the task ids.")
        elif not is_over and self._journal is not None:
            command = self._how_to_go_on()
            self._journal.note({"command": command})
            say(f"Nothing is lost; go on with: {command}")
        elif self._left:
            self._say_how_to_collect()
        elif self._failed and self._manifest is not None:
            folder = shlex.quote(self._options.out)
            say(f"Why is in {self._options.out}/{FAILURES}; what to do: imagen-async status {folder}")

    def _how_to_go_on(self) -> str:
        """The command line; with a budget that is used up, as much as pays for everything."""
        command: str = self._options.command_line
        if not self._is_budget_reached or self._journal is None or self._requests is None:
            return command
        spent = sum(bill.total * count for bill, count in self._journal.bills())
        enough = math.ceil(spent + self._dearest(self._journal, self._requests))
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
            record = journal.find(str(line.key))
            if record is None or record.state == "queued":
                request, route = self._router.route(with_defaults(line, defaults))
                credits += max(offer.model.price(request) or 0.0 for offer in route.offers)
        return credits

    def _say_how_to_collect(self) -> None:
        for account in dict.fromkeys(result.provider for result in self._left):
            words = shlex.join(words_of(self._options, account))
            say(f"Collect each of {account}, by its task id above, with: imagen-async collect TASK_ID {words}")


def _with_note(text: str, note: str) -> str:
    return f"{text} ({note})" if note else text


def _line(result: Result) -> int:
    return result.request.line if isinstance(result.request, PromptLine) else result.index + 1


def places(result: Result) -> list[str]:
    """Where its pictures are: their paths, or their URLs while they are not saved."""
    return [str(file) for file in result.files] or list(result.urls)
