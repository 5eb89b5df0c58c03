"""The client: what users hold. Opens the sessions and the loop, turns prompts into jobs and jobs into results."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import AsyncExitStack, closing
from functools import partial
from pathlib import PurePath
from types import TracebackType
from typing import TYPE_CHECKING, Self, Unpack

import msgspec

from ._accounts import (
    Account,
    OpenAccount,
    Shared,
    account_named,
    named,
    open_pool,
    router_of,
    schedule_of,
    with_models,
    with_settings,
)
from ._batch.batch import AHEAD, Batch, OnExit
from ._batch.inputs import Requests
from ._callbacks import Callback
from ._checked import (
    checked_callback,
    checked_choice,
    checked_credits,
    checked_deadline,
    checked_executor,
    checked_flags,
    checked_limiter,
    checked_listener,
    checked_options,
    checked_task_id,
)
from ._clock import now
from ._core.budget import Budget
from ._core.failure import Failure
from ._core.job import Job as CoreJob
from ._core.poll_schedule import FRESHNESS
from ._core.provider import Limits
from ._core.routing import Policy
from ._core.upstream import Upstream
from ._core.values import ImageFile, ImageRequest, Result
from ._core.wording import result_of, states_sent_again
from ._durable import Resumption
from ._folders import folder_path
from ._home_loop import HomeLoop
from ._input_files import InputLooks
from ._job_factory import JobFactory, OnRefused, OnUnknown, Parameters, collecting_job, overridden, single_job
from ._limits import LimiterFactory, new_upstreams, shared_or_own
from ._notebook.views import result_html
from ._opening import (
    OpenClient,
    begin,
    checked_batch,
    checked_keeping,
    known_files,
    new_batch_journal,
    new_observer,
    new_registry,
    new_scheduler,
    new_uploader,
    open_durable,
    open_endpoints,
    proxies_of,
    ready_threads,
    session_settings,
)
from ._plain_group import PlainGroup
from ._records import Models
from ._saving import own_files, save_with
from ._scheduler.callback_desk import CallbackDesk
from ._single import Job, Single
from ._transport.session_pool import SessionPool
from ._transport.sessions import SSLSetting
from .errors import ConfigurationError
from .events import Listener

if TYPE_CHECKING:
    from ._core.journal_entry import JournalEntry
    from ._journal.store import BatchStore, JobStore


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
        models: Records of models beside those that come with the package, and before them: the path of a file that
            `imagen-async models import` or `models refresh` has written, or what `imagen_async.models.from_openapi`
            returns, one or several. They hold for the provider that the file names, else for every createTask API.
        connections: Connections open at once; 16 to 100 are cheapest.
        connect_timeout: Seconds to get a connection.
        timeout: Seconds for the answer to an API call; for a file, seconds without a byte. A create that takes longer
            has an unknown outcome, so keep it generous.
        freshness: Seconds of waiting that a status call is worth. Each running task is asked about when its picture, by
            what is known of how long such tasks take, would on average have waited unseen for so long. A quarter of it
            shows pictures twice as soon, for twice as many calls. Where less than half of the status limit is used, a
            tenth of it holds: calls that nobody else needs are free.
        callback: Where providers are to announce the end of each task, to an `imagen_async.webhooks.Receiver`: pictures
            are seen at once then, for one status call, and a create whose answer was lost waits for its callback before
            its outcome is unknown. None: not at all. The status is asked for either way.
        on_event: Hears what happens to jobs, accounts and exchanges, as `imagen_async.events` has it: a plain function,
            quick, called in the client's loop. The log (`imagen_async`) and OpenTelemetry, where the program has
            set it up by then, hear the same without it.
        limiter: Makes the limit of each account's creates and status calls, in place of the exact windows that there
            are else: for limits that machines share. See `imagen_async.ports`.
        shared: Whether the limits of an account are those of all processes of this user on this machine that use its
            key at its address: they share the windows, the tasks that may run, what a 429 has taught, and its pause,
            by a small file of each key in the first folder that can be used of the environment's
            IMAGEN_ASYNC_STATE, XDG_RUNTIME_DIR, the user's state folder and one for temporary files. A folder: in that
            one; containers share one that all of them have mounted. Where no file can be used, a warning says why, and
            the process counts alone. False: it does in any case.
        trust_env: Take proxies from HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY (lower case wins), or where none
            is set from the system's settings (macOS, Windows). Loopback is never reached through one.
        proxy: One for everything but loopback, such as `http://user:password@proxy.example.com:3128`, in place of the
            environment's. Its login is sent to it alone, and shown nowhere. SOCKS is not supported.
        private_files: Fetch pictures from this machine and its networks too (loopback, private, link-local and the
            like). Without it that is done only for an account whose own API is there; else a provider's link, or where
            it leads, would reach what trusts whoever is near.
        ssl: An `ssl.SSLContext` with your own CA, or True for the system's. There is no way to switch TLS off.
        executor: Threads in which pictures are written, decoded and made small, such as a
            `concurrent.futures.ThreadPoolExecutor`; it is yours to end, and no work in it may wait for this client.
            None: a few threads of the client's own. Neither the loop's default executor nor the worker threads of
            anyio are ever used, so that these may all wait for the client. Journals and names of hosts have threads
            of their own in either case.
        journal: Where single requests are kept beyond this process: a SQLite file, made if missing, which any number
            of processes may have open at once (Linux and macOS, on a local disk), or a `JobStore` of your own, see
            `imagen_async.ports`. Then a request with a key is one task and one bill, whoever asks for it and whatever
            process has died, see `generate`; what ended processes have left is listed by `unfinished`, and collected by
            `resume`. Of a batch it keeps nothing, which has a journal of its own: `batch(journal=…)`, which may be the
            same file.
        save_to: A folder for the pictures of single requests, made if missing; then a result has them as `files`, also
            once their links have died.
        keep_journal: For how long what has ended stays in the journal: seconds, or a text such as `"90d"`, `"12h"` or
            `"30m"`. None: for ever. What is dropped leaves its key there, which is refused from then on; what has not
            ended, or is held as unknown, is never dropped. Pictures on disk stay.

    Raises:
        ConfigurationError: A key, an address or a proxy is missing or cannot be one; raised before anything is sent.
    """

    def __init__(
        self,
        *accounts: str | Account,
        policy: Policy = "spread",
        api_key: str | None = None,
        base_url: str | None = None,
        limits: Limits | None = None,
        models: Models | None = None,
        connections: int = 64,
        connect_timeout: float = 10.0,
        timeout: float = 60.0,
        freshness: float = FRESHNESS,
        callback: Callback | None = None,
        on_event: Listener | None = None,
        limiter: LimiterFactory | None = None,
        shared: Shared = True,
        trust_env: bool = False,
        proxy: str | None = None,
        private_files: bool = False,
        ssl: SSLSetting = True,
        executor: Executor | None = None,
        journal: str | PurePath | JobStore | None = None,
        save_to: str | PurePath | None = None,
        keep_journal: str | float | None = None,
    ) -> None:
        # First: what shows a traceback's variables asks for its repr, also where it is refused below.
        self._accounts: dict[str, OpenAccount] = {}
        policy = checked_choice("policy", policy, Policy)
        trust_env, private_files = checked_flags(trust_env=trust_env, private_files=private_files)
        given = {"api_key": api_key, "base_url": base_url, "limits": limits}
        pool = with_models(named(accounts), () if models is None else (models,))
        self._given = with_settings(pool, {name: each for name, each in given.items() if each is not None})
        self._accounts = open_pool(self._given, os.environ)
        self._router = router_of(self._given, policy)
        proxies = proxies_of(self._accounts, proxy, trust_env=trust_env)
        self._settings = session_settings(connections, connect_timeout, timeout, proxies, private_files, ssl)
        # Kept from one opening to the next: what was learned of latencies holds on.
        self._schedules = {name: schedule_of(account, freshness) for name, account in self._given.items()}
        self._on_event = checked_listener(on_event)
        self._limiter: LimiterFactory = checked_limiter(limiter) or shared_or_own(
            self._accounts, shared, self._settings
        )
        self._executor = checked_executor(executor)
        self._callback = checked_callback(callback)
        providers = {name: account.provider for name, account in self._accounts.items()}
        self._signing_keys = {} if callback is None else callback.keys(providers)
        self._keeping = checked_keeping(journal, save_to, keep_journal, self._accounts)
        self._opened: OpenClient | None = None
        self._is_opening = False
        # Of the last opening: what that has sent still counts in the server's window.
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
        return self._opened is not None

    async def __aenter__(self) -> Self:
        if self._is_opening or (self._opened is not None and self._open()):
            raise ConfigurationError("This client is open already; one `async with` at a time.")
        HomeLoop()
        self._is_opening = True
        try:
            async with AsyncExitStack() as stack:
                off_loop = stack.enter_context(closing(ready_threads(self._executor)))
                given = self._accounts, self._schedules, self._settings.connections, self._limiter
                upstreams = self._upstreams = new_upstreams(stack, *given, self._upstreams)
                endpoints, painted = await open_endpoints(stack, self._accounts, self._signing_keys)
                registry, mailbox = await new_registry(self._callback, self._signing_keys, self._limiter)
                observer = new_observer(self._on_event, self._savable, registry)
                pool = await stack.enter_async_context(SessionPool(endpoints, self._settings, observer))
                group = await stack.enter_async_context(PlainGroup())
                uploader = await new_uploader(stack, self._accounts, endpoints, self._settings, off_loop)
                parts = upstreams, self._accounts, self._save, registry, observer, uploader
                scheduler = new_scheduler(group, pool, *parts)
                durable = await open_durable(stack, self._keeping, scheduler, self._router, uploader, self._savable)
                begin(stack, scheduler)
                desk = None if registry is None else CallbackDesk(registry, scheduler, pool.mask.text, mailbox)
                self._opened = OpenClient(scheduler, pool, desk, stack.pop_all(), off_loop, painted, uploader, durable)
        finally:
            self._is_opening = False
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        opened = self._open()
        try:
            await opened.stack.__aexit__(kind, error, trace)
        finally:
            self._opened = None

    async def generate(
        self,
        prompt: str | ImageRequest = "",
        *,
        deadline: float = 900,
        on_refused: OnRefused = "fail",
        retry_failed: bool = False,
        **parameters: Unpack[Parameters],
    ) -> Result:
        """Make one picture, or a few of one prompt, and wait for it.

        Not safe to repeat blindly: each call is a new task and is paid for. When it is cancelled, nothing more is
        sent; a task that runs by then is logged with its task id.

        Safe to repeat with a `key` and `Client(journal=…)`: the same key and request is one task, and gives the same
        picture, after any end of the process, `kill -9` included. Who asks for a key that is being worked on, in this
        process or in another, waits for that. One that failed fails in the same way again, and so does one whose create
        was cut off by the end of its process: nobody knows whether that was paid for, and it is not sent again unless
        you say so, with `retry_failed`. When it is cancelled and nobody else waits for the key, a task that runs stays
        in the journal, and whoever asks next goes on with it. Without a key a request is in the journal, too, but is
        always a new one.

        The deadline never cuts a create short that has left: its answer may name a task that is paid for, and is waited
        for with the client's whole `timeout`; where none comes, the end is `UnknownOutcome`. A create that is still to
        go when it passes is not sent. A task that runs then may still finish: `DeadlineExceeded` has its id for
        `collect`. A process that stood still past a deadline (Ctrl-Z, a closed lid, a blocked loop) asks once more
        before it gives up, within 5 seconds; what it may have to ask for again are the ends of that kind, and the
        creates that were on their way, whose outcome is unknown.

        Args:
            prompt: What to show, or a whole request.
            deadline: Seconds from now after which it is given up, see above.
            on_refused: Where its prompt is refused, and nothing was billed, `fail`, or ask the `next` of its models.
            retry_failed: Make a new task, which is paid for, where that of its key failed, or where nobody knows what
                became of its create.
            parameters: As in `ImageRequest`; they win over the request's own.

        Raises:
            InvalidRequest: It fits no model; or its key stood for another request, and the message says what differs.
            ImagenError: It failed; the class says what to do. `DeadlineExceeded` and others carry the task id.
        """
        single = await self._new(prompt, parameters, deadline, on_refused, retry_failed)
        try:
            return await single.result()
        finally:
            single.drop()

    async def submit(
        self,
        prompt: str | ImageRequest = "",
        *,
        deadline: float = 900,
        on_refused: OnRefused = "fail",
        retry_failed: bool = False,
        **parameters: Unpack[Parameters],
    ) -> Job:
        """Make one picture, and come back as soon as the provider has taken the task; await the job for the picture.

        Arguments, errors and costs are those of `generate`.
        """
        single = await self._new(prompt, parameters, deadline, on_refused, retry_failed)
        try:
            return Job(single, await single.task_id())
        # Cancelled, too: nobody has the job then, so that its task's id goes into the log.
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
        task_id = checked_task_id(task_id)
        account = account_named(self._accounts, provider)
        number, save_to = self._open().scheduler.new_id(), self._keeping.save_to
        single = self._begin(collecting_job(task_id, account, number, checked_deadline(deadline), save_to))
        try:
            return await single.result()
        finally:
            single.drop()

    async def unfinished(self) -> list[JournalEntry]:
        """The single requests of the journal that have not ended and that no living process is at work on.

        Free to repeat, and changes nothing. Those that are `running` or `ready` are paid for: `resume` collects them,
        as does whoever asks for their key. Of those that are `submitting` nobody will ever know; those that are
        `queued` were not sent, or were refused, and are sent once somebody asks for their key.

        Raises:
            ConfigurationError: The client has no journal.
            JournalError: It cannot be read.
        """
        return await self._open().durably.unfinished()

    def resume(self, *, deadline: float = 900) -> AsyncIterator[Result]:
        """Collect what ended processes have left: `async for result in client.resume()`, as the results come.

        Free to repeat: it sends no create. A task that failed, or a create that was cut off, is a result with its
        `error`, and ends nothing. Whoever leaves the loop early leaves the rest to the next time.

        Args:
            deadline: Seconds for each.

        Raises:
            ConfigurationError: The client has no journal.
            JournalError: It cannot be read.
        """
        return Resumption(self._open().durably, self._open().scheduler, checked_deadline(deadline))

    async def credits(self, provider: str | None = None) -> dict[str, float | None]:
        """Ask for the balance of every account, or of one, in its provider's credits; None where the API does not tell.

        Free to repeat. Each question takes a place in its account's limit of status calls, and waits for it.

        Raises:
            ImagenError: An account's balance could not be had; `error.provider` is the account.
        """
        opened = self._open()
        mask = opened.pool.mask.text
        names = self._accounts if provider is None else [account_named(self._accounts, provider)]
        balances: dict[str, float | None] = dict.fromkeys(names)
        failures: list[Failure] = []

        async def ask(name: str) -> None:
            balance = await opened.scheduler.errands.balance(name, self._accounts[name].provider.dialect, mask)
            if isinstance(balance, Failure):
                failures.append(balance.about(account=name))
            else:
                balances[name] = balance

        async with PlainGroup() as group:
            for name in names:
                group.start_soon(ask, name)
        if failures:
            raise failures[0].exception()
        return balances

    def batch(
        self,
        requests: Requests,
        *,
        journal: str | PurePath | BatchStore | None = None,
        save_to: str | PurePath | None = None,
        ordered: bool = False,
        max_credits: float | None = None,
        retries: int = 0,
        retry_failed: bool = False,
        add: bool = False,
        on_unknown: OnUnknown = "hold",
        on_refused: OnRefused = "fail",
        on_exit: OnExit = "detach",
        deadline: float = 900,
        **parameters: Unpack[Parameters],
    ) -> Batch:
        """Make many pictures: `async with client.batch(prompts) as results:`, then `async for result in results:`.

        With a journal, the same call picks up after any end of an earlier one, kill -9 and power loss included: what
        is done is not repeated, tasks that still ran are collected, pictures not yet saved are fetched, and what never
        went out is sent. Requests are known by their key, or by their content, whether they say it or the defaults do,
        so that the order of the input does not matter.

        Args:
            requests: Any iterable or async iterable of prompts and ImageRequests; pulled only as fast as it can send.
                A generator is closed when the batch is left.
            journal: The SQLite file that remembers every job, made if missing; one process may use it at a time. Or a
                store of your own, see `imagen_async.ports`.
            save_to: A folder for the pictures, made if missing.
            ordered: Hand results out in the order of the input, not as they finish.
            max_credits: What may be spent in all, earlier runs of the journal included. A create is sent only while its
                price fits in beside what is spent and what is in flight; then BudgetReached is raised, after the
                results. An account whose price is unknown is not used: see `Account.credits`.
            retries: New tasks that each request may cost when its generation fails at the provider.
            retry_failed: Make new tasks, which are paid for, of requests that failed in an earlier run.
            add: With other defaults (`parameters`) than the journal's results have, make requests of their own beside
                those. Without it, that is refused.
            on_unknown: `hold` a create whose answer was lost, or `resubmit` it, once a run, which may pay for it twice.
            on_refused: Where a prompt is refused, and nothing was billed, that request `fail`s, or the `next` of its
                models is asked.
            on_exit: `detach` from tasks that run when the block is left, or `drain`: wait for them first.
            deadline: Seconds for each request, from when it first goes out in this run, as in `generate`. With a
                journal the next run collects the tasks that were given up.
            parameters: As in `ImageRequest`, for prompts and for what a request leaves None.

        Raises:
            InvalidRequest: The defaults fit no model, or the input is no iterable; nothing was sent.
            ConfigurationError: `save_to` cannot be written, or this is not the client's event loop; nothing was sent.
                Also on entering, or with a lazy input once a request shows it: the journal's results were made under
                other defaults, and `add` is not set; nothing is sent under these.
            JournalError: On entering: the journal cannot be used, or another process has it; nothing was sent.
        """
        on_unknown, on_exit = checked_batch(requests, parameters, on_unknown, on_exit)
        ordered, retry_failed, add = checked_flags(ordered=ordered, retry_failed=retry_failed, add=add)
        budget = None if max_credits is None else Budget(checked_credits(max_credits))
        router = self._router if budget is None else self._router.of_prices()
        # What fits nobody is told now, and not once a request.
        opened, defaults = self._open(), overridden("-", parameters)
        remembered = known_files(journal)
        looks = InputLooks(opened.uploader.files, router, defaults.model, opened.off_loop, remembered)
        router.check_defaults(defaults := looks.at_defaults(defaults))
        factory = JobFactory(router, defaults, checked_options(deadline, retries, on_unknown, on_refused, save_to))
        again = states_sent_again(retry_failed=retry_failed, resubmits_unknown=on_unknown == "resubmit")
        terms = again, self._keeping, self._callback is not None, add, opened.uploader.recall
        return Batch(
            opened.scheduler,
            requests,
            factory,
            self._savable,
            window=sum(account.limits.running for account in self._accounts.values()) + AHEAD,
            ordered=ordered,
            budget=budget,
            journal=None if journal is None else new_batch_journal(journal, factory, *terms),
            on_exit=on_exit,
            off_loop=opened.off_loop,
            look=looks.at,
        )

    def _open(self) -> OpenClient:
        if self._opened is None:
            raise ConfigurationError("Open the client first: `async with Client(…) as client:`")
        self._opened.scheduler.home.check()
        return self._opened

    async def _new(
        self,
        prompt: str | ImageRequest,
        parameters: Parameters,
        deadline: float,
        on_refused: OnRefused,
        retry_failed: bool,
        turn: tuple[str, float] = ("", 1.0),
        *,
        waits: bool = False,
    ) -> Single:
        """Send a single request, its files looked at, or find what its key has come to; for a caller, of several.

        Where it `waits`, and there is a journal, its time counts from when it first goes out, as in a batch.
        """
        asks_next = checked_choice("on_refused", on_refused, OnRefused) == "next"
        (retry_failed,) = checked_flags(retry_failed=retry_failed)
        opened, request = self._open(), overridden(prompt, parameters)
        remembered = known_files(self._keeping.journal)
        looks = InputLooks(opened.uploader.files, self._router, None, opened.off_loop, remembered)
        request = await looks.request(request)
        terms = opened.scheduler.new_id(), checked_deadline(deadline)
        leave = {"next_if_refused": asks_next, "renews": retry_failed}
        job = single_job(self._router, request, *terms, save_to=self._keeping.save_to, turn=turn, **leave)
        if opened.durable is not None:
            return await opened.durable.single(job, retry_failed=retry_failed, waits=waits)
        return self._begin(job)

    def _begin(self, job: CoreJob) -> Single:
        """Send one job of its own, whose deadline runs from now."""
        job = msgspec.structs.replace(job, expires_at=now() + job.deadline)
        single = Single(self._open().scheduler, job, lambda ended: self._savable(result_of(ended)))
        single.begin()
        return single

    def _savable(self, result: Result) -> Result:
        painter = None if self._opened is None else self._opened.painted
        return msgspec.structs.replace(
            result, _saver=self._save_within, _renderer=result_html, _painter=result._painter or painter
        )

    async def _save_within(self, result: Result, folder: str | PurePath, deadline: float) -> tuple[ImageFile, ...]:
        return await self._save(result, folder_path(folder), checked_deadline(deadline))

    async def _save(self, result: Result, folder: str, within: float = float("inf")) -> tuple[ImageFile, ...]:
        own = partial(own_files, self._settings, self._accounts)
        return await save_with(self._opened, own, self._executor, result, folder, within)
