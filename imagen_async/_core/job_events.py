"""What can happen to a job beside what its provider answers, which is `wire`'s: turns, callbacks, the caller's will."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from .failure import Failure
from .routing import Offer, Route
from .values import ImageFile, ImageRequest
from .wire import ConnectFailed, Created, TaskStatus


class Added(msgspec.Struct, frozen=True):
    """It has come in, as it is."""


class Taken(msgspec.Struct, frozen=True):
    """Its turn has come: it may be sent to that account, once its intent is noted."""

    offer: Offer


class Upload(msgspec.Struct, frozen=True, gc=False):
    """A file that an account's provider has, for a time.

    Attributes:
        sha256: Of its bytes.
        url: Where the provider has it.
        until: Unix time until which that is good.
        mark: What tells the host and the key that it was given to.
    """

    sha256: str
    url: str
    until: float
    mark: str = ""


class Prepared(msgspec.Struct, frozen=True):
    """Its files are where its provider reads them: its create may be noted, and go."""

    uploads: tuple[Upload, ...]


class Leaves(msgspec.Struct, frozen=True):
    """The connection is in hand: its create leaves now. From here on nobody can take it back."""


class SendAborted(msgspec.Struct, frozen=True):
    """Its create was not sent after all: the intent could not be noted (`failure`), or it is not to go (None)."""

    failure: Failure | None = None


class Unsendable(msgspec.Struct, frozen=True):
    """Its create cannot be written as a request: no byte left, and none ever will."""

    failure: Failure


class TurnMissed(msgspec.Struct, frozen=True):
    """Its create did not leave while its turn lasted, and is to have another one."""


NothingLeft = SendAborted | Unsendable | TurnMissed | ConnectFailed
"""What a create comes to of which no byte has left."""


class StatusAsked(msgspec.Struct, frozen=True):
    """A status call goes out for it."""


class FetchBegun(msgspec.Struct, frozen=True):
    """Its pictures are being fetched."""


class Saved(msgspec.Struct, frozen=True, gc=False):
    """Its pictures are on disk."""

    files: tuple[ImageFile, ...]


class NotSaved(msgspec.Struct, frozen=True):
    """Its pictures could not all be fetched or written; `files` are those that were."""

    failure: Failure
    files: tuple[ImageFile, ...] = ()


class CallbackNamed(msgspec.Struct, frozen=True):
    """A callback came: the create of that number, of this job, has made that task."""

    create: int
    task_id: str


class Expired(msgspec.Struct, frozen=True):
    """Its time is over."""


class NobodyTakes(msgspec.Struct, frozen=True):
    """No account of its route takes it any more, each for its own reason."""

    refusals: Mapping[str, Failure]


class OverBudget(msgspec.Struct, frozen=True):
    """Its batch may spend no more: `failure` says so."""

    failure: Failure


class OwnerWithholds(msgspec.Struct, frozen=True):
    """Its caller wants nothing more to be sent; what is on the way, runs or is saved goes on."""


class OwnerLeft(msgspec.Struct, frozen=True):
    """Its caller waits for it no more."""


class OwnerGone(msgspec.Struct, frozen=True):
    """Its caller has left, and the time for hearing out what was on the way is over."""


class Readmitted(msgspec.Struct, frozen=True):
    """The input of this run has it too: a job that was taken up without leave to be sent again gets it.

    Attributes:
        retries: As in Job.
        resubmits: As in Job.
        route: As in Job.
        is_doubted: True where the provider denied its task in an earlier run, and the caller wants a new one then.
        next_if_refused: As in Job.
        request: As this run has it, where its files may lie elsewhere now; else None.
    """

    retries: int
    resubmits: int
    route: Route | None
    is_doubted: bool = False
    next_if_refused: bool = False
    request: ImageRequest | None = None


Turn = Taken | Prepared | StatusAsked | FetchBegun
"""It talks from here on, until what became of that is settled."""

Owners = OwnerWithholds | OwnerLeft | OwnerGone
"""What the caller wants of all of its jobs."""

Event = (
    Added
    | Turn
    | Leaves
    | SendAborted
    | Unsendable
    | TurnMissed
    | Created
    | TaskStatus
    | Saved
    | NotSaved
    | CallbackNamed
    | Expired
    | NobodyTakes
    | OverBudget
    | Owners
    | Readmitted
)
