"""What a provider does, without the network: takes creates, lets tasks age, answers questions. Time is an argument."""

from __future__ import annotations

import functools
import math
import random
import uuid
from collections import deque

from .._core.provider import Limits, Provider
from ..errors import ConfigurationError
from ._bodies import object_of
from ._checks import count_of, inputs_of, price_of, problem_of, shape_of, understood_in
from ._dialects import CreateBody, served_half
from ._envelopes import Reply, damaged, document, html, uploaded
from ._faults import Faults
from ._gate import Gate
from ._ledger import Create, Ledger
from ._schemas import list_of, openapi_of
from ._tasks import Latency, Lives, Task
from ._uploads import UploadedFile
from ._webhooks import Webhook, message_of

RENEWED_LINK_LIFE = 1200.0
"""Seconds; kie.ai's own figure for a link that was asked for anew."""

_REFUSING_FAULTS = {
    "429": (429, "Your call frequency is too high"),
    "455": (455, "The system is under maintenance"),
    "500": (500, "This field is required"),
    "401": (401, "You do not have access permissions"),
    "no_credit_500": (500, "Credits insufficient : Your balance is not enough"),
    "model_gone": (422, "The model name you specified is not supported"),
    "433": (433, "The key's limit is reached"),
}
"""Refusals that an API words itself."""

_FOREIGN_FAULTS = {
    "http_429": html(429),
    "http_502": html(502),
    "garbage": html(200),
    "reset_before": Reply(0, b"", ending="reset"),
    "403_edge": Reply(403, b"error code: 1010", "text/plain"),
}
"""Answers of something that stands before it."""


class Service:
    """One provider's API, as values in and out. What tells it from another is in its record and its dialect's half."""

    def __init__(
        self,
        provider: Provider,
        *,
        key: str,
        limits: Limits,
        latency: Latency,
        faults: Faults,
        ledger: Ledger,
        balance: float = math.inf,
        lives: Lives = Lives(),  # noqa: B008 - frozen
        files: str = "",
        signing_key: str | None = None,
        seed: int = 0,
    ) -> None:
        dialect = served_half(provider.dialect)
        if dialect is None:
            raise ConfigurationError(f"The sandbox does not speak as {provider.title} does.", provider=provider.name)
        self.provider = provider
        self.dialect = dialect
        self.files = files
        self.webhooks: deque[Webhook] = deque()
        self._signing_key = signing_key if provider.signs_callbacks else None
        self._key = key
        self._gate = Gate(limits)
        self._latency = latency
        self._faults = faults
        self._ledger = ledger
        self._balance = balance
        self._lives = lives
        self._chance = random.Random(seed)
        self._tasks: dict[str, Task] = {}

    def create(self, authorization: str | None, body: bytes, now: float, wall: float) -> Reply:
        """Take a create."""
        self._ledger.create_times.append(now)
        fault = self._faults.draw("create")
        asked = self.dialect.read_create(body)
        refused = self._refuse(authorization, asked, fault, now)
        if refused is not None:
            self._note(asked, None, fault)
            return refused
        task = self._make(asked, now, wall)
        self._note(asked, task, fault)
        return self._created(task, fault)

    def status(self, authorization: str | None, task_id: str, now: float) -> Reply:
        """Answer how a task stands."""
        self._ledger.poll_times.append(now)
        self._ledger.polls[task_id] += 1
        fault = self._faults.draw("poll")
        if not self.is_key(authorization):
            return self._refused("401", 401, "invalid token")
        # Of all tasks together, as kie.ai counts them: by key, not by task.
        if not self._gate.status_calls.take(now):
            return self._refused("status", 429, "Too many status calls")
        task = self._tasks.get(task_id)
        if task is None:
            self._ledger.refused["no task"] += 1
            return self.dialect.no_such_task()
        return self._broken_status(fault) or damaged(self._standing(task, now), fault)

    def picture(self, task_id: str, until: float | None, now: float) -> Task | None:
        """The task of a picture that can be had now, by its own link or by one that was renewed `until` then."""
        task = self._tasks.get(task_id)
        return task if task is not None and self._lives.has(now - task.ends, until, now) else None

    def task(self, task_id: str) -> Task | None:
        """A task that was made here, whatever has become of it."""
        return self._tasks.get(task_id)

    def renew(self, authorization: str | None, body: bytes, now: float) -> Reply:
        """Give a new link to a picture."""
        if not self.is_key(authorization):
            return self._refused("401", 401, "invalid token")
        # A link that was renewed before can be renewed again.
        url = str(object_of(body).get("url", "")).partition("?")[0]
        until = now + RENEWED_LINK_LIFE
        task_id = url.removeprefix(f"{self._folder}/").partition("/")[0]
        if not url.startswith(self.files) or self.picture(task_id, until, now) is None:
            return self._refused("link", 422, "url is wrong")
        return self.dialect.success(f"{url}?until={until}", "renewal")

    def credits(self, authorization: str | None) -> Reply:
        """Answer what is left."""
        if not self.is_key(authorization):
            return self._refused("401", 401, "invalid token")
        # JSON has no infinity.
        left = 1_000_000.0 if math.isinf(self._balance) else self._balance
        return self.dialect.success(left, "credits")

    def upload(self, authorization: str | None, file: UploadedFile | None, url: str, wall: float) -> Reply:
        """Answer an upload of which the file is kept at an address; None for one without a file."""
        if not self.is_key(authorization):
            return self._refused("401", 401, "invalid token")
        if file is None:
            return self.dialect.refusal(400, "no file")
        self._ledger.uploads[file.name] += 1
        told = uploaded(file.name, len(file.data), file.media_type, url, wall)
        return document(200, {"success": True, "code": 200, "msg": "success", "data": told})

    def models(self, authorization: str | None, model: str | None) -> Reply:
        """Answer which models there are, or the schema of one."""
        if not self.is_key(authorization):
            return self._refused("401", 401, "invalid token")
        if model is None:
            return self.dialect.success({"models": list_of(self.provider)}, "models")
        found = next((each for each in self.provider.models if each.wire_name == model), None)
        if found is None:
            return self.dialect.refusal(404, "model not found")
        document = None if found.parameters is None else openapi_of(found)
        return self.dialect.success({"model": model, "openapi": document}, "models")

    @property
    def _folder(self) -> str:
        """The address below which this provider's pictures are."""
        return f"{self.files}/{self.provider.name}"

    def is_key(self, authorization: str | None) -> bool:
        """True for a request with the right key."""
        return authorization == f"Bearer {self._key}"

    def _refuse(self, authorization: str | None, asked: CreateBody, fault: str | None, now: float) -> Reply | None:
        """The answer to a create of which no task is made, or None to make one."""
        if not self.is_key(authorization):
            return self._refused("401", 401, "invalid token")
        ordered = self._ordered_refusal(fault)
        if ordered is not None:
            return ordered
        # What is wrong in itself takes no place in the window: nothing was begun.
        problem = problem_of(self.provider, asked)
        if problem is not None:
            code, text = problem
            return self._refused("invalid", self.dialect.wrong(code), text)
        if not self._gate.creates.take(now):
            return self._refused("submit", 429, "Your call frequency is too high")
        if self._gate.is_full(now):
            return self._refused("running", 429, "Too many running tasks")
        if self._balance < price_of(self.provider, asked):
            return self._refused("402", self.dialect.no_credit, "insufficient credits")
        return None

    def _ordered_refusal(self, fault: str | None) -> Reply | None:
        """The answer of a fault that lets no task be made; None for any other."""
        if fault == "402":
            return self._refused(fault, self.dialect.no_credit, "insufficient credits")
        if fault in _REFUSING_FAULTS:
            return self._refused(fault, *_REFUSING_FAULTS[fault])
        if fault in _FOREIGN_FAULTS:
            self._ledger.refused[fault] += 1
            return _FOREIGN_FAULTS[fault]
        return None

    def _refused(self, reason: str, code: int, text: str) -> Reply:
        self._ledger.refused[reason] += 1
        return self.dialect.refusal(code, text)

    def _make(self, asked: CreateBody, now: float, wall: float) -> Task:
        # When it is made, as kie.ai does.
        self._balance -= (credits := price_of(self.provider, asked))
        # The order of the draws is part of what a seed promises.
        callback_fault = self._faults.draw("callback") if asked.callback_url is not None else None
        task_id = self.dialect.new_id(asked.model, _digits(self._chance, self.provider.name))
        task = Task(
            id=task_id,
            model=asked.model,
            input=asked.input,
            created=now,
            latency=self._latency.draw(self._chance) * (callback_fault != "early"),
            wall=wall,
            fault=self._faults.draw("task"),
            credits=credits,
            count=count_of(self.provider, asked),
            shape=shape_of(self.provider, asked),
            folder=f"{self._folder}/{task_id}",
            inputs=inputs_of(self.provider, asked),
            understood=understood_in(self.provider, asked),
            callback_url=asked.callback_url,
            callback_fault=callback_fault,
        )
        self._tasks[task.id] = task
        self._gate.begin(task.ends)
        self._will_call_back(task)
        return task

    def _will_call_back(self, task: Task) -> None:
        if task.callback_url is not None:
            message = functools.partial(message_of, self.dialect, task, self._signing_key)
            self.webhooks.append(Webhook(task.id, task.callback_url, task.ends, task.callback_fault, message))

    def _note(self, asked: CreateBody, task: Task | None, fault: str | None) -> None:
        """Write a create into the ledger, refused or not."""
        entry = Create(
            provider=self.provider.name,
            prompt=str(asked.input.get("prompt", "")),
            model=asked.model,
            task_id=None if task is None else task.id,
            credits=0.0 if task is None else task.credits,
            fault=fault,
            input=asked.input,
            callback_url=asked.callback_url,
        )
        self._ledger.creates.append(entry)

    def _created(self, task: Task, fault: str | None) -> Reply:
        match fault:
            case "no_task_id":
                return self.dialect.success({})
            case "wrong_types":
                return self.dialect.success([task.id])
        return damaged(self.dialect.success(self.dialect.created(task.id)), fault)

    def _broken_status(self, fault: str | None) -> Reply | None:
        """The answer of a fault in the place of a status answer; None for one that only damages it."""
        match fault:
            case "429" | "500":
                return self._refused(fault, int(fault), "Server exception, please try again later")
            case "http_429" | "http_502" | "garbage":
                return _FOREIGN_FAULTS[fault]
            case "record_null":
                return self.dialect.refusal(422, "recordInfo is null")
            case "null_data":
                return self.dialect.success(None, "status")
            case "odd_state":
                return self.dialect.success({"state": "pondering", "status": "pondering"}, "status")
            case "another_task":
                stranger = {"taskId": "0another", "task_id": "0another", "state": "success", "status": "completed"}
                return self.dialect.success({**stranger, "output": [f"{self._folder}/0another/1.png"]}, "status")
            case "wrong_types":
                return self.dialect.success([1, "two", None], "status")
        return None

    def _standing(self, task: Task, now: float) -> Reply:
        return self.dialect.success(self.dialect.standing(task, now), "status")


def _digits(chance: random.Random, provider: str) -> str:
    """The digits of a new id; with one seed no two providers give the same."""
    return uuid.UUID(int=chance.getrandbits(128) ^ uuid.uuid5(uuid.NAMESPACE_DNS, provider).int).hex
