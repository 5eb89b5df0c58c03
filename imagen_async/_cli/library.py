"""The one door from the command to the inside of the library: what it uses that is not public. All else is public."""

from __future__ import annotations

from .._accounts import (
    gone_with_client,
    named,
    no_such_provider,
    open_account,
    open_pool,
    provider_of,
    router_of,
    schedule_of,
    with_models,
    with_named_creates,
)
from .._batch.inputs import LookedUp
from .._core.budget import Budget
from .._core.cells import read_cell
from .._core.defaults import plain_key, with_defaults
from .._core.fields import CONTENT, FIELDS, ColumnType
from .._core.fields import Kind as FieldKind
from .._core.file_kinds.kinds import kind_of as file_kind_of
from .._core.file_names import UNNUMBERED
from .._core.forecast import Shares, making_time, sending_time
from .._core.identity import MET, Identity, Known
from .._core.journal_entry import EntryState, cut_off, is_denied
from .._core.parameters import Parameter, is_address
from .._core.plain_text import foreign_character
from .._core.plain_values import plain_item
from .._core.poll_schedule import FRESHNESS, PollSchedule, checked_freshness
from .._core.poll_schedule import Kind as TaskKind
from .._core.resuming import earlier_result, is_at_end
from .._core.routing import Policy, Router
from .._core.suggestion import did_you_mean
from .._core.values import InputFile, numbered
from .._core.wire import clean
from .._core.wording import states_sent_again
from .._folders import PART_SUFFIX, prepare_folder
from .._input_files import InputFiles
from .._job_factory import OnRefused, Parameters
from .._journal import Journal, JournalReader
from .._journal.resume import latencies_of
from .._journal.sent_files import files_sent
from .._journal.wal import check_pair
from .._off_loop import OffLoop
from .._opening import proxies_of, session_settings
from .._plain_group import PlainGroup
from .._record_files import completed, read_provider, written
from .._records import ModelFile
from .._refreshing import refresh
from .._shared.report import KeyUse, use_of
from .._shared.seats import SharedAccount
from .._text import one_line, shown
from .._transport.proxies import without_login
from .._watch.log import logger

__all__ = [
    "CONTENT",
    "FIELDS",
    "FRESHNESS",
    "MET",
    "PART_SUFFIX",
    "UNNUMBERED",
    "Budget",
    "ColumnType",
    "EntryState",
    "FieldKind",
    "Identity",
    "InputFile",
    "InputFiles",
    "Journal",
    "JournalReader",
    "KeyUse",
    "Known",
    "LookedUp",
    "ModelFile",
    "OffLoop",
    "OnRefused",
    "Parameter",
    "Parameters",
    "PlainGroup",
    "Policy",
    "PollSchedule",
    "Router",
    "SharedAccount",
    "Shares",
    "TaskKind",
    "check_pair",
    "checked_freshness",
    "clean",
    "completed",
    "cut_off",
    "did_you_mean",
    "earlier_result",
    "file_kind_of",
    "files_sent",
    "foreign_character",
    "gone_with_client",
    "is_address",
    "is_at_end",
    "is_denied",
    "latencies_of",
    "logger",
    "making_time",
    "named",
    "no_such_provider",
    "numbered",
    "one_line",
    "open_account",
    "open_pool",
    "plain_item",
    "plain_key",
    "prepare_folder",
    "provider_of",
    "proxies_of",
    "read_cell",
    "read_provider",
    "refresh",
    "router_of",
    "schedule_of",
    "sending_time",
    "session_settings",
    "shown",
    "states_sent_again",
    "use_of",
    "with_defaults",
    "with_models",
    "with_named_creates",
    "without_login",
    "written",
]
