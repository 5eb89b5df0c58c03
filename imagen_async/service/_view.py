"""What the service's page says: words and figures, made once for all who look at it. Pure.

Names, prompts and reasons are anybody's: they are data here, and escaped where they are put into the page.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from ._figures import AccountSeen, Counts, RateSeen, Recent, Seen, Snapshot, cut, name_of
from ._plots import plots_of, short

MOST_ROWS = 50
"""Rows of a table: those of whom the most is going on."""

MOST_TROUBLES = 3
"""Accounts that are told of at the top."""

LONGEST_REASON = 240
"""Characters of why an account takes nothing."""

ACCOUNT_COLUMNS = ("Waiting", "Running", "Creates", "Status calls", "Done", "Failed", "Unknown", "Credits")
CALLER_COLUMNS = ("Waiting", "Running", "Done", "Failed", "Unknown", "Pictures", "Credits")

_OWN_PATH = re.compile(r"/(?![/\\])[^\x00-\x20\x7f\\]*")
"""Where a picture may be: on the page's own host, whatever its address is."""

_NOTES = {"ready": "takes requests", "limited": "slowed down", "paused": "paused", "stopped": "stopped"}

_TAKES_NOTHING = ("paused", "stopped")

_Cell = tuple[str, str]

T = TypeVar("T")

NOTHING = ("0", "0/s", "–")
"""Figures that are written quietly."""


class Row(msgspec.Struct, frozen=True):
    """One row of a table.

    Attributes:
        name: Whom it is of.
        cells: Its figures, each with what stands small beside it.
        state: How an account fares, as its `Health` has it; empty for a caller.
        note: The same in words.
        until: Unix seconds, which belong behind the note.
        why: What is wrong.
    """

    name: str
    cells: tuple[_Cell, ...]
    state: str = ""
    note: str = ""
    until: float | None = None
    why: str = ""


class View(msgspec.Struct, frozen=True):
    """All that the page shows. While nothing goes on, it stays the same.

    Attributes:
        headline: What goes on now.
        made: What has been made.
        since: Unix seconds from which on that counts.
        others: What has ended otherwise.
        quiet: Unix seconds at which the last thing happened, while nothing runs or waits; else None.
        said: What is read out to who cannot see the page; it seldom changes.
        troubles: Accounts that take nothing.
        accounts: Of their table.
        callers: Of theirs.
        unseen: What the tables leave out.
        pictures: The last ones; where one has an address that is not the service's own, it is left out.
        plots: SVG by name.
    """

    headline: str
    made: str
    since: float
    others: str
    quiet: float | None
    said: str
    troubles: tuple[Row, ...]
    accounts: tuple[Row, ...]
    callers: tuple[Row, ...]
    unseen: str
    pictures: tuple[Recent, ...]
    plots: dict[str, str]


def view_of(seen: Seen) -> View:
    """What the page shows of what is seen."""
    snapshot = seen.snapshot
    troubles = [account for account in seen.accounts if account.state in _TAKES_NOTHING]
    accounts = _busiest(seen.accounts, lambda account: (account.state in _TAKES_NOTHING, account.running))
    callers = _busiest([*snapshot.callers.items()], lambda each: (each[1].running + each[1].waiting, each[1].credits))
    is_idle = not snapshot.total.running and not snapshot.total.waiting
    return View(
        headline=_headline(snapshot.total),
        made=f"{_counted(snapshot.total.pictures, 'picture')} for {_counted(snapshot.total.credits, 'credit')}",
        since=snapshot.since,
        others=_others(snapshot.total),
        quiet=snapshot.last if is_idle else None,
        said=_said(is_idle, troubles),
        troubles=tuple(_account_row(account, snapshot) for account in troubles[:MOST_TROUBLES]),
        accounts=tuple(_account_row(account, snapshot) for account in accounts),
        callers=tuple(_caller_row(name, counts) for name, counts in callers),
        unseen=_unseen(len(seen.accounts) - len(accounts), len(snapshot.callers) - len(callers)),
        pictures=tuple(map(_own, snapshot.pictures)),
        plots=plots_of(snapshot.minutes),
    )


def _headline(total: Counts) -> str:
    running, waiting = f"{total.running:,} running", f"{total.waiting:,} waiting"
    if not total.waiting:
        return running if total.running else "Nothing is running"
    return f"{running}, {waiting}" if total.running else f"{waiting}, none running"


def _others(total: Counts) -> str:
    """What came of the requests that are not done; what there was none of is not named."""
    counts = ((total.failed, "failed"), (total.unknown, "of unknown outcome"), (total.left, "given up"))
    parts = [f"{count:,} {word}" for count, word in counts if count]
    return f"; {', '.join(parts)}" if parts else ""


def _said(is_idle: bool, troubles: Sequence[AccountSeen]) -> str:
    words = ["Nothing is running." if is_idle else "Requests are running or waiting."]
    words += [f"{name_of(account.name)} is {account.state}." for account in troubles[:MOST_TROUBLES]]
    return " ".join(words)


def _account_row(account: AccountSeen, snapshot: Snapshot) -> Row:
    counts = snapshot.accounts.get(name_of(account.name), Counts())
    cells = (
        (f"{account.waiting:,}", ""),
        (f"{account.running:,}", "" if account.running_limit is None else f"of {account.running_limit:,}"),
        _rate_cell(account.submit),
        _rate_cell(account.status),
        *((f"{count:,}", "") for count in (counts.done, counts.failed, counts.unknown)),
        (amount(counts.credits), ""),
    )
    is_paused_until = account.state == "paused" and account.until is not None
    return Row(
        name=name_of(account.name),
        cells=cells,
        state=account.state,
        note="paused until" if is_paused_until else _NOTES[account.state],
        until=account.until if is_paused_until else None,
        why=cut(account.why or "", LONGEST_REASON),
    )


def _rate_cell(rate: RateSeen) -> _Cell:
    """How many calls a second, and how many in a window are allowed."""
    limit = f"of {rate.count:,} in {short(rate.per)} s"
    return ("–" if rate.rate is None else f"{short(rate.rate)}/s", limit)


def _caller_row(name: str, counts: Counts) -> Row:
    figures = (counts.waiting, counts.running, counts.done, counts.failed, counts.unknown, counts.pictures)
    return Row(name, (*((f"{count:,}", "") for count in figures), (amount(counts.credits), "")))


def _own(picture: Recent) -> Recent:
    """The picture, without an address that leads to another host, or is none."""
    return picture if _OWN_PATH.fullmatch(picture.url) else msgspec.structs.replace(picture, url="")


def _busiest(items: Sequence[T], weight: Callable[[T], tuple[float, float]]) -> list[T]:
    """As many as a table has room for, in the order in which they are."""
    heaviest = sorted(range(len(items)), key=lambda number: weight(items[number]), reverse=True)[:MOST_ROWS]
    return [items[number] for number in sorted(heaviest)]


def _unseen(accounts: int, callers: int) -> str:
    parts = [_counted(accounts, "account")] if accounts else []
    parts += [_counted(callers, "caller")] if callers else []
    return f"{' and '.join(parts)} more, of whom less is going on, are in the metrics." if parts else ""


def amount(credits: float) -> str:
    """Credits for people: `6,528`, `72.62`."""
    return f"{credits:,.2f}".removesuffix(".00")


def _counted(number: float, thing: str) -> str:
    return f"{amount(number)} {thing}{'' if number == 1 else 's'}"
