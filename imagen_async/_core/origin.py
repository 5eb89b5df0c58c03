"""What a provider's support asks for of a failure: which request, answered how, when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from .answer_headers import plain_id, request_id
from .failure import Failure
from .field_names import folded
from .forgiving_json import unwrapped
from .wire import HttpResponse, LinksMissing, Lost, NoAnswer, Rejected, TaskFailed, TaskRefused, loose_json

_IDS = ("requestid", "xrequestid", "traceid", "logid", "correlationid")

_Event = TypeVar("_Event")

_FAILURES = (Rejected, Lost, TaskFailed, TaskRefused, NoAnswer)


def event_of(event: _Event, response: HttpResponse, at: float, mask: Callable[[str], str]) -> _Event:
    """What an answer means, its failure, if it is one, with where it came from. Arguments as `failure_of`'s."""
    told: Any = event
    if isinstance(told, LinksMissing):
        return msgspec.structs.replace(told, outcome=event_of(told.outcome, response, at, mask))  # type: ignore[return-value]
    if isinstance(told, _FAILURES):
        return msgspec.structs.replace(told, failure=failure_of(told.failure, response, at, mask))  # type: ignore[return-value]
    return event


def failure_of(failure: Failure, response: HttpResponse | None, at: float, mask: Callable[[str], str]) -> Failure:
    """A failure with where it came from, and without what reading the answer may have brought to light.

    Args:
        failure: As it was read.
        response: From which answer; None: none came.
        at: When, in Unix seconds.
        mask: Masks what is secret.
    """
    status = name = None
    if response is not None:
        status, name = response.status, request_id(response.headers, mask) or _id_in(response.body, mask)
    return msgspec.structs.replace(
        failure,
        message=mask(failure.message),
        code=mask(failure.code) if isinstance(failure.code, str) else failure.code,
        status=failure.status or status,
        request_id=name if failure.request_id is None else mask(failure.request_id),
        at=failure.at or at,
    )


def _id_in(body: bytes, mask: Callable[[str], str]) -> str | None:
    """The request's id where an answer's body tells it: beside its code, or in its error."""
    envelope = unwrapped(loose_json(body))
    for place in (envelope, envelope.get("error"), envelope.get("data")) if isinstance(envelope, dict) else ():
        if isinstance(place, dict):
            spelt = {folded(name): value for name, value in place.items()}
            found = next((told for name in _IDS if (told := plain_id(spelt.get(name), mask))), None)
            if found is not None:
                return found
    return None
