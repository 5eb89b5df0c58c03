"""What a request must pass before it becomes a job: defaults filled in, checked against its model, keyed."""

from __future__ import annotations

from typing import Any, TypedDict

import msgspec

from ._core.provider import Model, Provider, check
from ._core.values import DEFAULT_MODEL, PARAMETERS, ImageRequest
from .errors import InvalidRequest
from .providers import PROVIDERS, SANDBOX


class Parameters(TypedDict, total=False):
    """What may be said of a picture besides its prompt: the fields of ImageRequest."""

    model: str | None
    aspect_ratio: str | None
    negative_prompt: str | None
    num_images: int | None
    seed: int | None
    key: str | None
    extra: dict[str, Any]


def checked(request: ImageRequest, provider: Provider) -> Model:
    """Find a request's model and check it whole; raises InvalidRequest that names every problem and who takes it."""
    others = [other for other in PROVIDERS.values() if other not in (provider, SANDBOX)]
    return check(request, request.model or DEFAULT_MODEL, provider, others)


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


def _unknown_parameter(parameters: Parameters) -> InvalidRequest:
    known = Parameters.__annotations__
    unknown = ", ".join(name for name in parameters if name not in known)
    return InvalidRequest(
        f"{unknown}: there is no such parameter; a request has {', '.join(known)}. "
        "A provider's own fields go into extra={…}."
    )
