"""Where each live job waits, by its state: to be sent, to be asked about, to be saved, and for its time to be over."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from .job import Job
from .live_jobs import LiveJobs
from .spending import Spending
from .states import AwaitingCallback, Confirming, Fetching, Queued, Running, Submitting
from .submit_queue import SubmitQueue
from .timer_queue import TimerQueue
from .upstream import Upstream, Upstreams

_RUNNING = (Running, *Running.__subclasses__())
_ASKED = frozenset({*_RUNNING, Confirming})
_AT_THE_PROVIDER = frozenset({*Submitting.__args__, *_RUNNING})
"""States of a task that runs, or that a create on the way may come to make."""


class SaveQueue:
    """Jobs whose pictures are to be fetched, first come first served, so many at once."""

    def __init__(self, at_once: int) -> None:
        self._ids: OrderedDict[int, None] = OrderedDict()
        self._free = at_once

    def add(self, job_id: int) -> None:
        """Take in a job, behind the others."""
        self._ids[job_id] = None

    def discard(self, job_id: int) -> None:
        """Let a job go that waits no more."""
        self._ids.pop(job_id, None)

    def pop(self) -> int | None:
        """Take out the next one, if there is room for it."""
        if not self._ids or not self._free:
            return None
        self._free -= 1
        return self._ids.popitem(last=False)[0]

    def settled(self) -> None:
        """One has been fetched, or could not be."""
        self._free += 1


class Places:
    """Every live job, and where it waits. Knows what belongs where, and decides nothing.

    Args:
        upstreams: The accounts.
        spending: The owners' budgets.
        saving_at_once: Jobs whose pictures may be fetched at once.

    Attributes:
        jobs: Every live job, by its id.
        to_send: Those that wait to be sent.
        to_save: Those whose pictures wait to be fetched.
        expiries: When each is given up; not while it talks.
    """

    def __init__(self, upstreams: Upstreams, spending: Spending, saving_at_once: int) -> None:
        self.jobs = LiveJobs()
        self.to_send = SubmitQueue(upstreams, self.jobs)
        self.to_save = SaveQueue(saving_at_once)
        self.expiries = TimerQueue()
        self._upstreams = upstreams
        self._asking = upstreams.agenda(lambda upstream: upstream.ask_at, lambda upstream: upstream.status)
        self._spending = spending

    def wake_at(self, now: float) -> float:
        """When somebody here has something to do, if nothing else happens; infinity for never."""
        self._upstreams.pass_on()
        return min(self.expiries.next_at(), self.to_send.wake_at(now), self._asking.next_at(now))

    def to_ask(self, now: float) -> Iterator[Upstream]:
        """The accounts that have a question to ask now, in the client's order, once for each question."""
        self._upstreams.pass_on()
        for number in self._asking.due(now):
            yield self._upstreams.in_order[number]

    def store(self, job: Job) -> None:
        """Keep a job as it is now, and count the tasks that its account has at the provider, or may come to have."""
        before = self.jobs.keep(job)
        # A job changes its account only from Queued, where it occupies none.
        occupied = before is not None and type(before.state) in _AT_THE_PROVIDER
        more = (type(job.state) in _AT_THE_PROVIDER) - occupied
        if more:
            self._upstreams[job.account].occupy(more)

    def put(self, job: Job, now: float, *, arrives: bool, keeps_turn: bool = False) -> None:
        """Put a live job where its state belongs; one that comes from outside is queued last, or asked about now.

        With `keeps_turn` it is sent again without a further turn of its caller's: nothing came of the last one.
        """
        upstream = self._upstreams[job.account]
        poll_queue = upstream.poll_queue
        upstream.touch()
        kind = type(job.state)
        if kind in _ASKED:
            poll_queue.expect(job, now, at_once=arrives)
        elif kind is Queued:
            poll_queue.forget(job.id)
            # What was refused, or not sent, goes before those that never were: its deadline runs.
            self.to_send.add(job, self._spending.room_for(job), at_front=not arrives, keeps_turn=keeps_turn)
        # The name that a callback gave may have been asked about, and denied, before.
        elif kind is AwaitingCallback:
            poll_queue.forget(job.id)
        elif kind is Fetching:
            poll_queue.forget(job.id)
            # Without an expiry: a picture that is paid for is fetched, however late.
            self.to_save.add(job.id)
            return
        else:
            return  # it talks, and is settled in time
        if (due := job.due) is not None:
            self.expiries.set(job.id, due)

    def send(self, job: Job) -> None:
        """Let a job go that waited to be sent: its turn has come."""
        self.to_send.remove(job.id, is_sent=True)
        self.expiries.discard(job.id)

    def take_out(self, job: Job) -> None:
        """Let a job wait nowhere any more; it is still kept."""
        match job.state:
            case Queued():
                self.to_send.remove(job.id)
            case Running() | Confirming():
                self._upstreams[job.account].poll_queue.forget(job.id)
                self._upstreams[job.account].touch()
            case Fetching():
                self.to_save.discard(job.id)
        self.expiries.discard(job.id)

    def end(self, job: Job) -> None:
        """Keep a job no more, which has ended."""
        self.store(job)
        self._spending.ends(job)
        self.jobs.drop(job)
        self._upstreams[job.account].poll_queue.forget(job.id)
        self._upstreams[job.account].touch()
        self.expiries.discard(job.id)
