"""One job: its states as types, and the events that move it. What moves where is decided in `transitions`.

    Queued ──taken──> Submitting ──accepted──> Running ──succeeded──> Ready ──saved──> Done
      ^                 │  │  │                  │                      │
      └── not sent, ────┘  │  └─ lost ─> Unknown └─ broken, denied,     └─ not saved ─> Failed
          429, 455         └─ refused ─> Failed      expired ─> Failed

A create is sent again only from Queued, and only these lead back there: not sent, 429, 455, and a failed generation
where the caller asked for `retries`. Unsent and Left end a job that nobody will send or wait for any more.
"""

from __future__ import annotations

import msgspec

from ..errors import ImagenError, UnknownOutcome
from .provider import Model
from .values import ImageFile, ImageRequest
from .wire import Broken, Created, Succeeded, TaskStatus


class Queued(msgspec.Struct, frozen=True):
    """Waits for its turn. `error`: why it was not taken the last time, or None."""

    error: ImagenError | None = None


class Submitting(msgspec.Struct, frozen=True, gc=False):
    """Its create is on the way: from here on a task may exist."""


class Running(msgspec.Struct, frozen=True):
    """Its task exists.

    Attributes:
        task_id: The provider's.
        since: Loop time of its acceptance, from which its age counts.
        denied_at: Loop time since which the provider denies it, or None while it does not.
        collected: True when an earlier process created it, so that a denial is final at once.
        trouble: Why the last question about it was not answered, or None when it was.
    """

    task_id: str
    since: float
    denied_at: float | None = None
    collected: bool = False
    trouble: ImagenError | None = None


class Ready(msgspec.Struct, frozen=True, gc=False):
    """Its pictures are at the provider, and are to be fetched."""

    task_id: str
    outcome: Succeeded

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
    outcome: Succeeded | Broken | None = None
    files: tuple[ImageFile, ...] = ()


class Unknown(msgspec.Struct, frozen=True):
    """Its create's answer was lost: the task may exist and may be billed. It is never sent again."""

    error: UnknownOutcome


class Unsent(msgspec.Struct, frozen=True):
    """Its account stopped before it could be sent: nothing happened, and another run may send it."""

    error: ImagenError


class Left(msgspec.Struct, frozen=True, gc=False):
    """The caller left. `task_id` is its running, paid task, or None when nothing was sent."""

    task_id: str | None


State = Queued | Submitting | Running | Ready | Done | Failed | Unknown | Unsent | Left
Final = Done | Failed | Unknown | Unsent | Left


class Saved(msgspec.Struct, frozen=True, gc=False):
    """Its pictures are on disk."""

    files: tuple[ImageFile, ...]


class NotSaved(msgspec.Struct, frozen=True):
    """Its pictures could not all be fetched or written; `files` are those that were."""

    error: ImagenError
    files: tuple[ImageFile, ...] = ()


Event = Created | TaskStatus | Saved | NotSaved


class Job(msgspec.Struct, frozen=True):
    """One request and where it stands.

    Attributes:
        id: Unique in its client.
        owner: Whom its result goes to; the jobs of a batch share it.
        index: Position in the owner's input, from 0.
        key: The request's key, or the one made for it.
        request: What the user wants, defaults filled in.
        account: Whose turn it takes.
        model: The record that the request was checked against.
        deadline: Seconds that it may take from when it first goes out (or from `expires_at`'s own start).
        retries: New tasks that may still be asked for after a failed generation.
        save_to: Folder for its pictures, or None to leave them at their URLs.
        expires_at: Loop time at which it is given up, or None until it first goes out.
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
    retries: int = 0
    save_to: str | None = None
    expires_at: float | None = None
    state: State = Queued()

    @property
    def task_id(self) -> str | None:
        """The provider's task, or None when none is known to exist."""
        match self.state:
            case Running() | Ready() | Done() | Left():
                return self.state.task_id
            case Failed(error=error):
                return error.task_id
        return None

    def to(self, state: State) -> Job:
        """The same job in another state."""
        return msgspec.structs.replace(self, state=state)
