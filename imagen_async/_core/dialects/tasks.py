"""The images/generations + tasks/{id} dialect of API in One. Its finished task is in no document: read generously."""

from __future__ import annotations

from urllib.parse import quote

import msgspec

from ..model import Model
from ..values import ImageRequest
from ..wire import Created, HttpRequest, HttpResponse, TaskStatus
from . import answers, creates, records
from .few_questions import FewQuestions
from .own_task import OwnTask
from .task_id_forms import check_task_id_form

_encode = msgspec.json.Encoder().encode


class TasksDialect(FewQuestions, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="generations"):
    """One API of this kind.

    Attributes:
        no_credit: Codes that mean: no credit left.
        task_id_form: What its task ids look like: `{hex}`, `{number}` and `{model}` are filled in.
    """

    no_credit: frozenset[int] = frozenset({402})
    takes_raw_models: bool = False
    # Read by the sandbox alone, which speaks as the API does; to the client an id is opaque.
    task_id_form: str = "{hex}"

    def __post_init__(self) -> None:
        check_task_id_form(self.task_id_form)

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

    def read_status(self, response: HttpResponse, task_id: str, field: str = "") -> TaskStatus:
        """Say how a task stands; an answer about another one is none."""
        return records.read_status(answers.open_answer(response), OwnTask(task_id, field), "status")
