"""What happened, in the order of time: who, when, what; and the digest by which two runs are compared."""

from __future__ import annotations

import hashlib
from collections.abc import Callable


class Trace:
    """Lines of what happened.

    Attributes:
        home: Where the world has its files, which differs from one time to the next, and is left out.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.home = ""
        self.lines: list[str] = []

    def add(self, who: str, what: str) -> None:
        """Note what somebody does, or what befalls them."""
        what = what.replace(self.home, "") if self.home else what
        self.lines.append(f"{self._now():10.4f}  {who:<10}  {what}")

    def digest(self) -> str:
        """The same for the same course of things."""
        return hashlib.sha256("\n".join(self.lines).encode("utf-8", "replace")).hexdigest()[:16]
