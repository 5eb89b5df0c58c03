"""The providers that this version knows, as data: a record a file, each figure with its source."""

from __future__ import annotations

from .._core.model import Model
from .._core.provider import Limits, Provider
from .._core.rate_limit import Rate
from .apiin import APIIN
from .apikley import APIKLEY
from .kie import KIE
from .liangxin import LIANGXIN
from .sandbox import SANDBOX

__all__ = ["PROVIDERS", "SANDBOX", "Limits", "Model", "Provider", "Rate"]

PROVIDERS = {provider.name: provider for provider in (KIE, APIKLEY, LIANGXIN, APIIN, SANDBOX)}
"""By name. Whatever is added is found: nobody keeps a list of his own."""
