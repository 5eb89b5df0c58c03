"""The commands about a batch and its folder: `batch`, `status`, and `collect --dir`."""

from __future__ import annotations

import argparse
import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import msgspec

from .._accounts import Account
from .._admission import as_sent_by, checked, with_defaults
from .._core.record import Record
from .._core.resuming import changes
from .._core.values import ImageRequest
from .._folders import prepare_folder
from .._journal import Journal, JournalReader
from ..errors import ConfigurationError
from ..providers import PROVIDERS
from ._arguments import account_of, request_of
from ._batch_run import BatchRun, say
from ._loop import run_in_loop
from ._manifest import refuse_foreign_lists
from ._progress import counted
from ._prompt_files import BadLine, PromptFile, PromptLine
from ._status import Status

JOURNAL = "run.db"
"""The journal's name in the folder of its pictures."""

_CHANGES_SHOWN = 10
"""Changed lines that are named: mostly one changed option has changed them all."""

_ONCE = ("--retry-failed", "--resubmit-unknown")
"""What is said for one run, and is no part of how to go on."""


def batch(options: argparse.Namespace) -> int:
    account = account_of(options)
    requests = checked_file(options, account)
    if requests is None:
        return 2
    if options.out is None:
        return _run_batch(requests, None, account, options)
    path = str(Path(prepare_folder(options.out), JOURNAL))
    refuse_foreign_lists(options.out, path)
    with Journal(path, PromptLine) as journal:
        bad, known = _compared(requests, journal, options, account)
        if bad:
            _say_bad_lines(requests, bad, _CHANGES_SHOWN)
            return 2
        journal.note(_notes(journal.counts().total() + len(requests) - known, account, options))
        return _run_batch(requests, journal, account, options)


def checked_file(options: argparse.Namespace, account: Account) -> PromptFile | None:
    """Read and check the whole file; None, and every bad line on stderr, when something is wrong with it."""
    provider = PROVIDERS[account.provider]
    defaults = request_of(options, "-")
    checked(defaults, provider)
    requests = PromptFile(options.file, options.format, options.limit)
    bad = requests.check(lambda request: checked(with_defaults(request, defaults), provider))
    for name, field in requests.odd_columns():
        say(f"{requests.name}: warning: the column {name!r} is no field ({field}?); it goes to the manifest")
    if bad:
        _say_bad_lines(requests, bad)
        return None
    return requests


def _notes(total: int, account: Account, options: argparse.Namespace) -> dict[str, str]:
    """What `status` is to know: how many requests there are, and the words that lead back to this batch."""
    options.command_line = shlex.join(word for word in shlex.split(options.command_line) if word not in _ONCE)
    place = ["-p", account.provider, *(["--base-url", options.base_url] if options.base_url else [])]
    stdin = "  # with the same prompts on stdin" if options.file == "-" else ""
    return {
        "total": str(total),
        "command": options.command_line + stdin,
        "account": shlex.join(place),
        "working_folder": os.getcwd(),
    }


def _run_batch(
    requests: PromptFile | None, journal: Journal | None, account: Account, options: argparse.Namespace
) -> int:
    run = BatchRun(requests, journal, options)
    return run_in_loop(run.work(account), run.stop)


def _compared(
    requests: PromptFile, journal: Journal, options: argparse.Namespace, account: Account
) -> tuple[list[BadLine], int]:
    """Compare the file with what its journal knows: the lines whose key stood for something else, and all it knows."""
    defaults, provider = request_of(options, "-"), PROVIDERS[account.provider]
    bad: list[BadLine] = []
    known = 0
    for request in requests:
        record = journal.find(str(request.key))
        if record is None:
            continue
        known += 1
        found = changes(record, as_sent_by(record.account, with_defaults(request, defaults), provider))
        if found:
            what = f"the key {record.key!r} stood for another request in {journal.path}: {'; '.join(found)}"
            bad.append(BadLine(request.line, f"{what}; change it back, give it a new key, or choose another -o"))
    return bad, known


def _say_bad_lines(requests: PromptFile, bad: Sequence[BadLine], shown: int | None = None) -> None:
    for line in bad[:shown]:
        say(f"{requests.name}:{line.line}: {line.problem}" if line.line else f"{requests.name}: {line.problem}")
    of_all = f" of {counted(len(requests), 'request')}" if len(requests) else ""
    say(f"{counted(len(bad), 'problem')}{of_all}; nothing was sent.")


def collect_into(options: argparse.Namespace) -> int:
    """Finish one task of a batch, into its folder, its journal and its lists."""
    options.out = options.dir
    path = _journal_of(options.dir)
    with _JournalOfOne(path, PromptLine, options.task_id, options.key) as journal:
        record = journal.record
        if record.state == "done":
            print("\n".join([file.path for file in record.files] or record.urls))
            return 0
        options.provider = options.provider or [record.account]
        return _run_batch(None, journal, account_of(options), options)


class _JournalOfOne(Journal):
    """A batch's journal that goes on with one task only. `record` is its job."""

    def __init__(self, path: str, request_type: type[ImageRequest], task_id: str, key: str | None) -> None:
        super().__init__(path, request_type)
        found = self.find_task(task_id) or (None if key is None else self.find(key))
        try:
            self.record = self._taken_up(found, task_id, key)
        except BaseException:
            self.close()
            raise

    def unfinished(self) -> list[Record]:
        """That one, unless it is done."""
        return [record for record in super().unfinished() if record.task_id == self.record.task_id]

    def _taken_up(self, found: Record | None, task_id: str, key: str | None) -> Record:
        """The job as one whose task runs; the journal knows from here on that it has this task."""
        if found is None:
            what = f"knows no task {task_id!r}" if key is None else f"has no request with the key {key!r}"
            hint = "with --key KEY say which held request it is, or use -o instead of --dir to fetch it alone"
            raise ConfigurationError(f"{self.path} {what}; {hint}.")
        if found.task_id not in (None, task_id):
            raise ConfigurationError(f"The request {key!r} has another task in {self.path}: {found.task_id!r}.")
        if found.state in ("done", "running", "ready"):
            return found
        taken = msgspec.structs.replace(found, state="running", task_id=task_id, error=None)
        self.write([taken])
        return taken


def _journal_of(folder: str) -> str:
    path = Path(folder, JOURNAL)
    if not path.exists():
        raise ConfigurationError(f"{folder} holds no batch: there is no {JOURNAL} in it.")
    return str(path)


def status(options: argparse.Namespace) -> int:
    with JournalReader(_journal_of(options.dir)) as journal:
        found = Status(journal)
    print(json.dumps(found.record(), ensure_ascii=False) if options.json else found.text())
    return 0
