"""The commands, one file each."""

from __future__ import annotations

from typing import Any

from ..grammar import Command
from .batch import BATCH
from .collect import COLLECT
from .credits import CREDITS
from .export import EXPORT
from .gallery import GALLERY
from .generate import GENERATE
from .plan import PLAN
from .providers import PROVIDERS
from .sandbox import SANDBOX
from .status import STATUS

COMMANDS: tuple[Command[Any], ...] = (
    GENERATE,
    BATCH,
    PLAN,
    STATUS,
    COLLECT,
    GALLERY,
    EXPORT,
    CREDITS,
    PROVIDERS,
    SANDBOX,
)
"""In the order of `--help`."""
