"""Thousands of pictures out of a text-to-image API: an asyncio client and batch runner that never pays twice."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .errors import (
    AccountError,
    AuthenticationError,
    BudgetReached,
    ConfigurationError,
    DeadlineExceeded,
    DownloadFailed,
    GenerationFailed,
    ImagenError,
    InsufficientCredits,
    InvalidRequest,
    JournalError,
    ModelUnavailable,
    ProtocolError,
    RateLimited,
    TransportError,
    UnknownOutcome,
)

if TYPE_CHECKING:
    from ._accounts import Account
    from ._batch.batch import Batch
    from ._callbacks import Callback
    from ._client import Client
    from ._core.provider import Limits
    from ._core.rate_limit import Rate
    from ._core.values import ImageFile, ImageRequest, Result, raw_model
    from ._progress import AccountProgress, Progress
    from ._single import Job

__all__ = [
    "Account",
    "AccountError",
    "AccountProgress",
    "AuthenticationError",
    "Batch",
    "BudgetReached",
    "Callback",
    "Client",
    "ConfigurationError",
    "DeadlineExceeded",
    "DownloadFailed",
    "GenerationFailed",
    "ImageFile",
    "ImageRequest",
    "ImagenError",
    "InsufficientCredits",
    "InvalidRequest",
    "Job",
    "JournalError",
    "Limits",
    "ModelUnavailable",
    "Progress",
    "ProtocolError",
    "Rate",
    "RateLimited",
    "Result",
    "TransportError",
    "UnknownOutcome",
    "__version__",
    "raw_model",
]

_HOMES = {
    "Account": "_accounts",
    "AccountProgress": "_progress",
    "Batch": "_batch.batch",
    "Callback": "_callbacks",
    "Client": "_client",
    "ImageFile": "_core.values",
    "ImageRequest": "_core.values",
    "Job": "_single",
    "Limits": "_core.provider",
    "Progress": "_progress",
    "Rate": "_core.rate_limit",
    "Result": "_core.values",
    "raw_model": "_core.values",
}
"""Where the names are that are loaded when they are first asked for: `imagen-async --help` needs no network."""


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    elif name in ("events", "providers"):
        value = import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
