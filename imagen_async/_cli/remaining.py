"""What a folder's journal leaves to do of a prompt file, and what that costs at most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container

import msgspec

from .. import ImageRequest
from .checking import JournalLines
from .library import Router, with_defaults
from .prompt_files import PromptFile
from .wording import amount


class Remaining(msgspec.Struct, frozen=True):
    """How far a file is.

    Attributes:
        requests: In the file.
        counts: Of these, those that the journal has, by state.
        unsent: Those that are sent in this run.
        credits: What these cost, at the dearest account each; None where a price is unknown.
    """

    requests: int
    counts: Counter[str]
    unsent: int
    credits: float | None

    @property
    def left(self) -> int:
        """Those that are not at their end: sent in this run, or running at a provider."""
        return self.unsent + self.counts["running"] + self.counts["ready"]

    def text(self) -> str:
        """For people."""
        ended = [f"{self.counts['done']:,} of {self.requests:,} are done"]
        ended += [f"{self.counts[state]:,} {word}" for state, word in _ENDED.items() if self.counts[state]]
        paid = self.left - self.unsent
        running = f"; {paid:,} of them {'runs and is' if paid == 1 else 'run and are'} paid for" if paid else ""
        cost = f", {self.cost()}" if self.unsent else ""
        return f"{', '.join(ended)}; {self.left:,} {'is' if self.left == 1 else 'are'} left{cost}{running}"

    def cost(self) -> str:
        """What is to be paid yet, for people."""
        return "at an unknown price" if self.credits is None else f"up to {amount(self.credits)} credits"


_ENDED = {"failed": "failed", "unknown": "held"}


def remaining_of(
    requests: PromptFile,
    known: JournalLines,
    defaults: ImageRequest,
    router: Router,
    again: Container[str] = ("queued",),
) -> Remaining:
    """Look through a file.

    Args:
        requests: The file, checked.
        known: What the journal has of it.
        defaults: For what a request does not say itself.
        router: Finds who can take a request.
        again: The states from which a request is sent in this run.
    """
    counts, unsent = Counter(known.counts), 0
    credits: float | None = 0.0
    for place, line in enumerate(requests):
        state = known.state(place)
        if state is None or state in again:
            unsent += 1
            counts[state or "unsent"] -= state is not None
            request, route = router.route(with_defaults(line, defaults))
            prices = [offer.model.price(request) for offer in route.all_offers]
            told = [price for price in prices if price is not None]
            credits = None if credits is None or len(told) < len(prices) else credits + max(told)
    return Remaining(len(requests), counts, unsent, credits)
