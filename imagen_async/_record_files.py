"""Files of records of the user's own: of models as JSON, of a provider as TOML."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from ._core.dialects.jobs import JobsDialect
from ._core.dialects.tasks import TasksDialect
from ._core.latency import LatencyPrior
from ._core.model import Model
from ._core.prices import Price
from ._core.provider import Limits, Provider, Uploads
from ._core.suggestion import did_you_mean
from ._records import GUESSED, ModelFile, Models
from ._text import told
from .errors import ConfigurationError

MAX_BYTES = 16 << 20
"""Of a file of the user's own; that of all of kie.ai's models has 60 KB."""


def read_models(path: str | os.PathLike[str]) -> ModelFile:
    """The records of a file of the user's own; raises ConfigurationError where it cannot be read, or is none."""
    content = content_of(path)
    try:
        return msgspec.json.decode(content, type=ModelFile)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        remedy = "imagen-async models import PAGE… -o FILE writes one"
        raise ConfigurationError(f"{path} is no file of models: {told(str(error), 300)}; {remedy}.") from None
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error.message}") from None


def model_files(models: Models) -> list[ModelFile]:
    """What a user gives as records; raises ConfigurationError for what is none."""
    if isinstance(models, str | os.PathLike):
        return [read_models(models)]
    found = (models,) if isinstance(models, Model) else tuple(models if isinstance(models, Iterable) else ())
    if not found or not all(isinstance(each, Model) for each in found):
        raise ConfigurationError(f"models={told(models)}: allowed is the path of a file of models, or records of some.")
    return [ModelFile(found)]


def completed(model: Model, before: Model | None, *, is_priced: bool) -> Model:
    """A record of a page with what pages do not tell, as an earlier record of the same model has it.

    Args:
        model: Of the page.
        before: The earlier one, or None.
        is_priced: True where its price holds for whoever is to sell this one.
    """
    if before is None:
        return model
    kept = {name: getattr(before, name) for name in ("name", "task", "results", "latency")}
    # A price by resolution is known better than one number out of prose.
    credits, notes = model.credits, model.notes
    if is_priced and before.credits is not None:
        credits = before.credits
        if isinstance(credits, Price) and credits.field is not None and credits.field not in (model.parameters or {}):
            notes += (f"its price went by {credits.field}, which it has no more: the dearest is reckoned with",)
    return msgspec.structs.replace(model, **kept, credits=credits, notes=notes)


class _ProviderFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A provider of the user's own as TOML has it: the fields of its record, and whose models it has."""

    name: str
    base_url: str
    title: str | None = None
    dialect: JobsDialect | TasksDialect = JobsDialect()
    models_of: str | None = None
    models: tuple[Model, ...] = ()
    limits: Limits = GUESSED
    latency: LatencyPrior = LatencyPrior(median=47, sigma=0.95)
    prices: dict[str, float] | float | None = None
    uploads: Uploads | None = None
    signs_callbacks: bool = False


def read_provider(path: str | os.PathLike[str], known: Mapping[str, Provider]) -> Provider:
    """The record of a provider in a TOML file; raises ConfigurationError where it cannot be read, or is none.

    Args:
        path: Of the file.
        known: The providers that there are: its models may be theirs, at prices that nobody knows.
    """
    content = content_of(path)
    try:
        return _record_of(msgspec.toml.decode(content, type=_ProviderFile), known)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path} is no record of a provider: {told(str(error), 300)}.") from None
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error.message}") from None


def _record_of(found: _ProviderFile, known: Mapping[str, Provider]) -> Provider:
    if found.models_of is not None and found.models_of not in known:
        message = f"models_of names {told(found.models_of)}; there are {', '.join(known)}"
        raise ConfigurationError(f"{message}.{did_you_mean(found.models_of, known)}")
    others = () if found.models_of is None else known[found.models_of].models
    same = ("name", "base_url", "dialect", "limits", "latency", "prices", "uploads", "signs_callbacks")
    own = {name: getattr(found, name) for name in same}
    models = (*found.models, *(msgspec.structs.replace(each, credits=None) for each in others))
    return Provider(**own, title=found.title or found.name, models=models)


def content_of(path: str | os.PathLike[str]) -> bytes:
    """What a file of the user's own holds; raises ConfigurationError where it cannot be read, or is too long."""
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    if len(data) > MAX_BYTES:
        raise ConfigurationError(f"{path} is longer than {MAX_BYTES:,} bytes: that is no such file.")
    return data


def written(file: ModelFile) -> bytes:
    """A file of models as it is written: a line a field, so that a change of one is seen as such."""
    return msgspec.json.format(msgspec.json.encode(file), indent=1) + b"\n"
