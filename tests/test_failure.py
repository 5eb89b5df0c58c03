"""A failure is a value: it comes back as the error that it was, one of its own for each that raises it."""

from __future__ import annotations

from typing import Any

import pytest
from builders import failure
from conftest import naming

from imagen_async import errors
from imagen_async._core.failure import Failure, kind_named
from imagen_async.errors import DownloadFailed, GenerationFailed, ImagenError, ProtocolError, TransportError

KINDS: list[type[ImagenError]] = [getattr(errors, name) for name in errors.__all__]
CONTEXT: dict[str, Any] = {"provider": "kie", "task_id": "t1", "code": "501"}
OWN: dict[str, dict[str, Any]] = {
    "UnknownOutcome": {"credits": 8.5},
    "TransportError": {"sent": False},
    "DownloadFailed": {"local": True, "gone": True},
}
"""What only some kinds have. The files of a DownloadFailed travel beside it: they are no reason."""


def errors_of(kind: type[ImagenError]) -> list[ImagenError]:
    """Errors of a kind, with all that it can have, and with as little as it can."""
    return [kind("what happened", **CONTEXT, **OWN.get(kind.__name__, {})), kind("what happened")]


def shown(error: BaseException | None) -> list[tuple[type, str, dict[str, Any]]]:
    """All that an error and what caused it say."""
    return [] if error is None else [(type(error), str(error), vars(error)), *shown(error.__cause__)]


def test_every_kind_comes_back_as_it_was() -> None:
    """With its class, its message, every attribute that it has, and what caused it, however deep."""
    for kind in KINDS:
        for error in errors_of(kind):
            error.__cause__ = TransportError("reset", sent=False)
            error.__cause__.__cause__ = ProtocolError("not JSON", code=7)
            with naming(kind.__name__, vars(error)):
                assert shown(Failure.of(error).exception()) == shown(error)


def test_each_call_makes_an_error_of_its_own() -> None:
    """What is written into one, a traceback or a new cause, is in no other, nor in the failure."""
    why = failure(GenerationFailed, "too dark", cause=failure(TransportError, "reset"))
    first, second = why.exception(), why.exception()
    assert first is not second
    assert first.__cause__ is not second.__cause__
    with pytest.raises(GenerationFailed):
        raise first from ValueError("why not")
    first.message = "changed"
    assert (second.__traceback__, second.message, str(second.__cause__)) == (None, "too dark", "reset")
    assert vars(why.exception()) == vars(second)


def test_a_failure_never_changes() -> None:
    """Nobody can write into it, and `about` gives another where there is something to add."""
    why = failure(GenerationFailed, "too dark")
    for name in why.__struct_fields__:
        with naming(name), pytest.raises(AttributeError):
            setattr(why, name, None)
    assert why.about(account="kie", task_id="t1") == failure(GenerationFailed, "too dark", account="kie", task_id="t1")
    assert why == failure(GenerationFailed, "too dark")


def test_what_is_set_already_stays() -> None:
    """The place where it happened knows best: whoever passes it on only adds what was missing."""
    why = failure(GenerationFailed, "too dark", account="kie")
    assert why.about(account="mine", task_id="t1") == failure(GenerationFailed, "too dark", account="kie", task_id="t1")
    assert why.about(task_id="t1").about(account="mine", task_id="t2").task_id == "t1"
    assert why.about(account="mine") == why


def test_a_kind_of_a_room_s_own_is_the_public_one_above_it() -> None:
    """What only the raising module knows by its name is told as the kind that users know, with all that is said."""

    class _NotThere(DownloadFailed):
        pass

    class _NotEvenThere(_NotThere):
        pass

    for error in (_NotThere("404", gone=True, task_id="t1"), _NotEvenThere("404", gone=True, task_id="t1")):
        assert Failure.of(error) == failure(DownloadFailed, "404", is_gone=True, task_id="t1")


def test_a_cause_that_is_no_error_of_ours_stays_behind() -> None:
    """Only what the tree has is kept: any other may hold what nobody is to see."""
    error = TransportError("reset")
    error.__cause__ = OSError("the key is 1234")
    assert Failure.of(error).cause is None
    assert Failure.of(error).exception().__cause__ is None


def test_a_kind_is_found_by_its_name() -> None:
    """A name that this version does not have, or that is none of an error, is the root of the tree."""
    assert [kind_named(kind.__name__) for kind in KINDS] == KINDS
    assert {kind_named(name) for name in ("QuotaMovedAway", "Any", "annotations", "__all__")} == {ImagenError}


def test_a_failure_is_caught_by_what_would_catch_its_error() -> None:
    """`is_a` says of each kind what `except` would do."""
    for kind in KINDS:
        assert {other for other in KINDS if failure(kind).is_a(other)} == {
            other for other in KINDS if issubclass(kind, other)
        }
