"""The kinds of parameter a model has: what each takes, and how it stands on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from .plain_text import oddity


class Text(msgspec.Struct, frozen=True):
    """A string; `required` also means: not blank. `max_length` is in characters, None: no limit documented."""

    max_length: int | None = None
    required: bool = False

    @property
    def allowed(self) -> str:
        """What this takes, for an error message."""
        size = "" if self.max_length is None else f" of at most {self.max_length:,} characters"
        return ("a non-empty string" if self.required else "a string") + size

    def takes(self, value: object) -> bool:
        """Tell whether the provider would take `value`."""
        if not isinstance(value, str) or (self.required and not value.strip()) or self.oddity(value):
            return False
        return self.max_length is None or len(value) <= self.max_length

    def oddity(self, value: object) -> str | None:
        """What stands in a text that looks like another one; None for any other value."""
        return oddity(value, is_required=self.required) if isinstance(value, str) else None

    def wire(self, value: Any) -> Any:
        """Write a value that was taken."""
        return value


class Choice(msgspec.Struct, frozen=True):
    """One of a few words: our word (and the provider's own) to the provider's."""

    words: Mapping[str, str]

    @property
    def allowed(self) -> str:
        """What this takes, for an error message."""
        return "one of " + ", ".join(self.words)

    def takes(self, value: object) -> bool:
        """Tell whether the provider would take `value`."""
        return isinstance(value, str) and value in self.words

    def wire(self, value: Any) -> Any:
        """Write a value that was taken."""
        return self.words[value]


class Whole(msgspec.Struct, frozen=True):
    """A whole number, bounds included (None: none documented); `as_text` where the provider wants '7', not 7."""

    minimum: int | None = None
    maximum: int | None = None
    as_text: bool = False

    @property
    def allowed(self) -> str:
        """What this takes, for an error message."""
        if self.minimum is not None and self.maximum is not None:
            return f"a whole number from {self.minimum} to {self.maximum}"
        return "a whole number below 2^63" if self.minimum is None else f"a whole number of at least {self.minimum}"

    def takes(self, value: object) -> bool:
        """Tell whether the provider would take `value`."""
        # True is an int to Python, and would be sent as 1 or as 'True'.
        if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 2**63:
            return False
        return (self.minimum is None or value >= self.minimum) and (self.maximum is None or value <= self.maximum)

    def oddity(self, value: object) -> str | None:
        """Say of a truth value that it is no number; None for any other value."""
        return "a truth value is no number" if isinstance(value, bool) else None

    def wire(self, value: Any) -> Any:
        """Write a value that was taken."""
        return str(value) if self.as_text else value


class Flag(msgspec.Struct, frozen=True):
    """True or false."""

    allowed = "true or false"

    def takes(self, value: object) -> bool:
        """Tell whether the provider would take `value`."""
        return isinstance(value, bool)

    def wire(self, value: Any) -> Any:
        """Write a value that was taken."""
        return value


Parameter = Text | Choice | Whole | Flag
Schema = Mapping[str, Parameter]


def same(*words: str) -> dict[str, str]:
    """Words that the provider writes as we do."""
    return {word: word for word in words}
