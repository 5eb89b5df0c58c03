"""What the tests know of the inside of the package, in one place: a rename in there touches this file alone."""

from imagen_async import _held_file as held_file
from imagen_async import _roster as roster_module
from imagen_async._accounts import SANDBOX_KEY, named, open_pool, provider_of, router_of
from imagen_async._batch.feeder import BREATHE_EVERY, Feeder
from imagen_async._callbacks import CallbackClaim, CallbackRegistry, EndedJob, SilenceWatch, log_stray
from imagen_async._cli import main, wording
from imagen_async._cli.accounts import open_pool_of, pool_of, words_of
from imagen_async._cli.commands import COMMANDS
from imagen_async._cli.export.shards import Dealer, ShardSize, shards_of
from imagen_async._cli.grammar import Parser, read
from imagen_async._cli.options import (
    AccountOptions,
    BudgetOptions,
    CallbackOptions,
    FileOptions,
    GoingOnOptions,
    NextModelOptions,
    OutputOptions,
    PictureOptions,
)
from imagen_async._cli.prompt_files import BadLine, Mistakes, PromptFile, PromptLine
from imagen_async._clock import boot_clock, now
from imagen_async._core.budget import Budget
from imagen_async._core.callback_bodies import MAX_CALLBACK, read_callback
from imagen_async._core.callback_reliability import CallbackReliability
from imagen_async._core.callbacks import (
    Address,
    Seal,
    is_signed,
    signature_of,
    task_hinted_at,
    task_named_by,
)
from imagen_async._core.cells import fields_in, request_of
from imagen_async._core.change import Change
from imagen_async._core.circuit_breaker import CircuitBreaker
from imagen_async._core.course import LAST_WORD
from imagen_async._core.defaults import DefaultsChanged, leaves_open, note_of, with_defaults
from imagen_async._core.dialects.answers import open_answer
from imagen_async._core.dialects.echo import ignored_in
from imagen_async._core.failure import Failure, kind_named
from imagen_async._core.fields import CONTENT, FIELDS, PARAMETERS, Field
from imagen_async._core.identity import Identity, Known
from imagen_async._core.job import LATE, Job
from imagen_async._core.job_events import (
    Added,
    CallbackNamed,
    Event,
    Expired,
    FetchBegun,
    Leaves,
    NobodyTakes,
    NothingLeft,
    NotSaved,
    OverBudget,
    OwnerGone,
    OwnerLeft,
    OwnerWithholds,
    Prepared,
    Readmitted,
    Saved,
    SendAborted,
    StatusAsked,
    Taken,
    TurnMissed,
    Unsendable,
    Upload,
)
from imagen_async._core.journal_entry import (
    Bill,
    EntryError,
    JournalEntry,
    bill_of,
    cut_off,
    entry_of,
    failure_of,
    is_denied,
)
from imagen_async._core.latency import EDGES, MEMORY, Curve, LatencyPrior, LifeTable, believed
from imagen_async._core.leased_places import LeasedPlaces
from imagen_async._core.limiter import LeasedLimiter
from imagen_async._core.machine import TABLE, advance
from imagen_async._core.mask import Mask
from imagen_async._core.model import Model, model_of
from imagen_async._core.own_fields import Translation
from imagen_async._core.parameters import Choice, Parameter, Schema, Text, Whole, file_of
from imagen_async._core.plan import OwnerTerms, Plan
from imagen_async._core.poll_schedule import FRESHNESS, Kind, PollSchedule
from imagen_async._core.provider import Limits, Provider, check
from imagen_async._core.rate_limit import LONGEST_REST, Rate, Window
from imagen_async._core.resuming import (
    as_ended,
    awaited,
    different,
    earlier_result,
    repeated,
    resumed,
    sent_again,
)
from imagen_async._core.routing import Offer, Policy, Route, Router
from imagen_async._core.shared_limits import Held, Position, SharedLimits, Waiting, Wish, Word, shares
from imagen_async._core.spare_places import FEW, SparePlaces
from imagen_async._core.states import (
    AwaitingCallback,
    BeingAsked,
    Claim,
    Claimed,
    Collected,
    Confirming,
    Done,
    Doubted,
    Ended,
    Failed,
    Fetching,
    Left,
    Links,
    NotAdmitted,
    Noting,
    OnTheWay,
    Orphaned,
    Preparing,
    Queued,
    Relinking,
    Running,
    Sending,
    State,
    Submitting,
    Unknown,
)
from imagen_async._core.submit_queue import MOST_WAITING, SubmitQueue
from imagen_async._core.upstream import Upstream, Upstreams, allowed
from imagen_async._core.values import DEFAULT_MODEL, ImageFile, ImageRequest, InputFile, raw_model, stable_key
from imagen_async._core.wire import (
    Accepted,
    ConnectFailed,
    Created,
    HttpRequest,
    HttpResponse,
    LinksMissing,
    Lost,
    NoAnswer,
    Pending,
    Rejected,
    Remedy,
    Succeeded,
    TaskFailed,
    TaskRefused,
    TaskStatus,
    clean,
    decode_json,
)
from imagen_async._core.wording import (
    STATE_WORDS,
    billed,
    expired,
    links_not_told,
    named_by_callback,
    nobody_takes,
    picture_gone,
    result_of,
    unknown_outcome,
    used_up,
)
from imagen_async._core.wording import (
    failure_of as wording_failure_of,
)
from imagen_async._downloads import TRIES, save_all
from imagen_async._folders import prepare_folder, sweep
from imagen_async._input_files import InputFiles
from imagen_async._job_factory import JobFactory, JobOptions, Parameters, overridden, single_job
from imagen_async._joint import Joint
from imagen_async._journal import Journal, JournalReader
from imagen_async._journal import singles as singles_module
from imagen_async._journal.callbacks import SECRET, JournalCallbacks, seal_of
from imagen_async._journal.clock import CLOCK, JournalClock
from imagen_async._journal.explained import Locked, explained
from imagen_async._journal.shared import SharedJournal
from imagen_async._journal.store import ENDED, LONGEST_WAY
from imagen_async._off_loop import OffLoop, OwnThreads, machine_time
from imagen_async._openapi.listing import listed_in
from imagen_async._plain_group import PlainGroup
from imagen_async._record_files import completed, read_models, read_provider, written
from imagen_async._records import ModelFile
from imagen_async._roster import Roster
from imagen_async._scheduler.exchange import Exchange, _own_works
from imagen_async._scheduler.scheduler import Scheduler, Standing
from imagen_async._scheduler.turns import LONGEST_TURN
from imagen_async._shared import beside, folder
from imagen_async._shared import limiter as shared_limiter
from imagen_async._shared import seat as shared_seat
from imagen_async._shared.beside import StandsStill
from imagen_async._shared.desk import Desk, Shelf
from imagen_async._shared.file import SharedFile
from imagen_async._shared.seat import Seat
from imagen_async._shared.seats import MOST_SHARED, Seats, SharedAccount, shelves_of
from imagen_async._text import one_line, shown, told
from imagen_async._transport.file_session import FileSession
from imagen_async._transport.session_pool import MAX_ANSWER, Endpoint, SessionPool
from imagen_async._transport.sessions import SessionSettings
from imagen_async._uploads import upload_endpoints
from imagen_async._watch.observer import Observer
from imagen_async.sandbox._checks import PRICE_WHERE_NONE_IS_KNOWN, problem_of
from imagen_async.sandbox._painter import SIZES, _gradient, paint
from imagen_async.sandbox._schemas import openapi_of
from imagen_async.sandbox._service import Service
from imagen_async.sandbox._webhooks import Webhook
from imagen_async.service import _bookkeeper as bookkeeper_module
from imagen_async.service import _new_callers as new_callers
from imagen_async.service._announcer import Announcer, signed
from imagen_async.service._application import refusing
from imagen_async.service._book import Book, FileRow, OrderRow
from imagen_async.service._bookkeeper import Bookkeeper
from imagen_async.service._callers import ANYBODY, Caller, Callers, WatchedCallers, callers_in, read_callers
from imagen_async.service._desk import Desk as ServiceDesk
from imagen_async.service._desk import Wait
from imagen_async.service._figures import (
    BUCKETS,
    LONGEST_PROMPT,
    MINUTES,
    MOST_NAMES,
    MOST_RECENT,
    OTHERS,
    OUTCOMES,
    AccountSeen,
    Counts,
    Figures,
    Minute,
    RateSeen,
    Recent,
    Seen,
    Snapshot,
    name_of,
)
from imagen_async.service._files import Files
from imagen_async.service._new_callers import new_caller
from imagen_async.service._ordinals import LAPSES, REPEATED_WITHIN, Turn, Turns
from imagen_async.service._reading import Asked, Body, InputPicture, Reader
from imagen_async.service._refusals import Refusal, Refused, refusal_of
from imagen_async.service._sizes import nearest_ratio
