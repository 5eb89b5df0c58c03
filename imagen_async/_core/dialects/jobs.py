"""The createTask/recordInfo dialect of kie.ai, Apikley and LiangXin."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import quote

import msgspec

from ...errors import GenerationFailed, InvalidRequest, ProtocolError
from ..failure import Failure
from ..forgiving_json import NOT_JSON, forgiving_object
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


class _Record(msgspec.Struct):
    """`data` of a status answer: only what is read, each as loosely typed as it was met."""

    state: Any = None
    resultJson: Any = None
    failCode: Any = None
    failMsg: Any = None
    createTime: Any = None
    completeTime: Any = None
    creditsConsumed: Any = None
    consumeCredits: Any = None


_encode = msgspec.json.Encoder().encode
_decode_record = forgiving_object(msgspec.json.Decoder(_Record | None).decode)


class JobsDialect(msgspec.Struct, frozen=True):
    """One API of this kind.

    Attributes:
        no_credit: Codes that mean: no credit left.
        credits_path: Where the balance is asked for, or None where there is no such question.
        renewal_path: Where a new link is asked for, or None where there is no such question.
        refuses_by_status: True where a refusal has its own HTTP status, False where all of them come under 200.
        gateway_codes: Codes that are refused before the API itself, in an `error` envelope.
        status_word: The field of a status answer's message.
        task_id_form: What its task ids look like: `{hex}`, `{number}` and `{model}` are filled in.
        failure_code: The code of a callback that announces a failed task, or None where it is 200 as of any other.
    """

    no_credit: frozenset[int] = frozenset({402})
    credits_path: str | None = None
    renewal_path: str | None = None
    takes_raw_models: bool = True
    # From here on: read by the sandbox alone, which speaks as the API does. The client reads every wording of all.
    refuses_by_status: bool = False
    gateway_codes: frozenset[int] = frozenset()
    status_word: Literal["msg", "message"] = "msg"
    task_id_form: str = "{hex}"
    failure_code: int | None = None

    def build_create(self, request: ImageRequest, model: Model, callback_url: str | None = None) -> HttpRequest:
        """Write the create for a request that was checked against `model`; its end is to be announced at the URL."""
        call_back = {} if callback_url is None else {"callBackUrl": callback_url}
        body = _encode({"model": model.wire_name, **call_back, "input": model.input_of(request)})
        return HttpRequest("POST", "/api/v1/jobs/createTask", body, "create")

    def read_created(self, response: HttpResponse) -> Created:
        """Say what became of a create. A success without a task id is lost: the task may exist."""
        return creates.read_created(response, ("taskId", "recordId"), self.no_credit)

    def build_status(self, task_id: str) -> HttpRequest:
        """Write the question for a task's state; free to repeat."""
        # Ids are opaque: whatever one holds stays in its place of the path.
        return HttpRequest("GET", f"/api/v1/jobs/recordInfo?taskId={quote(task_id, safe='')}")

    def read_status(self, response: HttpResponse) -> TaskStatus:
        """Say how a task stands."""
        answer = answers.open_answer(response)
        # kie.ai's word for a task that has failed; as a bare status it would be some proxy's.
        if answer.code == 501 and answer.in_body:
            return TaskFailed(
                Failure(GenerationFailed, answer.text or "no reason given", code=501), None, response.body
            )
        if not answer.is_success:
            return answers.read_refused_status(answer)
        try:
            record = _decode_record(answer.data)
        except NOT_JSON as error:
            return NoAnswer(Failure(ProtocolError, f"The status answer has a wrong shape: {error}"))
        # `data: null` under 200 is how a missing task looks, too.
        if record is None:
            return TaskRefused(Failure(InvalidRequest, f"{answers.NO_SUCH_TASK}: its record is null", code=answer.code))
        return _read_record(record, response.body)

    def build_renewal(self, url: str) -> HttpRequest | None:
        """Write the question for a new link to a picture whose link died, or None where the API has none; free."""
        if self.renewal_path is None:
            return None
        return HttpRequest("POST", self.renewal_path, _encode({"url": url}), "renewal")

    def read_renewal(self, response: HttpResponse) -> str | Failure:
        """Read the new link; a DownloadFailed, gone where the provider does not have the picture any more."""
        return answers.read_renewal(answers.open_answer(response))

    def build_credits(self) -> HttpRequest | None:
        """Write the question for the balance, or None where the API has no such question."""
        return None if self.credits_path is None else HttpRequest("GET", self.credits_path, operation="credits")

    def read_credits(self, response: HttpResponse) -> float | Failure:
        """Read the balance, or why the answer holds none."""
        return answers.read_balance(answers.open_answer(response))


def _read_record(record: _Record, raw: bytes) -> TaskStatus:
    state = record.state.casefold() if isinstance(record.state, str) else ""
    if state in answers.SUCCEEDED:
        return _read_success(record, raw)
    if state in answers.FAILED:
        code = answers.code_of(record.failCode)
        text = clean(str(record.failMsg or "no reason given"))
        return TaskFailed(
            Failure(GenerationFailed, text, code=code), money.billed(record.creditsConsumed, record.consumeCredits), raw
        )
    # A word that no page knows counts as pending: whoever gave such a task up would lose what is paid for.
    return Pending(clean(str(record.state)), state in answers.WAITING)


def _read_success(record: _Record, raw: bytes) -> TaskStatus:
    """A success without a URL was met: a failure that may have been billed, so the raw answer stays."""
    credits = _credits(record)
    urls = answers.find_urls(record.resultJson)
    if urls:
        return Succeeded(urls, _latency(record), credits, raw)
    message = "The provider says success and gives no picture URL; the result's `raw` holds its whole answer"
    return TaskFailed(Failure(GenerationFailed, message, code="no_urls"), credits, raw)


def _credits(record: _Record) -> float | None:
    return money.billed(record.creditsConsumed, record.consumeCredits)


def _latency(record: _Record) -> float | None:
    """completeTime − createTime, Unix milliseconds. Not costTime: documented in ms, and in seconds 24 times of 24."""
    created, completed = answers.figure(record.createTime), answers.figure(record.completeTime)
    if created is None or completed is None or completed < created:
        return None
    return (completed - created) / 1000
