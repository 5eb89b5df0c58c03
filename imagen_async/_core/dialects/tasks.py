"""The images/generations + tasks/{id} dialect of API in One. Its finished task is in no document: read generously."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import msgspec

from ...errors import GenerationFailed, InvalidRequest, ProtocolError
from ..failure import Failure
from ..model import Model
from ..values import ImageRequest
from ..wire import (
    Created,
    HttpRequest,
    HttpResponse,
    NoAnswer,
    Pending,
    Succeeded,
    TaskFailed,
    TaskRefused,
    TaskStatus,
    clean,
)
from . import answers, creates, money

_encode = msgspec.json.Encoder().encode


class TasksDialect(msgspec.Struct, frozen=True):
    """One API of this kind.

    Attributes:
        no_credit: Codes that mean: no credit left.
        task_id_form: What its task ids look like: `{hex}`, `{number}` and `{model}` are filled in.
    """

    no_credit: frozenset[int] = frozenset({402})
    takes_raw_models: bool = False
    # Read by the sandbox alone, which speaks as the API does; to the client an id is opaque.
    task_id_form: str = "{hex}"

    def build_create(self, request: ImageRequest, model: Model, callback_url: str | None = None) -> HttpRequest:
        """Write the create for a request that was checked against `model`; its end is to be announced at the URL."""
        # One page of the provider has this field, the others are silent.
        call_back = {} if callback_url is None else {"callback_url": callback_url}
        body = _encode({"model": model.wire_name, **call_back, **model.input_of(request)})
        return HttpRequest("POST", "/api/v1/images/generations", body, "create")

    def read_created(self, response: HttpResponse) -> Created:
        """Say what became of a create. A success without a task id is lost: the task may exist."""
        # An older page of the provider shows `id`.
        return creates.read_created(response, ("task_id", "id", "taskId"), self.no_credit)

    def build_status(self, task_id: str) -> HttpRequest:
        """Write the question for a task's state; free to repeat."""
        # Ids are opaque: whatever one holds stays in its place of the path.
        return HttpRequest("GET", f"/api/v1/tasks/{quote(task_id, safe='')}")

    def read_status(self, response: HttpResponse) -> TaskStatus:
        """Say how a task stands."""
        answer = answers.open_answer(response)
        if not answer.is_success:
            return answers.read_refused_status(answer)
        task = _inner(answer)
        if task is None:
            return NoAnswer(Failure(ProtocolError, "The status answer is not JSON"))
        if not task:
            return TaskRefused(Failure(InvalidRequest, f"{answers.NO_SUCH_TASK}: its record is null", code=answer.code))
        word = task.get("status", task.get("state"))
        state = word.casefold() if isinstance(word, str) else ""
        if state in answers.SUCCEEDED:
            return _read_success(task, response.body)
        if state in answers.FAILED:
            return TaskFailed(_reason(task, answer), _credits(task), response.body)
        # A word that no page knows counts as pending: whoever gave such a task up would lose what is paid for.
        return Pending(clean(str(word)), state in answers.WAITING)

    def build_renewal(self, url: str) -> HttpRequest | None:
        """None: the API gives no new links."""
        return None

    def read_renewal(self, response: HttpResponse) -> str | Failure:
        """Read the new link; never needed, since no such question is written."""
        return answers.read_renewal(answers.open_answer(response))

    def build_credits(self) -> HttpRequest | None:
        """Write the question for the balance, or None where the API has no such question."""
        return None

    def read_credits(self, response: HttpResponse) -> float | Failure:
        """Read the balance, or why the answer holds none."""
        return answers.read_balance(answers.open_answer(response))


def _inner(answer: answers.Answer) -> dict[str, Any] | None:
    """The object that describes the task: `data`, or the whole body where there is no `data`; None: it is no JSON."""
    for text in (answer.data, answer.response.body):
        value = answers.loose_json(text)
        if isinstance(value, dict) and value:
            return value if text is answer.data or "data" not in value else {}
    return {} if answers.loose_json(answer.response.body) is not None else None


def _read_success(task: dict[str, Any], raw: bytes) -> TaskStatus:
    credits = _credits(task)
    urls = answers.find_urls(task)
    if urls:
        return Succeeded(urls, None, credits, raw)
    message = (
        "The provider says success and gives no picture URL that we know; the result's `raw` holds its whole answer"
    )
    return TaskFailed(Failure(GenerationFailed, message, code="no_urls"), credits, raw)


def _credits(task: dict[str, Any]) -> float | None:
    return money.billed(*(task.get(name) for name in ("credits", "creditsConsumed", "consumeCredits")))


def _reason(task: dict[str, Any], answer: answers.Answer) -> Failure:
    error = task.get("error")
    detail = error if isinstance(error, dict) else {"message": error}
    text = detail.get("message") or task.get("message") or answer.text or "no reason given"
    return Failure(GenerationFailed, clean(str(text)), code=answers.code_of(detail.get("code")))
