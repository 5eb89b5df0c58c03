"""The records of providers, and the check of a request against one before anything is sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from .._text import told
from ..errors import ConfigurationError, InvalidRequest
from .dialect import Dialect
from .fields import PARAMETERS
from .latency import LatencyPrior
from .model import Model, Problem
from .plain_text import foreign_character
from .rate_limit import Rate
from .suggestion import did_you_mean
from .values import RAW_PREFIX, ImageRequest


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
        if not isinstance(self.running, int) or isinstance(self.running, bool) or self.running < 1:
            raise ConfigurationError(f"Limits(running={told(self.running)}): it must be a whole number of at least 1.")


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
        model = self._model(name)
        if model is None or self.prices is None:
            return model
        price = self.prices.get(name) if isinstance(self.prices, Mapping) else self.prices
        return model if price is None else msgspec.structs.replace(model, credits=price)

    def _model(self, name: str) -> Model | None:
        if name.startswith(RAW_PREFIX) and self.dialect.takes_raw_models and name != RAW_PREFIX:
            return Model(name, name.removeprefix(RAW_PREFIX), None)
        for model in self.models:
            if model.name == name:
                return model
        return None


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
        raise InvalidRequest(_no_such_model(name, provider, others))
    # A raw one's may be any; one that cannot be written would fail where the request's key is made.
    if model.parameters is None and (oddity := foreign_character(name)) is not None:
        raise InvalidRequest(f"model={told(name)}: {oddity}.")
    if not isinstance(request.extra, dict):
        raise InvalidRequest(f"extra={told(request.extra)}: allowed is a mapping of the provider's own fields.")
    if request.extra:
        _check_extra(request, model, provider)
    # kie.ai answers 200 to a field that it does not know, and ignores it (seen): nobody else would tell.
    if problems := model.problems(request):
        words = (str(problem) + _takers(problem, request, name, provider, others) for problem in problems)
        raise InvalidRequest(f"{'; '.join(words)}.")
    return model


def _no_such_model(name: object, provider: Provider, others: Iterable[Provider]) -> str:
    if isinstance(name, str) and name.startswith(RAW_PREFIX) and not provider.dialect.takes_raw_models:
        return f"model={told(name)}: {provider.title} takes no raw models; only createTask APIs do."
    own = ", ".join(model.name for model in provider.models)
    takers = [other.name for other in others if isinstance(name, str) and other.find(name)]
    where = f" {name} is served by: {', '.join(takers)}." if takers else ""
    meant = where or did_you_mean(name, (model.name for model in provider.models))
    return f"model={told(name)}: {provider.title} has {own}; a createTask API also takes raw:NAME.{meant}"


def _check_extra(request: ImageRequest, model: Model, provider: Provider) -> None:
    """A field that ImageRequest has must not hide in extra too, and all of it must be writable as JSON."""
    doubled = sorted(name for name in request.extra if name in ("prompt", *PARAMETERS))
    # One of the two values would win, and the user would not know which.
    if doubled and model.parameters is not None:
        raise InvalidRequest(f"extra holds {', '.join(doubled)}: set it on the request itself.", provider=provider.name)
    if model.parameters is None and "prompt" in request.extra:
        raise InvalidRequest("extra holds prompt: set it on the request itself.", provider=provider.name)
    try:
        # In the way in which its key is made: what fails here would fail there, in the midst of a batch.
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
