"""How a task stands, by the record of it that an answer to a status call brings, whichever API it is of."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ...errors import GenerationFailed, InvalidRequest, ProtocolError
from ..failure import Failure
from ..field_names import KNOWN_RECORDS, folded
from ..forgiving_json import unwrapped
from ..wire import LinksMissing, NoAnswer, Pending, Succeeded, TaskFailed, TaskRefused, TaskStatus, clean, loose_json
from . import money
from .answers import NO_SUCH_TASK, Answer, code_number, code_of, figure, is_enveloped, read_refused_status
from .links import find_links, links_and_text, text_without_links
from .own_task import OwnTask
from .state_words import StateWord, is_mere_failure, meaning_of, read_state

_CONTAINERS = frozenset(
    "data result output task tasks tasklist taskinfo job jobs record records list items rows".split()  # noqa: SIM905
)
_EARLIEST, _LATEST = 1_577_836_800_000, 4_102_444_800_000
"""Unix milliseconds: the years 2020 to 2099."""

_CREDITS = ("creditsconsumed", "consumecredits", "credits", "creditsused", "creditscost")
"""Where a record tells what was billed, as they read in any case and style, the surest first."""

_OF_CALLS = frozenset({408, 429, 455, 502, 503, 504})
"""Codes of an error that is the call's, whatever else is told: it passes."""

_WITHOUT_PICTURE = (TaskFailed, LinksMissing)
"""Ends of a task."""

_UNTOLD = "no reason given"
_ANOTHERS = "The answer is about another task, {}, and is not believed"
_NOBODYS = "The answer says that a task has ended and does not say which, so it is not believed: {}"
_NO_LINKS = "The provider says success and gives no picture URL; the result's `raw` holds its whole answer"


def read_status(answer: Answer, own: OwnTask, first: str, failure_codes: frozenset[int] = frozenset()) -> TaskStatus:
    """Say how a task stands.

    Args:
        answer: To the question about it.
        own: The task that was asked about.
        first: The field that this API names a state in: it is believed before others.
        failure_codes: Codes of the body by which it tells that a task has failed.
    """
    envelope = unwrapped(loose_json(answer.response.body))
    record, state = _found(envelope, own, first)
    places = _places_of(record or {}, envelope if isinstance(envelope, dict) else {})
    if answer.is_success or _is_of_task(answer, state, places, own):
        told = _read(record, state, envelope, answer)
    elif answer.code in failure_codes and answer.in_body:
        told = _broken(record or {}, answer, code=answer.code)
    else:
        told = read_refused_status(answer)
    # A limit is one, and no answer is none, whatever they are about.
    if isinstance(told, NoAnswer):
        return told
    other = own.other_in(*places)
    if other is not None:
        return NoAnswer(Failure(ProtocolError, _ANOTHERS.format(clean(other))))
    return _believed(told, answer, places, own) if isinstance(told, _WITHOUT_PICTURE) else told


def _places_of(record: dict[str, Any], envelope: dict[str, Any]) -> list[dict[str, Any]]:
    """Where an answer may name its task: the record, the `data` that holds it, the whole."""
    data = envelope.get("data")
    return [record, data, envelope] if data is not record and isinstance(data, dict) else [record, envelope]


def _is_of_task(answer: Answer, state: StateWord, places: list[dict[str, Any]], own: OwnTask) -> bool:
    """True where the error of an answer without a code of its own is the task's, and not the call's."""
    is_plain = answer.is_good_http and answer.code not in _OF_CALLS and code_number(places[-1].get("code")) is None
    return is_plain and state.meaning is not None and own.is_named_in(places)


def _believed(
    told: TaskFailed | LinksMissing, answer: Answer, places: list[dict[str, Any]], own: OwnTask
) -> TaskStatus:
    """Believe that a task has ended without a picture where that names it, or is in the API's own envelope.

    A gateway says "error", too, and means itself: whoever took that for the task's end would pay for a second one.
    """
    end = told.outcome if isinstance(told, LinksMissing) else told
    if own.is_named_in(places) or (answer.is_good_http and is_enveloped(places[-1])):
        return told
    return NoAnswer(Failure(ProtocolError, clean(_NOBODYS.format(end.failure.message))))


def _record_in(envelope: Any, own: OwnTask) -> dict[str, Any] | None:
    """The object that describes the task; None where the answer says that there is none, empty where it has no such."""
    if not isinstance(envelope, dict):
        return {}
    value = envelope.get("data")
    if value is None and ("data" not in envelope or _is_flat_record(envelope)):
        return envelope if _is_flat_record(envelope) else {}
    if value is None or isinstance(value, dict):
        return value
    value = unwrapped(value)
    records = [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, dict)]
    return own.first_of(records, {})


def _found(envelope: Any, own: OwnTask, first: str) -> tuple[dict[str, Any] | None, StateWord]:
    """The record that tells how the task stands, and what it tells: that in its place, one inside of it, or another."""
    record = _record_in(envelope, own)
    state = read_state(record or {}, first)
    if record is None or state.is_told:
        return record, state
    inner = [(each, read_state(each, first)) for each in _contained(record or envelope, 3)]
    telling = [each for each, said in inner if said.is_told]
    if telling:
        record = own.first_of(telling, record)
        return record, next(said for each, said in inner if each is record)
    return record, _around(envelope, first, state)


def _contained(value: Any, depth: int) -> Iterator[dict[str, Any]]:
    """The objects at the places where a record may be, the outer before the inner."""
    items = value.items() if isinstance(value, dict) else ()
    for inner in [unwrapped(item) for key, item in items if folded(key) in _CONTAINERS]:
        for each in inner if isinstance(inner, list) else [inner]:
            if isinstance(each, dict):
                yield each
                yield from _contained(each, depth - 1) if depth else ()


def _is_flat_record(envelope: dict[str, Any]) -> bool:
    """True where a task is described with no `data` around it. A `status` beside a code may be the call's own."""
    told = set(map(folded, envelope))
    is_tasks = "code" not in told or not told.isdisjoint(("taskid", "id"))
    return not told.isdisjoint(("state", "taskstatus", "successflag", *(["status"] if is_tasks else [])))


def _read(record: dict[str, Any] | None, state: StateWord, envelope: Any, answer: Answer) -> TaskStatus:
    # `data: null` under 200 is how a missing task looks, too.
    if record is None:
        return TaskRefused(Failure(InvalidRequest, f"{NO_SUCH_TASK}: its record is null", code=answer.code))
    if not record:
        return NoAnswer(Failure(ProtocolError, "The status answer has a wrong shape: it holds no record of a task"))
    if state.meaning == "broken":
        return _broken(record, answer, word=state.word)
    if state.meaning == "made":
        links, text = links_and_text(record, envelope)
        if not links and state.is_sure:
            text = text_without_links(record)
        if links or text:
            return Succeeded(links, _latency(record), _billed(record), answer.response.body, text=text)
        if state.is_sure:
            return without_links(_billed(record), answer.response.body)
    # A word that no page knows counts as pending: whoever gave such a task up would lose what is paid for.
    return Pending(clean(str(state.word)), state.meaning is not None)


def links_beside(raw: bytes, sent: Iterable[str]) -> tuple[str, ...]:
    """The links of an answer about a task that has ended well, but for what was sent."""
    return find_links(unwrapped(loose_json(raw)), None, sent)


def without_links(credits: float | None, raw: bytes) -> LinksMissing:
    """What a success that tells no link comes to."""
    return LinksMissing(TaskFailed(Failure(GenerationFailed, _NO_LINKS, code="no_urls"), credits, raw))


def _around(envelope: Any, first: str, untold: StateWord) -> StateWord:
    """What stands around a record that says nothing; it may be meant for the call: for no more than links prove."""
    around = read_state(envelope, first) if isinstance(envelope, dict) else untold
    is_word = around.word is not None and around.meaning in ("made", "waiting")
    return StateWord(around.word, around.meaning, is_sure=False) if is_word else untold


def _broken(record: Mapping[str, Any], answer: Answer, code: int | None = None, word: object = None) -> TaskFailed:
    error = next(iter(_under(record, "error")), None)
    detail = error if isinstance(error, dict) else {"message": error}
    codes = [*_under(record, "failcode", "errorcode"), *_under(detail, "code"), code]
    told = [*_under(record, "failmsg", "errormessage"), *_under(detail, "message"), *_under(record, "message")]
    # "success" there means the call.
    text = next(filter(None, told), "" if meaning_of(answer.text) == "made" else answer.text)
    failure = Failure(
        GenerationFailed,
        clean(str(text or (_UNTOLD if is_mere_failure(word) else f"its state is {word}"))),
        code=code_of(next((each for each in codes if each is not None), None)),
    )
    return TaskFailed(failure, _billed(record), answer.response.body)


def _under(record: Mapping[str, Any], *names: str) -> list[Any]:
    """What a record holds under these names, in whatever style they are spelt; the first name first."""
    return [value for name in names for key, value in record.items() if folded(key) == name]


def _billed(record: Mapping[str, Any]) -> float | None:
    return money.billed(*map(record.get, _credit_fields(tuple(record))))


# An API's records have the same fields each time.
@functools.lru_cache(KNOWN_RECORDS)
def _credit_fields(fields: tuple[str, ...]) -> tuple[str, ...]:
    """Those that tell what was billed, the surest first."""
    spelt = {folded(field): field for field in fields}
    return tuple(spelt[name] for name in _CREDITS if name in spelt)


def _latency(record: Mapping[str, Any]) -> float | None:
    """completeTime − createTime, Unix milliseconds. Not costTime: documented in ms, and in seconds 24 times of 24."""
    created, completed = figure(record.get("createTime")), figure(record.get("completeTime"))
    # Outside of these years it is no such time: 0, seconds, microseconds, a clock that was never set.
    if created is None or completed is None or not _EARLIEST <= created <= completed < _LATEST:
        return None
    return (completed - created) / 1000
