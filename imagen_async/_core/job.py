"""One job: a request, where it stands, and what it has cost so far. What moves it is the `machine`'s."""

from __future__ import annotations

import msgspec

from .model import Model
from .poll_schedule import Kind
from .routing import Offer, Route
from .states import (
    AwaitingCallback,
    Confirming,
    Done,
    Failed,
    Fetching,
    Left,
    NotAdmitted,
    Queued,
    Running,
    State,
    Unknown,
)
from .values import ImageRequest

SPARE_LINKS = 4
"""Pictures beyond those that were asked for which are taken, too: they are paid for. Three were seen."""

UNTOLD_IMAGES = 16
"""Pictures that are taken for asked for where nobody knows how many were."""

LATE = 0.25
"""Seconds after its time from which a job's end is seen late: the process stood still, or its create took too long."""


_OF_CALLBACKS = (AwaitingCallback, Confirming)


class Job(msgspec.Struct, frozen=True):
    """One request and where it stands.

    Attributes:
        id: Unique in its client.
        owner: Whom its result goes to; the jobs of a batch share it.
        index: Position in the owner's input, from 0.
        key: The request's key, or the one made for it.
        request: What the user wants, defaults filled in.
        account: Who has it, or had it last; while it never was sent, who might.
        model: That account's record of its model.
        route: Every account that may be sent it; None: that one alone.
        deadline: Seconds that it may take from when it first goes out (or from `expires_at`'s own start).
        retries: New tasks that may be asked for after failed generations, in all.
        resubmits: Times that it may still be sent again after a lost answer.
        next_if_refused: True where another of its models may be asked once its prompt was refused unbilled.
        renews: True where a new task is wanted should what its key stands for have failed before.
        save_to: Folder for its pictures, or None to leave them at their URLs.
        expires_at: Loop time at which it is given up, or None until it first goes out.
        attempts: Creates that were sent, one that is being noted included.
        retried: New tasks that were asked for after a failed generation.
        lost: Creates whose answer was lost: each may have made a task.
        lost_creates: Which these were, by their number among `attempts`, as far as it is known; the last of them is
            that of which a callback has told.
        is_lost_by_name: True where its create was lost and is known by its name: it may be there, and goes again as it
            was, in the place of that one.
        spent: Credits billed for tasks of it that came before the present one; where nobody tells, their price.
        task_field: The field by which its task's create named that, where this is not `taskId`; else empty.
        caller: Who has asked for it, as far as callers take turns at being sent; '' is one like any other.
        share: That caller's share of the turns: with 2 it gets twice as many creates as with 1, while both have
            somebody waiting for the same accounts. From 0.001 to 1000; what is beyond counts as that.
        state: Where it stands.
    """

    id: int
    owner: int
    index: int
    key: str
    request: ImageRequest
    account: str
    model: Model
    deadline: float
    route: Route | None = None
    retries: int = 0
    resubmits: int = 0
    next_if_refused: bool = False
    renews: bool = False
    save_to: str | None = None
    expires_at: float | None = None
    attempts: int = 0
    retried: int = 0
    lost: int = 0
    lost_creates: tuple[int, ...] = ()
    is_lost_by_name: bool = False
    spent: float = 0.0
    task_field: str = ""
    caller: str = ""
    share: float = 1.0
    state: State = Queued()

    @property
    def task_id(self) -> str | None:
        """The provider's task, or None when none is known to exist."""
        match self.state:
            case Running() | Fetching() | Done():
                return self.state.task_id
            case Left(was=Running() | Fetching() as was):
                return was.task_id
            case Failed(failure=failure) | Unknown(failure=failure):
                return failure.task_id
        return None

    @property
    def was_never_sent(self) -> bool:
        """True for an end at which it still waited to be sent: that is no result, and another run may send it."""
        match self.state:
            case NotAdmitted() | Left(was=Queued()):
                return True
        return False

    @property
    def due(self) -> float | None:
        """Loop time at which it is given up, or None until it first goes out."""
        if not isinstance(self.state, _OF_CALLBACKS):
            return self.expires_at
        # A task is to be asked about for as long as any other.
        is_asked = isinstance(self.state, Confirming)
        return max(self.state.until, self.expires_at or 0.0) if is_asked else self.state.until

    @property
    def way(self) -> Route:
        """Where it may be sent."""
        return self.route or Route((Offer(self.account, self.model),))

    @property
    def kind(self) -> Kind:
        """What its latency depends on."""
        return self.model.name, self.request.count

    @property
    def most_links(self) -> int:
        """Links that are taken from one answer at most: some APIs make more pictures than were asked for."""
        # How many a raw model was asked for, or a task that is named by its id, nobody knows: six were seen.
        asked = self.model.count(self.request) if self.model.parameters is not None else UNTOLD_IMAGES
        return max(asked, self.model.results or 0) + SPARE_LINKS

    def is_due(self, now: float) -> bool:
        """True once its time is over."""
        return self.expires_at is not None and now >= self.expires_at

    def is_late(self, now: float) -> bool:
        """True where its time is over, and nobody has looked at it when it was."""
        due = self.due
        return due is not None and now >= due + LATE

    def to(self, state: State) -> Job:
        """The same job in another state."""
        return msgspec.structs.replace(self, state=state)
