"""The commands about a batch and its folder: `batch`, `plan`, `status`, `gallery`, `export`, and `collect --dir`."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from .._accounts import Account, provider_of, router_of
from .._client import Client
from .._core.budget import Budget
from .._core.journal_entry import JournalEntry, is_denied
from .._core.poll_schedule import PollSchedule
from .._core.resuming import changes, shown
from .._core.routing import Router
from .._folders import prepare_folder
from .._job_factory import with_defaults
from .._journal import Journal, JournalReader
from .._journal.resume import latencies_of
from ..errors import ConfigurationError, ImagenError
from ._balances import balances_of
from ._batch_run import BatchRun
from ._estimate import Estimator
from ._gallery import refuse_foreign_page, write_gallery
from ._loop import run_in_loop
from ._manifest import Manifest, refuse_foreign_lists
from ._options import open_pool_of, pool_of, request_of, words_of
from ._prompt_files import BadLine, PromptFile, PromptLine
from ._receiving import callback_of
from ._status import Status
from ._wording import counted, say
from .export import FORMATS
from .export.folder import export

JOURNAL = "run.db"
"""The journal's name in the folder of its pictures."""

_CHANGES_SHOWN = 10
"""Changed lines that are named: mostly one changed option has changed them all."""

_ONCE = ("--retry-failed", "--resubmit-unknown")
"""What is said for one run, and is no part of how to go on."""


def batch(options: argparse.Namespace) -> int:
    """Make a picture for every line of a file, or go on with what an earlier run of the folder left."""
    pool = open_pool_of(options)
    options.callback = callback_of(options)
    router = _router(pool, options)
    requests = checked_file(options, router)
    if requests is None:
        return 2
    if options.out is None:
        if options.gallery:
            raise ConfigurationError("--gallery shows the pictures of a folder: say which with -o DIR.")
        return _run_batch(requests, None, pool, options)
    path = str(Path(prepare_folder(options.out), JOURNAL))
    refuse_foreign_lists(options.out, path)
    if options.gallery:
        refuse_foreign_page(options.out)
    with Journal(path, PromptLine) as journal:
        bad, known = _compared(requests, journal, options, router)
        if bad:
            _say_bad_lines(requests, bad, _CHANGES_SHOWN)
            return 2
        journal.note(_notes(journal.counts().total() + len(requests) - len(known), options))
        try:
            return _run_batch(requests, journal, pool, options)
        finally:
            if options.gallery:
                _say_gallery(options.out, journal)


def plan(options: argparse.Namespace) -> int:
    """Check every line of a file as `batch` would, and tell what it will cost in credits and time."""
    pool = pool_of(options)
    router = _router(pool, options)
    requests = checked_file(options, router)
    if requests is None:
        return 2
    schedules = {name: PollSchedule(provider_of(account).latency) for name, account in pool.items()}
    path = _journal_in(options.out)
    bad: list[BadLine] = []
    known: dict[str, str] = {}
    spent = 0.0
    if path is not None:
        with JournalReader(path) as journal:
            bad, known = _compared(requests, journal, options, router)
            spent = sum(bill.total * count for bill, count in journal.bills())
            for name, schedule in schedules.items():
                schedule.recall(latencies_of(journal, name))
    if bad:
        _say_bad_lines(requests, bad, _CHANGES_SHOWN)
        return 2
    estimator = Estimator(pool, router, schedules, Budget(options.max_credits, spent) if options.max_credits else None)
    # A queued one was noted and never sent, so that it is still to be paid for.
    settled = {key for key, state in known.items() if state != "queued"}
    found = estimator.estimate(requests, request_of(options, "-"), settled, balances_of(pool, own_sandbox=False))
    print(json.dumps(found.to_json()) if options.json else found.text())
    return 0


def _journal_in(folder: str | None) -> Path | None:
    """The journal of a folder that a batch has been in, or None."""
    if folder is None or not os.path.lexists(folder):
        return None
    if not os.path.isdir(folder):
        raise ConfigurationError(f"{folder} is no folder.")
    path = Path(folder, JOURNAL)
    return path if path.exists() else None


def _router(pool: Mapping[str, Account], options: argparse.Namespace) -> Router:
    return router_of(pool, options.policy, needs_price=options.max_credits is not None)


def checked_file(options: argparse.Namespace, router: Router) -> PromptFile | None:
    """Read and check the whole file; None, and every bad line on stderr, when something is wrong with it."""
    defaults = request_of(options, "-")
    router.route(defaults)
    requests = PromptFile(options.file, options.format, options.limit)
    bad = requests.check(lambda request: router.route(with_defaults(request, defaults)))
    for name, field in requests.odd_columns():
        say(f"{requests.name}: warning: the column {name!r} is no field ({field}?); it goes to the manifest")
    if bad:
        _say_bad_lines(requests, bad)
        return None
    return requests


def _notes(total: int, options: argparse.Namespace) -> dict[str, str]:
    """What `status` is to know: how many requests there are, and the words that lead back to this batch."""
    options.command_line = shlex.join(word for word in shlex.split(options.command_line) if word not in _ONCE)
    stdin = "  # with the same prompts on stdin" if options.file == "-" else ""
    return {
        "total": str(total),
        "command": options.command_line + stdin,
        "account": shlex.join(words_of(options)),
        "working_folder": os.getcwd(),
    }


def _run_batch(
    requests: PromptFile | None, journal: Journal | None, pool: Mapping[str, Account], options: argparse.Namespace
) -> int:
    # Before there is a loop: an older list may lack pictures, and each of them is opened.
    with contextlib.nullcontext() if journal is None else Manifest(options.out, journal) as manifest:
        run = BatchRun(requests, journal, manifest, _router(pool, options), options)
        return run_in_loop(run.work(pool), run.stop)


def _compared(
    requests: PromptFile, journal: JournalReader, options: argparse.Namespace, router: Router
) -> tuple[list[BadLine], dict[str, str]]:
    """Compare the file with its journal: the lines whose key stood for something else, and the states of all it has."""
    defaults = request_of(options, "-")
    bad: list[BadLine] = []
    known: dict[str, str] = {}
    for request in requests:
        entry = journal.find(str(request.key))
        if entry is None:
            continue
        known[entry.key] = entry.state
        found = changes(entry, router.as_before(entry.request, with_defaults(request, defaults)))
        if found:
            what = f"the key {entry.key!r} stood for another request in {journal.path}: {'; '.join(found)}"
            bad.append(BadLine(request.line, f"{what}; change it back, give it a new key, or choose another -o"))
    return bad, known


def _say_bad_lines(requests: PromptFile, bad: Sequence[BadLine], at_most: int | None = None) -> None:
    for line in bad[:at_most]:
        say(f"{requests.name}:{line.line}: {line.problem}" if line.line else f"{requests.name}: {line.problem}")
    of_all = f" of {counted(len(requests), 'request')}" if len(requests) else ""
    say(f"{counted(len(bad), 'problem')}{of_all}; nothing was sent.")


def gallery(options: argparse.Namespace) -> int:
    """Write the page that shows the pictures of a folder, and print where it is."""
    with JournalReader(_journal_of(options.dir), PromptLine) as journal:
        path, summary = write_gallery(options.dir, journal)
    print(path)
    say(summary)
    return 0


def exported(options: argparse.Namespace) -> int:
    """Write the pictures of a folder as shards, and print where these are."""
    folder = Path(options.dir).resolve()
    out = options.out or f"{folder}-{options.to}"
    with JournalReader(_journal_of(options.dir), PromptLine) as journal:
        made = export(options.dir, journal, FORMATS[options.to], out, options.shard_size)
    print("\n".join(map(str, made.shards)))
    for path in made.spoilt:
        say(f"Left out: {path} is missing, or is not as it was saved")
    say(f"{counted(made.pictures, 'picture')} in {counted(len(made.shards), 'shard')}")
    return 1 if made.spoilt else 0


def _say_gallery(folder: str, journal: Journal) -> None:
    """Write the page at the end of a batch, however that ended: its pictures are there, and its error comes out."""
    try:
        path, _ = write_gallery(folder, journal)
        say(f"The pictures are shown by {path}")
    except ImagenError as error:
        say(f"The gallery was not written: {error.message}")


def collect_into(options: argparse.Namespace) -> int:
    """Finish one task of a batch, into its folder, its journal and its lists."""
    options.out = options.dir
    with _JournalOfOne(_journal_of(options.dir), PromptLine) as journal:
        entry = _found(journal, options)
        options.provider = options.provider or [entry.account]
        pool = open_pool_of(options)
        if entry.account not in pool:
            raise ConfigurationError(f"The request {entry.key!r} is with {entry.account}, not {', '.join(pool)}.")
        pool = {entry.account: pool[entry.account]}
        # Free to repeat: what is here is named again, and not fetched.
        if entry.state == "done":
            print("\n".join([file.path for file in entry.files] or entry.urls))
            return 0
        if entry.task_id != options.task_id or entry.state not in ("running", "ready"):
            journal.write([run_in_loop(_confirmed(entry, pool[entry.account], options))])
        journal.only = options.task_id
        return _run_batch(None, journal, pool, options)


class _JournalOfOne(Journal):
    """A batch's journal that goes on with one task only, `only`."""

    only = ""

    def unfinished(self) -> list[JournalEntry]:
        """The job of that task, if it is unfinished."""
        return [entry for entry in super().unfinished() if entry.task_id == self.only]


def _found(journal: Journal, options: argparse.Namespace) -> JournalEntry:
    """The request that a task belongs to: the one that has it, or the held one of the key."""
    task_id, key = options.task_id, options.key
    of_task, of_key = journal.find_task(task_id), None if key is None else journal.find(key)
    found = of_task or of_key
    if found is None:
        what = f"knows no task {task_id!r}" if key is None else f"has no request with the key {key!r}"
        hint = "with --key KEY say which held request it is, or use -o instead of --dir to fetch it alone"
        raise ConfigurationError(f"{journal.path} {what}; {hint}.")
    if of_task is not None and key not in (None, of_task.key):
        raise ConfigurationError(f"The task {task_id!r} is that of the request {of_task.key!r}, not of {key!r}.")
    # One that the provider denies may give way to the one that was found there.
    if found.task_id not in (None, task_id) and not is_denied(found):
        raise ConfigurationError(f"The request {found.key!r} has another task in {journal.path}: {found.task_id!r}.")
    return found


async def _confirmed(entry: JournalEntry, account: Account, options: argparse.Namespace) -> JournalEntry:
    """The request with a task that its provider knows, and that has finished: nothing is noted before that."""
    say(f"{options.task_id} is taken for the task of {entry.key!r}: {shown(repr(entry.request.prompt))}")
    async with Client(account, freshness=options.freshness) as client:
        result = await client.collect(options.task_id, deadline=options.deadline)
    is_cleared_up = entry.state == "unknown"
    return msgspec.structs.replace(
        entry,
        state="ready",
        task_id=options.task_id,
        urls=result.urls,
        credits=result.credits,
        latency=result.latency,
        lost=max(0, entry.lost - is_cleared_up),
        lost_creates=entry.lost_creates[: -1 if is_cleared_up else None],
        error=None,
    )


def _journal_of(folder: str) -> str:
    path = Path(folder, JOURNAL)
    if not path.exists():
        raise ConfigurationError(f"{folder} holds no batch: there is no {JOURNAL} in it.")
    return str(path)


def status(options: argparse.Namespace) -> int:
    """Tell how the batch of a folder stands."""
    with JournalReader(_journal_of(options.dir)) as journal:
        found = Status(journal)
    print(json.dumps(found.to_json(), ensure_ascii=False) if options.json else found.text())
    return 0
