"""The record of a model: what its input takes, what it costs, and what it would not take of a request."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from typing import Any

import msgspec

from .._text import told
from .branches import Branch, is_one_way, ways_told
from .fields import PARAMETERS
from .latency import LatencyPrior
from .own_fields import OwnField, Translation
from .parameters import Choice, Parameter, Schema, Text, file_of, is_address, oddity_of, takes_several_files, unfit
from .prices import Price
from .record_values import check_count, check_price
from .suggestion import did_you_mean
from .values import ImageRequest

PICTURE_TASKS = frozenset(
    ("text to image", "image to image", "edit", "upscale", "background removal", "layers", "segmentation")
)
"""Kinds of tasks that have made nothing while no link is told."""

_RAW_PROMPT = Text(required=True)


class Model(msgspec.Struct, frozen=True, dict=True, omit_defaults=True, forbid_unknown_fields=True):
    """One model of one provider.

    Attributes:
        name: Our name. Several of one provider may have it: then the pictures that go in tell which is meant.
        wire_name: The provider's.
        parameters: What its input takes, by the provider's own names of the fields; None for a raw model: whatever
            `extra` holds.
        credits: Price of one picture in the provider's credits, or what it depends on; None where no page tells.
        translations: How fields of ImageRequest are called and written there, where that is another way than ours.
        branches: Ways to fill it in, of which a request takes one; empty: there is but one.
        task: What it makes of what: `text to image`, `image to image`, `edit`, `upscale` …; None: nobody says.
        results: Files that one task makes at most, where these are more than the pictures that were asked for.
        latency: How long its tasks take, as far as anybody knows beforehand; None: as the provider's others do.
        notes: What its page says and this record cannot.
    """

    name: str
    wire_name: str
    parameters: Schema | None
    credits: float | Price | None = None
    translations: Mapping[str, Translation] = {}
    branches: tuple[Branch, ...] = ()
    task: str | None = None
    results: int | None = None
    latency: LatencyPrior | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.credits is not None and not isinstance(self.credits, Price):
            check_price(f"{self.name}: credits", self.credits)
        if self.results is not None:
            check_count(f"{self.name}: results", self.results, 1)

    @cached_property
    def aspect_ratio(self) -> str | None:
        """The documented default in our word, sent when the request names none; None where there is none."""
        own = self._own.get("aspect_ratio")
        return None if own is None else own.default

    @property
    def makes_pictures(self) -> bool:
        """True where a success without a link to a file is none."""
        return self.task in PICTURE_TASKS

    @cached_property
    def files(self) -> dict[str, Parameter]:
        """The fields that take files, one or a list of them."""
        return {name: each for name, each in (self.parameters or {}).items() if file_of(each) is not None}

    @cached_property
    def _own(self) -> dict[str, OwnField]:
        """The fields of ImageRequest that it has, by our name."""
        schema = self.parameters or {}
        named = {name: self.translations.get(name, Translation(name)) for name in ("prompt", *PARAMETERS)}
        return {
            name: OwnField.of(name, each, schema[each.field]) for name, each in named.items() if each.field in schema
        }

    @cached_property
    def inputs(self) -> Schema:
        """What may be sent in its fields, which is less than its page takes where that would take a count of none."""
        return {**(self.parameters or {}), **{own.field: own.parameter for own in self._own.values()}}

    @cached_property
    def _required(self) -> dict[str, Parameter]:
        return {name: parameter for name, parameter in (self.parameters or {}).items() if parameter.required}

    def addresses(self, request: ImageRequest) -> set[str]:
        """The addresses that go in, as they are sent: of files, and whatever a raw model has them for."""
        return set(_addresses_in(self.input_of(request))) if request.images or request.extra else set()

    def misfit(self, request: ImageRequest, fields: Collection[str]) -> int:
        """Count what of a request's files it has no field for, twice, and those that it needs beside them.

        Args:
            request: Any.
            fields: All names that fields for files have, here and in the models of the same name.
        """
        given = {name for name in request.extra if name in fields}
        if request.images:
            own = self._own.get("images")
            # Without one for them, or with one that is filled already.
            given.add("images" if own is None or own.field in given else own.field)
        missing = [name for name, each in self.files.items() if each.required and name not in given]
        return len(missing) + 2 * len(given.difference(self.files))

    def count(self, request: ImageRequest) -> int:
        """Pictures that a request asks of it, each of them billed."""
        own = self._own.get("num_images")
        given = None if own is None else request.extra.get(own.field)
        if given is None:
            return request.count
        is_number = isinstance(given, int | float) or (isinstance(given, str) and given.isdecimal())
        # Also of what is not checked: less than one would give back what others cost.
        return max(1, int(given)) if is_number else 1

    def price(self, request: ImageRequest) -> float | None:
        """Credits that this request costs when it succeeds, or None where nobody knows."""
        if not isinstance(self.credits, Price):
            return None if self.credits is None else self.credits * self.count(request)
        wire, field = self.input_of(request), self.credits.field
        # What a page of today has no more, an older price may still go by.
        own = None if field is None else (self.parameters or {}).get(field)
        default = None if own is None else own.default
        inputs = (wire[name] for name in self.files if name in wire)
        count = sum(len(each) if isinstance(each, list | tuple) else 1 for each in inputs)
        return self.credits.of(wire.get(field or "", default), self.count(request), count)

    def input_of(self, request: ImageRequest) -> dict[str, Any]:
        """Write the input of a checked request: what the user set, the aspect ratio, and what must be there."""
        if self.parameters is None:
            return {"prompt": request.prompt, **request.extra}
        wire = {own.field: own.written(_own_ratio(own, value)) for own, value in self._given(request)}
        wire |= {name: value for name, value in request.extra.items() if value is not None}
        for name, parameter in self._required.items():
            if name not in wire and parameter.default is not None:
                wire[name] = parameter.default
        return wire

    def _given(self, request: ImageRequest) -> Iterator[tuple[OwnField, Any]]:
        """The fields of ours that are set, the aspect ratio's default filled in: the providers' own defaults differ."""
        for name, own in self._own.items():
            value = getattr(request, name)
            if value is None and name == "aspect_ratio" and own.field not in request.extra:
                value = own.default
            # A prompt that is left out is empty.
            is_set = (value != "" or own.parameter.required) if name == "prompt" else value not in (None, ())
            if is_set:
                yield own, value

    def problems(self, request: ImageRequest) -> list[Problem]:
        """Say what this model would not take of the request; nothing when it takes it all."""
        if self.parameters is None:
            return list(_problems_of_raw(request))
        return [*self._problems_of_ours(request), *self._problems_of_extra(request), *self._missing(request)]

    def fits(self, defaults: ImageRequest) -> bool:
        """True where it takes what a batch says for all its requests; what they lack, and the prompt, is theirs."""
        if self.parameters is None:
            return not any(problem.field != "prompt" for problem in _problems_of_raw(defaults))
        found = (*self._problems_of_ours(defaults), *self._problems_of_extra(defaults))
        return not any(problem.field != "prompt" for problem in found)

    def _problems_of_ours(self, request: ImageRequest) -> Iterator[Problem]:
        for own, value in self._given(request):
            if request.extra.get(own.field) is not None:
                yield Problem(own.field, request.extra[own.field], f"{own.name} says it, too; say it once")
            elif own.name == "images":
                yield from _problems_of_files("images", own.written(value), own.parameter, request)
            elif not own.takes(value):
                yield _problem(own.name, value, own.view)
        for name in ("prompt", *PARAMETERS):
            value = getattr(request, name)
            if name not in self._own and value not in (None, ()) and (name, value) != ("prompt", ""):
                yield self._unknown(name, value)

    def _problems_of_extra(self, request: ImageRequest) -> Iterator[Problem]:
        schema = self.inputs
        for name, value in request.extra.items():
            if name not in schema:
                yield self._unknown(name, value)
            elif name in self.files and value is not None:
                yield from _problems_of_files(name, value, schema[name], request)
            elif value is not None and not schema[name].takes(value):
                yield _problem(name, value, schema[name])

    def _missing(self, request: ImageRequest) -> Iterator[Problem]:
        given = {name for name, value in request.extra.items() if value is not None}
        given |= {own.field for own, _ in self._given(request)}
        for name, parameter in self._required.items():
            if name not in given and parameter.default is None:
                yield Problem(self._name_of(name), None, f"it is required; allowed is {parameter.allowed}")
        if not is_one_way(given, self.branches):
            yield Problem("extra", request.extra, f"{self.name} wants one of: {ways_told(self.branches)}")

    def _name_of(self, field: str) -> str:
        """How a user sets one of its fields."""
        return next((name for name, own in self._own.items() if own.field == field), field)

    def _unknown(self, name: str, value: object) -> Problem:
        known = [self._name_of(field) for field in self.parameters or ()]
        meant = did_you_mean(name, known).strip()
        told_so = f" ({meant})" if meant else ""
        return Problem(name, value, f"{self.name} has no such parameter, only {', '.join(known)}{told_so}")


def aspect_ratios(model: Model) -> tuple[str, ...]:
    """Our words for those that a model takes, as far as its page lists them."""
    own = model._own.get("aspect_ratio")
    return tuple(map(str, own.view.values)) if own is not None and isinstance(own.view, Choice) else ()


def needs_prompt(model: Model) -> bool:
    """True where nothing is made without one."""
    name = model.translations["prompt"].field if "prompt" in model.translations else "prompt"
    return model.parameters is None or (name in model.parameters and model.parameters[name].required)


class Problem(msgspec.Struct, frozen=True):
    """One parameter that a model does not take: its name, what was given, what is allowed."""

    field: str
    given: object
    allowed: str

    def __str__(self) -> str:
        return f"{self.field}={told(self.given)}: {self.allowed}"


def model_of(request: ImageRequest, price: float | None, known: Model | None, name: str | None = None) -> Model:
    """The model of an earlier request, or that of another name, at that time's price; known any more or not."""
    name = name or request.model or ""
    model = known or Model(name, name, None)
    return model if price is None else msgspec.structs.replace(model, credits=max(0.0, price) / model.count(request))


def _own_ratio(own: OwnField, value: Any) -> Any:
    """The value; the model's default in the place of another one's, which only a request for several comes with."""
    return own.default if own.name == "aspect_ratio" and not own.takes(value) and own.default else value


def _addresses_in(value: Any) -> Iterator[str]:
    if isinstance(value, str) and is_address(value.strip()):
        yield value
    for each in value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ():
        yield from _addresses_in(each)


def _problems_of_files(field: str, value: Any, parameter: Parameter, request: ImageRequest) -> Iterator[Problem]:
    """What is wrong with files that go in: of which kind, how many, how large; those of this machine are looked at."""
    local, file = request.local_files, file_of(parameter)
    names = [value] if isinstance(value, str) else value if isinstance(value, list | tuple) else []
    found = [name for name in names if isinstance(name, str) and name in local]
    addressed = dict.fromkeys(found, "https://x.example/x")
    if file is not None and not takes_several_files(parameter) and len(names) > 1:
        yield Problem(field, value, f"it takes one, and {len(names)} are given")
        return
    whole = value
    if isinstance(value, list | tuple):
        whole = [addressed.get(each, each) if isinstance(each, str) else each for each in names]
    if not parameter.takes(addressed.get(whole, whole) if isinstance(whole, str) else whole):
        yield _problem(field, value, parameter)
    for name in found:
        why = None if file is None else unfit(file, local[name].media_type, local[name].size)
        if why is not None:
            yield Problem(field, name, f"{why}; allowed is {parameter.allowed}")


def _problems_of_raw(request: ImageRequest) -> Iterator[Problem]:
    if not _RAW_PROMPT.takes(request.prompt):
        yield _problem("prompt", request.prompt, _RAW_PROMPT)
    # How a raw model wants them written nobody knows: '7' or 7, and by which name.
    for name in PARAMETERS:
        if getattr(request, name) not in (None, ()):
            problem = "a raw model takes its parameters, this one too, from `extra`"
            yield Problem(name, getattr(request, name), problem)


def _problem(name: str, value: object, parameter: Parameter) -> Problem:
    """What a parameter does not take, and where it is a text that looks like another one, what stands in it."""
    odd = oddity_of(parameter, value)
    return Problem(name, value, f"{'' if odd is None else f'{odd}; '}allowed is {parameter.allowed}")
