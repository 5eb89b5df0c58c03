"""The protocol that every dialect keeps: how one kind of API talks, as pure functions over plain values."""

from __future__ import annotations

from typing import Protocol

from .failure import Failure
from .model import Model
from .values import ImageRequest
from .wire import Created, HttpRequest, HttpResponse, TaskStatus


class Dialect(Protocol):
    """How one kind of API talks. Each method is pure; the `read_…` ones raise nothing."""

    @property
    def takes_raw_models(self) -> bool:
        """True where any model of the API may be named, with unchecked input."""

    def build_create(self, request: ImageRequest, model: Model, callback_url: str | None = None) -> HttpRequest:
        """Write the create for a request that was checked against `model`; its end is to be announced at the URL."""

    def read_created(self, response: HttpResponse) -> Created:
        """Say what became of a create."""

    def build_status(self, task_id: str) -> HttpRequest:
        """Write the question for a task's state; free to repeat."""

    def read_status(self, response: HttpResponse, task_id: str, field: str = "") -> TaskStatus:
        """Say how a task stands; an answer that names another one, in `field` or as `taskId`, is none."""

    def build_renewal(self, url: str) -> HttpRequest | None:
        """Write the question for a new link to a picture whose link died, or None where the API has none; free."""

    def read_renewal(self, response: HttpResponse) -> str | Failure:
        """Read the new link; a DownloadFailed, gone where the provider does not have the picture any more."""

    def build_models(self) -> HttpRequest | None:
        """Write the question for the list of models, or None where the API has no such question; free."""

    def build_schema(self, model: str) -> HttpRequest | None:
        """Write the question for the schema of a model, by the provider's name of it, or None; free."""

    def build_credits(self) -> HttpRequest | None:
        """Write the question for the balance, or None where the API has no such question."""

    def read_credits(self, response: HttpResponse) -> float | Failure:
        """Read the balance, or why the answer holds none."""
