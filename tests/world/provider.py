"""The provider of a world: the sandbox, with the faults that a seed has drawn for it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from imagen_async.sandbox import Faults, Latency, Lives, Sandbox

from .accidents import Accident, Terms
from .program import SIGNING_KEY, limits_of
from .wire import KEY

PORT = 8080


class DrawnFaults(Faults):
    """What goes wrong at the provider by its own fault: by the number of each request on its road."""

    def __init__(self, accidents: Sequence[Accident]) -> None:
        super().__init__()
        self._due = {
            (each.road, int(each.at) + number): each.what
            for each in accidents
            if each.kind == "order"
            for number in range(int(each.amount))
        }
        self._drawn = defaultdict[str, list[str | None]](list)
        self.is_calm = False

    def draw(self, road: Any) -> str | None:
        """The fault of the next request on a road."""
        drawn = self._drawn[road]
        drawn.append(None if self.is_calm else self._due.get((road, len(drawn))))
        return drawn[-1]

    @property
    def of_tasks(self) -> list[str | None]:
        """What each task's was, in the order of their making."""
        return self._drawn["task"]


def new_sandbox(terms: Terms, faults: DrawnFaults, seed: int) -> Sandbox:
    """A sandbox for a world; served once it is entered."""
    return Sandbox(
        latency=Latency(terms.latency, minimum=0.1),
        limits=limits_of(terms),
        faults=faults,
        lives=Lives(link=terms.link_life),
        key=KEY,
        signing_key=SIGNING_KEY if terms.signs else None,
        port=PORT,
        seed=seed,
    )
