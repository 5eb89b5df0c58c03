"""A task of the sandbox: what was asked, how long it takes, what comes of it, and for how long that can be had."""

from __future__ import annotations

import math
import random
from typing import Any

import msgspec

_FAILURES = {
    "fail_digits": ("500", "Internal Error, Please try again later."),
    "fail_word": ("SENSITIVE_WORD_ERROR", "The prompt was flagged as sensitive."),
}

MOST_LINKS = 1000
"""Links that an answer tells, however many pictures were asked for and billed."""

_LINKS_LATE = 2.0
"""Seconds after which the links of a finished task come that are late."""


class Latency(msgspec.Struct, frozen=True):
    """How long tasks take: lognormal, never below `minimum`. Seconds."""

    median: float = 1.0
    sigma: float = 0.35
    minimum: float = 0.05

    def draw(self, chance: random.Random) -> float:
        """One task's seconds."""
        return max(self.minimum, self.median * math.exp(chance.gauss(0, self.sigma)))


class Task(msgspec.Struct, frozen=True):
    """A task. Times are seconds of the server's clock; `wall` is its creation in Unix time.

    Attributes:
        count: Pictures that were asked for.
        inputs: The addresses of files that go in.
        understood: What of the input the model has fields for.
        shape: The asked aspect ratio in our word, however the model writes it.
        folder: The address below which its pictures are.
    """

    id: str
    model: str
    input: dict[str, Any]
    created: float
    latency: float
    wall: float
    fault: str | None
    credits: float
    count: int
    shape: str
    folder: str
    inputs: tuple[str, ...] = ()
    understood: dict[str, Any] = {}
    callback_url: str | None = None
    callback_fault: str | None = None

    @property
    def ends(self) -> float:
        """When it is done."""
        return self.created + self.latency

    @property
    def images(self) -> int:
        """Pictures that it makes."""
        # More than were asked for: six were seen where one was ordered.
        return self.count + 3 * (self.fault == "more_urls")

    @property
    def failure(self) -> tuple[str, str] | None:
        """The code and words with which it fails, or None where it makes its pictures."""
        return _FAILURES.get(self.fault or "")

    def urls(self, now: float) -> list[str]:
        """Where its pictures are, as far as that is told by then."""
        if self.fault == "no_urls" or (self.fault == "late_urls" and now < self.ends + _LINKS_LATE):
            return []
        return [f"{self.folder}/{number}.png" for number in range(1, min(self.images, MOST_LINKS) + 1)]


class Lives(msgspec.Struct, frozen=True):
    """How long what a task made can be had, in seconds from its end; None: as long as the sandbox runs.

    Attributes:
        link: The link of its status answer.
        picture: The picture itself, to which new links can be asked for.
    """

    link: float | None = None
    picture: float | None = None

    def has(self, age: float, until: float | None, now: float) -> bool:
        """True for a picture of that age, by its own link or by one that was renewed `until` then."""
        is_linked = until > now if until is not None else age <= _or_forever(self.link)
        return 0 <= age <= _or_forever(self.picture) and is_linked


def _or_forever(seconds: float | None) -> float:
    return math.inf if seconds is None else seconds
