"""What each event makes of a job in each state: the entries of the machine's table, grouped by what they are about."""

from __future__ import annotations

from .claims import PATIENCE, with_last

__all__ = ["PATIENCE", "with_last"]
