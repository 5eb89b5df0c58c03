"""The client: what users hold. Opens the sessions and the loop, turns prompts into jobs and jobs into results."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Generator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import PurePath
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack, get_args

import backoff
import msgspec

from ._accounts import SANDBOX_KEY, Account, OpenAccount, open_account
from ._admission import Admission, Parameters, Terms, checked, filled, overridden
from ._batch import AHEAD, Batch, OnExit
from ._core import job as jobs
from ._core.lane import Lane
from ._core.outcomes import result_of
from ._core.plan import Plan
from ._core.poll_schedule import FRESHNESS, PollSchedule
from ._core.provider import Limits, Model
from ._core.values import ImageFile, ImageRequest, Result, stable_key
from ._downloads import save_all
from ._folders import prepare_folder
from ._intake import Requests, check_input
from ._plain_group import PlainGroup
from ._scheduler import Scheduler, now
from ._session_pool import Endpoint, FileSession, SessionPool, SessionSettings, SSLSetting
from ._single import Single
from .errors import ConfigurationError, ImagenError, InvalidRequest
from .providers import PROVIDERS

if TYPE_CHECKING:
    from ._journal import Journal
    from ._memory import Memory

OnUnknown = Literal["hold", "resubmit"]
"""What follows when the answer to a create was lost."""

SAVING_AT_ONCE = 8
"""Pictures fetched at once; a 2 MB picture costs as much as 35 API calls."""


class Job:
    """A task that the provider took. Await it for its result, as often as you like.

    Attributes:
        task_id: The provider's; `Client.collect` takes it, in another process too.
        key: The request's key.
    """

    def __init__(self, single: Single, task_id: str) -> None:
        self._single = single
        self.task_id = task_id
        self.key = single.job.key

    def __await__(self) -> Generator[Any, Any, Result]:
        return self._single.result().__await__()

    def __repr__(self) -> str:
        return f"Job(task_id={self.task_id!r}, key={self.key!r})"


class Client:
    """One pool of sessions, limits and status calls, for as many pictures at once as the account allows.

    Use it as `async with Client("kie") as client:`, in as many `asyncio.run`s as you like, one at a time.
    Leaving the block stops sending at once; tasks that still run at the provider are logged with their task ids.

    Args:
        accounts: A provider's name or an `Account`. This version takes one.
        api_key: The key, in place of the account's or the environment's.
        base_url: The API's address, in place of the account's, the environment's or the provider's.
        limits: In place of the account's or the provider's.
        connections: Connections open at once; 16 to 100 are cheapest.
        connect_timeout: Seconds to get a connection.
        timeout: Seconds for a whole API exchange; for a file, seconds without a byte. A create that takes longer has
            an unknown outcome, so keep it generous.
        freshness: Seconds of waiting that a status call is worth. Each running task is asked about when its picture, by
            what is known of how long such tasks take, would on average have waited unseen for so long. A quarter of it
            shows pictures twice as soon, for twice as many calls.
        trust_env: Take proxies from HTTPS_PROXY, HTTP_PROXY and NO_PROXY.
        ssl: An `ssl.SSLContext` with your own CA, or True for the system's. There is no way to switch TLS off.

    Raises:
        ConfigurationError: A key or an address is missing or cannot be one; raised before anything is sent.
    """

    def __init__(
        self,
        *accounts: str | Account,
        api_key: str | None = None,
        base_url: str | None = None,
        limits: Limits | None = None,
        connections: int = 64,
        connect_timeout: float = 10.0,
        timeout: float = 60.0,
        freshness: float = FRESHNESS,
        trust_env: bool = False,
        ssl: SSLSetting = True,
    ) -> None:
        if len(accounts) != 1:
            known = ", ".join(PROVIDERS)
            raise ConfigurationError(
                f'Name one account, such as Client("kie"): this version takes one, and knows {known}.'
            )
        account = accounts[0] if isinstance(accounts[0], Account) else Account(accounts[0])
        given = {"api_key": api_key, "base_url": base_url, "limits": limits}
        account = msgspec.structs.replace(
            account, **{name: value for name, value in given.items() if value is not None}
        )
        self._account: OpenAccount = open_account(account, os.environ)
        if ssl is False:
            raise ConfigurationError("TLS stays on: give an ssl.SSLContext that trusts your own CA instead of False.")
        if not isinstance(connections, int) or connections < 1:
            raise ConfigurationError(f"connections={connections!r}: it must be a whole number of at least 1.")
        for name, seconds in (("connect_timeout", connect_timeout), ("timeout", timeout)):
            if not isinstance(seconds, int | float) or not 0 < seconds < float("inf"):
                raise ConfigurationError(f"{name}={seconds!r}: it must be a number of seconds above 0.")
        self._schedule = PollSchedule(self._account.provider.latency, freshness)
        self._settings = SessionSettings(connections, connect_timeout, timeout, trust_env, ssl)
        self._stack: AsyncExitStack | None = None
        self._pool: SessionPool | None = None
        self._scheduler: Scheduler | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lane: Lane | None = None

    @property
    def _name(self) -> str:
        return self._account.provider.name

    def __repr__(self) -> str:
        return f"Client({self._name!r})"

    async def __aenter__(self) -> Self:
        if self._scheduler is not None:
            raise ConfigurationError("This client is open already; one `async with` at a time.")
        async with AsyncExitStack() as stack:
            endpoint = self._account.endpoint
            if endpoint is None:
                endpoint = await stack.enter_async_context(_own_sandbox(self._account.limits))
            pool = await stack.enter_async_context(SessionPool({self._name: endpoint}, self._settings))
            group = await stack.enter_async_context(PlainGroup())
            self._lane = self._new_lane(self._lane)
            plan = Plan([self._lane], SAVING_AT_ONCE)
            dialects = {self._name: self._account.provider.dialect}
            self._pool, self._loop = pool, asyncio.get_running_loop()
            self._scheduler = Scheduler(group, plan, dialects, pool.send, self._save)
            stack.push_async_callback(self._scheduler.close)
            self._scheduler.start(self._scheduler.run)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stack, self._stack = self._stack, None
        assert stack is not None
        try:
            await stack.__aexit__(kind, error, trace)
        finally:
            self._scheduler = self._pool = self._loop = None

    async def generate(
        self, prompt: str | ImageRequest, *, deadline: float = 900, **parameters: Unpack[Parameters]
    ) -> Result:
        """Make one picture, or a few of one prompt, and wait for it.

        Not safe to repeat blindly: each call is a new task and is paid for. When it is cancelled, nothing more is
        sent; a task that runs by then is logged with its task id.

        Args:
            prompt: What to show, or a whole request.
            deadline: Seconds from now after which it is given up.
            parameters: As in `ImageRequest`; they win over the request's own.

        Raises:
            ImagenError: It failed; the class says what to do. `DeadlineExceeded` and others carry the task id.
        """
        single = self._begin(self._job(overridden(prompt, parameters), deadline))
        try:
            return await single.result()
        finally:
            single.drop()

    async def submit(
        self, prompt: str | ImageRequest, *, deadline: float = 900, **parameters: Unpack[Parameters]
    ) -> Job:
        """Make one picture, and come back as soon as the provider has taken the task; await the job for the picture.

        Arguments, errors and costs are those of `generate`.
        """
        single = self._begin(self._job(overridden(prompt, parameters), deadline))
        try:
            return Job(single, await single.task_id())
        except BaseException:
            single.drop()
            raise

    async def collect(self, task_id: str, *, provider: str | None = None, deadline: float = 900) -> Result:
        """Wait for a task that exists, from this process or an earlier one. Free to repeat; creates nothing.

        Args:
            task_id: As the provider, an error or a log line gave it.
            provider: Whose it is; None for this client's account.
            deadline: Seconds from now after which it is given up.

        Raises:
            ImagenError: The task failed or is not known there.
        """
        if not isinstance(task_id, str) or not task_id.strip():
            raise InvalidRequest(f"task_id={task_id!r}: allowed is the id that the provider gave.")
        if provider not in (None, self._name):
            raise ConfigurationError(f"This client has no account {provider!r}, only {self._name!r}.")
        request = ImageRequest(prompt="", key=task_id)
        job = self._job(request, deadline, model=Model("", "", None))
        single = self._begin(job.to(jobs.Running(task_id.strip(), since=now(), collected=True)))
        try:
            return await single.result()
        finally:
            single.drop()

    async def credits(self) -> dict[str, float | None]:
        """Ask for the balance of every account, in its provider's credits; None where the API does not tell."""
        self._open()
        assert self._pool is not None
        dialect = self._account.provider.dialect
        question = dialect.build_credits()
        if question is None:
            return {self._name: None}
        try:
            return {self._name: dialect.read_credits(await self._pool.send(self._name, question))}
        except ImagenError as error:
            raise error.about(provider=self._name) from None

    def batch(
        self,
        requests: Requests,
        *,
        journal: str | PurePath | Journal | None = None,
        save_to: str | PurePath | None = None,
        ordered: bool = False,
        retries: int = 0,
        retry_failed: bool = False,
        on_unknown: OnUnknown = "hold",
        on_exit: OnExit = "detach",
        deadline: float = 900,
        **parameters: Unpack[Parameters],
    ) -> Batch:
        """Make many pictures: `async with client.batch(prompts) as results:`, then `async for result in results:`.

        With a journal, the same call picks up after any end of an earlier one, kill -9 and power loss included: what
        is done is not repeated, tasks that still ran are collected, pictures not yet saved are fetched, and what never
        went out is sent. Requests are known by their key, so that the order of the input does not matter.

        Args:
            requests: Any iterable or async iterable of prompts and ImageRequests; pulled only as fast as it can send.
            journal: The SQLite file that remembers every job, made if missing; one process may use it at a time.
            save_to: A folder for the pictures, made if missing.
            ordered: Hand results out in the order of the input, not as they finish.
            retries: New tasks that each request may cost when its generation fails at the provider.
            retry_failed: Make new tasks, which are paid for, of requests that failed in an earlier run.
            on_unknown: `hold` a create whose answer was lost, or `resubmit` it, once a run, which may pay for it twice.
            on_exit: `detach` from tasks that run when the block is left, or `drain`: wait for them first.
            deadline: Seconds for each request, from when it first goes out in this run.
            parameters: As in `ImageRequest`, for prompts and for what a request leaves None.

        Raises:
            InvalidRequest: The defaults fit no model, or the input is no iterable; nothing was sent.
            ConfigurationError: `save_to` cannot be written; nothing was sent.
            JournalError: On entering: the journal cannot be used, or another process has it; nothing was sent.
        """
        check_input(requests)
        if parameters.get("key") is not None:
            raise InvalidRequest("key: each request has its own; put it on the ImageRequest.")
        if not isinstance(retries, int) or retries < 0:
            raise InvalidRequest(f"retries={retries!r}: allowed is a whole number of at least 0.")
        for name, word, allowed in (
            ("on_unknown", on_unknown, get_args(OnUnknown)),
            ("on_exit", on_exit, get_args(OnExit)),
        ):
            if word not in allowed:
                raise ConfigurationError(f"{name}={word!r}: allowed is {' or '.join(map(repr, allowed))}.")
        defaults = overridden("-", parameters)
        checked(defaults, self._account.provider)
        folder = None if save_to is None else prepare_folder(save_to)
        resubmit = on_unknown == "resubmit"
        terms = Terms(deadline=_checked_deadline(deadline), retries=retries, resubmits=int(resubmit), save_to=folder)
        admission = Admission(self._account.provider, defaults, terms)
        return Batch(
            self._open(),
            requests,
            admission,
            self._savable,
            account=self._name,
            window=self._account.limits.running + AHEAD,
            ordered=ordered,
            memory=None if journal is None else self._memory(journal, admission, retry_failed, resubmit),
            on_exit=on_exit,
        )

    def _memory(
        self, journal: str | PurePath | Journal, admission: Admission, retry_failed: bool, resubmit: bool
    ) -> Memory:
        from ._memory import Memory  # only here: it loads sqlite3, which only a batch with a journal needs

        # A sandbox that a client started has died with it, and its tasks too: nobody else has them, and nobody paid.
        is_gone = self._account.endpoint is None
        wanted = {"queued": True, "failed": retry_failed, "unknown": resubmit, "running": is_gone, "ready": is_gone}
        return Memory(journal, admission, again=frozenset(state for state, is_wanted in wanted.items() if is_wanted))

    def _open(self) -> Scheduler:
        if self._scheduler is None:
            raise ConfigurationError("Open the client first: `async with Client(…) as client:`")
        return self._scheduler

    def _new_lane(self, earlier: Lane | None) -> Lane:
        """The account's turns. What an earlier opening of this client has sent still counts at the server."""
        account = self._account
        lane = Lane(self._name, account.limits, self._schedule, self._settings.connections, _pause)
        if earlier is not None:
            lane.take_over(earlier, now())
        return lane

    def _job(
        self,
        request: ImageRequest,
        deadline: float,
        *,
        model: Model | None = None,
    ) -> jobs.Job:
        """Make the job of a single request, which is its own owner, checked unless its model is given."""
        number = self._open().new_id()
        model = model or checked(request, self._account.provider)
        return jobs.Job(
            id=number,
            owner=number,
            index=0,
            key=request.key or stable_key(request),
            request=filled(request, model),
            account=self._name,
            model=model,
            deadline=_checked_deadline(deadline),
        )

    def _begin(self, job: jobs.Job) -> Single:
        """Send one job of its own, whose deadline runs from now."""
        job = msgspec.structs.replace(job, expires_at=now() + job.deadline)
        single = Single(self._open(), job, self._result)
        single.begin()
        return single

    def _result(self, job: jobs.Job) -> Result:
        return self._savable(result_of(job))

    def _savable(self, result: Result) -> Result:
        return msgspec.structs.replace(result, _saver=self._save)

    async def _save(self, result: Result, folder: str) -> tuple[ImageFile, ...]:
        """Save with the open session; with one of its own after the client was closed, or in another loop."""
        if self._pool is not None and self._pool.files is not None and self._loop is asyncio.get_running_loop():
            return await save_all(self._pool.files, result, folder)
        async with FileSession(self._settings) as files:
            return await save_all(files, result, folder)


@asynccontextmanager
async def _own_sandbox(limits: Limits) -> AsyncIterator[Endpoint]:
    """Serve the sandbox from inside this process for as long as the client is open."""
    from .sandbox import Sandbox  # only here: who uses a real provider never loads the server

    async with Sandbox(limits=limits) as sandbox:
        yield Endpoint(sandbox.url, SANDBOX_KEY)


def _checked_deadline(deadline: float) -> float:
    if isinstance(deadline, bool) or not isinstance(deadline, int | float) or not 0 < deadline < float("inf"):
        raise InvalidRequest(f"deadline={deadline!r}: allowed is a number of seconds above 0.")
    return float(deadline)


def _pause(setbacks: int, longest: float) -> float:
    """Seconds to pause after so many setbacks in a row: 1, 2, 4 … longest, of which half is chance."""
    delays = backoff.expo(base=2, factor=1, max_value=longest)
    next(delays)
    pause = next(itertools.islice(delays, min(setbacks, 20), None))
    return float(pause / 2 + backoff.full_jitter(pause / 2))
