"""The records of providers, and the check of a request against one before anything is sent."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import msgspec

from .._text import told
from ..errors import ConfigurationError, InvalidRequest
from .dialect import Dialect
from .fields import PARAMETERS
from .latency import LatencyPrior
from .model import Model, Problem
from .plain_text import foreign_character
from .rate_limit import Rate
from .record_values import check_count, check_number, check_path, check_price
from .suggestion import did_you_mean
from .values import RAW_PREFIX, ImageRequest


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
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
        check_count("limits.running", self.running, 1)


NAME = re.compile(r"[A-Za-z][\w.-]*")
"""What a provider or an account can be called: a word of a command line, and half of an environment variable."""

MOST_TAKERS = 4
"""Models that a refusal names as taking what the one that was asked does not."""

MOST_NAMED = 12
"""Models that a refusal names of those that a provider has."""


class Uploads(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where files of the user's own are taken.

    Attributes:
        base_url: The host; None: that of the API. The key goes there only while the API is at the record's own address.
        path: Where a form with one file is taken.
        file_field: What the form calls the file.
        name_field: What it calls the file's name.
        fields: What else it is to say.
        max_bytes: Of a file, or None.
        lifetime: Seconds for which an address is good.
        base64_path: Where a file is taken as text, or None where it is not; the sandbox alone reads this.
        url_path: Where the address of a file is taken, or None where it is not; the sandbox alone reads this.
    """

    path: str
    base_url: str | None = None
    file_field: str = "file"
    name_field: str = "fileName"
    fields: Mapping[str, str] = {}
    max_bytes: int | None = None
    lifetime: float = 86400.0
    base64_path: str | None = None
    url_path: str | None = None

    def __post_init__(self) -> None:
        for name in ("path", "base64_path", "url_path"):
            if name == "path" or getattr(self, name) is not None:
                check_path(f"uploads.{name}", getattr(self, name))
        check_number("uploads.lifetime", self.lifetime, 1, 1e12)
        if self.max_bytes is not None:
            check_count("uploads.max_bytes", self.max_bytes, 1)


class Provider(msgspec.Struct, frozen=True, dict=True):
    """Everything that tells one API from another, as data.

    Attributes:
        name: What `Client("…")` and `-p` take.
        title: Its name for people.
        base_url: Where its API is, or None where only the user knows.
        dialect: How it talks.
        models: What it serves. Several may have one name, such as one that makes pictures of words and one that edits
            them: then the pictures that a request has tell which is meant.
        limits: What it lets an account do, published or (as each file says) guessed.
        latency: How long its tasks take, as far as anybody knows beforehand.
        prices: Credits for a picture, of every model or by our name of it, in place of what the models say; None:
            as they say.
        uploads: Where files of the user's own go, whose addresses its models take; None: nowhere that is known.
        signs_callbacks: True where a callback can be signed, as kie.ai does it.
        is_local: True where it runs on this machine: it needs no key and no address, since the client can serve it.
        is_service: True for a service of this library, which others sell through: it has the limits, and any of the
            models may be there.
    """

    name: str
    title: str
    base_url: str | None
    dialect: Dialect
    models: Sequence[Model]
    limits: Limits
    latency: LatencyPrior
    prices: Mapping[str, float] | float | None = None
    uploads: Uploads | None = None
    signs_callbacks: bool = False
    is_local: bool = False
    is_service: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            raise ConfigurationError(f"name={told(self.name)}: a provider's name is a word, such as kie.")
        if isinstance(self.prices, Mapping):
            for model, price in self.prices.items():
                check_price(f"prices[{told(model)}]", price)
        elif self.prices is not None:
            check_price("prices", self.prices)

    @property
    def key_variable(self) -> str:
        """The environment variable of the key."""
        return f"{variable_of(self.name)}_API_KEY"

    @property
    def base_url_variable(self) -> str:
        """The environment variable that overrides the base URL."""
        return f"{variable_of(self.name)}_BASE_URL"

    def find(self, name: str, request: ImageRequest | None = None) -> Model | None:
        """The model of that name, ours or the provider's, at the price that holds here; None where there is none.

        Raw ones are among them where the dialect takes such.

        Args:
            name: Its own.
            request: Tells by its pictures which of several is meant; None: the first of them.
        """
        named = self._by_name.get(name)
        if named is not None:
            if len(named) == 1 or request is None:
                return named[0]
            # Who of those that have the model makes it there, nobody knows here: what fits one of them may go.
            fitting = (model for model in named if not model.problems(request)) if self.is_service else ()
            return next(iter(fitting), None) or _meant(named, request)
        if name.startswith(RAW_PREFIX) and self.dialect.takes_raw_models and name != RAW_PREFIX:
            return self.priced(Model(name, name.removeprefix(RAW_PREFIX), None))
        return None

    def named(self, name: str) -> Sequence[Model]:
        """All models of that name."""
        return self._by_name.get(name, ())

    def prior_of(self, name: str) -> LatencyPrior:
        """How long tasks of a model take, as far as anybody knows beforehand."""
        model = self.find(name)
        # What runs here takes the time that it was told to, whatever it stands for.
        return self.latency if self.is_local or model is None or model.latency is None else model.latency

    @cached_property
    def _by_name(self) -> dict[str, tuple[Model, ...]]:
        found: dict[str, tuple[Model, ...]] = {}
        models = [self.priced(model) for model in self.models]
        for model in models:
            found[model.name] = (*found.get(model.name, ()), model)
        # The provider's own name is for one of them alone, where it is no name of ours.
        return {model.wire_name: (model,) for model in models} | found

    def priced(self, model: Model) -> Model:
        """A model of it at the price that was said in place of the model's own."""
        if not isinstance(self.prices, Mapping):
            said = self.prices
        else:
            said = self.prices.get(model.name, self.prices.get(model.wire_name))
        return model if said is None else msgspec.structs.replace(model, credits=said)


def variable_of(name: str) -> str:
    """How a name of an account or a provider begins the names of environment variables."""
    return re.sub(r"\W", "_", name).upper()


def _meant(named: Sequence[Model], request: ImageRequest) -> Model:
    """Which of several models of one name a request is for: the first whose picture fields are those that it fills."""
    fields = {field for model in named for field in model.files}
    return min(named, key=lambda model: model.misfit(request, fields))


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
    if not isinstance(request.extra, dict):
        raise InvalidRequest(f"extra={told(request.extra)}: allowed is a mapping of the provider's own fields.")
    model = provider.find(name, request) if isinstance(name, str) else None
    if model is None:
        raise InvalidRequest(_no_such_model(name, provider, others))
    # A raw one's may be any; one that cannot be written would fail where the request's key is made.
    if model.parameters is None and (oddity := foreign_character(name)) is not None:
        raise InvalidRequest(f"model={told(name)}: {oddity}.")
    if request.extra:
        _check_extra(request, model, provider)
    if request.local_files:
        _check_local(request, provider)
    # kie.ai answers 200 to a field that it does not know, and ignores it (seen): nobody else would tell.
    if problems := model.problems(request):
        words = (str(problem) + _takers(problem, request, name, provider, others) for problem in problems)
        raise InvalidRequest(f"{'; '.join(words)}.")
    return model


def _no_such_model(name: object, provider: Provider, others: Iterable[Provider]) -> str:
    if isinstance(name, str) and name.startswith(RAW_PREFIX) and not provider.dialect.takes_raw_models:
        return f"model={told(name)}: {provider.title} takes no raw models; only createTask APIs do."
    own = list(dict.fromkeys(model.name for model in provider.models))
    takers = [other.name for other in others if isinstance(name, str) and other.find(name)]
    where = f" {name} is served by: {', '.join(takers)}." if takers else ""
    meant = where or did_you_mean(name, own)
    few = ", ".join(own) or "no models in its record"
    has = f"{_listed(own, MOST_NAMED)} (all: imagen-async models)" if len(own) > MOST_NAMED else few
    return f"model={told(name)}: {provider.title} has {has}; a createTask API also takes raw:NAME.{meant}"


def _listed(names: Sequence[str], most: int) -> str:
    """Names in a row, of very many the first."""
    others = f" and {len(names) - most} others" if len(names) > most else ""
    return ", ".join(names[:most]) + others


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


def _check_local(request: ImageRequest, provider: Provider) -> None:
    """Files of this machine must be such as the provider takes, whatever the model does."""
    most = None if provider.uploads is None else provider.uploads.max_bytes
    for name, file in request.local_files.items():
        why = None
        if provider.uploads is None:
            why = f"is a file of this machine, and {provider.title} has no upload that is known: give its URL"
        elif most is not None and file.size > most:
            why = f"has {file.size / 1e6:.1f} MB, and {provider.title} takes uploads of at most {most / 1e6:g} MB"
        if why is not None:
            raise InvalidRequest(f"{told(name)} {why}.", provider=provider.name)


def _takers(problem: Problem, request: ImageRequest, name: str, provider: Provider, others: Iterable[Provider]) -> str:
    """Say which other models or providers would take the field as it was given; what is missing none would miss."""
    if problem.given in (None, (), ""):
        return ""
    same = [(other, model) for other in others for model in other.models if model.name == name]
    names = [
        f"{other.name} ({model.name})"
        for other, model in [*same, *((provider, model) for model in provider.models)]
        if problem.field not in {found.field for found in model.problems(request)}
    ]
    return f" (taken by: {_listed(list(dict.fromkeys(names)), MOST_TAKERS)})" if names else ""
