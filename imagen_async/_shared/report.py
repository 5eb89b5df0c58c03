"""What a key's file tells for people: how full its windows are, what was learned, and who has and waits for what."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing

import msgspec

from .._clock import boot_clock
from .._core.rate_limit import Rate
from .._core.shared_limits import KINDS, Kind, SharedLimits
from .file import SharedFile
from .seats import SharedAccount, shelves_of


class LimitUse(msgspec.Struct, frozen=True):
    """How one limit stands.

    Attributes:
        rate: As the account has it.
        limit: Places in a window, as they are allowed now.
        taken: Places that are not free.
        blocked_for: Seconds for which nothing may be sent; 0: none.
    """

    rate: Rate
    limit: int
    taken: int
    blocked_for: float


class ProcessUse(msgspec.Struct, frozen=True):
    """What one process has.

    Attributes:
        pid: The system's number of it.
        clients: Its clients that use the key.
        running: Tasks that they have.
        taken: Places that they have, by limit.
        waiting: Requests that wait for one, by limit.
    """

    pid: int
    clients: int
    running: int
    taken: Mapping[Kind, int]
    waiting: Mapping[Kind, int]


class KeyUse(msgspec.Struct, frozen=True):
    """How the limits of a key stand.

    Attributes:
        path: The file that tells it.
        limits: By kind.
        processes: Who uses it.
    """

    path: str
    limits: Mapping[Kind, LimitUse]
    processes: tuple[ProcessUse, ...]


def use_of(account: SharedAccount, environment: Mapping[str, str], *, forgets: bool = False) -> KeyUse | None:
    """How a key's limits stand; None where it was not used on this machine, as far as its files tell.

    Args:
        account: Whose.
        environment: Says where its file lies.
        forgets: True where what was learned is to be forgotten: the limits are as they were set then.

    Raises:
        OSError, sqlite3.Error: The file cannot be read.
    """
    paths = (shelf.folder / shelf.name for shelf in shelves_of(account, environment))
    path = next((path for path in paths if path.with_suffix(".db").exists()), None)
    if path is None:
        return None
    with closing(SharedFile(path)) as file:
        return file.change(lambda state: _use(file, str(path.with_suffix(".db")), state, account, forgets))


def _use(file: SharedFile, path: str, state: SharedLimits, account: SharedAccount, forgets: bool) -> KeyUse:
    now = boot_clock()
    if forgets:
        state.learned.clear()
    rates: dict[Kind, Rate] = {"submit": account.limits.submit, "status": account.limits.status}
    limits = {}
    for kind, rate in rates.items():
        learned = state.limit_of(kind, rate)
        blocked_for = max(0.0, max(learned.blocked_until, state.lost_at + rate.per) - now)
        limits[kind] = LimitUse(rate, learned.limit, state.taken(kind, rate.per, now), blocked_for)
    pids = {process: file.pid(process) for process in sorted(state.processes())}
    users = (_process(state, process, pid, rates, now) for process, pid in pids.items() if pid is not None)
    return KeyUse(path, limits, tuple(users))


def _process(state: SharedLimits, process: str, pid: int, rates: Mapping[Kind, Rate], now: float) -> ProcessUse:
    said = [state.members[name].said for name in state.of(process)]
    wishes = {kind: [each.wishes[kind] for each in said if kind in each.wishes] for kind in KINDS}
    return ProcessUse(
        pid,
        len(said),
        sum(each.load for each in said),
        {kind: sum(wish.held.count(rates[kind].per, now) for wish in wishes[kind]) for kind in KINDS},
        {kind: sum(wish.wanted for wish in wishes[kind]) for kind in KINDS},
    )
