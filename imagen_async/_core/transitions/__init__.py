"""What each event makes of a job in each state: the entries of the machine's table, grouped by what they are about."""

from __future__ import annotations

from .asking import LINKS_PATIENCE
from .claims import PATIENCE, with_last

__all__ = ["LINKS_PATIENCE", "PATIENCE", "with_last"]
