"""What the coordinator answers about a row, and what a row has become once its pictures are there. No Ray."""

from __future__ import annotations

import msgspec

from .._core.file_names import UNNUMBERED
from .._core.values import ImageRequest, Result
from .._text import well_formed
from ..errors import ImagenError


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """What became of one row: where its pictures are, or why there are none.

    Attributes:
        key: The row's, or the one made of its content.
        prompt: As it was sent.
        provider: The account that took it.
        model: Our name of the model that made it.
        urls: Where its pictures are.
        text: What the task has made where that is words.
        task_id: The provider's task, or None.
        credits: What it cost, as far as it is known.
        latency: Seconds that the provider took.
        error: Why there is no picture, or None.
    """

    key: str
    prompt: str
    provider: str = ""
    model: str = ""
    urls: tuple[str, ...] = ()
    text: str = ""
    task_id: str | None = None
    credits: float | None = None
    latency: float | None = None
    error: str | None = None

    def to_result(self, urls: tuple[str, ...] = ()) -> Result:
        """What saves its pictures, from other links where these are given."""
        request = ImageRequest(self.prompt, key=self.key)
        where = self.provider, self.model, urls or self.urls
        return Result(self.key, UNNUMBERED, request, *where, text=self.text, task_id=self.task_id)


class Picture(msgspec.Struct, frozen=True):
    """A picture of a row, whole: its bytes, or where it lies."""

    media_type: str
    sha256: str
    image: bytes | None = None
    path: str | None = None


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Answer).decode


def answer_of(result: Result) -> Answer:
    """What a result says of its row."""
    error = None if result.error is None else error_text(result.error)
    figures = result.task_id, result.credits, result.latency, error
    where = result.provider, result.model, result.urls, result.text
    return Answer(well_formed(result.key), well_formed(result.request.prompt), *where, *figures)


def failed_answer(request: ImageRequest, error: ImagenError) -> Answer:
    """What is said of a row of which nothing was sent."""
    return Answer(well_formed(request.key or ""), well_formed(request.prompt), error=error_text(error))


def error_text(error: ImagenError) -> str:
    """An error as a column has it: its class, by which the remedy is known, and its message."""
    # Out of another process it comes as two in one.
    cause = getattr(error, "cause", None)
    error = cause if isinstance(cause, ImagenError) else error
    return well_formed(f"{type(error).__name__}: {error.message}")
