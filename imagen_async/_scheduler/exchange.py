"""One talk of a job with its account: a create, a question, a download. From values to what came of it, as an event."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeVar

import msgspec

from .._core import origin
from .._core.course import LAST_WORD
from .._core.dialect import Dialect
from .._core.dialects.echo import ignored_in
from .._core.dialects.records import links_beside, without_links
from .._core.failure import Failure
from .._core.job import Job
from .._core.job_events import NothingLeft, NotSaved, Prepared, Saved, SendAborted, TurnMissed, Unsendable
from .._core.latency import believed
from .._core.naming import Names, NamingDialect
from .._core.states import Collected, Confirming, Fetching, Links, Relinking, Running
from .._core.values import ImageFile, ImageRequest, Result
from .._core.wire import (
    ConnectFailed,
    Created,
    HttpRequest,
    HttpResponse,
    LinksMissing,
    Lost,
    NoAnswer,
    Pending,
    Rejected,
    Succeeded,
    TaskStatus,
    clean,
)
from .._core.wording import result_of
from .._patience import Patience
from .._watch.log import log
from ..errors import DownloadFailed, ImagenError, ProtocolError, TransportError
from .renewal import Errand, new_links

ASK_AT_LEAST = 1.0
"""Seconds that a question may take even at the job's deadline: its answer may be the picture."""

SAVE_AT_LEAST = 60.0
"""Seconds that a download may take even when the job's deadline is near: the picture is paid for."""

MOST_ODD_STATES = 20
"""Unknown words for a task's state that are logged for an account: one that invents them is not to fill the memory."""


class Transport(Protocol):
    """What carries a request to an account and brings the answer; `SessionPool.send` is one."""

    def __call__(
        self,
        account: str,
        request: HttpRequest,
        *,
        within: float | None = None,
        leaves: Callable[[], bool] | None = None,
    ) -> Awaitable[HttpResponse]: ...


class JobFiles(Protocol):
    """Has the files of jobs where their providers read them; `Uploader` is one."""

    async def prepare(self, job: Job) -> Prepared | Rejected | NothingLeft: ...

    def sent(self, job: Job) -> set[str]: ...

    def addressed(self, job: Job) -> ImageRequest: ...


_Event = TypeVar("_Event")

Save = Callable[[Result, str, float], Awaitable[tuple[ImageFile, ...]]]
"""Fetches a result's pictures into a folder, within so many seconds."""


class _Gate:
    """The last question before a create leaves, and what is known by its answer of whatever came of that create."""

    def __init__(self, leaves: Callable[[], bool], *, is_named: bool = False) -> None:
        self._leaves = leaves
        self._is_named = is_named
        self._said: bool | None = None

    def __call__(self) -> bool:
        # A no, where the question itself fails: then nothing may leave.
        self._said = False
        self._said = self._leaves()
        return self._said

    def without_answer(self, failure: Failure) -> NothingLeft | Lost:
        """What a create came to that has no answer: whatever the error is, only before a yes has nothing left."""
        if self._said:
            return Lost(failure, is_named=self._is_named)
        if self._said is False:
            return SendAborted()
        if not failure.is_a(TransportError):
            return Unsendable(failure)
        return ConnectFailed(msgspec.structs.replace(failure, was_sent=False))


class Exchange:
    """Does the talking for all jobs of a client, and decides nothing.

    Args:
        dialects: How each account's API talks.
        send: Carries requests.
        save: Fetches a result's pictures into a folder, within so many seconds: what is saved by then, its error has.
        callback_url: Where the end of a job's present create is to be announced; None: nowhere.
        run_errand: Carries calls about no task's state, once the limit lets them; None: as `send` does.
        files: Has the files where providers read them that go in; None: there are none.
        mask: Masks what is secret, whatever an answer is decoded to.
        naming: How those accounts talk where creates are known by names.
        names: Makes these.
    """

    def __init__(
        self,
        dialects: Mapping[str, Dialect],
        send: Transport,
        save: Save,
        callback_url: Callable[[Job], str] | None = None,
        run_errand: Errand | None = None,
        files: JobFiles | None = None,
        mask: Callable[[str], str] = str,
        naming: Mapping[str, NamingDialect] | None = None,
        names: Names | None = None,
    ) -> None:
        self._dialects = dialects
        self._naming = naming or {}
        self._names = names or Names("")
        self._send = send
        self._save = save
        self._callback_url = callback_url
        self._run_errand = run_errand or send
        self._files = files
        self._mask = mask
        self._now = asyncio.get_running_loop().time
        self._ignoring: set[tuple[str, str]] = set()
        self._odd_states: dict[str, set[str]] = defaultdict(set)

    async def create(self, job: Job, leaves: Callable[[], bool]) -> Created | NothingLeft:
        """Send a create, once.

        Args:
            job: Whose turn has come, and whose intent is noted.
            leaves: Says whether it may go, once its connection is in hand; asked once. From a yes on a task may exist.
        """
        # A caller who left, or a callback, may have come while its intent was noted, or its connection was opened.
        gate = _Gate(leaves, is_named=job.account in self._naming)
        try:
            # With the whole timeout, however near the deadline is: a create that is cut short is a lost one.
            response = await self._send(job.account, self._create_of(job), leaves=gate)
            return self._told(self._dialects[job.account].read_created(response), response)
        except ImagenError as error:
            # An answer that is too long, or breaks off, tells nothing of the task: it may well be there.
            return gate.without_answer(self._failed(error))
        except Exception as error:  # a bug of ours: one request must not end the others
            return gate.without_answer(unexpected(job, error))

    def _create_of(self, job: Job) -> HttpRequest:
        asked = job.request if self._files is None or not job.request.local_files else self._files.addressed(job)
        naming = self._naming.get(job.account)
        if naming is not None:
            return naming.build_named(asked, job.model, self._names.name(job, self._now()))
        callback_url = None if self._callback_url is None else self._callback_url(job)
        return self._dialects[job.account].build_create(asked, job.model, callback_url)

    async def prepare(self, job: Job) -> Prepared | Rejected | NothingLeft:
        """Have the files that go in where the provider reads them; free to repeat."""
        assert self._files is not None
        try:
            with Patience((job.expires_at or math.inf) - self._now()):
                return await self._files.prepare(job)
        except TimeoutError:
            return TurnMissed()
        except Exception as error:
            return Unsendable(unexpected(job, error))

    async def ask(self, job: Job, state: Running | Confirming) -> TaskStatus:
        """Ask how a task stands; free to repeat."""
        dialect = self._dialects[job.account]
        now = self._now()
        # After a standstill the network begins anew, too.
        left = max((job.due or math.inf) - now, LAST_WORD if job.is_late(now) else ASK_AT_LEAST)
        try:
            response = await self._send(job.account, dialect.build_status(state.task_id), within=left)
            status = self._told(dialect.read_status(response, state.task_id, job.task_field), response)
        except ImagenError as error:
            return NoAnswer(self._failed(error))
        except Exception as error:
            return NoAnswer(unexpected(job, error))
        if isinstance(status, Pending) and not status.known:
            self._warn_of_state(job.account, status.state)
        elif isinstance(status, Succeeded):
            self._warn_of_links(job, state.task_id, status)
            # When it began nobody here knows of a task that was named by its id, nor of one that is asked about anew.
            is_old = isinstance(state, Collected | Relinking)
            latency = believed(status.latency, math.inf if is_old else self._now() - state.since)
            ignored = self._ignored(job, status)
            uploaded = set[str]() if self._files is None else self._files.sent(job)
            return _own_works(job, uploaded, msgspec.structs.replace(status, latency=latency, ignored=ignored))
        return status

    async def fetch(self, job: Job, state: Fetching) -> Saved | NotSaved:
        """Fetch a finished task's pictures; free to repeat."""
        assert job.save_to is not None
        by = max(job.expires_at or math.inf, self._now() + SAVE_AT_LEAST)
        try:
            with Patience(by - self._now()):
                outcome = await self._renewed(job.account, state.outcome) if state.links is Links.RENEWED else None
            if isinstance(outcome, Failure):
                return NotSaved(outcome)
            done = state.done() if outcome is None else msgspec.structs.replace(state, outcome=outcome).done()
            return Saved(await self._save(result_of(job.to(done)), job.save_to, by - self._now()))
        except ImagenError as error:
            return NotSaved(self._failed(error), error.files if isinstance(error, DownloadFailed) else ())
        except TimeoutError:
            message = "The picture could not be fetched in time; its URL is on the result."
            return NotSaved(Failure(DownloadFailed, message))
        except Exception as error:
            return NotSaved(unexpected(job, error))

    async def _renewed(self, account: str, outcome: Succeeded) -> Succeeded | Failure:
        """Ask for new links to the pictures."""
        links = await new_links(self._run_errand, account, self._dialects[account], outcome.urls, self._mask)
        return links if isinstance(links, Failure) else msgspec.structs.replace(outcome, urls=links)

    def _told(self, event: _Event, response: HttpResponse) -> _Event:
        return origin.event_of(event, response, time.time(), self._mask)

    def _failed(self, error: ImagenError) -> Failure:
        return origin.failure_of(Failure.of(error), None, time.time(), self._mask)

    def _warn_of_links(self, job: Job, task_id: str, status: Succeeded) -> None:
        if len(status.urls) > job.most_links:
            message = "%s: task %s has %d links; %d are taken, the others are in the result's raw answer"
            log(logging.WARNING, message, job.account, clean(task_id), len(status.urls), job.most_links)

    def _ignored(self, job: Job, status: Succeeded) -> tuple[str, ...]:
        """What the provider has dropped of a request, by its own word; warned of once a model."""
        if job.account in self._naming:
            ignored = status.ignored
        elif job.model.parameters is None and not job.request.extra:
            return ()
        else:
            ignored = ignored_in(status.raw, job.model.input_of(job.request), job.model.files)
        if ignored and (job.account, job.model.wire_name) not in self._ignoring:
            self._ignoring.add((job.account, job.model.wire_name))
            names = ", ".join(map(clean, ignored))
            message = "%s: %s has dropped or changed what it was sent: %s; it is on each result as `ignored`"
            log(logging.WARNING, message, job.account, job.model.name, names)
        return ignored

    def _warn_of_state(self, account: str, word: str) -> None:
        word, told = self._mask(word), self._odd_states[account]
        # Said once: the same word would come with every question about every task.
        if word not in told and len(told) < MOST_ODD_STATES:
            told.add(word)
            log(logging.WARNING, "%s: unknown task state %r is taken for: not finished", account, word)


def _own_works(job: Job, uploaded: set[str], status: Succeeded) -> Succeeded | LinksMissing:
    """What a task has made: nothing that went in, and where it is to make pictures, some."""
    sent = job.model.addresses(job.request) | uploaded
    urls = status.urls
    if not sent.isdisjoint(urls):
        # What went in may stand at the likelier place, and hide what was made.
        urls = tuple(url for url in urls if url not in sent) or links_beside(status.raw, sent)
    if not urls and (status.urls or job.model.makes_pictures):
        return without_links(status.credits, status.raw)
    return status if urls == status.urls else msgspec.structs.replace(status, urls=urls)


def unexpected(job: Job, error: Exception) -> Failure:
    """Log a bug of ours, and make of it a failure of that one job; no job may be lost for it."""
    log(logging.ERROR, "unexpected error while job %s talked", job.key, exc_info=True)
    # What a library quotes may be a whole file.
    return Failure(ProtocolError, f"Unexpected {type(error).__name__}: {clean(str(error))}")
