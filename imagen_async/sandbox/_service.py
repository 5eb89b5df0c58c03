"""What a provider does, without the network: takes creates, lets tasks age, answers questions. Time is an argument."""

from __future__ import annotations

import functools
import heapq
import json
import math
import random
import uuid
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from .._core.callbacks import signature_of
from .._core.parameters import Choice, Flag, Parameter, Text, Whole
from .._core.provider import Limits, Model, Provider
from .._core.rate_limit import Rate
from ..providers import PROVIDERS
from ._envelopes import Reply, html, record, refusal, success
from ._faults import Faults
from ._ledger import Create, Ledger


class Latency(msgspec.Struct, frozen=True):
    """How long tasks take: lognormal, never below `minimum`. Seconds."""

    median: float = 1.0
    sigma: float = 0.35
    minimum: float = 0.05

    def draw(self, chance: random.Random) -> float:
        """One task's seconds."""
        return max(self.minimum, self.median * math.exp(chance.gauss(0, self.sigma)))


class Task(msgspec.Struct, frozen=True):
    """A task of the sandbox. Times are seconds of the server's clock; `wall` is its creation in Unix time."""

    id: str
    model: str
    input: dict[str, Any]
    created: float
    latency: float
    wall: float
    fault: str | None
    credits: float
    callback_fault: str | None = None

    @property
    def images(self) -> int:
        """Pictures that it makes."""
        return int(self.input.get("num_images", 1)) + 3 * (self.fault == "more_urls")


class Lives(msgspec.Struct, frozen=True):
    """How long what a task made can be had, in seconds from its end; None: as long as the sandbox runs.

    Attributes:
        link: The link of its status answer.
        picture: The picture itself, to which new links can be asked for.
    """

    link: float | None = None
    picture: float | None = None


RENEWED_LINK_LIFE = 1200.0
"""Seconds; kie.ai's own figure for a link that was asked for anew."""


class Webhook(msgspec.Struct, frozen=True):
    """A callback that is to be sent.

    Attributes:
        task_id: The task that it announces.
        url: Where to.
        ends: When the task ends, by the server's clock.
        fault: What is to go wrong, or None.
        message: Makes its headers and body, of the server's time and the Unix time.
    """

    task_id: str
    url: str
    ends: float
    fault: str | None
    message: Callable[[float, float], tuple[dict[str, str], bytes]]


class StrictWindow:
    """A server's own count: at most `count` taken in any window that ends now."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._taken: deque[float] = deque()

    def take(self, now: float) -> bool:
        """Take a place, or say that there is none."""
        while self._taken and now - self._taken[0] >= self._rate.per:
            self._taken.popleft()
        if len(self._taken) >= self._rate.count:
            return False
        self._taken.append(now)
        return True


class Service:
    """One provider's API, as values in and out."""

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
        self.provider = provider
        self.files = files
        self.webhooks: deque[Webhook] = deque()
        self._signing_key = signing_key if provider.signs_callbacks else None
        self._prices = _prices(provider)
        self._key = key
        self._limits = limits
        self._submit = StrictWindow(limits.submit)
        self._status = StrictWindow(limits.status)
        self._latency = latency
        self._faults = faults
        self._ledger = ledger
        self._balance = balance
        self._lives = lives
        self._chance = random.Random(seed)
        self._tasks: dict[str, Task] = {}
        self._ends: list[float] = []

    @property
    def _name(self) -> str:
        return self.provider.name

    def create(self, authorization: str | None, body: bytes, now: float, wall: float) -> Reply:
        """Take a create."""
        self._ledger.create_times.append(now)
        fault = self._faults.draw("create")
        model_name, wire_input, callback_url = self._read(body)
        refused = self._refuse(authorization, model_name, wire_input, fault, now)
        task = None if refused is not None else self._make(model_name, wire_input, callback_url, now, wall)
        prompt = str(wire_input.get("prompt", ""))
        credits = 0.0 if task is None else task.credits
        task_id = None if task is None else task.id
        self._ledger.creates.append(
            Create(self._name, prompt, model_name, task_id, credits, fault, wire_input, callback_url)
        )
        return refused if refused is not None else self._created(task_id, fault)

    def status(self, authorization: str | None, task_id: str, now: float) -> Reply:
        """Answer how a task stands."""
        self._ledger.poll_times.append(now)
        self._ledger.polls[task_id] += 1
        fault = self._faults.draw("poll")
        if authorization != f"Bearer {self._key}":
            return self._refused("401", 401, "invalid token")
        if not self._status.take(now):
            return self._refused("status", 429, "Too many status calls")
        task = self._tasks.get(task_id)
        if task is None:
            missing = (404, "task not found") if self._name == "apiin" else (422, "recordInfo is null")
            return self._refused("no task", *missing)
        return self._broken_status(fault, task, now) or self._standing(task, now)

    def picture(self, task_id: str, until: float | None, now: float) -> Task | None:
        """The task of a picture that can be had now, by its own link or by one that was renewed `until` then."""
        task = self._tasks.get(task_id)
        age = -1.0 if task is None else now - task.created - task.latency
        is_linked = until > now if until is not None else age <= _or_forever(self._lives.link)
        return task if 0 <= age <= _or_forever(self._lives.picture) and is_linked else None

    def renew(self, authorization: str | None, body: bytes, now: float) -> Reply:
        """Give a new link to a picture."""
        if authorization != f"Bearer {self._key}":
            return self._refused("401", 401, "invalid token")
        try:
            url = str(json.loads(body)["url"]).partition("?")[0]
        except (ValueError, TypeError, LookupError):
            url = ""
        until = now + RENEWED_LINK_LIFE
        task_id = url.removeprefix(f"{self.files}/{self._name}/").partition("/")[0]
        if not url.startswith(self.files) or self.picture(task_id, until, now) is None:
            return self._refused("link", 422, "url is wrong")
        return success(self._name, f"{url}?until={until}")

    def credits(self, authorization: str | None) -> Reply:
        """Answer what is left."""
        if authorization != f"Bearer {self._key}":
            return self._refused("401", 401, "invalid token")
        return success(self._name, 1_000_000.0 if math.isinf(self._balance) else self._balance)

    def _read(self, body: bytes) -> tuple[str, dict[str, Any], str | None]:
        """The model's name, the input and where to call back, whichever way the dialect writes them."""
        try:
            document = json.loads(body)
        except ValueError:
            return "", {}, None
        if not isinstance(document, dict):
            return "", {}, None
        url = document.pop("callback_url" if self._name == "apiin" else "callBackUrl", None)
        model_name = str(document.pop("model", ""))
        wire_input = document if self._name == "apiin" else document.get("input")
        return model_name, wire_input if isinstance(wire_input, dict) else {}, None if url is None else str(url)

    def _refuse(
        self, authorization: str | None, model_name: str, wire_input: dict[str, Any], fault: str | None, now: float
    ) -> Reply | None:
        """The answer to a create of which no task is made, or None to make one."""
        if authorization != f"Bearer {self._key}":
            return self._refused("401", 401, "invalid token")
        if fault in _REFUSING_FAULTS:
            self._ledger.refused[fault] += 1
            return _REFUSING_FAULTS[fault](self._name)
        problem = _problem(self._find(model_name), model_name, wire_input)
        if problem is not None:
            return self._refused("invalid", *problem)
        if not self._submit.take(now):
            return self._refused("submit", 429, "Your call frequency is too high")
        while self._ends and self._ends[0] <= now:
            heapq.heappop(self._ends)
        if len(self._ends) >= self._limits.running:
            return self._refused("running", 429, "Too many running tasks")
        if self._balance < self._price(model_name, wire_input):
            code = 403 if self._name == "liangxin" else 402
            return self._refused("402", code, "insufficient credits")
        return None

    def _refused(self, reason: str, code: int, text: str) -> Reply:
        self._ledger.refused[reason] += 1
        return refusal(self._name, code, text)

    def _find(self, model_name: str) -> Model | None:
        return next((model for model in self.provider.models if model.wire_name == model_name), None)

    def _price(self, model_name: str, wire_input: dict[str, Any]) -> float:
        model = self._find(model_name)
        images = int(wire_input.get("num_images", 1))
        return self._prices[model.name] * images if model is not None else 0.0

    def _make(
        self, model_name: str, wire_input: dict[str, Any], callback_url: str | None, now: float, wall: float
    ) -> Task:
        credits = self._price(model_name, wire_input)
        self._balance -= credits
        callback_fault = self._faults.draw("callback") if callback_url is not None else None
        task = Task(
            id=self._new_id(model_name),
            model=model_name,
            input=wire_input,
            created=now,
            latency=self._latency.draw(self._chance) * (callback_fault != "early"),
            wall=wall,
            fault=self._faults.draw("task"),
            credits=credits,
            callback_fault=callback_fault,
        )
        self._tasks[task.id] = task
        heapq.heappush(self._ends, now + task.latency)
        if callback_url is not None:
            message = functools.partial(self._callback, task)
            ends = now + task.latency
            self.webhooks.append(Webhook(task.id, callback_url, ends, callback_fault, message))
        return task

    def _callback(self, task: Task, now: float, wall: float) -> tuple[dict[str, str], bytes]:
        """The headers and body that announce a task's end."""
        fault = task.callback_fault
        data = self._data(task, now)
        if fault == "no_task_id":
            data = {name: value for name, value in data.items() if name not in ("taskId", "task_id")}
        if fault == "another_task":
            data |= {name: task.id[::-1] for name in ("taskId", "task_id") if name in data}
        code, text = 200, "success"
        if task.fault in _FAILURES and self._name in ("kie", "sandbox"):
            code, text = 501, _FAILURES[task.fault][1]
            del data["resultJson"]  # absent on failure
        headers = {"Content-Type": "application/json"}
        if self._signing_key is not None and fault != "unsigned":
            timestamp = str(int(wall) - 3600 * (fault == "stale"))
            key = self._signing_key if fault != "wrong_signature" else f"not {self._signing_key}"
            named = str(data.get("taskId", data.get("task_id", "")))
            headers["X-Webhook-Timestamp"] = timestamp
            headers["X-Webhook-Signature"] = signature_of(named, timestamp, key)
        return headers, msgspec.json.encode({"code": code, "msg": text, "data": data})

    def _new_id(self, model_name: str) -> str:
        number = uuid.UUID(int=self._chance.getrandbits(128)).hex
        match self._name:
            case "liangxin":
                return f"task_{model_name}_{int(number[:12], 16)}"
            case "apiin":
                return f"n{number[:12]}_{model_name}"
        return number

    def _created(self, task_id: str | None, fault: str | None) -> Reply:
        if fault in ("no_task_id", "wrong_types"):
            return success(self._name, {} if fault == "no_task_id" else [task_id])
        if self._name == "apiin":
            reply = success(self._name, {"task_id": task_id, "status": "IN_PROGRESS"})
        else:
            reply = success(self._name, {"taskId": task_id, "recordId": task_id})
        return _damaged(reply, fault)

    def _broken_status(self, fault: str | None, task: Task, now: float) -> Reply | None:
        match fault:
            case "429" | "500":
                return self._refused(fault, int(fault), "Server exception, please try again later")
            case "http_429" | "http_502":
                return html(int(fault.removeprefix("http_")))
            case "garbage":
                return html(200)
            case "null_data":
                return success(self._name, None)
            case "record_null":
                return refusal(self._name, 422, "recordInfo is null")
            case "odd_state":
                return success(self._name, {"state": "pondering", "status": "pondering"})
            case "wrong_types":
                return success(self._name, [1, "two", None])
        return None if fault is None else _damaged(self._standing(task, now), fault)

    def _standing(self, task: Task, now: float) -> Reply:
        return success(self._name, self._data(task, now), status_call=self._name != "apiin")

    def _data(self, task: Task, now: float) -> dict[str, Any]:
        """What there is to say of a task."""
        age = now - task.created
        done = age >= task.latency
        if self._name == "apiin":
            return self._task_data(task, done)
        word = ("success" if done else "generating") if age > task.latency * 0.4 else "waiting"
        outcome: dict[str, Any] = {"creditsConsumed": task.credits}
        if done and task.fault in _FAILURES:
            word = "fail"
            outcome = {
                "failCode": _FAILURES[task.fault][0],
                "failMsg": _FAILURES[task.fault][1],
                "creditsConsumed": 0.0,
            }
        elif done:
            outcome["resultJson"] = self._result_json(task)
        times = (task.wall, task.wall + task.latency if done else None)
        return record(task.id, task.model, task.input, word, times, **outcome)

    def _task_data(self, task: Task, done: bool) -> dict[str, Any]:
        if done and task.fault in _FAILURES:
            code, text = _FAILURES[task.fault]
            return {"task_id": task.id, "status": "failed", "error": {"code": code, "message": text}}
        if done:
            return {"task_id": task.id, "status": "completed", "output": [{"url": url} for url in self._urls(task)]}
        return {"task_id": task.id, "status": "IN_PROGRESS"}

    def _result_json(self, task: Task) -> Any:
        urls = self._urls(task)
        match task.fault:
            case "object_result":
                return {"resultUrls": urls}
            case "nested_result":
                return {"data": {"result_urls": urls}}
        return json.dumps({"resultUrls": urls})

    def _urls(self, task: Task) -> list[str]:
        if task.fault == "no_urls":
            return []
        return [f"{self.files}/{self._name}/{task.id}/{number}.png" for number in range(1, task.images + 1)]


def _prices(provider: Provider) -> dict[str, float]:
    """Credits for a picture, by model; where the provider publishes none, kie.ai's: it bills, it only does not tell."""
    published = {model.name: model.credits or 0.0 for model in PROVIDERS["kie"].models}
    return {model.name: model.credits or published[model.name] for model in provider.models}


def _or_forever(seconds: float | None) -> float:
    return math.inf if seconds is None else seconds


_FAILURES = {
    "fail_digits": ("500", "Internal Error, Please try again later."),
    "fail_word": ("SENSITIVE_WORD_ERROR", "The prompt was flagged as sensitive."),
}

_REFUSING_FAULTS = {
    "429": lambda name: refusal(name, 429, "Your call frequency is too high"),
    "http_429": lambda name: html(429),
    "455": lambda name: refusal(name, 455, "The system is under maintenance"),
    "500": lambda name: refusal(name, 500, "This field is required"),
    "http_502": lambda name: html(502),
    "garbage": lambda name: html(200),
    "reset_before": lambda name: Reply(0, b"", ending="reset"),
    "401": lambda name: refusal(name, 401, "You do not have access permissions"),
    "402": lambda name: refusal(name, 403 if name == "liangxin" else 402, "insufficient credits"),
    "no_credit_500": lambda name: refusal(name, 500, "Credits insufficient : Your balance is not enough"),
    "model_gone": lambda name: refusal(name, 422, "The model name you specified is not supported"),
    "433": lambda name: refusal(name, 433, "The key's limit is reached"),
    "403_edge": lambda name: Reply(403, b"error code: 1010", "text/plain"),
}


def _damaged(reply: Reply, fault: str | None) -> Reply:
    """A good answer that does not arrive as one."""
    match fault:
        case "reset" | "reset_after":
            return msgspec.structs.replace(reply, ending="reset")
        case "truncated":
            return msgspec.structs.replace(reply, ending="truncated")
        case "http_504_made":
            return html(504)
        case "too_long":
            return msgspec.structs.replace(reply, body=reply.body[:-1] + b" " * (2 << 20) + b"}")
    return reply


def _problem(model: Model | None, name: str, wire_input: dict[str, Any]) -> tuple[int, str] | None:
    """What a provider would object to: its own code and words. Fields that it does not know are ignored, as seen."""
    if model is None:
        return 422, f"The model name {name!r} you specified is not supported"
    if not wire_input.get("prompt"):
        return 500, "prompt is required"
    for field, parameter in (model.parameters or {}).items():
        if field in wire_input and not _wire_takes(parameter, wire_input[field]):
            return 422, f"{field} is invalid"
    return None


def _wire_takes(parameter: Parameter, value: object) -> bool:
    """The check from the other side: the types and words of the wire, which are not always ours."""
    match parameter:
        case Text(max_length=longest):
            return isinstance(value, str) and (longest is None or len(value) <= longest)
        case Choice(words=words):
            return value in words.values() or value in words
        case Whole(as_text=True):
            return isinstance(value, str) and parameter.takes(int(value))
        case Whole() | Flag():
            return parameter.takes(value)
