"""What a prompt file will cost, in credits and in time, before anything is sent."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import msgspec

from .._admission import checked, with_defaults
from .._core.provider import Limits, Provider
from .._core.values import ImageRequest
from ._progress import amount, counted, duration


class Estimate(msgspec.Struct, frozen=True):
    """The figures of a plan.

    Attributes:
        requests: In the file.
        images: Pictures that they ask for.
        credits: What they cost when all succeed, or None where a price is unknown.
        models: Requests by model.
        seconds: The time that the submit limit alone allows; the last tasks run beyond it.
        limits: What it was reckoned with.
    """

    requests: int
    images: int
    credits: float | None
    models: dict[str, int]
    seconds: float
    limits: Limits

    def record(self) -> dict[str, Any]:
        """As JSON."""
        fields = ("requests", "images", "credits", "models")
        return {**{name: getattr(self, name) for name in fields}, "seconds_at_least": self.seconds}

    def text(self) -> str:
        """For people."""
        cost = "an unknown price" if self.credits is None else f"{amount(self.credits)} credits"
        models = ", ".join(f"{count:,} × {name}" for name, count in self.models.items())
        rate = self.limits.submit
        sending = f"at least {duration(self.seconds)}" if self.seconds else "all sent at once"
        return (
            f"{counted(self.requests, 'request')} ({models}), {counted(self.images, 'picture')}, {cost}\n"
            f"{sending} at {rate.count} creates per {rate.per:g} s, then the last tasks"
        )


def estimate(
    requests: Iterable[ImageRequest], defaults: ImageRequest, provider: Provider, limits: Limits | None
) -> Estimate:
    """Add up checked requests."""
    limits = limits or provider.limits
    count = images = 0
    credits: float | None = 0.0
    models: dict[str, int] = {}
    for request in requests:
        request = with_defaults(request, defaults)
        model = checked(request, provider)
        price = model.price(request)
        count += 1
        images += request.images
        credits = None if credits is None or price is None else credits + price
        models[model.name] = models.get(model.name, 0) + 1
    windows = math.ceil(count / limits.submit.count) - 1
    return Estimate(count, images, credits, models, windows * limits.submit.per, limits)
