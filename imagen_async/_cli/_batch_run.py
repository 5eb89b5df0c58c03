"""One `batch` command: prints and lists every result, and says at the end what became of all."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence

from .._accounts import Account
from .._admission import Parameters
from .._batch import Batch
from .._client import Client
from .._core.values import PARAMETERS, Result
from .._plain_group import PlainGroup
from ..errors import DeadlineExceeded, DownloadFailed, UnknownOutcome
from ._manifest import FAILURES, Manifest, result_record
from ._progress import amount, display, duration
from ._prompt_files import PromptFile, PromptLine


class BatchRun:
    """One `batch` command: prints and lists every result, and says at the end what became of all."""

    def __init__(self, requests: PromptFile, manifest: Manifest | None, options: argparse.Namespace) -> None:
        self._requests = requests
        self._manifest = manifest
        self._options = options
        self._done = self._failed = self._unknown = 0
        self._left: list[Result] = []
        self._disk_error: OSError | None = None

    async def work(self, account: Account) -> int:
        """Run the batch; returns the exit code."""
        options = self._options
        parameters: Parameters = {"model": options.model, "extra": options.extra}
        for name in PARAMETERS:
            parameters[name] = getattr(options, name)  # type: ignore[literal-required]
        with self._manifest or contextlib.nullcontext():
            async with Client(account) as client:
                batch = client.batch(
                    self._requests,
                    save_to=options.out,
                    ordered=options.ordered,
                    retries=options.retries,
                    deadline=options.deadline,
                    **parameters,
                )
                try:
                    await self._read(batch)
                finally:
                    self._note_leftover(batch.leftover)
                    self._sum_up(batch)
        return 1 if self._failed else 0

    async def _read(self, batch: Batch) -> None:
        show = display(quiet=self._options.quiet)
        async with batch as results, PlainGroup() as beside:
            if show is not None:
                beside.start_soon(show, lambda: batch.progress)
            async for result in results:
                self._note(result)
                self._print(result)
                if self._disk_error is not None:
                    reason = self._disk_error.strerror or self._disk_error
                    raise DownloadFailed(f"The lists in {self._options.out} cannot be written: {reason}.")
            beside.cancel()

    def _note_leftover(self, leftover: Sequence[Result]) -> None:
        """List what was paid for and not handed out: all of it before the first is printed, for stdout may be gone."""
        for result in leftover:
            self._note(result)
            if isinstance(result.error, DeadlineExceeded):
                self._left.append(result)
        with contextlib.suppress(BrokenPipeError):
            for result in leftover:
                self._print(result)

    def _note(self, result: Result) -> None:
        self._done += result.ok
        self._failed += not result.ok
        self._unknown += isinstance(result.error, UnknownOutcome)
        if self._manifest is None:
            return
        try:
            self._manifest.write(result)
        except OSError as error:
            self._disk_error = error
            say(f"Not listed, for the disk fails: {json.dumps(result_record(result), ensure_ascii=False)}")

    def _print(self, result: Result) -> None:
        if self._options.json:
            print(json.dumps(result_record(result), ensure_ascii=False), flush=True)
        elif result.ok:
            print("\n".join(places(result)), flush=True)
        elif self._manifest is None:
            say(f"{self._requests.name}:{_line(result)}: {result.error}")

    def _sum_up(self, batch: Batch) -> None:
        progress = batch.progress
        parts = [f"{self._done:,} done", f"{self._failed - len(self._left):,} failed"]
        if self._unknown:
            parts[1] += f" ({self._unknown:,} with the create's answer lost: maybe billed, not sent again)"
        if self._left:
            parts.append(f"{len(self._left):,} left running and paid for")
        unsent = len(self._requests) - self._done - self._failed
        if unsent:
            parts.append(f"{unsent:,} not sent")
        say(f"{', '.join(parts)}; {amount(progress.credits)} credits in {duration(progress.elapsed)}")
        if self._left:
            self._say_how_to_collect()
        elif self._failed and self._manifest is not None:
            say(f"Why is in {self._options.out}/{FAILURES}")

    def _say_how_to_collect(self) -> None:
        where = f"in {self._options.out}/{FAILURES}" if self._manifest else "above"
        address = f" --base-url {self._options.base_url}" if self._options.base_url else ""
        folder = f" -o {self._options.out}" if self._options.out else ""
        command = f"imagen-async collect TASK_ID -p {self._left[0].provider}{address}{folder}"
        say(f"Their task ids are {where}; collect each with: {command}")


def _line(result: Result) -> int:
    return result.request.line if isinstance(result.request, PromptLine) else result.index + 1


def places(result: Result) -> list[str]:
    """Where its pictures are: their paths, or their URLs while they are not saved."""
    return [str(file) for file in result.files] or list(result.urls)


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
