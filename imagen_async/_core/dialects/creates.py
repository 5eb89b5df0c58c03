"""What an answer to a create means, in both dialects: a task, a refusal, or nothing that can be known."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ..._text import seldom
from ...errors import (
    AccountError,
    AuthenticationError,
    ConfigurationError,
    GenerationFailed,
    ImagenError,
    InsufficientCredits,
    InvalidRequest,
    ModelUnavailable,
    ProtocolError,
    RateLimited,
    TransportError,
)
from ..failure import Failure
from ..field_names import is_echo
from ..forgiving_json import unwrapped
from ..task_ids import name_in
from ..wire import Accepted, Created, HttpResponse, Lost, Rejected, Remedy, clean, loose_json
from .answers import KEY_REFUSED, Answer, open_answer, said
from .own_task import field_of
from .state_words import meaning_of

_IS = (
    r"((is|are|was|were|has|have|had|been|being|now|currently|already|temporarily|permanently|officially|just|since"
    r"|gone|went|taken|set|marked|as) )*"
)
_OVER = (
    r"(no longer (available|supported|offered|served)|offline|deprecated|discontinued|retired|not published"
    r"|withdrawn|removed|decommissioned|shut ?down|sunset)\b"
)
# What a request holds, and is no model: "image no longer available" is one bad prompt.
_PARTS = (
    r"images?|pictures?|files?|urls?|links?|videos?|audios?|prompts?|inputs?|parameters?|params?|fields?|options?|values?"
    r"|styles?|voices?|ratios?|aspect|resolutions?|quality|sizes?|formats?|durations?|seeds?|modes?|callbacks?|tasks?"
    r"|records?|uploads?|keys?|tokens?|accounts?|your|enable|safety|reference|source|mask"
)
# At most one word between "model" and the verdict: "model input: aspect_ratio 2:3 is not supported" is one bad prompt.
_MODEL_GONE = seldom(
    rf"\bmodel( name)?( you (specified|requested|selected|chose|asked for))?( \S+)?( you (specified|requested))? {_IS}"
    rf"(not supported|unsupported|not found|does not exist|{_OVER})|unsupported model|price not configured"
    # kie.ai's word for all models at once, in December 2025.
    r"|page does not exist or is not published"
    rf"|\b(api|endpoint|service|feature) {_IS}{_OVER}"
    # By its id, or as all that is said.
    rf"|(^|\s)['\"`]?(?!\S*\.(png|jpe?g|webp|gif|avif|mp4)\b)[a-z][\w.-]*/[\w./-]+['\"`]? {_IS}{_OVER}"
    rf"|^\W*((this|it|sorry),? )*{_IS}{_OVER}"
    # By its name, of which a figure or a hyphen is part: "Imagen 4 is no longer available".
    rf"|^\W*((sorry|unfortunately|the),? )*(?=\S*[\d-]|\w+ v?\d)(?!(\S+ ){{0,2}}\S*?(?<![a-z-])({_PARTS})(?![a-z]))"
    rf"(\S+ ){{1,3}}{_IS}{_OVER}",
    re.I,
)
_NO_CREDIT = seldom(r"credits? (are |is )?insufficient|insufficient (credit|balance|quota)", re.I)
# What stands before kie.ai's API says so to a request without a User-Agent; it is no word about the account.
_EDGE = seldom(r"error code: 1\d\d\d")
# Codes by which a server says that the request itself is wrong: nothing was begun.
_OWN_FAULT = frozenset({400, 405, 406, 409, 410, 411, 413, 414, 415, 422, 431})
# A 500 in these words is of somebody who was waiting for the one behind: that one may have made the task.
_IN_VAIN = r"timed?[ -]?out|gateway|disconnect|connection (was )?(reset|closed|aborted)"
_WAITED_IN_VAIN = seldom(_IN_VAIN, re.I)
# The same, and what says nothing of the request: a server that fell may have made it before.
_BROKE_DOWN = seldom(rf"{_IN_VAIN}|upstream|internal|server error|^$", re.I)

_DEEPEST = 4

_ERRORS = ("error", "errcode", "errno", "errorCode", "error_code")
_TELLING = frozenset({"status", "statusCode", "success", *_ERRORS})


def read_created(response: HttpResponse, own: tuple[str, ...], no_credit: frozenset[int]) -> Created:
    """Say what became of a create: an id that is told is taken, and a success that tells none is lost."""
    answer = open_answer(response)
    document = unwrapped(loose_json(response.body)) if answer.data else None
    if isinstance(document, dict):
        # Whatever else it says: a task that nobody asks about is a picture that is paid for and lost.
        name = name_in(document, own, is_success=answer.is_success and not _tells_failure(document))
        if name is not None:
            return Accepted(name.task_id, field_of(document, name.task_id))
    if answer.is_success:
        # The task may exist.
        told: Created = Lost(Failure(ProtocolError, "The provider says success and names no task.", code=answer.code))
    else:
        told = _read_refused_create(answer, no_credit)
    # Rather than to call it lost: what is named a task's id is one, wherever it stands.
    named = (name_in(place, (), is_success=False) for place in _objects(document, _DEEPEST))
    name = next(filter(None, named), None) if isinstance(told, Lost) else None
    return told if name is None else Accepted(name.task_id)


def _objects(value: Any, depth: int) -> Iterator[dict[str, Any]]:
    """All that is in an answer, but for what echoes the request."""
    value = unwrapped(value)
    inside = value if isinstance(value, list) else []
    if isinstance(value, dict):
        yield value
        inside = [item for key, item in value.items() if not is_echo(key)]
    for item in inside if depth else []:
        yield from _objects(item, depth - 1)


def _tells_failure(document: dict[str, Any]) -> bool:
    """True where another field than the code speaks of an error."""
    if _TELLING.isdisjoint(document):
        return False
    status = document.get("status", document.get("statusCode"))
    is_error = meaning_of(status) == "broken" if isinstance(status, str) else isinstance(status, int) and status >= 400
    return is_error or document.get("success") in (False, "false") or any(map(document.get, _ERRORS))


def _read_refused_create(answer: Answer, no_credit: frozenset[int]) -> Created:
    """Say what a create's answer without success means: the table of the provider facts, row by row."""
    code, text, status = answer.code, answer.text, answer.response.status
    # 303 says that it is done, and where to look.
    if 300 <= status < 400 and status != 303:
        return _redirected(answer)
    if not _is_own_word(answer):
        message = said("An answer that does not tell whether a task was made", answer)
        failure = Failure(ProtocolError, message, code=code if status // 100 == 2 else status)
        return Lost(failure, answer.response.retry_after)
    kind, remedy = _refusal(code, text, no_credit)
    return Rejected(Failure(kind, said(_MEANING[kind], answer), code=code), remedy, answer.response.retry_after)


def _is_own_word(answer: Answer) -> bool:
    """True where the API itself refuses, and not something before it, behind which a task may have been made."""
    code, status = answer.code, answer.response.status
    # A status that it does not have is a gateway's, whatever the body says that came with it.
    if not (status // 100 == 2 or status in _REFUSALS or status in _OWN_FAULT) or status == 408:
        return False
    if code >= 500 and not answer.in_body:
        return False
    if code == 500 and (_BROKE_DOWN if status == 500 else _WAITED_IN_VAIN)().search(answer.text):
        return False
    return code in _REFUSALS or code in _OWN_FAULT


_MEANING: dict[type[ImagenError], str] = {
    InvalidRequest: "The provider refused the request",
    AuthenticationError: KEY_REFUSED,
    InsufficientCredits: "The account, or the key's own cap, has no credit left: top it up",
    AccountError: "The provider, or the edge before it, refuses this account or program",
    ModelUnavailable: "The provider does not serve this model, or the base URL is wrong: choose another model",
    GenerationFailed: "The provider could not make the picture",
    RateLimited: "The provider refused for its rate limit",
    TransportError: "The provider is in maintenance",
}

_REFUSALS: dict[int, tuple[type[ImagenError], Remedy]] = {
    401: (AuthenticationError, Remedy.STOP),
    402: (InsufficientCredits, Remedy.STOP),
    403: (AccountError, Remedy.STOP),
    404: (ModelUnavailable, Remedy.CLOSE_MODEL),
    # In the body: the model's own maker was silent for ten minutes, and the task has failed.
    408: (GenerationFailed, Remedy.NEW_TASK),
    429: (RateLimited, Remedy.BACK_OFF),
    # A sub-key has reached its own cap, whatever the account has left.
    433: (InsufficientCredits, Remedy.STOP),
    455: (TransportError, Remedy.PAUSE),
    # kie.ai's 500 in the body was mostly a validation error ("This field is required"), unbilled (seen April 2026).
    500: (InvalidRequest, Remedy.FAIL),
    # A failed generation, for which kie.ai bills nothing.
    501: (GenerationFailed, Remedy.NEW_TASK),
    505: (ModelUnavailable, Remedy.CLOSE_MODEL),
}


def _refusal(code: int, text: str, no_credit: frozenset[int]) -> tuple[type[ImagenError], Remedy]:
    """The text decides where one code serves for several things (seen: 500 for no credit, 422 for an unknown model)."""
    if code == 403 and _EDGE().search(text):
        return AccountError, Remedy.STOP
    # A 429 is free to repeat, whatever its words are.
    if code in no_credit or (code != 429 and _NO_CREDIT().search(text)):
        return InsufficientCredits, Remedy.STOP
    if code in (400, 422, 500) and _MODEL_GONE().search(text):
        return ModelUnavailable, Remedy.CLOSE_MODEL
    return _REFUSALS.get(code, (InvalidRequest, Remedy.FAIL))


def _redirected(answer: Answer) -> Rejected:
    where = answer.response.location or "another address"
    message = (
        f"The server redirects to {clean(where)}; the key follows no redirect. Set base_url to the API's own address"
    )
    return Rejected(Failure(ConfigurationError, f"{message}.", code=answer.response.status), Remedy.STOP)
