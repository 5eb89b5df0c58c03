"""The client: what users hold. Opens the sessions and the loop, turns prompts into jobs and jobs into results."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import logging
import os
import sys
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import PurePath
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack, get_args

import anyio
import backoff
import msgspec

from ._accounts import SANDBOX_KEY, Account, OpenAccount, named, open_pool, router_of
from ._batch import AHEAD, Batch, OnExit
from ._callbacks import Callback, CallbackRegistry
from ._core import job as jobs
from ._core.budget import Budget
from ._core.plan import Plan
from ._core.poll_schedule import FRESHNESS, PollSchedule
from ._core.provider import Limits, Model, Provider
from ._core.routing import Policy
from ._core.upstream import Upstream
from ._core.values import ImageFile, ImageRequest, Result, stable_key
from ._core.wording import result_of
from ._downloads import save_all
from ._folders import prepare_folder
from ._inputs import Requests, check_input
from ._job_factory import JobFactory, JobOptions, Parameters, overridden
from ._log import log
from ._notebook import thumbnail
from ._observer import Observer
from ._plain_group import PlainGroup
from ._scheduler import Scheduler, now
from ._session_pool import Endpoint, FileSession, SessionPool, SessionSettings, SSLSetting
from ._single import Single
from .errors import ConfigurationError, ImagenError, InvalidRequest
from .events import Listener

if TYPE_CHECKING:
    from ._journal.batch_journal import BatchJournal
    from ._journal.store import JobStore

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
        self.key: str = single.job.key

    def __await__(self) -> Generator[Any, Any, Result]:
        return self._single.result().__await__()

    def __repr__(self) -> str:
        return f"Job(task_id={self.task_id!r}, key={self.key!r})"


class Client:
    """One pool of sessions, limits and status calls, for as many pictures at once as its accounts allow.

    Use it as `async with Client("kie") as client:`, in as many `asyncio.run`s as you like, one at a time.
    Leaving the block stops sending at once; tasks that still run at the provider are logged with their task ids.

    With several accounts each request goes to one that has its model and takes all of its parameters. It moves to
    another only when its create is known to have made nothing: never after a lost answer, never for a wrong request.

    Args:
        accounts: Providers' names or `Account`s, at least one.
        policy: Who of those that can take a request gets it. `spread`: whoever can send it soonest. `cheapest`: the one
            with the lowest price, an unknown one being the highest. `in_order`: the first as they are named here. With
            the last two the next one has its turn only while the one before is stopped or paused, not while it waits
            for its limit.
        api_key: The key of a single account, in place of its own or the environment's.
        base_url: The address of a single account's API, in place of its own, the environment's or the provider's.
        limits: Of a single account, in place of its own or the provider's.
        connections: Connections open at once; 16 to 100 are cheapest.
        connect_timeout: Seconds to get a connection.
        timeout: Seconds for a whole API exchange; for a file, seconds without a byte. A create that takes longer has
            an unknown outcome, so keep it generous.
        freshness: Seconds of waiting that a status call is worth. Each running task is asked about when its picture, by
            what is known of how long such tasks take, would on average have waited unseen for so long. A quarter of it
            shows pictures twice as soon, for twice as many calls.
        callback: Where providers are to announce the end of each task, to an `imagen_async.webhooks.Receiver`: pictures
            are seen at once then, for one status call, and a create whose answer was lost waits for its callback before
            its outcome is unknown. None: not at all. The status is asked for either way.
        on_event: Hears what happens to jobs, accounts and exchanges, as `imagen_async.events` has it: a plain function,
            quick, called in the client's loop. The log (`imagen_async`) and OpenTelemetry, where the program has
            set it up by then, hear the same without it.
        trust_env: Take proxies from HTTPS_PROXY, HTTP_PROXY and NO_PROXY.
        ssl: An `ssl.SSLContext` with your own CA, or True for the system's. There is no way to switch TLS off.

    Raises:
        ConfigurationError: A key or an address is missing or cannot be one; raised before anything is sent.
    """

    def __init__(
        self,
        *accounts: str | Account,
        policy: Policy = "spread",
        api_key: str | None = None,
        base_url: str | None = None,
        limits: Limits | None = None,
        connections: int = 64,
        connect_timeout: float = 10.0,
        timeout: float = 60.0,
        freshness: float = FRESHNESS,
        callback: Callback | None = None,
        on_event: Listener | None = None,
        trust_env: bool = False,
        ssl: SSLSetting = True,
    ) -> None:
        if policy not in get_args(Policy):
            raise ConfigurationError(f"policy={policy!r}: allowed is {' or '.join(map(repr, get_args(Policy)))}.")
        given = {"api_key": api_key, "base_url": base_url, "limits": limits}
        self._given = _with_settings(named(accounts), {name: each for name, each in given.items() if each is not None})
        self._accounts: dict[str, OpenAccount] = open_pool(self._given, os.environ)
        self._policy: Policy = policy
        self._router = router_of(self._given, policy)
        if ssl is False:
            raise ConfigurationError("TLS stays on: give an ssl.SSLContext that trusts your own CA instead of False.")
        if not isinstance(connections, int) or connections < 1:
            raise ConfigurationError(f"connections={connections!r}: it must be a whole number of at least 1.")
        for name, seconds in (("connect_timeout", connect_timeout), ("timeout", timeout)):
            if not isinstance(seconds, int | float) or not 0 < seconds < float("inf"):
                raise ConfigurationError(f"{name}={seconds!r}: it must be a number of seconds above 0.")
        self._schedules = {
            name: PollSchedule(account.provider.latency, freshness) for name, account in self._accounts.items()
        }
        self._settings = SessionSettings(connections, connect_timeout, timeout, trust_env, ssl)
        if on_event is not None and (not callable(on_event) or inspect.iscoroutinefunction(on_event)):
            raise ConfigurationError(f"on_event={on_event!r}: it must be a plain function of one argument, not async.")
        self._on_event = on_event
        self._callback = callback
        self._signing_keys = {} if callback is None else callback.keys(self._providers())
        self._stack: AsyncExitStack | None = None
        self._pool: SessionPool | None = None
        self._scheduler: Scheduler | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._upstreams: dict[str, Upstream] = {}

    def __repr__(self) -> str:
        return f"Client({', '.join(map(repr, self._accounts))})"

    @property
    def accounts(self) -> tuple[str, ...]:
        """The names of its accounts, in their order."""
        return tuple(self._accounts)

    @property
    def is_open(self) -> bool:
        """True inside its `async with` block."""
        return self._scheduler is not None

    async def __aenter__(self) -> Self:
        if self._scheduler is not None:
            raise ConfigurationError("This client is open already; one `async with` at a time.")
        async with AsyncExitStack() as stack:
            endpoints = {
                name: await stack.enter_async_context(_opened(account, self._signing_keys.get(name)))
                for name, account in self._accounts.items()
            }
            # A new one each time: jobs are counted from 1 again, and earlier tokens must not be taken for theirs.
            callback = self._callback
            callbacks = None if callback is None else CallbackRegistry(callback.public_url, self._signing_keys)
            is_token = None if callbacks is None else callbacks.is_token
            observer = Observer(_listeners(self._on_event), self._savable, is_token)
            pool = await stack.enter_async_context(SessionPool(endpoints, self._settings, observer))
            group = await stack.enter_async_context(PlainGroup())
            self._upstreams = {name: self._new_upstream(name) for name in self._accounts}
            plan = Plan(self._upstreams.values(), SAVING_AT_ONCE, expects_callbacks=callback is not None)
            dialects = {name: account.provider.dialect for name, account in self._accounts.items()}
            self._pool, self._loop = pool, asyncio.get_running_loop()
            self._scheduler = Scheduler(group, plan, dialects, pool.send, self._save, callbacks, observer)
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
            provider: Whose it is, as an account or a provider is named; None where the client has one account.
            deadline: Seconds from now after which it is given up.

        Raises:
            ImagenError: The task failed or is not known there.
        """
        if not isinstance(task_id, str) or not task_id.strip():
            raise InvalidRequest(f"task_id={task_id!r}: allowed is the id that the provider gave.")
        account = self._find(provider)
        number = self._open().new_id()
        job = jobs.Job(
            id=number,
            owner=number,
            index=0,
            key=task_id,
            request=ImageRequest(prompt="", key=task_id),
            account=account,
            model=Model("", "", None),
            deadline=_checked_deadline(deadline),
            state=jobs.Running(task_id.strip(), since=now(), collected=True),
        )
        single = self._begin(job)
        try:
            return await single.result()
        finally:
            single.drop()

    async def credits(self, provider: str | None = None) -> dict[str, float | None]:
        """Ask for the balance of every account, or of one, in its provider's credits; None where the API does not tell.

        Free to repeat.

        Raises:
            ImagenError: An account's balance could not be had; `error.provider` is the account.
        """
        self._open()
        names = self._accounts if provider is None else [self._find(provider)]
        balances: dict[str, float | None] = dict.fromkeys(names)
        failures: list[ImagenError] = []

        async def ask(name: str) -> None:
            try:
                balances[name] = await self._balance(name)
            except ImagenError as error:
                failures.append(error.about(provider=name))

        async with anyio.create_task_group() as group:
            for name in names:
                group.start_soon(ask, name)
        if failures:
            raise failures[0]
        return balances

    def batch(
        self,
        requests: Requests,
        *,
        journal: str | PurePath | JobStore | None = None,
        save_to: str | PurePath | None = None,
        ordered: bool = False,
        max_credits: float | None = None,
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
            max_credits: What may be spent in all, earlier runs of the journal included. A create is sent only while its
                price fits in beside what is spent and what is in flight; then BudgetReached is raised, after the
                results. An account whose price is unknown is not used: see `Account.credits`.
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
        budget = None if max_credits is None else Budget(_checked_credits(max_credits))
        router = self._router if budget is None else router_of(self._given, self._policy, needs_price=True)
        defaults = overridden("-", parameters)
        router.route(defaults)
        folder = None if save_to is None else prepare_folder(save_to)
        resubmit = on_unknown == "resubmit"
        terms = JobOptions(
            deadline=_checked_deadline(deadline), retries=retries, resubmits=int(resubmit), save_to=folder
        )
        factory = JobFactory(router, defaults, terms)
        return Batch(
            self._open(),
            requests,
            factory,
            self._savable,
            window=sum(account.limits.running for account in self._accounts.values()) + AHEAD,
            ordered=ordered,
            budget=budget,
            memory=None if journal is None else self._memory(journal, factory, retry_failed, resubmit),
            on_exit=on_exit,
        )

    def _memory(
        self, journal: str | PurePath | JobStore, factory: JobFactory, retry_failed: bool, resubmit: bool
    ) -> BatchJournal:
        from ._journal.batch_journal import BatchJournal  # only here: it loads sqlite3, which few programs need

        # A sandbox that a client started has died with it, and its tasks too: nobody else has them, and nobody paid.
        is_gone = all(account.endpoint is None for account in self._accounts.values())
        wanted = {"queued": True, "failed": retry_failed, "unknown": resubmit, "running": is_gone, "ready": is_gone}
        again = frozenset(state for state, is_wanted in wanted.items() if is_wanted)
        return BatchJournal(journal, factory, again=again, expects_callbacks=self._callback is not None)

    def _open(self) -> Scheduler:
        if self._scheduler is None:
            raise ConfigurationError("Open the client first: `async with Client(…) as client:`")
        return self._scheduler

    def _find(self, provider: str | None) -> str:
        """The account of that name, or the only one of that provider, or the only one."""
        names = [name for name, account in self._accounts.items() if provider in (None, name, account.provider.name)]
        if provider in self._accounts or len(names) == 1:
            return provider if provider in self._accounts else names[0]
        known = ", ".join(map(repr, self._accounts))
        if provider is None or names:
            raise ConfigurationError(f"Say which account: provider= one of {known}.")
        raise ConfigurationError(f"This client has no account {provider!r}, only {known}.")

    async def _balance(self, name: str) -> float | None:
        assert self._pool is not None
        dialect = self._accounts[name].provider.dialect
        question = dialect.build_credits()
        return None if question is None else dialect.read_credits(await self._pool.send(name, question))

    def _providers(self) -> dict[str, Provider]:
        return {name: account.provider for name, account in self._accounts.items()}

    def _new_upstream(self, name: str) -> Upstream:
        """An account's turns. What an earlier opening of this client has sent still counts at the server."""
        limits, schedule = self._accounts[name].limits, self._schedules[name]
        upstream = Upstream(name, limits, schedule, self._settings.connections, _pause)
        if name in self._upstreams:
            upstream.take_over(self._upstreams[name], now())
        return upstream

    def _job(self, request: ImageRequest, deadline: float) -> jobs.Job:
        """Make the job of a single request, which is its own owner."""
        number = self._open().new_id()
        sent, route = self._router.route(request)
        return jobs.Job(
            id=number,
            owner=number,
            index=0,
            key=request.key or stable_key(request),
            request=sent,
            account=route.offers[0].account,
            model=route.offers[0].model,
            route=route,
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
        return msgspec.structs.replace(result, _saver=self._save, _thumbnail=thumbnail)

    async def _save(self, result: Result, folder: str) -> tuple[ImageFile, ...]:
        """Save with the open session; with one of its own after the client was closed, or in another loop."""
        if self._pool is not None and self._pool.files is not None and self._loop is asyncio.get_running_loop():
            return await save_all(self._pool.files, result, folder)
        async with FileSession(self._settings) as files:
            return await save_all(files, result, folder)


@asynccontextmanager
async def _opened(account: OpenAccount, signing_key: str | None) -> AsyncIterator[Endpoint]:
    """Where an account's API is; a sandbox without an address is served here for as long as the client is open."""
    if account.endpoint is not None:
        yield account.endpoint
        return
    from .sandbox import Sandbox  # only here: who uses a real provider never loads the server

    async with Sandbox(limits=account.limits, signing_key=signing_key) as sandbox:
        yield Endpoint(sandbox.url_of(account.provider.name), SANDBOX_KEY)


def _listeners(on_event: Listener | None) -> Iterator[Listener]:
    """Who hears of events beside the log: OpenTelemetry where the program has set it up, and the user's own."""
    # Who has set a provider for it has imported it: nobody else pays for its import, or for events that go nowhere.
    if "opentelemetry" in sys.modules:
        try:
            from ._tracing import Tracing, is_set_up

            if is_set_up():
                yield Tracing()
        except Exception:
            log(logging.DEBUG, "OpenTelemetry cannot be used, and is left out", exc_info=True)
    if on_event is not None:
        yield on_event


def _with_settings(pool: dict[str, Account], given: dict[str, Any]) -> dict[str, Account]:
    """The accounts with what was said for the only one of them."""
    if given and len(pool) > 1:
        message = f"{', '.join(given)}: with several accounts, say it of each: Account({next(iter(pool))!r}"
        raise ConfigurationError(f"{message}, {next(iter(given))}=…).")
    return {name: msgspec.structs.replace(account, **given) for name, account in pool.items()}


def _checked_credits(credits: float) -> float:
    if isinstance(credits, bool) or not isinstance(credits, int | float) or not 0 < credits < 1e12:
        raise InvalidRequest(f"max_credits={credits!r}: allowed is a number of credits above 0.")
    return float(credits)


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
