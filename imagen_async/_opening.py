"""What a client is made of while it is open, and how that is put together."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import AsyncExitStack
from importlib import import_module
from pathlib import PurePath
from typing import TYPE_CHECKING

import msgspec
from yarl import URL

from ._accounts import SANDBOX_KEY, OpenAccount, gone_with_client, with_named_creates
from ._addresses import is_unencrypted
from ._batch.batch import OnExit
from ._batch.inputs import check_input
from ._callbacks import SINGLES, Callback, CallbackRegistry
from ._checked import checked_choice, checked_connections, checked_kept, checked_seconds, checked_ssl
from ._core.job_events import Upload
from ._core.naming import NamingDialect
from ._core.plan import Plan
from ._core.routing import Router
from ._core.upstream import Upstream
from ._core.values import Painter, Result
from ._durable import Durable
from ._folders import folder_path, prepare_folder
from ._input_files import InputFiles, Remembered
from ._job_factory import JobFactory, OnUnknown, Parameters
from ._limits import LimiterFactory, pause, window
from ._off_loop import OffLoop
from ._plain_group import PlainGroup
from ._scheduler.callback_desk import CallbackDesk
from ._scheduler.errands import Errands
from ._scheduler.exchange import Exchange, Save
from ._scheduler.scheduler import Scheduler
from ._scheduler.services import Services
from ._scheduler.wakeup import Wakeup
from ._transport.groups import Groups
from ._transport.proxies import Proxies, environment_proxies, given_proxies
from ._transport.session_pool import Endpoint, SessionPool
from ._transport.sessions import SessionSettings, SSLSetting
from ._uploads import AT_ONCE, Uploader, upload_endpoints
from ._watch.log import log
from ._watch.observer import Observer
from .errors import ConfigurationError, InvalidRequest
from .events import Listener

if TYPE_CHECKING:
    # They load sqlite3, which few programs need.
    from ._journal.batch_journal import BatchJournal
    from ._journal.store import BatchStore, JobStore
    from ._shared.mailbox import Mailbox

Recall = Callable[[Mapping[str, Iterable[Upload]]], None]
"""Is told of files that were uploaded, and that are there yet, by account."""

FILE_THREADS = 4
"""That write and look at files; the disk takes that many at once, and two of them may be looking at pictures."""

SAVING_AT_ONCE = 8
"""Pictures fetched at once; a 2 MB picture costs as much as 35 API calls."""


class OpenClient(msgspec.Struct, frozen=True):
    """What there is of a client while it is open.

    Attributes:
        scheduler: Has its jobs.
        pool: Its sessions.
        desk: Takes its callbacks; None: none are asked for.
        stack: What leaving closes.
        off_loop: Where its files are written and looked at.
        painted: Makes the pictures of a sandbox of its own, by their URLs.
        uploader: Has files that go in where providers read them.
        durable: Keeps its single requests beyond the process; None where nothing does.
    """

    scheduler: Scheduler
    pool: SessionPool
    desk: CallbackDesk | None
    stack: AsyncExitStack
    off_loop: OffLoop
    painted: Painter | None
    uploader: Uploader
    durable: Durable | None = None

    @property
    def durably(self) -> Durable:
        """What keeps its single requests; raises ConfigurationError where nothing does."""
        if self.durable is None:
            raise ConfigurationError('This client has no journal: open one with `Client(…, journal="run.db")`.')
        return self.durable

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Where it is open."""
        return self.scheduler.home.loop


def file_threads(executor: Executor | None) -> OffLoop:
    """Where a client's files are written and looked at; its own threads are begun with the first file."""
    return OffLoop("imagen-files", FILE_THREADS, executor)


def ready_threads(executor: Executor | None) -> OffLoop:
    """The same with its threads begun; raises ConfigurationError where there are none: no picture could be saved."""
    # Loaded now: once a picture is paid for, no file handle may be left to do so.
    import_module("._downloads", __package__)
    try:
        return file_threads(executor).open()
    except OSError as error:
        raise ConfigurationError(
            f"{str(error.strerror).capitalize()}. Nothing was sent. End other programs."
        ) from error


def session_settings(
    connections: int,
    connect_timeout: float,
    timeout: float,
    proxies: Proxies,
    private_files: bool,
    ssl: SSLSetting,
) -> SessionSettings:
    """How a client's sessions connect; raises ConfigurationError for what cannot be."""
    return SessionSettings(
        checked_connections(connections),
        checked_seconds("connect_timeout", connect_timeout),
        checked_seconds("timeout", timeout),
        proxies,
        private_files,
        checked_ssl(ssl),
    )


def proxies_of(accounts: Mapping[str, OpenAccount], proxy: str | None, *, trust_env: bool) -> Proxies:
    """What the accounts of a client are reached through; raises ConfigurationError for a proxy that cannot be used."""
    of_environment = environment_proxies(os.environ) if trust_env else Proxies()
    proxies = of_environment if proxy is None else given_proxies(proxy)
    for account in accounts.values():
        # Told now, and not once a picture is paid for.
        proxies.of(URL(home_of(account)))
    return proxies


def home_of(account: OpenAccount) -> str:
    """An account's base URL; of a sandbox that is served here, its host."""
    return "http://127.0.0.1" if account.endpoint is None else account.endpoint.base_url


def begin(stack: AsyncExitStack, scheduler: Scheduler) -> None:
    """Have an open client's loop go on until the stack is left."""
    # Left in reverse: the jobs end before the tasks that talk for them, and these before their sessions.
    stack.push_async_callback(scheduler.close)
    scheduler.start(scheduler.run)


async def new_registry(
    callback: Callback | None, signing_keys: Mapping[str, str], limiter: LimiterFactory
) -> tuple[CallbackRegistry | None, Mailbox | None]:
    """A registry for one opening: jobs are counted from 1 again, and earlier tokens must not be taken for theirs.

    Beside it, where the client shares its limits: by what callbacks come from one process to another.
    """
    if callback is None:
        return None, None
    mailbox = None
    if limiter is not window:
        from ._shared.seats import Seats  # only here: who shares nothing does not load it

        mailbox = await limiter.mailbox() if isinstance(limiter, Seats) else None
    secret = None if mailbox is None else mailbox.secret
    return CallbackRegistry(callback.public_url, signing_keys, secret), mailbox


def new_observer(
    on_event: Listener | None, finish: Callable[[Result], Result], registry: CallbackRegistry | None
) -> Observer:
    """What tells of what happens in an opening."""
    return Observer(listeners(on_event), finish, None if registry is None else registry.is_token)


def new_scheduler(
    group: PlainGroup,
    pool: SessionPool,
    upstreams: Mapping[str, Upstream],
    accounts: Mapping[str, OpenAccount],
    save: Save,
    registry: CallbackRegistry | None,
    observer: Observer,
    uploader: Uploader,
) -> Scheduler:
    """The loop of an open client, with a plan for these accounts; it is not running yet."""
    plan = Plan(upstreams.values(), SAVING_AT_ONCE, expects_callbacks=registry is not None)
    observer.watch(plan.upstreams)
    dialects = {name: account.provider.dialect for name, account in accounts.items()}
    wakeup = Wakeup()
    errands = Errands(plan.upstreams, pool.send, wakeup.notice)
    callback_url = None if registry is None else registry.url_of
    naming = {name: each for name, each in dialects.items() if isinstance(each, NamingDialect)}
    send, services = pool.send, None
    if naming:
        send = Groups(pool.send, naming, group.start_soon).send
        services = Services(plan, naming, pool.listen, pool.send, group.start_soon, wakeup.notice, pause)
    names = None if services is None else services.names
    exchange = Exchange(dialects, send, save, callback_url, errands.send, uploader, pool.mask.text, naming, names)
    return Scheduler(group, plan, exchange, observer, wakeup, errands, registry, services)


async def open_endpoints(
    stack: AsyncExitStack, accounts: Mapping[str, OpenAccount], signing_keys: Mapping[str, str]
) -> tuple[dict[str, Endpoint], Painter | None]:
    """Where the accounts' APIs are; a sandbox without an address is served here until the stack is left.

    Beside it: what makes the pictures of such sandboxes, also when they have ended; None where there is none.
    """
    for name, account in accounts.items():
        if account.provider.is_service and is_unencrypted(home_of(account)):
            message = "%s: the key and the pictures travel unencrypted to %s; https:// would hide them"
            log(logging.WARNING, message, name, home_of(account))
    # No context manager of a generator: a loop that ends closes whatever generator is open, from beside.
    endpoints = {name: account.endpoint for name, account in accounts.items() if account.endpoint is not None}
    painters: list[Painter] = []
    for name in accounts.keys() - endpoints.keys():
        from .sandbox import Sandbox  # only here: who uses a real provider never loads the server

        # With the account's own limits: it refuses what goes beyond them, as a provider would.
        provider = accounts[name].provider
        sandbox = Sandbox(limits=accounts[name].limits, signing_key=signing_keys.get(name), providers=[provider])
        painters.append((await stack.enter_async_context(sandbox)).picture)
        endpoints[name] = Endpoint(sandbox.url_of(provider.name), SANDBOX_KEY)
    return endpoints, _any_of(painters) if painters else None


LONGEST_UPLOAD = 600.0
"""Seconds that the answer to an upload may take."""


async def new_uploader(
    stack: AsyncExitStack,
    accounts: Mapping[str, OpenAccount],
    endpoints: Mapping[str, Endpoint],
    settings: SessionSettings,
    off_loop: OffLoop,
) -> Uploader:
    """What uploads files for these accounts, through sessions of its own, which cost nothing while nothing goes in."""
    where = upload_endpoints(accounts, endpoints)
    own = msgspec.structs.replace(settings, connections=AT_ONCE, timeout=max(LONGEST_UPLOAD, settings.timeout))
    pool = await stack.enter_async_context(SessionPool(where, own))
    stack.callback((files := InputFiles()).close)
    records = {name: uploads for name, each in accounts.items() if (uploads := each.provider.uploads) is not None}
    marks = {name: _mark_of(endpoint) for name, endpoint in where.items()}
    return Uploader(records, marks, pool.send, files, off_loop)


def known_files(journal: object) -> Remembered:
    """What an earlier run of a batch knows of files that have gone in, where its journal is a file."""
    if journal is None:
        return lambda name: None
    from ._journal.sent_files import files_sent  # only here: it loads sqlite3, which few programs need

    return files_sent(journal)


def new_batch_journal(
    journal: str | PurePath | BatchStore,
    factory: JobFactory,
    again: frozenset[str],
    keeping: Keeping,
    expects_callbacks: bool,
    add: bool,
    recall: Recall,
) -> BatchJournal:
    """What a batch has of its journal."""
    from ._journal.batch_journal import BatchJournal  # only here: it loads sqlite3, which few programs need

    # A sandbox that a client started has died with it, and its tasks too: nobody else has them, and nobody paid.
    return BatchJournal(
        journal,
        factory,
        again=again,
        gone=keeping.gone,
        named=keeping.named,
        expects_callbacks=expects_callbacks,
        add=add,
        recall=recall,
        executor=keeping.thread,
    )


class Keeping(msgspec.Struct, frozen=True):
    """What stays of a client's single requests.

    Attributes:
        journal: Where they are kept beyond the process, or None.
        save_to: The folder for their pictures, or None.
        kept: Seconds for which what has ended stays in the journal; None: for ever.
        gone: Accounts whose tasks end with the client.
        named: Accounts where creates are known by their names.
        thread: Where journals are written, these and those of batches; None: each in a thread of its own.
    """

    journal: str | PurePath | JobStore | None = None
    save_to: str | None = None
    kept: float | None = None
    gone: frozenset[str] = frozenset()
    named: frozenset[str] = frozenset()
    thread: Executor | None = None


def checked_keeping(
    journal: str | PurePath | JobStore | None,
    save_to: str | PurePath | None,
    kept: str | float | None,
    accounts: Mapping[str, OpenAccount],
) -> Keeping:
    """What stays of single requests, as it was set; raises ConfigurationError."""
    seconds = checked_kept(kept)
    if seconds is not None and journal is None:
        raise ConfigurationError("keep_journal= says how long a journal keeps what has ended: give journal=, too.")
    gone, named = gone_with_client(accounts), with_named_creates(accounts)
    return Keeping(journal, None if save_to is None else folder_path(save_to), seconds, gone, named)


def checked_batch(
    requests: object, parameters: Parameters, on_unknown: OnUnknown, on_exit: OnExit
) -> tuple[OnUnknown, OnExit]:
    """What a batch is to do, as it was said; raises ImagenError."""
    check_input(requests)
    if parameters.get("key") is not None:
        raise InvalidRequest("key: each request has its own; put it on the ImageRequest.")
    return checked_choice("on_unknown", on_unknown, OnUnknown), checked_choice("on_exit", on_exit, OnExit)


async def open_durable(
    stack: AsyncExitStack,
    keeping: Keeping,
    scheduler: Scheduler,
    router: Router,
    uploader: Uploader,
    finish: Callable[[Result], Result],
) -> Durable | None:
    """What keeps single requests, until the stack is left; None where they are kept nowhere. Raises ImagenError."""
    if keeping.save_to is not None:
        prepare_folder(keeping.save_to)
    if keeping.journal is None:
        return None
    # Only here: they load sqlite3, which few programs need.
    from ._journal.single_callbacks import SingleCallbacks
    from ._journal.singles import SingleJournal

    journal = SingleJournal(keeping.journal, keeping.kept, uploader.recall, keeping.thread)
    upstreams = scheduler.upstreams
    await journal.open({name: each.submit.rate for name, each in upstreams.items()})
    # Closed once the jobs have ended: what they come to is written.
    stack.push_async_callback(journal.close)
    if scheduler.callbacks is not None:
        scheduler.callbacks.connect(SINGLES, SingleCallbacks(journal))
    scheduler.open(scheduler.new_id(), journal.terms(upstreams))
    scheduler.start(journal.drop_for_ever)
    return Durable(journal, scheduler, router, finish, keeping.gone, keeping.save_to, keeping.named)


def _mark_of(endpoint: Endpoint) -> str:
    """What tells an address and its key from others, and tells neither."""
    told = f"{endpoint.base_url}\n{endpoint.api_key}".encode(errors="replace")
    return hashlib.blake2b(told, digest_size=8).hexdigest()


def _any_of(painters: Iterable[Painter]) -> Painter:
    return lambda url: next(filter(None, (picture(url) for picture in painters)), None)


def listeners(on_event: Listener | None) -> Iterator[Listener]:
    """Who hears of events beside the log: OpenTelemetry where the program has set it up, and the user's own."""
    # Who has set a provider for it has imported it: nobody else pays for its import, or for events that go nowhere.
    if "opentelemetry" in sys.modules:
        try:
            from ._watch.tracing import Tracing, is_set_up

            if is_set_up():
                yield Tracing()
        except Exception:
            log(logging.DEBUG, "OpenTelemetry cannot be used, and is left out", exc_info=True)
    if on_event is not None:
        yield on_event
