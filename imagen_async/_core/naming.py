"""Creates that have names: where what is sent once more under its name is known, and makes no second task. Pure.

Such an API is a service that keeps what it was asked for. Its calls go in groups, and it tells of ends on a stream.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import msgspec

from .dialect import Dialect
from .job import Job
from .model import Model
from .states import Noting, Sending
from .values import ImageRequest
from .wire import HttpRequest, HttpResponse

LONGEST_AS_IT_IS = 200
"""Characters of a key that is part of a name as it is."""


class CreateName(msgspec.Struct, frozen=True):
    """What a create is called, and on what terms it goes.

    Attributes:
        key: Its name: the same for the same, and for nothing else.
        deadline: Seconds that the task may take.
        waits: True where they count from when the service sends it, and not from now.
        after: The task of that name that has failed, and behind which another one is wanted; None: the last one.
        renews: True where another one is wanted should that have failed before.
        instead: Models that may be made in the place of the request's.
        next_if_refused: True where they may be, too, once its prompt was refused unbilled.
    """

    key: str
    deadline: float
    waits: bool = False
    after: str | None = None
    renews: bool = False
    instead: tuple[str, ...] = ()
    next_if_refused: bool = False


class Joined(msgspec.Struct, frozen=True):
    """Several calls as one.

    Attributes:
        request: It; its body may be changed until it leaves.
        places: Where each of them stands in that, from its first byte to behind its last.
    """

    request: HttpRequest
    places: tuple[tuple[int, int], ...]


@runtime_checkable
class NamingDialect(Dialect, Protocol):
    """How such an API talks, beside what every dialect says.

    Attributes:
        ends_path: Where its stream of ends is.
    """

    ends_path: str

    def build_named(self, request: ImageRequest, model: Model, name: CreateName) -> HttpRequest:
        """Write the create of that name for a request that was checked against `model`."""

    def build_calling_off(self, task_ids: Sequence[str]) -> HttpRequest:
        """Write that no more is to be sent for these tasks; what was sent is made. Free to repeat."""

    def join(self, requests: Sequence[HttpRequest]) -> Joined:
        """Make one of several calls, all to one path."""

    def split(self, response: HttpResponse, count: int) -> list[HttpResponse]:
        """The answer to each of so many calls that went as one, as if each had gone by itself."""

    def read_ends(self, line: bytes) -> tuple[str, ...] | None:
        """The tasks that have ended by a line of the stream; None: any may have, and all are to be asked about."""


class Names:
    """Makes the names of creates.

    A key that a user gives a single request is its name as it is: whoever else gives the same means the same. All
    others are of this client, or of a journal's secret, which a later run has again; of one job the creates that are to
    make a task of their own are told apart by their number.

    Args:
        own: Random, of this client.
    """

    def __init__(self, own: str) -> None:
        self._own = own
        self._journals: dict[int, str] = {}

    def connect(self, owner: int, secret: str) -> None:
        """Let an owner's jobs have names that its journal's later runs make, too."""
        self._journals[owner] = secret

    def disconnect(self, owner: int) -> None:
        """Forget an owner."""
        self._journals.pop(owner, None)

    def name(self, job: Job, now: float) -> CreateName:
        """What the present create of a job is called, at loop time `now`."""
        is_single = job.owner == job.id
        key, after = self._made_up(job), None
        if is_single and job.request.key:
            key, after = job.request.key, _failed_before(job)
        # What a single request may take counts from when it is asked for, whatever it waits for.
        left = job.deadline if job.expires_at is None or not is_single else job.expires_at - now
        return CreateName(
            key=key,
            deadline=max(1.0, left),
            waits=not is_single,
            after=after,
            renews=job.renews,
            instead=_others(job),
            next_if_refused=job.next_if_refused,
        )

    def _made_up(self, job: Job) -> str:
        secret = self._journals.get(job.owner)
        # A key outlives the process; without a journal two jobs of one client may have the same.
        who = f"{self._own}/{job.id}" if secret is None else secret
        return f"{who}/{job.attempts}/{_plain(job.key)}"


def _plain(key: str) -> str:
    """A key as part of a name: whatever it holds, and however long it is."""
    if len(key) <= LONGEST_AS_IT_IS and key.isprintable():
        return key
    return hashlib.blake2b(key.encode(errors="surrogatepass"), digest_size=20).hexdigest()


def _failed_before(job: Job) -> str | None:
    match job.state:
        case Noting(fallback=before) | Sending(fallback=before) if before is not None:
            # One that failed elsewhere has no name here.
            return before.task_id if before.account == job.account else None
    return None


def _others(job: Job) -> tuple[str, ...]:
    """The models that may be made in the place of the request's own, in their order."""
    names, route = [job.model.name], job.way.of(job.model.name).then
    while route is not None:
        names.append(route.offers[0].model.name)
        route = route.then
    return tuple(name for name in names if name != (job.request.model or job.model.name))
