"""What a request must pass before it becomes a job: defaults filled in, checked against its model, keyed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, TypedDict, cast

import msgspec

from ._clock import now
from ._core.defaults import as_request, content_key, with_defaults
from ._core.job import Job
from ._core.model import Model, model_of
from ._core.plain_values import is_request, plain_item
from ._core.routing import Route, Router
from ._core.states import Collected
from ._core.values import ImageRequest, stable_key
from .errors import InvalidRequest

if TYPE_CHECKING:
    # Only a batch with a journal needs it.
    from ._core.journal_entry import JournalEntry
    from ._core.values import Images, ModelNames


OnUnknown = Literal["hold", "resubmit"]
"""What follows when the answer to a create was lost."""

OnRefused = Literal["fail", "next"]
"""What follows when a provider has refused a prompt, unbilled, and the request names another model."""


class Parameters(TypedDict, total=False):
    """What may be said of a picture besides its prompt: the fields of ImageRequest."""

    model: ModelNames
    aspect_ratio: str | None
    negative_prompt: str | None
    num_images: int | None
    seed: int | None
    key: str | None
    extra: dict[str, Any]
    images: Images


class JobOptions(TypedDict):
    """What the jobs of one batch have in common, as fields of Job."""

    retries: int
    resubmits: int
    next_if_refused: bool
    deadline: float
    save_to: str | None


def overridden(prompt: str | ImageRequest, parameters: Parameters) -> ImageRequest:
    """A request of its own, made plain: the parameters win."""
    try:
        if is_request(prompt):
            request = msgspec.structs.replace(prompt, **parameters)
        else:
            request = ImageRequest(cast(str, prompt), **cast(dict[str, Any], parameters))
    except TypeError:
        raise _unknown_parameter(parameters) from None
    return as_request(plain_item(request))


class JobFactory:
    """Makes the jobs of one batch, on its terms.

    Args:
        router: Finds who can take them.
        defaults: The parameters for prompts, and for what a request leaves None.
        terms: What their jobs have in common: `deadline`, `retries`, `resubmits`, `save_to`.

    Attributes:
        router: As given.
        defaults: As given.
    """

    def __init__(self, router: Router, defaults: ImageRequest, terms: JobOptions) -> None:
        self.router = router
        self.defaults = defaults
        self._terms = terms

    @property
    def save_to(self) -> str | None:
        """The folder for the pictures, or None."""
        return self._terms["save_to"]

    @property
    def accounts(self) -> Iterable[str]:
        """The names of the accounts that there are."""
        return self.router.providers

    def default_route(self) -> Route | None:
        """Where a plain prompt may go; None where the defaults alone fit nobody."""
        try:
            return self.router.route(self.defaults)[1]
        except InvalidRequest:
            return None

    def job(self, item: str | ImageRequest, index: int, owner: int, number: int) -> Job:
        """Make a request's job, its key given or made from its content; raises InvalidRequest for one that fits not."""
        stated = with_defaults(item, self.defaults)
        request, route = self.router.route(stated)
        return Job(
            id=number,
            owner=owner,
            index=index,
            key=request.key or content_key(stated),
            request=request,
            account=route.offers[0].account,
            model=route.offers[0].model,
            route=route,
            **self._terms,
        )

    def serves(self, account: str) -> bool:
        """True where an account of a journal is one of these."""
        return account in self.router.providers

    def job_of(self, entry: JournalEntry, owner: int, number: int) -> Job:
        """Make a blank job for one of a journal, with its own model and account, and no leave to be sent again."""
        job = blank_job(self.router, entry, number, self._terms["deadline"], self._terms["save_to"])
        return msgspec.structs.replace(job, owner=owner, index=entry.position)


def single_job(
    router: Router,
    request: ImageRequest,
    number: int,
    deadline: float,
    *,
    next_if_refused: bool = False,
    renews: bool = False,
    save_to: str | None = None,
    turn: tuple[str, float] = ("", 1.0),
) -> Job:
    """Make the job of a single request, which is its own owner, for a caller with a share; raises InvalidRequest."""
    sent, route = router.route(request)
    return Job(
        id=number,
        owner=number,
        index=0,
        key=request.key or stable_key(request),
        request=sent,
        account=route.offers[0].account,
        model=route.offers[0].model,
        route=route,
        deadline=deadline,
        next_if_refused=next_if_refused,
        renews=renews,
        save_to=save_to,
        caller=turn[0],
        share=turn[1],
    )


def blank_job(router: Router, entry: JournalEntry, number: int, deadline: float, save_to: str | None) -> Job:
    """Make a blank job, its own owner, for one of a journal, with its own model and account."""
    known = router.providers[entry.account].find(entry.model, entry.request)
    return Job(
        id=number,
        owner=number,
        index=0,
        key=entry.key,
        request=entry.request,
        account=entry.account,
        model=model_of(entry.request, entry.price, known, entry.made_by),
        deadline=deadline,
        save_to=save_to,
    )


def collecting_job(task_id: str, account: str, number: int, deadline: float, save_to: str | None = None) -> Job:
    """Make the job, its own owner, of a task that exists."""
    return Job(
        id=number,
        owner=number,
        index=0,
        key=task_id,
        request=ImageRequest(prompt="", key=task_id),
        account=account,
        # Whatever model has made it: to ask about a task takes nothing but its id.
        model=Model("", "", None),
        deadline=deadline,
        save_to=save_to,
        state=Collected(task_id.strip(), since=now()),
    )


def _unknown_parameter(parameters: Parameters) -> InvalidRequest:
    known = Parameters.__annotations__
    unknown = ", ".join(name for name in parameters if name not in known)
    return InvalidRequest(
        f"{unknown}: there is no such parameter; a request has {', '.join(known)}. "
        "A provider's own fields go into extra={…}."
    )
