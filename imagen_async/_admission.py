"""What a request must pass before it becomes a job: defaults filled in, checked against its model, keyed."""

from __future__ import annotations

from typing import Any, TypedDict

import msgspec

from ._core.job import Job
from ._core.provider import Model, Provider, check
from ._core.record import Record
from ._core.resuming import model_of
from ._core.values import DEFAULT_MODEL, PARAMETERS, ImageRequest, stable_key
from .errors import InvalidRequest
from .providers import PROVIDERS, SANDBOX

_REAL = tuple(provider for provider in PROVIDERS.values() if provider is not SANDBOX)
"""Who may be named as taking what another does not."""


class Parameters(TypedDict, total=False):
    """What may be said of a picture besides its prompt: the fields of ImageRequest."""

    model: str | None
    aspect_ratio: str | None
    negative_prompt: str | None
    num_images: int | None
    seed: int | None
    key: str | None
    extra: dict[str, Any]


class Leave(TypedDict):
    """How often a job may be sent again, as fields of Job."""

    retries: int
    resubmits: int


class Terms(Leave):
    """What the jobs of one batch have in common, as fields of Job."""

    deadline: float
    save_to: str | None


def checked(request: ImageRequest, provider: Provider) -> Model:
    """Find a request's model and check it whole; raises InvalidRequest that names every problem and who takes it."""
    return check(request, request.model or DEFAULT_MODEL, provider, _REAL)


def overridden(prompt: str | ImageRequest, parameters: Parameters) -> ImageRequest:
    """A request of its own: the parameters win."""
    try:
        if isinstance(prompt, ImageRequest):
            return msgspec.structs.replace(prompt, **parameters)
        return ImageRequest(prompt, **parameters)
    except TypeError:
        raise _unknown_parameter(parameters) from None


def with_defaults(item: str | ImageRequest, defaults: ImageRequest) -> ImageRequest:
    """A request of a batch: the defaults fill in what it leaves None."""
    if isinstance(item, str):
        return msgspec.structs.replace(defaults, prompt=item)
    if not isinstance(item, ImageRequest):
        raise InvalidRequest(f"A batch takes prompts and ImageRequests, not {type(item).__name__}.")
    missing = {name: getattr(defaults, name) for name in ("model", *PARAMETERS) if getattr(item, name) is None}
    if defaults.extra and isinstance(item.extra, dict):
        missing["extra"] = {**defaults.extra, **item.extra}
    return msgspec.structs.replace(item, **missing)


def filled(request: ImageRequest, model: Model) -> ImageRequest:
    """The request as it is sent: the model named, its default aspect ratio written out."""
    aspect_ratio = request.aspect_ratio or model.aspect_ratio
    return msgspec.structs.replace(request, model=model.name, aspect_ratio=aspect_ratio)


def as_sent_by(account: str, request: ImageRequest, provider: Provider) -> ImageRequest:
    """The request as an account of a journal would be sent it; `provider` stands in for one that nobody knows."""
    model = PROVIDERS.get(account, provider).find(request.model or DEFAULT_MODEL)
    return request if model is None else filled(request, model)


class Admission:
    """Makes the jobs of one batch, on its terms.

    Args:
        provider: Whose account takes them.
        defaults: The parameters for prompts, and for what a request leaves None.
        terms: What their jobs have in common: `deadline`, `retries`, `resubmits`, `save_to`.
    """

    def __init__(self, provider: Provider, defaults: ImageRequest, terms: Terms) -> None:
        self._provider = provider
        self._defaults = defaults
        self._terms = terms

    @property
    def save_to(self) -> str | None:
        """The folder for the pictures, or None."""
        return self._terms["save_to"]

    @property
    def leave(self) -> Leave:
        """How often a job may be sent again."""
        return {"retries": self._terms["retries"], "resubmits": self._terms["resubmits"]}

    def job(self, item: str | ImageRequest, index: int, owner: int, number: int) -> Job:
        """Make a request's job, its key given or made from its content; raises InvalidRequest for one that fits not."""
        request = with_defaults(item, self._defaults)
        model = checked(request, self._provider)
        if request.key is not None and not isinstance(request.key, str):
            raise InvalidRequest(f"key={request.key!r}: allowed is a string.")
        given = item if isinstance(item, ImageRequest) else ImageRequest(item)
        return Job(
            id=number,
            owner=owner,
            index=index,
            key=given.key or stable_key(given),
            request=filled(request, model),
            account=self._provider.name,
            model=model,
            **self._terms,
        )

    def serves(self, account: str) -> bool:
        """True where an account of a journal is this one."""
        return account == self._provider.name

    def job_of(self, record: Record, owner: int, number: int) -> Job:
        """Make a blank job for one of a journal, with its own model and account, and no leave to be sent again."""
        model = model_of(record, self._provider.find(record.request.model or ""))
        return Job(
            id=number,
            owner=owner,
            index=record.position,
            key=record.key,
            request=record.request,
            account=record.account,
            model=model,
            deadline=self._terms["deadline"],
            save_to=self._terms["save_to"],
        )

    def as_sent_by(self, account: str, item: str | ImageRequest) -> ImageRequest:
        """The request as that account, of this run or an earlier one, would be sent it."""
        return as_sent_by(account, with_defaults(item, self._defaults), self._provider)


def _unknown_parameter(parameters: Parameters) -> InvalidRequest:
    known = Parameters.__annotations__
    unknown = ", ".join(name for name in parameters if name not in known)
    return InvalidRequest(
        f"{unknown}: there is no such parameter; a request has {', '.join(known)}. "
        "A provider's own fields go into extra={…}."
    )
