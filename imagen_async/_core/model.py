"""The record of a model: what its input takes, what it costs, and what it would not take of a request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from .._text import told
from .fields import PARAMETERS
from .parameters import Parameter, Schema, Text, Whole
from .values import ImageRequest

_RAW_PROMPT = Text(required=True)


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

    def _values(self, request: ImageRequest) -> list[tuple[str, Any]]:
        """The parameters that are set, the aspect ratio's default filled in: the providers' own defaults differ."""
        values: list[tuple[str, Any]] = [("prompt", request.prompt)]
        for name in PARAMETERS:
            value = getattr(request, name)
            if value is None and name == "aspect_ratio":
                value = self.aspect_ratio
            if value is not None:
                values.append((name, value))
        if request.extra:
            values += request.extra.items()
        return values

    def problems(self, request: ImageRequest) -> list[Problem]:
        """Say what this model would not take of the request; nothing when it takes it all."""
        if self.parameters is None:
            return list(self._raw_problems(request))
        found = []
        for name, value in self._values(request):
            parameter = self.parameters.get(name)
            if parameter is None:
                allowed = f"{self.name} has no such parameter, only {', '.join(self.parameters)}"
                found.append(Problem(name, value, allowed))
            elif not parameter.takes(value):
                found.append(_problem(name, value, parameter))
        return found

    def _raw_problems(self, request: ImageRequest) -> Iterator[Problem]:
        if not _RAW_PROMPT.takes(request.prompt):
            yield _problem("prompt", request.prompt, _RAW_PROMPT)
        # How a raw model wants them written nobody knows: '7' or 7, and by which name.
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
        return f"{self.field}={told(self.given)}: {self.allowed}"


def model_of(request: ImageRequest, price: float | None, known: Model | None) -> Model:
    """The model that an earlier request names, at that time's price; one of its name where none is known any more."""
    name = request.model or ""
    model = known or Model(name, name, None)
    return model if price is None else msgspec.structs.replace(model, credits=price / request.images)


def _problem(name: str, value: object, parameter: Parameter) -> Problem:
    """What a parameter does not take, and where it is a text that looks like another one, what stands in it."""
    odd = parameter.oddity(value) if isinstance(parameter, Text | Whole) else None
    return Problem(name, value, f"{'' if odd is None else f'{odd}; '}allowed is {parameter.allowed}")
