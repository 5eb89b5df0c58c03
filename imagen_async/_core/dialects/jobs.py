"""The createTask/recordInfo dialect of kie.ai, Apikley, LiangXin, and of others at paths of their own."""

from __future__ import annotations

from typing import Literal
from urllib.parse import quote

import msgspec

from ..._text import told
from ...errors import ConfigurationError
from ..failure import Failure
from ..model import Model
from ..record_values import check_path
from ..values import ImageRequest
from ..wire import Created, HttpRequest, HttpResponse, TaskStatus
from . import answers, creates, records
from .own_task import OwnTask
from .task_id_forms import check_task_id_form

_encode = msgspec.json.Encoder().encode


class JobsDialect(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="createTask"):
    """One API of this kind.

    Attributes:
        create_path: Where a task is asked for.
        status_path: Where it is asked about, with `{task_id}` in its place.
        input_field: What the input is called beside the model's name.
        no_credit: Codes that mean: no credit left.
        credits_path: Where the balance is asked for, or None where there is no such question.
        renewal_path: Where a new link is asked for, or None where there is no such question.
        refuses_by_status: True where a refusal has its own HTTP status, False where all of them come under 200.
        wrong_code: The code of a request that is wrong, whatever is wrong with it; None: by that.
        gateway_codes: Codes that are refused before the API itself, in an `error` envelope.
        status_word: The field of a status answer's message.
        state_words: The states of a task that waits, and of one that runs.
        result_is_text: True where the result of a task is JSON in a text, False where it is an object.
        models_path: Where its list of models is, or None where it has none.
        schema_path: Where the schema of one is, with `{model}` in its place, or None.
        task_id_form: What its task ids look like: `{hex}`, `{number}` and `{model}` are filled in.
        failure_code: The code of a callback that announces a failed task, or None where it is 200 as of any other.
    """

    create_path: str = "/api/v1/jobs/createTask"
    status_path: str = "/api/v1/jobs/recordInfo?taskId={task_id}"
    input_field: str = "input"
    no_credit: frozenset[int] = frozenset({402})
    credits_path: str | None = None
    renewal_path: str | None = None
    models_path: str | None = None
    schema_path: str | None = None
    takes_raw_models: bool = True
    # From here on: read by the sandbox alone, which speaks as the API does. The client reads every wording of all.
    refuses_by_status: bool = False
    wrong_code: int | None = None
    gateway_codes: frozenset[int] = frozenset()
    status_word: Literal["msg", "message"] = "msg"
    state_words: tuple[str, str] = ("waiting", "generating")
    result_is_text: bool = True
    task_id_form: str = "{hex}"
    failure_code: int | None = None

    def __post_init__(self) -> None:
        marks = {"status_path": "{task_id}", "schema_path": "{model}"}
        for name in ("create_path", "status_path", "credits_path", "renewal_path", "models_path", "schema_path"):
            path, mark = getattr(self, name), marks.get(name, "")
            if path is None:
                continue
            check_path(name, path)
            if mark not in path or "{" in path.replace(mark, ""):
                allowed = f"{mark} is to stand in it, and no other brace" if mark else "no brace stands in it"
                raise ConfigurationError(f"{name}={told(path)}: {allowed}.")
        if self.input_field is not None and self.input_field in ("", "model", "callBackUrl"):
            raise ConfigurationError(f"input_field={told(self.input_field)}: that field is taken.")
        check_task_id_form(self.task_id_form)

    def build_create(self, request: ImageRequest, model: Model, callback_url: str | None = None) -> HttpRequest:
        """Write the create for a request that was checked against `model`; its end is to be announced at the URL."""
        call_back = {} if callback_url is None else {"callBackUrl": callback_url}
        body = _encode({"model": model.wire_name, **call_back, self.input_field: model.input_of(request)})
        return HttpRequest("POST", self.create_path, body, "create")

    def read_created(self, response: HttpResponse) -> Created:
        """Say what became of a create. A success without a task id is lost: the task may exist."""
        return creates.read_created(response, ("taskId", "recordId"), self.no_credit)

    def build_status(self, task_id: str) -> HttpRequest:
        """Write the question for a task's state; free to repeat."""
        # Ids are opaque: whatever one holds stays in its place of the path.
        return HttpRequest("GET", self.status_path.replace("{task_id}", quote(task_id, safe="")))

    def read_status(self, response: HttpResponse, task_id: str, field: str = "") -> TaskStatus:
        """Say how a task stands; an answer about another one is none."""
        # kie.ai's word for a task that has failed; as a bare status it would be some proxy's.
        return records.read_status(answers.open_answer(response), OwnTask(task_id, field), "state", frozenset({501}))

    def build_renewal(self, url: str) -> HttpRequest | None:
        """Write the question for a new link to a picture whose link died, or None where the API has none; free."""
        if self.renewal_path is None:
            return None
        return HttpRequest("POST", self.renewal_path, _encode({"url": url}), "renewal")

    def read_renewal(self, response: HttpResponse) -> str | Failure:
        """Read the new link; a DownloadFailed, gone where the provider does not have the picture any more."""
        return answers.read_renewal(answers.open_answer(response))

    def build_models(self) -> HttpRequest | None:
        """Write the question for the list of models, or None where the API has no such question; free."""
        return None if self.models_path is None else HttpRequest("GET", self.models_path, operation="models")

    def build_schema(self, model: str) -> HttpRequest | None:
        """Write the question for the schema of a model, by the provider's name of it, or None; free."""
        if self.schema_path is None:
            return None
        # kie.ai's own names have slashes, which it wants as they are.
        return HttpRequest("GET", self.schema_path.replace("{model}", quote(model)), operation="models")

    def build_credits(self) -> HttpRequest | None:
        """Write the question for the balance, or None where the API has no such question."""
        return None if self.credits_path is None else HttpRequest("GET", self.credits_path, operation="credits")

    def read_credits(self, response: HttpResponse) -> float | Failure:
        """Read the balance, or why the answer holds none."""
        return answers.read_balance(answers.open_answer(response))
