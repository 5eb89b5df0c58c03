"""What earlier runs know: what became of each request, what each account has done, and what it has all cost."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from .._core.identity import Identity, Known
from .._core.job import Job
from .._core.job_events import Readmitted
from .._core.journal_entry import Bill, JournalEntry, bill_of, is_denied
from .._core.latency import MEMORY
from .._core.poll_schedule import Kind
from .._core.rate_limit import Rate
from .._core.resuming import awaited, earlier_result, is_at_end, repeated, resumed, sent_again
from .._core.values import ImageRequest, Result
from .._job_factory import JobFactory
from .._watch.log import log
from ..errors import ConfigurationError, InvalidRequest
from .clock import JournalClock, now
from .store import ENDED, LONGEST_WAY, BatchStore

if TYPE_CHECKING:
    from .reader import JournalReader


class TakenUp(msgspec.Struct, frozen=True):
    """A request that an earlier run has sent, and that goes on: its job's id, and the leave that this run gives it."""

    job_id: int
    leave: Readmitted


class Recollection(msgspec.Struct, frozen=True):
    """What a store said of the runs before when a run began.

    Attributes:
        unfinished: Jobs whose task exists.
        with_lost_creates: Jobs of which a create's answer was lost.
        bills: What all have cost, where anybody counts that.
        sent: Seconds ago at which each account's latest creates were over, at least; no more of them than a window has.
        latencies: How long each account's latest tasks took, by kind, oldest first.
    """

    unfinished: list[JournalEntry]
    with_lost_creates: list[JournalEntry]
    bills: list[tuple[Bill, int]]
    sent: dict[str, list[float]]
    latencies: dict[str, list[tuple[Kind, float]]]


def recollected(
    store: BatchStore, clock: JournalClock, rates: Mapping[str, Rate], *, counts_money: bool
) -> Recollection:
    """Read what a run begins with: from a disk, so not in the event loop.

    Args:
        store: In the midst of the run.
        clock: Knows how long ago something was that earlier runs have noted.
        rates: The submit limits of the accounts, by name.
        counts_money: True where it is asked what was spent.
    """
    return Recollection(
        unfinished=list(store.unfinished()),
        with_lost_creates=list(store.with_lost_creates()),
        bills=list(store.bills()) if counts_money else [],
        latencies={name: latencies_of(store, name) for name in rates},
        # Last, for the time from here on is not counted: a place is free later, and never too early.
        sent={name: sent_ago(store, clock, name, rate) for name, rate in rates.items()},
    )


def sent_ago(store: BatchStore, clock: JournalClock, account: str, rate: Rate) -> list[float]:
    """How many seconds ago the creates were over that may be in an account's window yet, the latest first.

    Where no clock tells how long ago that was, it was just now: a full window is waited for, once. What had no answer
    waits for as long as it may be on its way.
    """
    sent = list(store.sent_since(account, clock.earliest(rate.per)))
    ages = clock.ages(sent_at if over is None else over for sent_at, over in sent)
    # What is not known to be over may be on its way to the server yet, whatever has become of the process.
    ways = [LONGEST_WAY if over is None else 0.0 for _, over in sent]
    # No more than a window has: they were all in one, or those before these are free already.
    return sorted(age - way for age, way in zip(ages, ways, strict=True))[: rate.count]


class ResumeState:
    """What a batch knows of the runs before it, and which of their requests it has met again.

    Args:
        store: In the midst of the batch's run.
        factory: Makes the batch's jobs.
        clock: Knows how long ago something was that earlier runs have noted.
        earlier: What the store said when the run began.
        again: The states of earlier runs from which a request is sent once more.
        gone: Accounts whose tasks have ended with the earlier run, and cost nothing: they are made anew.
        named: Accounts where creates are known by their names: what was on its way is sent once more, as it was.
        awaits_callbacks: True where a callback may yet tell of a create that an earlier run has lost.
        add: True where requests under other defaults than before are new ones.

    Attributes:
        earlier: As given.
        identity: Tells which of the journal's each request is.
        unmet: Requests of earlier runs that are not sent again, and that the input has not come to yet.
    """

    def __init__(
        self,
        store: BatchStore,
        factory: JobFactory,
        clock: JournalClock,
        earlier: Recollection,
        *,
        again: frozenset[str],
        gone: frozenset[str] = frozenset(),
        named: frozenset[str] = frozenset(),
        awaits_callbacks: bool = False,
        add: bool = False,
    ) -> None:
        self._store = store
        # What stands there under other defaults, this input may never come to.
        self.unmet: int = 0 if add else sum(count for state, count in store.counts().items() if state not in again)
        known = Known(store.name, self._find, store.times_seen, store.notes(), is_new=store.is_new)
        self.identity: Identity = Identity(known, factory.router, factory.defaults, add=add)
        self._factory = factory
        self._clock = clock
        self._again = again
        self._gone = gone
        self._named = named
        self._awaits_callbacks = awaits_callbacks
        self._taken_up: dict[str, int] = {}
        self._denied: set[int] = set()
        self._open_bills = 0.0
        self.earlier: Recollection = earlier
        for entry in self._all_gone():
            self.unmet -= entry.state not in again
            self._open_bills += bill_of(entry).total

    def take_up(self, owner: int, new_id: Callable[[], int], wait: Callable[[Job], float]) -> list[Job]:
        """The jobs of earlier runs whose tasks exist, or of which a callback may tell yet.

        Args:
            owner: Whose they are to be.
            new_id: Makes their ids.
            wait: Seconds from a create for which a callback is waited for; 0: none will come.
        """
        jobs = []
        for entry in self.earlier.unfinished:
            # A held one whose task is named goes on even where held ones are to be sent again: that task exists.
            is_left = self._is_lost_there(entry) and "unknown" in self._again
            if self._factory.serves(entry.account) and entry.account not in self._gone and not is_left:
                jobs.append(self._resumed(entry, owner, new_id()))
                self._taken_up[entry.key] = jobs[-1].id
                # Reserved by the job itself from here on, until it is known what it has cost.
                self._open_bills += bill_of(entry).open
                if is_denied(entry):
                    self._denied.add(jobs[-1].id)
        return jobs + self._take_up_held(owner, new_id, wait)

    def take_up_named(self, entry: JournalEntry, owner: int, number: int) -> Job | None:
        """The job of a held entry whose task a callback has named; None where nobody here can ask about that."""
        if not self._factory.serves(entry.account):
            return None
        self._taken_up[entry.key] = number
        return self._resumed(entry, owner, number)

    def spent_places(self, account: str, rate: Rate) -> list[float]:
        """When the places are free again that earlier processes took in an account's window, in loop time."""
        return [now() + rate.per - age for age in self.earlier.sent[account] if age < rate.per]

    def asked_at(self, rates: Mapping[str, Rate]) -> dict[str, float]:
        """When earlier processes may have made the last status calls that are in an account's window yet.

        None is noted: a whole window of them was made when the last run ended.
        """
        age = math.inf if self._store.is_new else self._clock.since_last()
        return {name: now() - age for name, rate in rates.items() if age < rate.per}

    def latencies(self, account: str) -> list[tuple[Kind, float]]:
        """How long the account's latest tasks took, oldest first."""
        return self.earlier.latencies[account]

    def spent_credits(self) -> float:
        """Credits that earlier jobs have cost, or may have; without what is to come for those taken up."""
        unknown = sum(count for bill, count in self.earlier.bills if not bill.is_known)
        if unknown:
            message = "%s: nobody knows what %d earlier tasks have cost: no budget counts them"
            log(logging.WARNING, message, self._store.name, unknown)
        return sum(bill.total * count for bill, count in self.earlier.bills) - self._open_bills

    def meet(
        self, item: str | ImageRequest, index: int, owner: int, number: int, key: Callable[[str], str] | None = None
    ) -> Job | Result | TakenUp:
        """Say what a request is to earlier runs: a job to send, an earlier result, or a job taken up.

        Args:
            item: The request.
            index: Its place in the input.
            owner: Whose its job is to be.
            number: The job's id.
            key: Gives its key in the journal for the one that it has by itself, where that was looked up before, under
                this run's lock; None: it is found out here.

        Raises:
            InvalidRequest: It fits no model, its key came twice, or its key stood for something else before.
            DefaultsChanged: All that the journal has was made under other defaults: it ends the batch.
        """
        job = self._factory.job(item, index, owner, number)
        # Before its key is counted on disk: half a character in it would end the batch, and not this request.
        check_writable(job.request)
        name, entry = self.identity.of(item) if key is None else self._found(key(job.key))
        job = msgspec.structs.replace(job, key=name)
        if entry is None:
            return job
        if _owner_of(self._store, entry.key) is not None:
            return self._of_single(entry)
        self.unmet -= entry.state not in self._again and not self._is_gone(entry)
        if entry.key in self._taken_up:
            return self._readmitted(self._taken_up[entry.key], job)
        # Sent to another account, its task might stand beside the one that the lost create has made.
        is_elsewhere = entry.state == "unknown" and job.way.only(entry.account, entry.model) is None
        if self._is_gone(entry):
            return sent_again(msgspec.structs.replace(entry, state="queued", lost=0, lost_creates=()), job)
        if self._is_named(entry) and not is_elsewhere:
            return repeated(entry, job)
        if entry.state in self._again and not is_elsewhere:
            return sent_again(entry, job)
        return self._earlier(entry, job)

    def _found(self, key: str) -> tuple[str, JournalEntry | None]:
        return key, self._find(key)

    def _find(self, key: str) -> JournalEntry | None:
        # Where no run was before, there may be single requests.
        is_there = not self._store.is_new or _owner_of(self._store, key) is not None
        return self._store.find(key) if is_there else None

    def _of_single(self, entry: JournalEntry) -> Result:
        """What a single request with the same key has come to: its row is not this batch's to go on with."""
        if entry.state in ENDED - self._again:
            return earlier_result(entry)
        what = f"The key {entry.key!r} is that of a single request in {self._store.name}, which is {entry.state}"
        raise InvalidRequest(f"{what}. Ask for it with `generate(key=…)`, or give this request a new key.")

    def _is_gone(self, entry: JournalEntry) -> bool:
        return entry.account in self._gone and entry.state in ("running", "ready", "unknown")

    def _is_named(self, entry: JournalEntry) -> bool:
        return entry.account in self._named and entry.state == "unknown" and entry.task_id is None

    def _is_lost_there(self, entry: JournalEntry) -> bool:
        """True where the account has a task by that name, and has lost what it sent for it."""
        return entry.account in self._named and entry.state == "unknown" and entry.task_id is not None

    def _all_gone(self) -> list[JournalEntry]:
        if not self._gone:
            return []
        doubted = (entry for entry in self.earlier.with_lost_creates if entry.state == "unknown")
        found = {entry.key: entry for entry in (*self.earlier.unfinished, *doubted)}
        return list(filter(self._is_gone, found.values()))

    def _readmitted(self, job_id: int, like: Job) -> TakenUp:
        """Leave for a job taken up to be sent again, as one that is made new would have."""
        # Where the caller wants new tasks of what failed, also of what the provider has denied.
        is_doubted = job_id in self._denied and "failed" in self._again
        request = like.request if like.request.local_files else None
        leave = Readmitted(like.retries, like.resubmits, like.route, is_doubted, like.next_if_refused, request)
        return TakenUp(job_id, leave)

    def _take_up_held(self, owner: int, new_id: Callable[[], int], wait: Callable[[Job], float]) -> list[Job]:
        """The held requests of which a callback may soon tell, and that are not sent again."""
        jobs = []
        is_waited_for = self._awaits_callbacks and "unknown" not in self._again
        for entry in self.earlier.with_lost_creates if is_waited_for else ():
            # One whose task is named has been taken up with those whose tasks run.
            is_others = self._is_gone(entry) or self._is_named(entry)
            is_ours = self._factory.serves(entry.account) and not is_others
            if entry.state == "unknown" and entry.task_id is None and is_ours:
                blank = self._factory.job_of(entry, owner, new_id())
                seconds = wait(blank)
                # Later than that none comes: it stays held, until somebody has looked at the provider.
                if (entry.sent_at or 0.0) + seconds > self._clock.past_epoch() + now():
                    jobs.append(awaited(entry, blank, now(), self._clock.past_epoch(), seconds))
                    self._taken_up[entry.key] = blank.id
        return jobs

    def _resumed(self, entry: JournalEntry, owner: int, number: int) -> Job:
        blank = self._factory.job_of(entry, owner, number)
        if entry.state == "unknown":
            return awaited(entry, blank, now(), self._clock.past_epoch(), 0.0)
        return resumed(entry, blank, now(), self._clock.past_epoch())

    def _earlier(self, entry: JournalEntry, job: Job) -> Result | Job:
        # A run that saved nothing has made it: this one fetches it, and pays nothing.
        is_unsaved = entry.state == "done" and job.save_to is not None and not is_at_end(entry)
        if is_unsaved and self._factory.serves(entry.account):
            return self._resumed(entry, job.owner, job.id)
        result = earlier_result(entry)
        if entry.state not in ("running", "ready") and not is_unsaved:
            return result
        message = f"Its task belongs to {entry.account}, which this client does not have: resume with that account"
        error = ConfigurationError(f"{message}.", provider=entry.account, task_id=entry.task_id)
        return msgspec.structs.replace(result, error=error)


def _owner_of(store: BatchStore, key: str) -> str | None:
    """Whose a row is where it is a single request's; None for any other, and where a store is for batches only."""
    owner: Callable[[str], str | None] = getattr(store, "owner", lambda key: None)
    return owner(key)


def latencies_of(store: BatchStore | JournalReader, account: str) -> list[tuple[Kind, float]]:
    """How long an account's latest tasks took, by kind, oldest first: as many as a schedule remembers."""
    known = store.latencies(account, MEMORY)
    return [((request.model or "", request.count), latency) for request, latency in known]


def check_writable(request: ImageRequest) -> None:
    """Refuse what no journal can hold, such as half a character, or a field of the user's own that is no JSON."""
    try:
        msgspec.json.encode(request)
    except Exception as error:  # a class of the user's own may raise anything
        raise InvalidRequest(f"The request cannot be written to the journal: {error}.") from None
