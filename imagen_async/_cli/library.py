"""The one door from the command to the inside of the library: what it uses that is not public. All else is public."""

from __future__ import annotations

from .._accounts import named, open_account, open_pool, provider_of, router_of
from .._core.budget import Budget
from .._core.defaults import with_defaults
from .._core.fields import FIELDS, ColumnType
from .._core.fields import Kind as FieldKind
from .._core.forecast import Shares, making_time, sending_time
from .._core.identity import Identity, Known
from .._core.journal_entry import cut_off, is_denied
from .._core.plain_text import foreign_character
from .._core.poll_schedule import FRESHNESS, PollSchedule, checked_freshness
from .._core.poll_schedule import Kind as TaskKind
from .._core.resuming import earlier_result
from .._core.routing import Policy, Router
from .._core.wire import clean
from .._folders import PART_SUFFIX, prepare_folder
from .._job_factory import Parameters
from .._journal import Journal, JournalReader
from .._journal.resume import latencies_of
from .._journal.wal import check_pair
from .._plain_group import PlainGroup
from .._text import one_line, shown
from .._watch.log import logger

__all__ = [
    "FIELDS",
    "FRESHNESS",
    "PART_SUFFIX",
    "Budget",
    "ColumnType",
    "FieldKind",
    "Identity",
    "Journal",
    "JournalReader",
    "Known",
    "Parameters",
    "PlainGroup",
    "Policy",
    "PollSchedule",
    "Router",
    "Shares",
    "TaskKind",
    "check_pair",
    "checked_freshness",
    "clean",
    "cut_off",
    "earlier_result",
    "foreign_character",
    "is_denied",
    "latencies_of",
    "logger",
    "making_time",
    "named",
    "one_line",
    "open_account",
    "open_pool",
    "prepare_folder",
    "provider_of",
    "router_of",
    "sending_time",
    "shown",
    "with_defaults",
]
