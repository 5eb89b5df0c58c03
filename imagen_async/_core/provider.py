"""The records of providers and models, and the check of a request against them before anything is sent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from ..errors import ConfigurationError, InvalidRequest
from .fields import PARAMETERS
from .latency import LatencyPrior
from .parameters import Schema, Text
from .rate_limit import Rate
from .values import RAW_PREFIX, ImageRequest
from .wire import Dialect

_RAW_PROMPT = Text(required=True)


class Limits(msgspec.Struct, frozen=True):
    """What an account may do.

    Attributes:
        submit: Creates in any window.
        status: Status calls in any window, for the whole account.
        running: Tasks that may wait or run at the provider at once.
    """

    submit: Rate = Rate(20, per=10)
    status: Rate = Rate(10, per=1)
    running: int = 100

    def __post_init__(self) -> None:
        if not isinstance(self.running, int) or self.running < 1:
            raise ConfigurationError(f"Limits(running={self.running!r}): it must be a whole number of at least 1.")


class Model(msgspec.Struct, frozen=True):
    """One model of one provider.

    Attributes:
        name: Our name.
        wire_name: The provider's.
        parameters: What its input takes; None for a raw model: whatever `extra` holds.
        aspect_ratio: The documented default, sent when the request names none; None where there is none.
        credits: Price of one picture in the provider's credits, or None where no page tells.
    """

    name: str
    wire_name: str
    parameters: Schema | None
    aspect_ratio: str | None = None
    credits: float | None = None

    def price(self, request: ImageRequest) -> float | None:
        """Credits that this request costs when it succeeds, or None where nobody knows."""
        return None if self.credits is None else self.credits * request.images

    def input_of(self, request: ImageRequest) -> dict[str, Any]:
        """Write the input of a checked request: the prompt, the aspect ratio always, and what the user set."""
        if self.parameters is None:
            return {"prompt": request.prompt, **request.extra}
        return {name: self.parameters[name].wire(value) for name, value in self._values(request)}

    def _values(self, request: ImageRequest) -> Iterator[tuple[str, Any]]:
        """The parameters that are set, the aspect ratio's default filled in: the providers' own defaults differ."""
        yield "prompt", request.prompt
        for name in PARAMETERS:
            value = getattr(request, name)
            if value is None and name == "aspect_ratio":
                value = self.aspect_ratio
            if value is not None:
                yield name, value
        yield from request.extra.items()

    def problems(self, request: ImageRequest) -> Iterator[Problem]:
        """Say what this model would not take of the request; nothing when it takes it all."""
        if self.parameters is None:
            yield from self._raw_problems(request)
            return
        for name, value in self._values(request):
            if name not in self.parameters:
                yield Problem(name, value, f"{self.name} has no such parameter, only {', '.join(self.parameters)}")
            elif not self.parameters[name].takes(value):
                yield Problem(name, value, f"allowed is {self.parameters[name].allowed}")

    def _raw_problems(self, request: ImageRequest) -> Iterator[Problem]:
        if not _RAW_PROMPT.takes(request.prompt):
            yield Problem("prompt", request.prompt, f"allowed is {_RAW_PROMPT.allowed}")
        for name in PARAMETERS:
            if getattr(request, name) is not None:
                problem = "a raw model takes its parameters, this one too, from `extra`"
                yield Problem(name, getattr(request, name), problem)


class Problem(msgspec.Struct, frozen=True):
    """One parameter that a model does not take: its name, what was given, what is allowed."""

    field: str
    given: object
    allowed: str

    def __str__(self) -> str:
        shown = repr(self.given)
        given = shown if len(shown) <= 60 else f"{shown[:56]}…{shown[-1]} ({len(str(self.given)):,} characters)"
        return f"{self.field}={given}: {self.allowed}"


class Provider(msgspec.Struct, frozen=True):
    """Everything that tells one API from another, as data.

    Attributes:
        name: What `Client("…")` and `-p` take.
        title: Its name for people.
        base_url: Where its API is, or None where only the user knows.
        dialect: How it talks.
        models: What it serves.
        limits: What it lets an account do, published or (as each file says) guessed.
        latency: How long its tasks take, as far as anybody knows beforehand.
        prices: Credits for a picture, of every model or by our name of it, in place of what the models say; None:
            as they say.
        signs_callbacks: True where a callback can be signed, as kie.ai does it.
        is_local: True where it runs on this machine: it needs no key and no address, since the client can serve it.
    """

    name: str
    title: str
    base_url: str | None
    dialect: Dialect
    models: tuple[Model, ...]
    limits: Limits
    latency: LatencyPrior
    prices: Mapping[str, float] | float | None = None
    signs_callbacks: bool = False
    is_local: bool = False

    @property
    def key_variable(self) -> str:
        """The environment variable of the key."""
        return f"{self.name.upper()}_API_KEY"

    @property
    def base_url_variable(self) -> str:
        """The environment variable that overrides the base URL."""
        return f"{self.name.upper()}_BASE_URL"

    def find(self, name: str) -> Model | None:
        """The model of that name, raw ones included where the dialect takes them; None where there is none."""
        model = next((model for model in self.models if model.name == name), None)
        wire_name = name.removeprefix(RAW_PREFIX)
        if name.startswith(RAW_PREFIX) and wire_name and self.dialect.takes_raw_models:
            model = Model(name, wire_name, None)
        price = self.prices.get(name) if isinstance(self.prices, Mapping) else self.prices
        return model if model is None or price is None else msgspec.structs.replace(model, credits=price)


def check(request: ImageRequest, name: str, provider: Provider, others: Iterable[Provider]) -> Model:
    """Find the model for a request and make sure that it takes every parameter.

    Args:
        request: What the user wants.
        name: The model's name, with the defaults applied.
        provider: Who is to make it.
        others: The providers that there are, to say who would take what this one does not.

    Raises:
        InvalidRequest: With every problem named: the field, what was given, what is allowed, and who takes it.
    """
    model = provider.find(name) if isinstance(name, str) else None
    if model is None:
        raise InvalidRequest(_no_such_model(name, provider, others), provider=provider.name)
    if not isinstance(request.extra, dict):
        raise InvalidRequest(f"extra={request.extra!r}: allowed is a mapping of the provider's own fields.")
    if request.extra:
        _check_extra(request, model, provider)
    problems = [str(problem) + _takers(problem, request, name, provider, others) for problem in model.problems(request)]
    if problems:
        raise InvalidRequest(f"{'; '.join(problems)}.", provider=provider.name)
    return model


def _no_such_model(name: object, provider: Provider, others: Iterable[Provider]) -> str:
    if isinstance(name, str) and name.startswith(RAW_PREFIX) and not provider.dialect.takes_raw_models:
        return f"model={name!r}: {provider.title} takes no raw models; only createTask APIs do."
    own = ", ".join(model.name for model in provider.models)
    takers = [other.name for other in others if isinstance(name, str) and other.find(name)]
    where = f" {name} is served by: {', '.join(takers)}." if takers else ""
    return f"model={name!r}: {provider.title} has {own}; a createTask API also takes raw:NAME.{where}"


def _check_extra(request: ImageRequest, model: Model, provider: Provider) -> None:
    """A field that ImageRequest has must not hide in extra too, and all of it must be writable as JSON."""
    doubled = sorted(name for name in request.extra if name in ("prompt", *PARAMETERS))
    if doubled and model.parameters is not None:
        raise InvalidRequest(f"extra holds {', '.join(doubled)}: set it on the request itself.", provider=provider.name)
    if model.parameters is None and "prompt" in request.extra:
        raise InvalidRequest("extra holds prompt: set it on the request itself.", provider=provider.name)
    try:
        msgspec.json.encode(request.extra, order="sorted")
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise InvalidRequest(f"extra cannot be written as JSON: {error}.", provider=provider.name) from None


def _takers(problem: Problem, request: ImageRequest, name: str, provider: Provider, others: Iterable[Provider]) -> str:
    """Say which other models or providers would take the field as it was given."""
    names = [
        f"{other.name} ({model.name})"
        for other in (provider, *others)
        for model in other.models
        if (other is provider or model.name == name)
        and problem.field not in {found.field for found in model.problems(request)}
    ]
    return f" (taken by: {', '.join(dict.fromkeys(names))})" if names else ""
