"""One line is one line: whatever is quoted, no reader of a terminal or of a log is led astray."""

from __future__ import annotations

import json
import logging
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inner import Failure, clean, one_line, wording

from imagen_async import errors
from imagen_async._watch.log import log

ODD = "\x1b\x85\u061c\u2028\u202e\ufeff"
UNSEEN = st.characters(categories=("Cc", "Cf", "Cs", "Zl", "Zp")) | st.sampled_from(ODD)
TEXT = st.text(st.characters() | UNSEEN)
EVIL = "a\x1b]8;;http://evil\x07b\x9b31m\r\n\u202ecba\u2028INFO forged\x0b\x0c\x85\u200b\u2066\udc80\U000e0041"


def unseen(text: str) -> set[str]:
    """The characters of a text that are a control, an order of letters, no width, or the end of a line."""
    return {each for each in text if unicodedata.category(each) in ("Cc", "Cf", "Cs", "Zl", "Zp")}


@given(TEXT)
def test_what_is_not_seen_is_written_out_and_the_rest_stays(text: str) -> None:
    """As JSON writes it; line ends and tabs are a space; whatever can be seen is as it was, and twice is once."""
    told = one_line(text)
    assert (unseen(told), one_line(told)) == (set(), told)
    if "\\" not in text and not set("\t\r\n") & set(text):
        assert json.loads('"' + told.replace('"', '\\"') + '"', strict=True) == json.loads(json.dumps(text))
    assert unseen(one_line(text, joiners=True)) <= set("\u200c\u200d")
    assert unseen(clean(text) + clean(text * 500)) == set()
    assert len(clean(text * 500)) <= 500


def test_prompts_of_the_users_own_keep_their_joiners() -> None:
    """Persian, Hindi and emoji are not what they are without; in a server's words they are written out."""
    for prompt in ("می\u200cخواهم", "👩\u200d🚀", "e\u0301 ❤️ שועל\u00a0狐"):
        assert one_line(prompt, joiners=True) == prompt
    assert one_line("a\u200db\t\r\nc \n d") == "a\\u200db c d"
    # In one go: to begin anew at each blank would take hours.
    assert one_line(" " * (1 << 20) + "\0") == " " * (1 << 20) + r"\u0000"


def test_a_message_is_as_long_as_somebody_reads() -> None:
    """What it quotes may be a file of megabytes, of which to make one line would take minutes."""
    told = errors.ProtocolError("a library says: " + repr(b"\0" * (8 << 20))).message
    assert (len(told) <= 8_000, told.startswith("a library says: b")) == (True, True)


@pytest.mark.parametrize("kind", [errors.ImagenError, errors.UnknownOutcome, errors.DownloadFailed])
def test_every_door_to_a_reader_is_one_line(
    kind: type[errors.ImagenError], caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error, a line of the log, a word of the command and its data; a task's id stays what it is."""
    raised = kind(EVIL, provider="kie", task_id=EVIL, code=EVIL)
    again = Failure.of(raised).exception()
    with caplog.at_level(logging.INFO, "imagen_async"):
        log(logging.INFO, "of %s: %d", EVIL, 7)
        log(logging.DEBUG, "of %s", EVIL)
    assert (raised.task_id, again.message) == (EVIL, raised.message)
    wording.say(EVIL, "two")
    wording.show(json.dumps(EVIL, ensure_ascii=False), EVIL)
    out, err = capsys.readouterr()
    assert [json.loads(out.splitlines()[0]), len(out.split("\n")), len(err.split("\n"))] == [EVIL, 3, 3]
    for text in (str(raised), raised.message, *caplog.messages, *out.splitlines(), *err.splitlines()):
        assert (unseen(text), text.splitlines()) == (set(), [text])
    assert len(caplog.messages) == 1
