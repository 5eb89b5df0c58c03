"""One job: its states as types, and the events that move it. What moves where is decided in `transitions`.

    Queued ──taken──> Submitting ──accepted──> Running ──succeeded──> Ready ──saved──> Done
      ^                 │  │  │                 ^ │  ^                   │ │
      └── not sent, ────┘  │  └─ lost ─> Held ──┘ │  └── its links died ─┘ └─ not saved ─> Failed
          429, 455,        │              │       └─ broken, denied, expired ─> Failed
          the account      │              └─ no callback ─> Unknown
          stopped          └─ refused ─> Failed

Only where callbacks are asked for is a lost create Held: one may name its task yet. Else it is Unknown at once.

A create is sent again only from Queued, and only these lead back there: not sent, 429, 455, an account that takes
nothing or does not serve the model, a failed generation where the caller asked for `retries`, and once a lost answer
where the caller asked for that. From Queued a job may go to any account of its route; after a lost answer to the same
one only. Unsent and Left end a job that nobody will send or wait for any more.
"""

from __future__ import annotations

import enum

import msgspec

from ..errors import ImagenError, UnknownOutcome
from .provider import Model
from .routing import Offer, Route
from .values import ImageFile, ImageRequest
from .wire import Created, Succeeded, TaskFailed, TaskStatus


class Queued(msgspec.Struct, frozen=True):
    """Waits for its turn.

    Attributes:
        error: Why it was not taken the last time, or None.
        held: What it ends with if no new create of it is accepted: the lost or failed one before; None for a first.
    """

    error: ImagenError | None = None
    held: ImagenError | None = None


class Submitting(msgspec.Struct, frozen=True):
    """Its create is on the way: from here on a task may exist.

    Attributes:
        held: As in Queued.
        told: The task of this create, or of one before it, by a callback that came meanwhile; None: none has come.
        create: Which create that was, by its number.
    """

    held: ImagenError | None = None
    told: str | None = None
    create: int = 0


class Held(msgspec.Struct, frozen=True):
    """Its create's answer was lost, and a callback may still tell of its task.

    Attributes:
        error: What it ends with if none does.
        since: Loop time at which the answer was lost: a task's age counts from there.
        until: Loop time until which a callback is waited for; one that has come is acted on until the deadline.
        told: The task that a callback names, to be asked about: nothing is taken for true before; None: none has come.
        denied_at: Loop time since which the provider denies that task, or None while it does not.
    """

    error: UnknownOutcome
    since: float
    until: float
    told: str | None = None
    denied_at: float | None = None


class Links(enum.Enum):
    """How the links of a finished task were come by: each is the next try when those before it died."""

    FIRST = "by the answer that it had finished"
    ASKED_AGAIN = "by asking for its status again"
    RENEWED = "by asking for new ones, where the provider has a call for that"


class Running(msgspec.Struct, frozen=True):
    """Its task exists.

    Attributes:
        task_id: The provider's.
        since: Loop time of its acceptance, from which its age counts.
        denied_at: Loop time since which the provider denies it, or None while it does not.
        collected: True for one that the caller named by its id, so that a denial is final at once.
        given_up: True for one that the provider denied in an earlier run, and that is to be replaced if it does again.
        trouble: Why the last question about it was not answered, or None when it was.
        finished: What it had come to, for one whose links died, so that it is asked about again.
    """

    task_id: str
    since: float
    denied_at: float | None = None
    collected: bool = False
    given_up: bool = False
    trouble: ImagenError | None = None
    finished: Succeeded | None = None


class Ready(msgspec.Struct, frozen=True, gc=False):
    """Its pictures are at the provider, and are to be fetched; with RENEWED links, once they are asked for."""

    task_id: str
    outcome: Succeeded
    links: Links = Links.FIRST

    def done(self, files: tuple[ImageFile, ...] = ()) -> Done:
        """The end that it comes to with these files."""
        return Done(self.task_id, self.outcome, files)


class Done(msgspec.Struct, frozen=True, gc=False):
    """Its pictures are here, or their URLs are, where nothing was to be saved."""

    task_id: str
    outcome: Succeeded
    files: tuple[ImageFile, ...] = ()


class Failed(msgspec.Struct, frozen=True):
    """It ended without a picture, or without all of its files: then `outcome` still has the URLs."""

    error: ImagenError
    outcome: Succeeded | TaskFailed | None = None
    files: tuple[ImageFile, ...] = ()


class Unknown(msgspec.Struct, frozen=True):
    """Its create's answer was lost: the task may exist and may be billed. It is held."""

    error: UnknownOutcome


class NotAdmitted(msgspec.Struct, frozen=True):
    """Its accounts stopped, or its budget was used up, before it could be sent: another run may send it."""

    error: ImagenError


class Left(msgspec.Struct, frozen=True):
    """The caller left while it was so: queued, with no task, or with a task that is paid for."""

    was: Queued | Running | Ready


State = Queued | Submitting | Held | Running | Ready | Done | Failed | Unknown | NotAdmitted | Left
Final = Done | Failed | Unknown | NotAdmitted | Left


class SendAborted(msgspec.Struct, frozen=True):
    """Its create was not sent after all: the intent could not be noted (`error`), or the caller left (None)."""

    error: ImagenError | None = None


class Saved(msgspec.Struct, frozen=True, gc=False):
    """Its pictures are on disk."""

    files: tuple[ImageFile, ...]


class NotSaved(msgspec.Struct, frozen=True):
    """Its pictures could not all be fetched or written; `files` are those that were."""

    error: ImagenError
    files: tuple[ImageFile, ...] = ()


Event = Created | SendAborted | TaskStatus | Saved | NotSaved


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
        save_to: Folder for its pictures, or None to leave them at their URLs.
        expires_at: Loop time at which it is given up, or None until it first goes out.
        attempts: Creates that were sent.
        retried: New tasks that were asked for after a failed generation.
        lost: Creates whose answer was lost: each may have made a task.
        lost_creates: Which these were, by their number among `attempts`, as far as it is known; the last of them is
            that of which a callback has told.
        spent: Credits billed for tasks of it that came before the present one; where nobody tells, their price.
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
    save_to: str | None = None
    expires_at: float | None = None
    attempts: int = 0
    retried: int = 0
    lost: int = 0
    lost_creates: tuple[int, ...] = ()
    spent: float = 0.0
    state: State = Queued()

    @property
    def task_id(self) -> str | None:
        """The provider's task, or None when none is known to exist."""
        match self.state:
            case Running() | Ready() | Done():
                return self.state.task_id
            case Left(was=Running() | Ready() as was):
                return was.task_id
            case Failed(error=error) | Unknown(error=error):
                return error.task_id
        return None

    @property
    def due(self) -> float | None:
        """Loop time at which it is given up, or None until it first goes out."""
        match self.state:
            case Held(told=None, until=until):
                return until
            case Held(until=until):
                # Its task is to be asked about for as long as any other.
                return max(until, self.expires_at or 0.0)
        return self.expires_at

    @property
    def way(self) -> Route:
        """Where it may be sent."""
        return self.route or Route((Offer(self.account, self.model),))

    def to(self, state: State) -> Job:
        """The same job in another state."""
        return msgspec.structs.replace(self, state=state)
