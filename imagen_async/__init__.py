"""Thousands of pictures out of the Imagen 4 APIs: an asyncio client and batch runner that never pays twice."""

from ._accounts import Account
from ._batch.batch import Batch
from ._callbacks import Callback
from ._client import Client
from ._core.provider import Limits
from ._core.rate_limit import Rate
from ._core.values import ImageFile, ImageRequest, Result, raw_model
from ._progress import AccountProgress, Progress
from ._single import Job
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
    "raw_model",
]
