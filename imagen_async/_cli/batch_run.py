"""One run over a batch: prints and lists every result as it comes out."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Container, Iterable, Mapping, Sequence

from .. import Account, Batch, Client, ImageRequest, Result
from ..errors import DeadlineExceeded, DownloadFailed, ImagenError
from .accounts import gone_accounts
from .as_json import result_json
from .checking import JournalLines
from .counts import ResultCounts
from .exits import ALL_DONE, INTERRUPTED, SOME_FAILED
from .library import Journal, LookedUp, PlainGroup, Router
from .loop import run_in_loop
from .manifest import Manifest
from .options import RunOptions
from .picture_sizes import Sizes, sizes_of
from .printing import ResultPrinter
from .progress import display
from .prompt_files import PromptFile, PromptLine
from .receiving import callback_of, receiving
from .summary import Summary
from .wording import say


def run_batch(
    requests: PromptFile | None,
    known: JournalLines | None,
    journal: Journal | None,
    pool: Mapping[str, Account],
    router: Router,
    options: RunOptions,
) -> int:
    """Make what is to be made, but for what is known to be settled, or finish what the journal has; the exit code."""
    # Before there is a loop: an older list may lack pictures, and each of them is opened.
    columns = None if requests is None else requests.columns
    lists = contextlib.nullcontext() if journal is None else Manifest(str(options.output.out), journal, columns)
    with lists as manifest:
        printer = ResultPrinter(as_json=options.output.json, out=options.output.out)
        run = BatchRun(requests, known, journal, manifest, router, options, printer, gone_accounts(pool))
        try:
            return run_in_loop(run.work(pool), run.stop)
        finally:
            printer.close()


class BatchRun:
    """One run over a batch: prints and lists every result, and says at the end what became of all.

    Args:
        requests: What is to be made; nothing, to finish what the journal has.
        known: What the journal has of them.
        journal: The folder's, open for writing, or None where nothing is saved.
        manifest: The folder's lists, open for adding to, or None where nothing is saved.
        router: Finds who can take a request.
        options: What the run is told.
        printer: Has stdout.
        gone: The accounts whose tasks end with the command.
    """

    def __init__(
        self,
        requests: PromptFile | None,
        known: JournalLines | None,
        journal: Journal | None,
        manifest: Manifest | None,
        router: Router,
        options: RunOptions,
        printer: ResultPrinter,
        gone: Container[str] = (),
    ) -> None:
        self._requests = requests
        self._known = known
        self._journal = journal
        self._manifest = manifest
        self._options = options
        self._printer = printer
        self._batch: Batch | None = None
        self._counts = ResultCounts(keys_differ=journal is not None)
        self._counts.done += 0 if known is None else known.settled.count(1)
        self._left: list[Result] = []
        self._gone = gone
        self._summary = Summary(requests, journal, router, options, gone)
        self._is_stopped = False
        self._disk_error: OSError | None = None

    async def work(self, pool: Mapping[str, Account]) -> int:
        """Run the batch; returns the exit code."""
        options, ended_by = self._options, None
        client = Client(
            *pool.values(),
            policy=options.accounts.policy,
            freshness=options.output.freshness,
            callback=callback_of(options.callbacks),
            trust_env=True,
            proxy=options.accounts.proxy,
        )
        async with client, receiving(client, options.callbacks):
            batch = self._batch_of(client)
            try:
                await self._read(batch)
            except ImagenError as error:
                ended_by = error
                raise
            finally:
                # However it ended: what nobody took is paid for, and is to be listed.
                await self._finish(batch, ended_by)
        return INTERRUPTED if self._is_stopped else SOME_FAILED if self._counts.failed else ALL_DONE

    def _batch_of(self, client: Client) -> Batch:
        options = self._options
        return client.batch(
            self._input(),
            journal=self._journal,
            save_to=options.output.out,
            ordered=options.ordered,
            max_credits=options.budget.max_credits,
            retries=options.retries,
            on_refused=options.next_model.on_refused,
            retry_failed=options.going_on.retry_failed,
            add=options.going_on.add,
            on_unknown="resubmit" if options.going_on.resubmit_unknown else "hold",
            on_exit=options.going_on.on_exit,
            deadline=options.output.deadline,
            **options.picture.parameters(),
        )

    def _input(self) -> Iterable[ImageRequest]:
        if self._requests is None or self._known is None:
            return self._requests or ()
        return LookedUp(self._requests, self._known.settled, self._known.keys)

    def stop(self) -> bool:
        """Hear of Ctrl-C, SIGTERM or SIGHUP; True when the run ends by itself then, with what runs still waited for."""
        if self._options.going_on.on_exit != "drain" or self._batch is None or self._is_stopped:
            return False
        self._is_stopped = True
        self._batch.stop()
        say("Stopping: nothing more is sent, and what runs is waited for. Once more leaves at once.")
        return True

    def _title(self) -> str:
        out = self._options.output.out
        what = "collect" if self._requests is None else self._requests.name
        return f"imagen-async: {what}{'' if out is None else f' → {out}'}"

    async def _read(self, batch: Batch) -> None:
        show = display(self._title(), quiet=self._options.output.quiet)
        async with batch as results, PlainGroup() as beside:
            self._batch = batch
            if show is not None:
                beside.start_soon(show, lambda: batch.progress)
            async for result in results:
                await self._take(result)
                if self._disk_error is not None:
                    reason = self._disk_error.strerror or self._disk_error
                    raise DownloadFailed(f"The lists in {self._options.output.out} cannot be written: {reason}.")
                await self._printer.until_taken()
            beside.cancel()

    async def _take(self, result: Result) -> None:
        """List and print a result."""
        sizes: Sizes = {}
        try:
            sizes = await self._sizes([result])
        finally:
            # Also where a signal comes just now: the batch has handed this result out, and nobody else has it.
            self._note(result, sizes)
            self._print(result)

    async def _finish(self, batch: Batch, ended_by: ImagenError | None) -> None:
        """List and print what nobody took, and say what became of all."""
        sizes: Sizes = {}
        try:
            sizes = await self._sizes(batch.leftover)
        finally:
            self._note_leftover(batch.leftover, sizes)
            self._summary.say(batch.progress, self._counts, self._left, ended_by)

    def _note_leftover(self, leftover: Sequence[Result], sizes: Sizes) -> None:
        """List what was paid for and not handed out, and print it."""
        for result in leftover:
            is_left = isinstance(result.error, DeadlineExceeded)
            self._note(result, sizes, listed=not is_left or not self._is_known_to_run(result))
            if is_left:
                self._left.append(result)
        for result in leftover:
            # What is gone with its sandbox nobody can collect: the last words say so, once.
            if result.provider not in self._gone or not isinstance(result.error, DeadlineExceeded):
                self._print(result)

    async def _sizes(self, results: Sequence[Result]) -> Sizes:
        """Look at the pictures that are to be listed."""
        if self._manifest is None:
            return {}
        return await sizes_of([file for result in results if not result.earlier for file in result.files])

    def _is_known_to_run(self, result: Result) -> bool:
        """True for a task that the journal has, so that no list need name it; false for one that has failed."""
        entry = self._journal.find(result.key) if self._journal is not None else None
        return entry is not None and entry.task_id == result.task_id and entry.error is None

    def _note(self, result: Result, sizes: Sizes, *, listed: bool = True) -> None:
        self._counts.add(result)
        if self._manifest is None or result.earlier or not listed:
            return
        try:
            self._manifest.write(result, sizes)
        except OSError as error:
            self._disk_error = error
            say(f"Not listed, for the disk fails: {json.dumps(result_json(result), ensure_ascii=False)}")

    def _print(self, result: Result) -> None:
        if result.earlier:
            return  # the run that made it has printed it
        if result.ok or self._options.output.json:
            self._printer.print(result)
        elif self._manifest is None and self._requests is not None:
            say(f"{self._requests.name}:{_line(result)}: {result.error}")


def _line(result: Result) -> int:
    return result.request.line if isinstance(result.request, PromptLine) else result.index + 1
