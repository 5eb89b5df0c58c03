"""What Prometheus reads of a service: read here by a small strict reader of the text format 0.0.4."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from inner import BUCKETS, AccountSeen, Counts, Figures, RateSeen, Seen, name_of

from imagen_async.service._metrics import CONTENT_TYPE, exposition

AT = 1_800_000_000.0

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]

_SAMPLE = re.compile(r'([a-zA-Z_:][\w:]*)(?:\{((?:[a-zA-Z_]\w*="(?:[^"\\\n]|\\[\\"n])*",?)*)\})? ([-+\w.]+)', re.ASCII)
_LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\\n]|\\[\\"n])*)"(?:,|$)', re.ASCII)
_NUMBER = re.compile(r"[-+]?(\d+(\.\d+)?(e[-+]?\d+)?|Inf)|NaN")
_SUFFIXES = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


def read(text: str) -> tuple[dict[str, str], Samples]:
    """The kinds of all metrics by their names, and their samples; raises AssertionError for what is not the format."""
    assert text.endswith("\n")
    kinds: dict[str, str] = {}
    samples: Samples = {}
    current = ""
    lines = text[:-1].split("\n")
    for number, line in enumerate(lines):
        assert line.strip()
        if line.startswith("# HELP "):
            _, _, current, told = line.split(" ", 3)
            assert told.strip()
            assert current not in kinds, "told of twice, or in two places"
            assert lines[number + 1].startswith(f"# TYPE {current} ")
        elif line.startswith("# TYPE "):
            _, _, name, kinds[current] = line.split(" ")
            assert name == current
        else:
            found = _SAMPLE.fullmatch(line)
            assert found is not None, line
            assert found[1].removeprefix(current) in _SUFFIXES[kinds[current]], "not beside its head"
            labels = _LABEL.findall(found[2] or "")
            assert len(dict(labels)) == len(labels)
            key = (found[1], frozenset((name, _unescaped(value)) for name, value in labels))
            assert key not in samples, "a series comes once"
            assert _NUMBER.fullmatch(found[3]), line
            samples[key] = float(found[3])
    return kinds, samples


def _unescaped(text: str) -> str:
    return re.sub(r'\\([\\"n])', lambda found: {"n": "\n"}.get(found[1], found[1]), text)


def value_of(samples: Samples, name: str, **labels: str) -> float:
    """The value of one series."""
    return samples[f"imagen_async_{name}", frozenset(labels.items())]


def an_account(name: str = "kie", **fields: Any) -> AccountSeen:
    """An account that takes requests."""
    usual = {"state": "ready", "why": None, "until": None, "waiting": 3, "running": 7, "running_limit": 100}
    rates = {"submit": RateSeen(20, 10.0, 1.5), "status": RateSeen(10, 1.0)}
    return AccountSeen(name, **{**usual, **rates, **fields})


def metrics_of(figures: Figures, accounts: Iterable[AccountSeen] = ()) -> tuple[dict[str, str], Samples]:
    """What is told of these."""
    return read(exposition(Seen(figures.snapshot(AT), tuple(accounts))))


def test_all_figures_are_told() -> None:
    """Counters, gauges and the histogram have what was counted, by caller and by account; sums count a task once."""
    figures = Figures(AT - 100)
    for caller, outcome, latency in (("ann", "done", 4.0), ("ann", "failed", None), ("bob", "done", 700.0)):
        figures.begin(caller, AT)
        figures.sent(caller, "kie", AT)
        figures.end(caller, "kie", outcome, int(outcome == "done"), 8.5, latency, AT)
    figures.begin("bob", AT)
    figures.begin("bob", AT)
    figures.sent("bob", "kie", AT)
    kinds, samples = metrics_of(figures, [an_account()])
    assert value_of(samples, "tasks_total", caller="ann", outcome="done") == 1
    assert value_of(samples, "tasks_total", caller="ann", outcome="failed") == 1
    assert value_of(samples, "tasks_total", caller="bob", outcome="unknown") == 0
    assert value_of(samples, "account_tasks_total", account="kie", outcome="done") == 2
    assert value_of(samples, "pictures_total", caller="bob") == 1
    assert value_of(samples, "credits_total", caller="ann") == 17
    assert value_of(samples, "account_credits_total", account="kie") == 25.5
    assert value_of(samples, "waiting", caller="bob") == 1
    assert value_of(samples, "running", caller="bob") == 1
    assert value_of(samples, "account_running", account="kie") == 7
    assert value_of(samples, "account_running_limit", account="kie") == 100
    assert value_of(samples, "account_submit_calls_per_second", account="kie") == 1.5
    assert value_of(samples, "account_submit_limit_calls_per_second", account="kie") == 2
    assert value_of(samples, "account_status_limit_calls_per_second", account="kie") == 10
    assert value_of(samples, "start_time_seconds") == AT - 100
    assert sum(value for (name, _), value in samples.items() if name == "imagen_async_tasks_total") == 3
    assert {name.endswith("_total") for name, kind in kinds.items() if kind == "counter"} == {True}
    assert {name.endswith("_total") for name, kind in kinds.items() if kind != "counter"} == {False}
    assert all(re.fullmatch(r"imagen_async_[a-z_]+", name) for name in kinds)
    assert CONTENT_TYPE == "text/plain; version=0.0.4; charset=utf-8"


def test_the_histogram_adds_up() -> None:
    """Each bucket has all that took up to its seconds, the last one everything, as `_count` does."""
    figures = Figures(AT)
    latencies = (0.3, 1.0, 4.0, 59.0, 600.0, 601.0, 5000.0)
    for latency in latencies:
        figures.end("ann", "kie", "done", 1, None, latency, AT)
    _, samples = metrics_of(figures)
    for edge in BUCKETS:
        found = value_of(samples, "task_duration_seconds_bucket", le=str(edge))
        assert found == sum(latency <= edge for latency in latencies)
    assert value_of(samples, "task_duration_seconds_bucket", le="+Inf") == len(latencies)
    assert value_of(samples, "task_duration_seconds_count") == len(latencies)
    assert value_of(samples, "task_duration_seconds_sum") == pytest.approx(sum(latencies))


@pytest.mark.parametrize("state", ["ready", "limited", "paused", "stopped"])
def test_an_account_is_up_while_it_takes_requests(state: Any) -> None:
    """One that is only slowed down is up; exactly one state is its state, and why is not told here."""
    _, samples = metrics_of(Figures(AT), [an_account(state=state, why='"the reason"')])
    assert value_of(samples, "account_up", account="kie") == (state in ("ready", "limited"))
    states = {dict(key)["state"]: value for (name, key), value in samples.items() if name.endswith("account_state")}
    assert (len(states), {name for name, value in states.items() if value}) == (4, {state})
    assert "reason" not in str(samples)


def test_what_is_not_known_is_not_told() -> None:
    """No limit of running tasks, no rate: no series, rather than a number that means something."""
    unlimited = an_account(running_limit=None, submit=RateSeen(0, 0.0), status=RateSeen(5, 2.0, math.nan))
    _, samples = metrics_of(Figures(AT), [unlimited])
    names = {name for name, _ in samples}
    assert "imagen_async_account_running_limit" not in names
    assert "imagen_async_account_submit_calls_per_second" not in names
    assert "imagen_async_account_submit_limit_calls_per_second" not in names
    assert math.isnan(value_of(samples, "account_status_calls_per_second", account="kie"))


@given(st.sets(st.text(max_size=30), max_size=5), st.sets(st.text(max_size=30), max_size=5))
def test_any_name_can_be_counted(callers: set[str], accounts: set[str]) -> None:
    """Callers and accounts are read under the names under which they are counted, each once."""
    figures = Figures(AT)
    for caller in callers:
        for account in accounts:
            figures.end(caller, account, "done", 1, 1.0, 1.0, AT)
    seen = figures.snapshot(AT)
    _, samples = metrics_of(figures, map(an_account, sorted(accounts)))
    assert {dict(key)["caller"] for name, key in samples if name == "imagen_async_tasks_total"} == {*seen.callers}
    told = {dict(key)["account"] for name, key in samples if name.endswith("_account_up")}
    assert told == {name_of(name) for name in accounts} >= {*seen.accounts}


def test_every_escape_is_read_back() -> None:
    """A label's value is read as it was, whatever it holds; half a character has no encoding."""
    names = ['a"b', "a\\b", "a\\nb", "a\nb", "\\", '\\"', "\\\n", "ünï 図 🦊", "a,b={}#", "tab\tnul\0cr\r", "\u2028"]
    callers = {name: Counts(done=1) for name in [*names, "half \ud800"]}
    seen = msgspec.structs.replace(Figures(AT).snapshot(AT), callers=callers)
    twice = tuple(map(an_account, ["kie", "kie", "half \ud800", "half \ufffd"]))
    _, samples = read(exposition(Seen(seen, twice)))
    assert {dict(key)["caller"] for name, key in samples if name.endswith("_pictures_total")} == {*names, "half \ufffd"}
    assert value_of(samples, "account_up", account="half \ufffd") == 1


def test_nothing_yet_is_told_too() -> None:
    """Before the first request the text is whole, and its histogram empty."""
    kinds, samples = metrics_of(Figures(AT))
    assert value_of(samples, "task_duration_seconds_count") == 0
    assert kinds["imagen_async_tasks_total"] == "counter"
