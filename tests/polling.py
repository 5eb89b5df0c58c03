"""Tasks that are asked about, and what may be answered: what the tests of the questions share."""

from __future__ import annotations

from typing import Any

from builders import failure, make_job
from inner import (
    ImageRequest,
    Job,
    Kind,
    LatencyPrior,
    LinksMissing,
    NoAnswer,
    Pending,
    Running,
    Succeeded,
    TaskFailed,
    TaskRefused,
)

from imagen_async.errors import GenerationFailed, InvalidRequest, TransportError

FIVE = LatencyPrior(median=5, sigma=0.5)
KIND: Kind = ("imagen4", 1)

PENDING = Pending("waiting")
SUCCESS = Succeeded(("https://files.example/1.png",), 4.0, 8.0, b"{}")
UNTOLD = Succeeded(("https://files.example/1.png",), None, 8.0, b"{}")
BROKEN = TaskFailed(failure(GenerationFailed, "too dark", code="500"), 0.0, b"{}")
UNLINKED = LinksMissing(BROKEN)
NOTHING = NoAnswer(failure(TransportError, "502"))
SILENT = TaskRefused(failure(InvalidRequest, "no such task", code=422))


def task(number: int, since: float = 0.0, state: type[Running] = Running, *, kind: Kind = KIND, **more: Any) -> Job:
    """A job whose task runs."""
    request = ImageRequest("a red fox", model=kind[0], num_images=kind[1])
    return make_job(number, state(f"t{number}", since, **more), model=kind[0], request=request)
