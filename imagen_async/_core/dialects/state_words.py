"""In which words, and under which names, a record says how its task stands."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from ..._text import seldom
from ..field_names import KNOWN_RECORDS, folded

Meaning = Literal["waiting", "made", "broken"]

_PARTLY = "partialsuccess partiallysucceeded partiallycompleted completedwitherrors"
# As they read in any case and style.
_WORDS: dict[Meaning, str] = {
    "waiting": "waiting wait queuing queueing queued queue inqueue enqueued pending created new submitted submitting "
    "accepted received scheduled preparing initializing initialized starting started start notstarted generating "
    "inprogress progress processing process running rendering working executing active uploading retrying "
    "等待中 排队中 处理中 生成中 进行中 运行中 排队",
    "made": "success succeed succeeds succeeded successful successfully complete completed completes done finish "
    "finished finishes ended generated fulfilled ok okay ready available completedsuccessfully finishedsuccessfully "
    f"{_PARTLY} 成功 完成 已完成",
    "broken": "fail fails failed failure unsuccessful error errored exception cancel canceled cancelled expired "
    "expire timeout timedout rejected reject refused declined denied blocked block banned abort aborted violated "
    "violation invalid moderated contentmoderated requestmoderated flagged filtered sensitive sensitiveworderror nsfw "
    "terminated killed crashed stopped interrupted revoked createfailed generatefailed generationfailed "
    "contentpolicyviolation policyviolation contentviolation moderationblocked contentblocked cancelledbyuser "
    "canceledbyuser unsafe prohibited forbidden safetyblocked contentfiltered deadlineexceeded "
    "internalerror systemerror generationerror generationtimeout requesttimeout "
    "失败 超时 已取消",
}
_MEANINGS: dict[str, Meaning] = {word: meaning for meaning, words in _WORDS.items() for word in words.split()}
_UNSURE = frozenset({"ok", "okay", "ready", "available", "ended", *_PARTLY.split()})
"""What may also be said of a call, or of a worker, or where something is left out."""

# What it is that has ended says nothing of how.
_SUBJECT = seldom(
    r"(?:state|status|task|job|request|record|all|images?|pictures?|videos?|audio|run|create|generate|generation"
    r"|prediction|process|任务|生成|处理|已)(?=.)"
)

# Of kie.ai's older routes, and as flags of other APIs.
_FLAGS: dict[str, Meaning] = {"0": "waiting", "1": "made", "2": "broken", "3": "broken"}
_FLAGS |= {"false": "waiting", "true": "made"}
_FIELDS = ("state", "status", "taskstate", "taskstatus", "jobstate", "jobstatus", "successflag")

_INSIDE = ("state", "status", "code", "name", "value")


class StateWord(msgspec.Struct, frozen=True):
    """How a task stands.

    Attributes:
        word: What was said, or the first that was.
        meaning: What that means; None: nobody knows.
        is_sure: False where a success is said in a word that may mean less, or where another field says otherwise: then
            it counts once the pictures are there.
    """

    word: object
    meaning: Meaning | None
    is_sure: bool = True

    @property
    def is_told(self) -> bool:
        """False where nothing was said at all."""
        return self.word is not None or self.meaning is not None


def meaning_of(word: object) -> Meaning | None:
    """What a word for a state means, in any case, with blanks; None for one that nobody knows, or for what is none."""
    return _MEANINGS.get(word) or _MEANINGS.get(_plain(word)) if isinstance(word, str) else None


def is_mere_failure(word: object) -> bool:
    """True for a word that says that a task has failed, and nothing of why."""
    plain = _plain(word) if isinstance(word, str) else ""
    return not plain or plain.isdecimal() or plain.startswith(("fail", "err", "exception", "unsuccess"))


def read_state(record: Mapping[str, Any], first: str) -> StateWord:
    """Say how a record's task stands: by the field that its API names it in, else by the others that are known.

    Where several are there, the first one with a word that is known is believed.
    """
    usual = _MEANINGS.get(word) if isinstance(word := record.get(first), str) else None
    if usual == "waiting" or (usual and word not in _UNSURE and not _has_others(tuple(record), first)):
        return StateWord(word, usual)
    names = (first, *_FIELDS)
    told = [(names.index(name), key, value) for key, value in record.items() if (name := folded(key)) in names]
    # Of two that read the same the one is believed that is spelt as the API spells it.
    told.sort(key=lambda each: (each[0], each[1] != first))
    said = [(word, _read(names[n], word)) for n, _, value in told if (word := _word_in(value)) not in (None, "")]
    for word, meaning in said:
        if meaning is not None:
            is_one = {each for _, each in said} == {meaning}
            return StateWord(word, meaning, is_one and _plain(word) not in _UNSURE)
    # No word at all, but the time at which it ended.
    is_over = not said and any(value for key, value in record.items() if folded(key) == "completetime")
    return StateWord(said[0][0] if said else record.get(first), "made" if is_over else None, is_sure=False)


@functools.lru_cache(KNOWN_RECORDS)
def _has_others(fields: tuple[str, ...], first: str) -> bool:
    """True where other fields may name a state."""
    return any(folded(field) in _FIELDS for field in fields if field != first)


def _read(name: str, value: object) -> Meaning | None:
    if name != "successflag":
        return meaning_of(value)
    return _FLAGS.get(str(value).strip().lower().removesuffix(".0")) or meaning_of(value)


def _word_in(value: object) -> object:
    """The word that a field holds, or the object in it."""
    if not isinstance(value, dict):
        return value
    return next((word for name in _INSIDE if isinstance(word := value.get(name), str)), value)


def _plain(word: object) -> str:
    text = folded("".join(str(word).split())).rstrip("!！")
    while text not in _MEANINGS and (found := _SUBJECT().match(text)):
        text = text[found.end() :]
    return text
