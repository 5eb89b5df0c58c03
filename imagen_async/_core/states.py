"""Where a job can stand, as types. What leads from one to another is the machine's table alone.

Who may still be sent is the type: a byte of a create leaves from `Noting` only, and from `Sending` on a task may exist.
"""

from __future__ import annotations

import enum

import msgspec

from .failure import Failure
from .values import ImageFile
from .wire import Succeeded, TaskFailed


class Queued(msgspec.Struct, frozen=True):
    """Waits for its turn.

    Attributes:
        failure: Why it was not taken the last time, or None.
        fallback: What it ends with if no new create of it is accepted: the lost or failed one before; None for a first.
    """

    failure: Failure | None = None
    fallback: Failure | None = None


class Preparing(msgspec.Struct, frozen=True):
    """Its turn has come, and files of it are uploaded first: nothing is noted yet, for no create may leave from here.

    Attributes:
        fallback: As in Queued.
    """

    fallback: Failure | None = None


class Noting(msgspec.Struct, frozen=True):
    """Its turn has come: that is noted, and a connection is had. No byte has left. `fallback` as in Queued."""

    fallback: Failure | None = None


class Sending(msgspec.Struct, frozen=True):
    """Its create has left, and no answer has come: a task may exist. `fallback` as in Queued."""

    fallback: Failure | None = None


class Claim(msgspec.Struct, frozen=True):
    """What a callback tells: which create, by its number, has made which task."""

    create: int
    task_id: str


class Claimed(msgspec.Struct, frozen=True):
    """Its create is on the way, and a callback names a task of it or of one before: whatever the answer, one exists."""

    claim: Claim
    fallback: Failure | None = None


class Orphaned(msgspec.Struct, frozen=True):
    """Its create is on the way, and nobody waits for it any more: only the answer is heard, for the task id's sake.

    Attributes:
        claim: As in Claimed, or None while no callback has come.
        fallback: As in Queued.
    """

    claim: Claim | None = None
    fallback: Failure | None = None


class AwaitingCallback(msgspec.Struct, frozen=True):
    """Its create's answer was lost, and a callback may still tell of its task.

    Attributes:
        unknown: What it ends with if none does.
        since: Loop time at which the answer was lost: a task's age counts from there.
        until: Loop time until which a callback is waited for.
        is_on_the_way: True where its create may reach the provider yet: its process was gone before it was over.
    """

    unknown: Failure
    since: float
    until: float
    is_on_the_way: bool = False


class Confirming(msgspec.Struct, frozen=True):
    """A callback names the task of a lost create, and the provider is asked: nothing is taken for true before.

    Attributes:
        unknown: What it ends with if the provider tells nothing.
        since: As in AwaitingCallback.
        until: Loop time until which it is asked about, at least.
        task_id: The task that the callback names.
        denied_at: Loop time since which the provider denies that task, or None while it does not.
    """

    unknown: Failure
    since: float
    until: float
    task_id: str
    denied_at: float | None = None


class Running(msgspec.Struct, frozen=True):
    """Its task exists, and is asked about.

    Attributes:
        task_id: The provider's.
        since: Loop time of its acceptance, from which its age counts.
        denied_at: Loop time since which the provider denies it, or None while it does not.
        trouble: Why the last question about it was not answered, or None when it was.
        unlinked_at: Loop time since which it is said to have succeeded while no link is told, or None while it is not.
    """

    task_id: str
    since: float
    denied_at: float | None = None
    trouble: Failure | None = None
    unlinked_at: float | None = None


class Collected(Running, frozen=True):
    """The caller has named it by its task id: a denial is final at once, and its age is not known."""


class Doubted(Running, frozen=True):
    """The provider denied it in an earlier run: if it does again, a new task takes its place, as the caller asks."""


class Relinking(Running, frozen=True, kw_only=True):
    """It has finished and its links died, so that it is asked about again.

    Attributes:
        outcome: What it had come to.
    """

    outcome: Succeeded


class Links(enum.Enum):
    """How the links of a finished task were come by: each is the next try when those before it died."""

    FIRST = "by the answer that it had finished"
    ASKED_AGAIN = "by asking for its status again"
    RENEWED = "by asking for new ones, where the provider has a call for that"


class Fetching(msgspec.Struct, frozen=True, gc=False):
    """Its pictures are at the provider, and are to be fetched; with RENEWED links, once they are asked for."""

    task_id: str
    outcome: Succeeded
    links: Links = Links.FIRST

    def done(self, files: tuple[ImageFile, ...] = ()) -> Done:
        """The end that it comes to with these files."""
        return Done(self.task_id, self.outcome, files)


class Ended(msgspec.Struct, frozen=True):
    """Nothing more comes of it; a base for telling ends from the rest, and no state itself."""


class Done(Ended, frozen=True, gc=False):
    """Its pictures are here, or their URLs are, where nothing was to be saved."""

    task_id: str
    outcome: Succeeded
    files: tuple[ImageFile, ...] = ()


class Failed(Ended, frozen=True):
    """It ended without a picture, or without all of its files: then `outcome` still has the URLs."""

    failure: Failure
    outcome: Succeeded | TaskFailed | None = None
    files: tuple[ImageFile, ...] = ()


class Unknown(Ended, frozen=True):
    """Its create's answer was lost: the task may exist and may be billed. It is never sent again by itself.

    `is_on_the_way` where its create may reach the provider yet: nobody has waited for its answer.
    """

    failure: Failure
    is_on_the_way: bool = False


class NotAdmitted(Ended, frozen=True):
    """Its accounts stopped, or its budget was used up, before it could be sent: another run may send it."""

    failure: Failure


class Left(Ended, frozen=True):
    """The caller left while it was so: queued, with no task, or with a task that is paid for."""

    was: Queued | Running | Fetching


OnTheWay = Sending | Claimed | Orphaned
"""A create has left, and its answer has not come."""

Submitting = Noting | OnTheWay
"""What people see of these: it is being submitted."""

BeingAsked = Running | Confirming
"""Its status is asked for. (Collected, Doubted and Relinking are Running, too.)"""

State = (
    Queued
    | Preparing
    | Submitting
    | AwaitingCallback
    | BeingAsked
    | Fetching
    | Done
    | Failed
    | Unknown
    | NotAdmitted
    | Left
)
