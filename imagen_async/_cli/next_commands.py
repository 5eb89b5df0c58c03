"""What to run next, as a line for the shell."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Mapping, Sequence

import msgspec

from ..errors import JournalError
from .folder import JOURNAL
from .library import JournalReader, without_login

_ONCE = ("--retry-failed", "--resubmit-unknown")
"""What is said for one run, and is no part of how to go on."""

_BUDGET = "--max-credits"
_PROXY = "--proxy"
_STDIN = "-"

FLAGS = frozenset(
    (
        "--add",
        "--gallery",
        "--help",
        "--json",
        "--no-save",
        "--not-shared",
        "--ordered",
        "--quiet",
        "--resubmit-unknown",
        "--retry-failed",
        "--verbose",
    )
)
"""The options of `batch` that take no value."""

_UNFINISHED = ("unanswered", "running", "ready", "queued", "not sent", "gone")


def going_on(command: str) -> str:
    """The command that goes on where another one ends: without what is paid for again, or what nobody is to read."""
    words = [word for word in shlex.split(command) if word not in _ONCE]
    for at, word in enumerate(words):
        if word.startswith(f"{_PROXY}=") or words[at - 1 : at] == [_PROXY]:
            words[at] = without_login(word)
    return shlex.join(words)


def with_budget(command: str, credits: int) -> str:
    """A command with another budget in place of the one that is used up."""
    words = shlex.split(command)
    for at, word in enumerate(words):
        if word == _BUDGET:
            words[at + 1] = str(credits)
        elif word.startswith(f"{_BUDGET}="):
            words[at] = f"{_BUDGET}={credits}"
    return shlex.join(words)


def settling(next_run: NextRun, folder: str, account: str, counts: Mapping[str, int]) -> list[str]:
    """What is left to do for a folder: go on, pay for failed ones again, settle the held ones.

    Args:
        next_run: What goes on.
        folder: The batch's, as it is called from here.
        account: The words that lead to its accounts.
        counts: Requests by state.
    """
    commands = [next_run.line()] if any(counts[name] for name in _UNFINISHED) else []
    if counts["failed"] or counts["never sent"]:
        commands.append(next_run.line("--retry-failed"))
    if counts["unknown"]:
        collect = f"imagen-async collect TASK_ID --dir {shlex.quote(folder)} --key KEY {account}"
        again = next_run.line("--resubmit-unknown", note="not found there")
        commands += [f"{collect}  # found at the provider", again]
    return commands


class NextRun(msgspec.Struct, frozen=True):
    """The command that goes on with a folder, as it is to be run here and now.

    Attributes:
        words: Those of the command.
        missing: The prompt file, where it is not there any more as it was: then nothing is to be run before it is.
        original: The folder of which this one is a copy, where that is still there.
    """

    words: tuple[str, ...]
    missing: str | None = None
    original: str | None = None

    def line(self, *more: str, note: str | None = None) -> str:
        """For the shell, with more words, and a note that the shell leaves out."""
        notes = ["with the same prompts on stdin"] if file_of(self.words) == _STDIN else []
        notes += [] if note is None else [note]
        text = shlex.join(with_more(self.words, more)) + (f"  # {', '.join(notes)}" if notes else "")
        # A line that does nothing when it is run: without its file the command would fail, with another one pay.
        what = f"# {self.missing} is not there any more as it was; with FILE where it is now"
        return text if self.missing is None else f"{what}: {text}"

    @property
    def warning(self) -> str | None:
        """What is to be known before it is run, or None."""
        if self.original is None:
            return None
        what = f"This folder is a copy of {self.original}, which is still there"
        return f"{what}: what is not sent yet would be sent by both, and paid for twice. Go on in one of them only."


def next_run_of(folder: str, notes: Mapping[str, str]) -> NextRun | None:
    """What goes on with a folder that may have been moved or copied since its last run, or with its prompt file.

    Args:
        folder: The batch's, as it is called from here.
        notes: Of its journal: the `command`, the `working_folder` of its paths, the `file_sha256` of its prompt file,
            and the journal's `id`.
    """
    if "command" not in notes:
        return None
    words = tuple(shlex.split(notes["command"], comments=True))
    before, here = notes["working_folder"], os.getcwd()
    file, out = file_of(words), folder_of(words)
    if file is None or out is None:
        return NextRun(words)
    noted_file, noted_out = (os.path.normpath(os.path.join(before, path)) for path in (file, out))
    is_there = os.path.realpath(noted_out) == os.path.realpath(folder)
    is_typed_here = os.path.realpath(before) == os.path.realpath(here)
    out_now = out if is_there and is_typed_here else folder
    places = {noted_file: file if is_typed_here else noted_file}
    if not is_there:
        # Both may have been moved together, and another one may be where it was.
        beside = os.path.normpath(os.path.join(folder, os.path.relpath(noted_file, noted_out)))
        places = {beside: beside, **places}
    found = next((path for path in places if _is_file(path, None if is_there else notes.get("file_sha256"))), None)
    missing = noted_file if found is None and file != _STDIN else None
    file_now = "FILE" if found is None else places[found]
    is_copy = not is_there and _has_journal(noted_out, notes.get("id"))
    return NextRun(placed(words, file_now, out_now), missing, noted_out if is_copy else None)


def _is_file(path: str, sha256: str | None) -> bool:
    """True where a prompt file is there, and as it was, where that is known."""
    if not sha256 or not os.path.isfile(path):
        return not sha256 and os.path.exists(path)
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except OSError:
        return False


def with_more(words: Sequence[str], more: Sequence[str]) -> list[str]:
    """The words of a command and more options: behind a `--` they would be taken for files."""
    at = words.index("--") if "--" in words else len(words)
    return [*words[:at], *more, *words[at:]]


def file_of(words: Sequence[str]) -> str | None:
    """The prompt file in the words of a `batch` command."""
    at, _ = _places(words)
    return None if at is None else words[at]


def folder_of(words: Sequence[str]) -> str | None:
    """The folder in the words of a `batch` command; of several the last is meant."""
    _, outs = _places(words)
    return words[outs[-1][0]].removeprefix(outs[-1][1]) if outs else None


def placed(words: Sequence[str], file: str, out: str) -> tuple[str, ...]:
    """The words with another file and another folder."""
    found, (file_at, outs) = list(words), _places(words)
    for at, prefix in outs:
        found[at] = prefix + _as_word(out)
    if file_at is not None and words[file_at] != _STDIN:
        found[file_at] = _as_word(file)
    return tuple(found)


def _as_word(path: str) -> str:
    return os.path.join(os.curdir, path) if path.startswith("-") else path


def _places(words: Sequence[str]) -> tuple[int | None, list[tuple[int, str]]]:
    """Where the words of a `batch` command name its file, and its folder: behind which prefix of the same word."""
    file_at, outs, at = None, [], len(("imagen-async", "batch"))
    has_options = True
    while at < len(words):
        word = words[at]
        out = re.fullmatch(r"(--out=|--out$|-[qv]*o=?)(.*)", word, re.DOTALL) if has_options else None
        if has_options and word == "--":
            has_options = False
        elif not has_options or word == _STDIN or not word.startswith("-"):
            file_at = at if file_at is None else file_at
        elif out is not None and not out[2] and not out[1].endswith("="):
            at += 1
            outs.append((at, ""))
        elif out is not None:
            outs.append((at, out[1]))
        elif _takes_the_next(word):
            at += 1
        at += 1
    return file_at, outs


def _takes_the_next(option: str) -> bool:
    """True where an option's value is the word behind it."""
    if option.startswith("--"):
        return "=" not in option and option not in FLAGS
    return re.fullmatch(r"-[qv]*[mp]", option) is not None


def _has_journal(folder: str, number: str | None) -> bool:
    """True where a folder has the journal of that number: one of another number is another batch, not the original."""
    path = os.path.join(folder, JOURNAL)
    if not os.path.exists(path):
        return False
    try:
        with JournalReader(path) as journal:
            return journal.notes().get("id") == number
    except JournalError:
        return True
