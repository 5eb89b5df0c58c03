"""The server's half of each dialect: the paths that it serves, how it reads a create, how it words its answers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Protocol
from urllib.parse import parse_qsl

import msgspec

from .._core.dialect import Dialect
from .._core.dialects.jobs import JobsDialect
from .._core.dialects.task_id_forms import task_id_of
from .._core.dialects.tasks import TasksDialect
from .._core.wire import Operation
from ._bodies import object_of
from ._envelopes import Reply, document, record_info
from ._tasks import Task

# kie.ai's own numbers, which mean nothing, or something else, as an HTTP status.
_NO_HTTP_STATUS = frozenset({433, 455, 505})

_SHARE_WAITING = 0.4
"""Part of a task's time in which it says that it waits, and does not run yet."""


class Route(msgspec.Struct, frozen=True):
    """One path of an API, without a query; a name in braces stands for any text without a slash."""

    method: str
    path: str
    operation: Operation


class CreateBody(msgspec.Struct, frozen=True):
    """A create as it was read; empty where it could not be.

    Attributes:
        model: The model's name on the wire.
        input: What is asked of it.
        callback_url: Where its end is to be announced, or None.
    """

    model: str = ""
    input: dict[str, Any] = {}
    callback_url: str | None = None


class ServedHalf(Protocol):
    """How one kind of API looks from its server. Pure, as the client's half is."""

    @property
    def no_credit(self) -> int:
        """The code that says: no credit left."""

    def routes(self) -> Iterator[Route]:
        """What it answers."""

    def read_create(self, body: bytes) -> CreateBody:
        """What is asked for."""

    def task_of(self, path: Mapping[str, str], query: Mapping[str, str]) -> str:
        """The task that a status call is about, by the names in its path and its query."""

    def model_of(self, path: Mapping[str, str], query: Mapping[str, str]) -> str | None:
        """The model whose schema is asked for; None where the list of all is."""

    def new_id(self, model: str, hexadecimal: str) -> str:
        """A task's id, made of the model's name on the wire and 32 digits."""

    def success(self, data: Any, operation: Operation = "create") -> Reply:
        """A good answer."""

    def refusal(self, code: int, text: str) -> Reply:
        """A refusal."""

    def wrong(self, code: int) -> int:
        """The code of a request that is wrong, where kie.ai would have this one."""

    def no_such_task(self) -> Reply:
        """The answer to a question about a task that there is not."""

    def created(self, task_id: str) -> dict[str, Any]:
        """`data` of the answer to a create that made a task."""

    def standing(self, task: Task, now: float) -> dict[str, Any]:
        """`data` of a status answer."""

    def callback(self, task: Task, data: dict[str, Any]) -> dict[str, Any]:
        """The body that announces a task's end; `data` is that of its status answer."""


def served_half(dialect: Dialect) -> ServedHalf | None:
    """The server's half of a provider's dialect, or None for one that the sandbox does not speak."""
    match dialect:
        case JobsDialect():
            return ServedJobs(dialect)
        case TasksDialect():
            return ServedTasks(dialect)
    return None


class ServedJobs(msgspec.Struct, frozen=True):
    """createTask and recordInfo; what tells one API of this kind from another is in its dialect's record."""

    dialect: JobsDialect

    @property
    def no_credit(self) -> int:
        """The highest: 402 is what they all have, and 403 what one has of its own."""
        return max(self.dialect.no_credit, default=402)

    def routes(self) -> Iterator[Route]:
        """The paths of its jobs, and those that its record names."""
        places: list[tuple[str, str | None, Operation]] = [
            ("POST", self.dialect.create_path, "create"),
            ("GET", self.dialect.status_path, "status"),
            ("GET", self.dialect.credits_path, "credits"),
            ("GET", self.dialect.models_path, "models"),
            ("GET", self.dialect.schema_path, "models"),
            ("POST", self.dialect.renewal_path, "renewal"),
        ]
        for method, path, operation in places:
            if path is not None:
                # A model's name has slashes.
                yield Route(method, path.partition("?")[0].replace("{model}", "{model:.+}"), operation)

    def read_create(self, body: bytes) -> CreateBody:
        """The input is an object of its own."""
        content = object_of(body)
        wire_input = content.get(self.dialect.input_field)
        return _create(content, wire_input if isinstance(wire_input, dict) else {}, content.get("callBackUrl"))

    def task_of(self, path: Mapping[str, str], query: Mapping[str, str]) -> str:
        """Named in the path, or in the query."""
        return path.get("task_id") or _in_query("{task_id}", self.dialect.status_path, query)

    def model_of(self, path: Mapping[str, str], query: Mapping[str, str]) -> str | None:
        """Named as a task is."""
        return path.get("model") or _in_query("{model}", self.dialect.schema_path or "", query) or None

    def new_id(self, model: str, hexadecimal: str) -> str:
        """As its record says."""
        return task_id_of(self.dialect.task_id_form, model, hexadecimal)

    def success(self, data: Any, operation: Operation = "create") -> Reply:
        """The word for the message may be another one in a status answer."""
        word = self.dialect.status_word if operation == "status" else "msg"
        return document(200, {"code": 200, word: "success", "data": data})

    def refusal(self, code: int, text: str) -> Reply:
        """Under HTTP 200, or under its own status where the record says so, and there in two envelopes."""
        # The layer before the API has an envelope of its own; its code is seen as "", null or a word.
        if code in self.dialect.gateway_codes:
            return document(code, {"error": {"message": text, "type": "new_api_error", "code": ""}})
        is_status = self.dialect.refuses_by_status and code < 600 and code not in _NO_HTTP_STATUS
        return document(code if is_status else 200, {"code": code, "msg": text, "data": None})

    def wrong(self, code: int) -> int:
        """As its record has it."""
        return self.dialect.wrong_code or code

    def no_such_task(self) -> Reply:
        """The words of kie.ai."""
        return self.refusal(422, "recordInfo is null")

    def created(self, task_id: str) -> dict[str, Any]:
        """Twice the same, as recorded."""
        return {"taskId": task_id, "recordId": task_id}

    def standing(self, task: Task, now: float) -> dict[str, Any]:
        """A record, with the price in it from the start."""
        age = now - task.created
        done = age >= task.latency
        waiting, running = self.dialect.state_words
        state = ("success" if done else running) if age > task.latency * _SHARE_WAITING else waiting
        outcome: dict[str, Any] = {"creditsConsumed": task.credits}
        if done and task.failure is not None:
            state = "fail"
            outcome = {"failCode": task.failure[0], "failMsg": task.failure[1], "creditsConsumed": 0.0}
        elif done:
            outcome["resultJson"] = _result_json(task, now, is_text=self.dialect.result_is_text)
        return record_info(task, state, task.wall + task.latency if done else None, outcome)

    def callback(self, task: Task, data: dict[str, Any]) -> dict[str, Any]:
        """A status answer, but for the code of a failure where the record has one."""
        if task.failure is None or self.dialect.failure_code is None:
            return {"code": 200, "msg": "success", "data": data}
        # Such a callback leaves out the result that a status answer has empty.
        data = {name: value for name, value in data.items() if name != "resultJson"}
        return {"code": self.dialect.failure_code, "msg": task.failure[1], "data": data}


class ServedTasks(msgspec.Struct, frozen=True):
    """images/generations and tasks/{id}, as API in One documents them."""

    dialect: TasksDialect

    @property
    def no_credit(self) -> int:
        """The highest that its record has."""
        return max(self.dialect.no_credit, default=402)

    def routes(self) -> Iterator[Route]:
        """Two paths: there is no balance, and there are no new links."""
        yield Route("POST", "/api/v1/images/generations", "create")
        yield Route("GET", "/api/v1/tasks/{task_id}", "status")

    def read_create(self, body: bytes) -> CreateBody:
        """The input stands beside the model's name."""
        content = object_of(body)
        wire_input = {name: value for name, value in content.items() if name not in ("model", "callback_url")}
        return _create(content, wire_input, content.get("callback_url"))

    def task_of(self, path: Mapping[str, str], query: Mapping[str, str]) -> str:
        """Named in the path."""
        return path["task_id"]

    def model_of(self, path: Mapping[str, str], query: Mapping[str, str]) -> str | None:
        """There are no schemas."""
        return None

    def new_id(self, model: str, hexadecimal: str) -> str:
        """As its record says."""
        return task_id_of(self.dialect.task_id_form, model, hexadecimal)

    def success(self, data: Any, operation: Operation = "create") -> Reply:
        """Always with `message`."""
        return document(200, {"code": 200, "message": "success", "data": data})

    def refusal(self, code: int, text: str) -> Reply:
        """Under the real status, in an envelope of its own."""
        kind = "invalid_request" if code in (400, 422) else "error"
        return document(code, {"error": {"code": code, "message": text, "type": kind}})

    def wrong(self, code: int) -> int:
        """Always the same: "Invalid parameters"."""
        return 400

    def no_such_task(self) -> Reply:
        """A path that there is not."""
        return self.refusal(404, "task not found")

    def created(self, task_id: str) -> dict[str, Any]:
        """With its state."""
        return {"task_id": task_id, "status": "IN_PROGRESS"}

    def standing(self, task: Task, now: float) -> dict[str, Any]:
        """How a finished one looks is in no document."""
        if now - task.created < task.latency:
            return self.created(task.id)
        if task.failure is not None:
            code, text = task.failure
            return {"task_id": task.id, "status": "failed", "error": {"code": code, "message": text}}
        return {"task_id": task.id, "status": "completed", "output": [{"url": url} for url in task.urls(now)]}

    def callback(self, task: Task, data: dict[str, Any]) -> dict[str, Any]:
        """No page shows one: as the other APIs word it."""
        return {"code": 200, "msg": "success", "data": data}


def _create(content: dict[str, Any], wire_input: dict[str, Any], url: object) -> CreateBody:
    model = content.get("model")
    # Of a model that is no text nobody has heard, whatever it would read as.
    return CreateBody(model if isinstance(model, str) else "", wire_input, None if url is None else str(url))


def _in_query(mark: str, form: str, query: Mapping[str, str]) -> str:
    """What a query has where that of a path's form has a mark; empty where neither has it."""
    for name, value in parse_qsl(form.partition("?")[2]):
        before, found, after = value.partition(mark)
        if found:
            return query.get(name, "").removeprefix(before).removesuffix(after)
    return ""


def _result_json(task: Task, now: float, *, is_text: bool) -> Any:
    # Shapes that other clients have met, beside the one of the API's pages.
    if task.fault == "nested_result":
        return {"data": {"result_urls": task.urls(now)}}
    result = {"resultUrls": task.urls(now)}
    return json.dumps(result) if is_text and task.fault != "object_result" else result
