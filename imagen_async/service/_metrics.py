"""The figures of a service as Prometheus reads them: the text format 0.0.4. Pure.

What belongs to callers and what belongs to accounts are metrics of their own names: a sum over one of them counts each
task once. Why an account does not take requests is no label, for each reason would be a series; the page tells it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Literal, get_args

import msgspec

from .._core.upstream import HealthState
from .._text import well_formed
from ._figures import BUCKETS, OUTCOMES, AccountSeen, Counts, Latencies, RateSeen, Seen, name_of

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""What the text is, as a header says it."""

PREFIX = "imagen_async_"

_STATES: tuple[HealthState, ...] = get_args(HealthState)

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})

_Sample = tuple[Mapping[str, str], float]


class _Metric(msgspec.Struct, frozen=True):
    """One metric: its name after the prefix, what it is, and its samples."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    told: str
    samples: Iterable[_Sample]


def exposition(seen: Seen) -> str:
    """All figures of a service, as Prometheus takes them from `/metrics`."""
    snapshot = seen.snapshot
    # By the names under which they are counted, one of each: a series that comes twice is refused with all the others.
    accounts = {name_of(account.name): account for account in seen.accounts}
    lines: list[str] = []
    for metric in (
        *_counted(snapshot.callers, "caller", ""),
        *_counted(snapshot.accounts, "account", "account_"),
        *_faring(accounts),
        _Metric("start_time_seconds", "gauge", "Unix time at which the counting began.", [({}, snapshot.since)]),
    ):
        lines += _head(metric.name, metric.kind, metric.told)
        lines += (_line(metric.name, labels, value) for labels, value in metric.samples)
    lines += _histogram("task_duration_seconds", "Seconds that providers took for a task.", snapshot.latencies)
    return "\n".join([*lines, ""])


def _counted(counts: Mapping[str, Counts], label: str, prefix: str) -> Iterator[_Metric]:
    """What was counted by name."""

    def each(value: Callable[[Counts], float]) -> Iterator[_Sample]:
        return (({label: name}, value(count)) for name, count in counts.items())

    ends = (
        ({label: name, "outcome": outcome}, getattr(count, outcome))
        for name, count in counts.items()
        for outcome in OUTCOMES
    )
    yield _Metric(f"{prefix}tasks_total", "counter", f"Requests that have ended, by {label} and outcome.", ends)
    yield _Metric(f"{prefix}pictures_total", "counter", f"Pictures made, by {label}.", each(lambda c: c.pictures))
    yield _Metric(f"{prefix}credits_total", "counter", f"Credits billed, by {label}.", each(lambda c: c.credits))
    # What accounts have running and waiting they say themselves.
    if label == "caller":
        yield _Metric("running", "gauge", "Requests that run now, by caller.", each(lambda c: c.running))
        yield _Metric("waiting", "gauge", "Requests that wait to be sent, by caller.", each(lambda c: c.waiting))


def _faring(accounts: Mapping[str, AccountSeen]) -> Iterator[_Metric]:
    """How the accounts fare."""

    def each(value: Callable[[AccountSeen], float | None]) -> Iterator[_Sample]:
        found = (({"account": name}, value(account)) for name, account in accounts.items())
        return ((labels, value) for labels, value in found if value is not None)

    up = each(lambda account: account.state in ("ready", "limited"))
    yield _Metric("account_up", "gauge", "1 while the account takes requests, 0 while paused or stopped.", up)
    states = (
        ({"account": name, "state": state}, account.state == state)
        for name, account in accounts.items()
        for state in _STATES
    )
    yield _Metric("account_state", "gauge", "1 for the state in which the account is, 0 for the others.", states)
    waiting, running = each(lambda account: account.waiting), each(lambda account: account.running)
    yield _Metric("account_waiting", "gauge", "Requests that wait for this account alone.", waiting)
    yield _Metric("account_running", "gauge", "Tasks at the provider.", running)
    room = each(lambda account: account.running_limit)
    yield _Metric("account_running_limit", "gauge", "Tasks that the account may have at the provider at once.", room)
    yield from _rates("submit", "Creates", {name: account.submit for name, account in accounts.items()})
    yield from _rates("status", "Status calls", {name: account.status for name, account in accounts.items()})


def _rates(name: str, things: str, rates: Mapping[str, RateSeen]) -> Iterator[_Metric]:
    """How fast accounts call, and how fast they may."""
    now = (({"account": account}, rate.rate) for account, rate in rates.items() if rate.rate is not None)
    yield _Metric(f"account_{name}_calls_per_second", "gauge", f"{things} a second of late.", now)
    most = (({"account": account}, rate.count / rate.per) for account, rate in rates.items() if rate.per > 0)
    yield _Metric(f"account_{name}_limit_calls_per_second", "gauge", f"{things} a second that are allowed now.", most)


def _histogram(name: str, told: str, latencies: Latencies) -> Iterator[str]:
    yield from _head(name, "histogram", told)
    sums = [*accumulate(latencies.counts)]
    for edge, count in zip((*map(str, BUCKETS), "+Inf"), sums, strict=True):
        yield _line(f"{name}_bucket", {"le": edge}, count)
    yield _line(f"{name}_sum", {}, latencies.sum)
    yield _line(f"{name}_count", {}, sums[-1])


def _head(name: str, kind: str, told: str) -> tuple[str, str]:
    return f"# HELP {PREFIX}{name} {told}", f"# TYPE {PREFIX}{name} {kind}"


def _line(name: str, labels: Mapping[str, str], value: float) -> str:
    """One sample. A label's value may be anybody's."""
    pairs = ",".join(f'{label}="{well_formed(text).translate(_ESCAPES)}"' for label, text in labels.items())
    return f"{PREFIX}{name}{f'{{{pairs}}}' if pairs else ''} {_number(value)}"


def _number(value: float) -> str:
    """A number as Go reads it."""
    if isinstance(value, int):
        return str(int(value))
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(float(value)).removesuffix(".0")
