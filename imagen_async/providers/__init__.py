"""The providers that this version knows, as data: a record a file, each figure with its source."""

from __future__ import annotations

from .._core.branches import Branch
from .._core.dialects.jobs import JobsDialect
from .._core.dialects.tasks import TasksDialect
from .._core.latency import LatencyPrior
from .._core.model import Model
from .._core.own_fields import Translation
from .._core.parameters import Anything, Choice, Either, Fields, File, Flag, Items, Number, Text, Whole
from .._core.prices import Price
from .._core.provider import Limits, Provider, Uploads
from .._core.rate_limit import Rate
from .apiin import APIIN
from .apikley import APIKLEY
from .kie import KIE
from .liangxin import LIANGXIN
from .modkie import MODKIE
from .ruxa import RUXA
from .sandbox import SANDBOX
from .served import SERVED

__all__ = [
    "PROVIDERS",
    "SANDBOX",
    "Anything",
    "Branch",
    "Choice",
    "Either",
    "Fields",
    "File",
    "Flag",
    "Items",
    "JobsDialect",
    "LatencyPrior",
    "Limits",
    "Model",
    "Number",
    "Price",
    "Provider",
    "Rate",
    "TasksDialect",
    "Text",
    "Translation",
    "Uploads",
    "Whole",
]

PROVIDERS = {provider.name: provider for provider in (KIE, APIKLEY, LIANGXIN, APIIN, MODKIE, RUXA, SERVED, SANDBOX)}
"""By name. Whatever is added is found: nobody keeps a list of his own."""
