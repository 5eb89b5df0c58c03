"""A batch's journal: the port behind which its jobs are kept, the file they are in, and what reads and writes it."""

from __future__ import annotations

from .file import Journal
from .reader import JournalReader

__all__ = ["Journal", "JournalReader"]
