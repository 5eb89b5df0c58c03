"""What a prompt file will cost, in credits and in time, before anything is sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable
from typing import Any

import msgspec

from .._admission import checked, with_defaults
from .._core.forecast import making_time, sending_time
from .._core.poll_schedule import Kind, PollSchedule
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
        sending: Seconds that the submit limit alone allows for the creates.
        seconds: Expected seconds to the last picture, by the limits and by how long such tasks take.
        latency: Mean seconds that one of these tasks is expected to take.
        limits: What it was reckoned with.
        known: Requests of the file that are in the folder's journal already, and are not counted here.
    """

    requests: int
    images: int
    credits: float | None
    models: dict[str, int]
    sending: float
    seconds: float
    latency: float
    limits: Limits
    known: int

    def record(self) -> dict[str, Any]:
        """As JSON."""
        fields = ("requests", "images", "credits", "models")
        times = {"seconds": round(self.seconds, 1), "seconds_at_least": self.sending, "latency": round(self.latency, 1)}
        return {**{name: getattr(self, name) for name in fields}, **times, "in_journal": self.known}

    def text(self) -> str:
        """For people."""
        known = ""
        if self.known:
            known = f"{counted(self.known, 'request')} of the file in the journal already; to be sent:\n"
        if not self.requests:
            return f"{known}nothing"
        cost = "an unknown price" if self.credits is None else f"{amount(self.credits)} credits"
        models = ", ".join(f"{count:,} × {name}" for name, count in self.models.items())
        rate = self.limits.submit
        sending = f"sent in {duration(self.sending)}" if self.sending else "all sent at once"
        return (
            f"{known}{counted(self.requests, 'request')} ({models}), {counted(self.images, 'picture')}, {cost}\n"
            f"about {duration(self.seconds)}: {sending} at {rate.count} creates per {rate.per:g} s, "
            f"{self.limits.running} tasks at once of some {duration(self.latency)} each"
        )


def estimate(
    requests: Iterable[ImageRequest],
    defaults: ImageRequest,
    provider: Provider,
    limits: Limits,
    schedule: PollSchedule,
    settled: Container[str],
) -> Estimate:
    """Add up checked requests, by what the schedule knows of latencies; those whose key is settled are only counted."""
    known = images = 0
    credits: float | None = 0.0
    kinds: Counter[Kind] = Counter()
    for request in requests:
        if request.key in settled:
            known += 1
            continue
        request = with_defaults(request, defaults)
        model = checked(request, provider)
        price = model.price(request)
        images += request.images
        credits = None if credits is None or price is None else credits + price
        kinds[model.name, request.images] += 1
    count = kinds.total()
    return Estimate(
        requests=count,
        images=images,
        credits=credits,
        models=_by_model(kinds),
        sending=sending_time(count, limits, latency=0.0),
        seconds=making_time(count, kinds, limits, schedule),
        latency=schedule.mean(kinds),
        limits=limits,
        known=known,
    )


def _by_model(kinds: Counter[Kind]) -> dict[str, int]:
    models: Counter[str] = Counter()
    for (model, _), count in kinds.items():
        models[model] += count
    return dict(models)
