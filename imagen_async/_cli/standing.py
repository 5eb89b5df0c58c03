"""How the batch of a folder stands, from its journal alone: counts, credits, reasons, what to run next."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from ..ports import JournalEntry
from .as_json import code_text
from .library import JournalReader, cut_off, one_line, shown
from .next_commands import NextRun, next_run_of, settling
from .pictures import removed_in, removed_text
from .wording import amount, counted

GONE = "gone_accounts"
"""The note that names the accounts whose tasks end with the command: sandboxes that it serves by itself."""

SERVICES = "services"
"""The note that names the accounts that are services: a create that one has not answered goes there once more."""

_SHOWN = 10
"""Held requests that are shown to people; `--json` has them all."""

_MEANINGS = {
    "done": "",
    "running": "tasks at the provider, paid for: the next run collects them",
    "ready": "finished at the provider, not on disk yet: the next run fetches them",
    "submitting": "creates on the way",
    "unanswered": "by a service, which may have them: the next run asks for the same tasks, and none is a second one",
    "queued": "refused or put back before anything was made: the next run sends them",
    "not sent": "of the file",
    "gone": "with the sandbox that ran inside of the command, unpaid: the next run makes them anew",
    "never sent": "failed before anything left, and cost nothing: they stay so, unless --retry-failed sends them",
    "failed": "stay failed, unless --retry-failed makes new tasks",
    "unknown": "the create's answer was lost: maybe billed, held, not sent again",
}


class Reason(msgspec.Struct):
    """Failures of one kind: how many, and one of them."""

    type: str
    code: str | None
    count: int
    example: dict[str, str]


class AccountFigures(msgspec.Struct):
    """What one account did: requests by state, credits that it billed."""

    counts: dict[str, int] = {}
    credits: float = 0.0

    def text(self) -> str:
        """For people."""
        counts = [f"{self.counts[name]:,} {name}" for name in _MEANINGS if self.counts.get(name)]
        return f"{', '.join(counts)}, {amount(self.credits)} credits"


class Status:
    """The figures of one journal.

    Args:
        folder: The batch's.
        entries: What its journal has.
        notes: Those of its journal.
        is_at_work: True while a batch writes to it.
        next_run: What goes on with it, as it is to be run from here.
        removed: Pictures that were saved and are in the folder no more.

    Attributes:
        counts: Requests by state; `not sent` are those of the file that have no row yet.
        spent: Credits billed, as far as they are known.
        held: Credits that lost creates may have cost, also those that were sent once more, as far as prices are known.
        unknown: The held requests.
        accounts: Requests by account and state, of those that were sent; and what each account has billed.
        reasons: Why requests failed, the most frequent first.
        is_at_work: True while a batch writes to the journal.
        removed: As given.
    """

    def __init__(
        self,
        folder: str,
        entries: Iterable[JournalEntry],
        notes: Mapping[str, str],
        *,
        is_at_work: bool = False,
        next_run: NextRun | None = None,
        removed: int = 0,
    ) -> None:
        self.folder = folder
        self.is_at_work = is_at_work
        self._notes = notes
        self._next_run = next_run
        self._gone_accounts = notes.get(GONE, "").split()
        self._services = notes.get(SERVICES, "").split()
        self.removed = removed
        self.counts: Counter[str] = Counter()
        self.ignored: Counter[str] = Counter()
        self.spent = self.held = 0.0
        self.unknown: list[JournalEntry] = []
        self.accounts: dict[str, AccountFigures] = {}
        self._reasons: dict[tuple[str, object, str], Reason] = {}
        self._add_all(entries)
        total = int(notes.get("total", 0))
        self.counts["not sent"] = max(0, total - self.counts.total())

    @property
    def reasons(self) -> list[Reason]:
        """Why requests failed, the most frequent first."""
        return sorted(self._reasons.values(), key=lambda reason: -reason.count)

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "dir": self.folder,
            "at_work": self.is_at_work,
            "counts": {name: self.counts[name] for name in _MEANINGS},
            "credits_spent": self.spent,
            "credits_at_risk": self.held,
            "ignored": dict(self.ignored),
            "accounts": {name: msgspec.to_builtins(account) for name, account in self.accounts.items()},
            "failures": msgspec.to_builtins(self.reasons),
            "unknown": [_held_json(entry) for entry in self.unknown],
            "pictures_removed": self.removed,
            "copy_of": None if self._next_run is None else self._next_run.original,
            "next": self.next_commands(),
        }

    def text(self) -> str:
        """For people."""
        total = self.counts.total()
        at_work = ", a batch is at work on it" if self.is_at_work else ""
        lines = [f"{one_line(self.folder)}: {counted(total, 'request')}{at_work}"]
        lines += [_count_line(name, self.counts[name]) for name in _MEANINGS if self.counts[name] or name == "done"]
        held = f", up to {amount(self.held)} more for creates whose answer was lost" if self.held else ""
        lines.append(f"credits: {amount(self.spent)} spent{held}")
        if len(self.accounts) > 1:
            lines += [f"  {name}: {account.text()}" for name, account in sorted(self.accounts.items())]
        if self.ignored:
            told = ", ".join(f"{name} ({count:,})" for name, count in self.ignored.most_common())
            lines.append(f"dropped or changed by the provider, by its own word: {told}")
        if self._reasons:
            lines += ["failures:", *map(_reason_line, self.reasons)]
        if self.unknown:
            lines += ["held; look for them at the provider before paying again:"]
            lines += map(_held_line, self.unknown[:_SHOWN])
            lines += [f"  … and {len(self.unknown) - _SHOWN:,} more (--json)"] if len(self.unknown) > _SHOWN else []
        lines += [removed_text(self.removed)] if self.removed else []
        commands = self.next_commands()
        warning = None if self._next_run is None else self._next_run.warning
        lines += [warning] if commands and warning else []
        return "\n".join([*lines, *(["next:", *(f"  {command}" for command in commands)] if commands else [])])

    def next_commands(self) -> list[str]:
        """What to run next: to go on, to pay for failed ones again, to settle the held ones."""
        if self.is_at_work or self._next_run is None:
            return []
        return settling(self._next_run, self.folder, self._notes["account"], self.counts)

    def _add_all(self, entries: Iterable[JournalEntry]) -> None:
        for entry in entries:
            # What is on its way while nobody writes was cut off.
            now = cut_off(entry) if entry.state == "submitting" and not self.is_at_work else entry
            if self._is_gone(now):
                self.counts["gone"] += 1
                continue
            state = self._state_of(now)
            self.counts[state] += 1
            self.ignored.update(now.ignored)
            self.spent += now.credits or 0.0
            self.held += now.at_risk or 0.0
            if now.attempts and now.state != "queued":
                account = self.accounts.setdefault(now.account, AccountFigures())
                account.counts[now.state] = account.counts.get(now.state, 0) + 1
                account.credits += now.credits or 0.0
            if state == "unknown":
                self.unknown.append(now)
            elif now.error is not None and state not in ("queued", "unanswered"):
                self._add_reason(now)

    def _state_of(self, entry: JournalEntry) -> str:
        """How a request stands, in more words than the journal has."""
        # No account took it, or it could not be written: to make it is to pay for it the first time.
        if entry.state == "failed" and not entry.attempts:
            return "never sent"
        # One that has a task there, the service has lost itself.
        is_unanswered = entry.state == "unknown" and entry.task_id is None and entry.account in self._services
        return "unanswered" if is_unanswered else entry.state

    def _is_gone(self, entry: JournalEntry) -> bool:
        """True for what began in a sandbox that has ended with its process, and that cost nothing."""
        is_open = entry.state in ("running", "ready", "unknown")
        return is_open and not self.is_at_work and entry.account in self._gone_accounts

    def _add_reason(self, entry: JournalEntry) -> None:
        error = entry.error
        assert error is not None
        # One reason, whatever ids, links and figures its message names.
        kind = re.sub(r"https?://\S+|'[^']*'|\"[^\"]*\"|\b[0-9a-f]{16,}\b|\d+", "…", error.message)
        example = {"key": entry.key, "prompt": entry.request.prompt, "message": error.message}
        code = code_text(error.code)
        reason = Reason(error.type, code, 0, example)
        self._reasons.setdefault((error.type, code, kind), reason).count += 1


def status_of(journal: JournalReader) -> Status:
    """How the batch of a journal stands now."""
    folder, notes, removed = journal.folder or os.curdir, journal.notes(), 0

    def looked_at() -> Iterator[JournalEntry]:
        nonlocal removed
        for entry in journal.entries():
            removed += removed_in([entry])
            yield entry

    is_at_work, next_run = journal.is_being_written(), next_run_of(folder, notes)
    status = Status(folder, looked_at(), notes, is_at_work=is_at_work, next_run=next_run)
    status.removed = removed
    return status


def _count_line(name: str, count: int) -> str:
    meaning = _MEANINGS[name]
    return f"  {count:>9,} {name}" + (f"  ({meaning})" if meaning and count else "")


def _reason_line(reason: Reason) -> str:
    code = "" if reason.code is None else f" {reason.code}"
    first = f"  {reason.count:>9,} {reason.type}{code}: {reason.example['message']}"
    return f"{first}\n{' ' * 12}e.g. {shown(repr(reason.example['prompt']))}"


def _held_line(entry: JournalEntry) -> str:
    cost = "an unknown price" if entry.at_risk is None else f"up to {amount(entry.at_risk)} credits"
    sent = "" if entry.sent_at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.sent_at))
    return f"  {one_line(entry.key)}  {sent}  {cost}  {shown(repr(entry.request.prompt))}"


def _held_json(entry: JournalEntry) -> dict[str, Any]:
    return {
        "key": entry.key,
        "prompt": entry.request.prompt,
        "account": entry.account,
        "sent_at": entry.sent_at,
        "credits_at_risk": entry.at_risk,
    }
