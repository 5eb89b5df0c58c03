"""`collect`: waits for a task that exists, and fetches its pictures: alone, or into the folder of its batch."""

from __future__ import annotations

import msgspec

from ... import Account, Client
from ...errors import ConfigurationError
from ...ports import JournalEntry
from ..accounts import open_pool_of
from ..batch_run import run_batch
from ..exits import ALL_DONE
from ..folder import journal_of
from ..grammar import Options, Parser, Work
from ..library import Journal, is_denied, router_of, shown
from ..loop import run_in_loop
from ..options import AccountOptions, OutputOptions, RunOptions
from ..pictures import is_there, removed_in, removed_text
from ..prompt_files import PromptLine
from ..single import one
from ..wording import say, show


class CollectOptions(Options, frozen=True):
    """What `collect` is told."""

    task_id: str
    dir: str | None
    key: str | None
    accounts: AccountOptions
    output: OutputOptions
    command_line: str

    @classmethod
    def declare(cls, parser: Parser) -> None:
        """Add what may be written to a parser."""
        parser.add_argument("task_id", metavar="TASK_ID")
        parser.add_argument("--dir", metavar="DIR", help="a batch's folder, whose journal and lists it belongs in")
        parser.add_argument(
            "--key", help="with --dir: which held request it is, where you found its task at the provider"
        )
        AccountOptions.declare(parser)
        OutputOptions.declare(parser)


def _run(options: CollectOptions) -> int:
    if options.dir is not None:
        return _collect_into(options.dir, options)
    if options.key is not None:
        raise ConfigurationError("--key names a request of a batch: say with --dir which batch.")
    if len(options.accounts.provider) > 1:
        raise ConfigurationError("-p: a task is one account's; name that one.")
    task_id, deadline = options.task_id, options.output.deadline
    return one(options.accounts, options.output, lambda client: client.collect(task_id, deadline=deadline))


def _collect_into(folder: str, options: CollectOptions) -> int:
    """Finish one task of a batch, into its folder, its journal and its lists."""
    with _JournalOfOne(journal_of(folder), PromptLine) as journal:
        entry = _found(journal, options.task_id, options.key)
        provider = options.accounts.provider or (entry.account,)
        accounts = msgspec.structs.replace(options.accounts, provider=provider)
        output = msgspec.structs.replace(options.output, out=folder)
        pool = open_pool_of(accounts)
        if entry.account not in pool:
            raise ConfigurationError(f"The request {entry.key!r} is with {entry.account}, not {', '.join(pool)}.")
        pool = {entry.account: pool[entry.account]}
        # Free to repeat: what is here is named again, and not fetched.
        if entry.state == "done":
            _name_again(entry)
            return ALL_DONE
        if entry.task_id != options.task_id or entry.state not in ("running", "ready"):
            journal.write(
                [run_in_loop(_confirmed(entry, options.task_id, pool[entry.account], output, accounts.proxy))]
            )
        journal.only = options.task_id
        run = RunOptions(accounts=accounts, output=output, command_line=options.command_line)
        return run_batch(None, None, journal, pool, router_of(pool, accounts.policy), run)


def _name_again(entry: JournalEntry) -> None:
    """Say where the pictures of a request are that has them."""
    for place in filter(is_there, entry.files) if entry.files else entry.urls:
        show(str(place))
    if removed := removed_in([entry]):
        say(removed_text(removed))


class _JournalOfOne(Journal):
    """A batch's journal that goes on with one task only, `only`."""

    only = ""

    def unfinished(self) -> list[JournalEntry]:
        """The job of that task, if it is unfinished."""
        return [entry for entry in super().unfinished() if entry.task_id == self.only]


def _found(journal: Journal, task_id: str, key: str | None) -> JournalEntry:
    """The request that a task belongs to: the one that has it, or the held one of the key."""
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


async def _confirmed(
    entry: JournalEntry, task_id: str, account: Account, output: OutputOptions, proxy: str | None
) -> JournalEntry:
    """The request with a task that its provider knows, and that has finished: nothing is noted before that."""
    say(f"{task_id} is taken for the task of {entry.key!r}: {shown(repr(entry.request.prompt))}")
    async with Client(account, freshness=output.freshness, trust_env=True, proxy=proxy) as client:
        result = await client.collect(task_id, deadline=output.deadline)
    is_cleared_up = entry.state == "unknown"
    return msgspec.structs.replace(
        entry,
        state="ready",
        task_id=task_id,
        urls=result.urls,
        credits=result.credits,
        latency=result.latency,
        lost=max(0, entry.lost - is_cleared_up),
        lost_creates=entry.lost_creates[: -1 if is_cleared_up else None],
        error=None,
    )


WORK = Work(CollectOptions, _run)
