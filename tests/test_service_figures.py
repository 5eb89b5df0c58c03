"""What a service counts: no count is below zero, all sums agree, and memory does not grow."""

from __future__ import annotations

import math
import tracemalloc
from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from inner import (
    BUCKETS,
    LONGEST_PROMPT,
    MINUTES,
    MOST_NAMES,
    MOST_RECENT,
    OTHERS,
    OUTCOMES,
    Counts,
    Figures,
    Minute,
    Snapshot,
)

AT = 1_800_000_000.0
CALLERS, ACCOUNTS = ("ann", "bob", "eve"), ("kie", "kie-2")
ANY_NUMBER = st.one_of(st.floats(), st.integers(), st.none(), st.booleans())

steps = st.lists(
    st.tuples(
        st.sampled_from(["begin", "sent", "unsent", "end"]),
        st.sampled_from(CALLERS),
        st.sampled_from([*ACCOUNTS, None]),
        st.sampled_from(OUTCOMES),
    ),
    max_size=60,
)


def told(figures: Figures, step: str, caller: str, account: str | None, outcome: Any = "done") -> None:
    """Tell of one step; who is sent is sent to some account."""
    if step == "begin":
        figures.begin(caller, AT)
    elif step == "end":
        figures.end(caller, account, outcome, 1, 2.0, 3.0, AT)
    elif step == "sent":
        figures.sent(caller, account or "kie", AT)
    else:
        figures.unsent(caller, account or "kie", AT)


def total_of(counts: dict[str, Counts], name: str) -> int:
    """What some counts come to together."""
    return sum(getattr(each, name) for each in counts.values())


@given(steps)
def test_whatever_the_order_no_count_is_below_zero_and_sums_agree(steps: list[Any]) -> None:
    """Callers come to the total, accounts to what was sent, and ends are counted each once."""
    figures = Figures(AT)
    for step in steps:
        told(figures, *step)
        seen = figures.snapshot(AT)
        for counts in (seen.total, *seen.callers.values(), *seen.accounts.values()):
            assert min(msgspec.structs.astuple(counts)) >= 0
        for name in Counts.__struct_fields__:
            assert getattr(seen.total, name) == total_of(seen.callers, name)
        assert seen.total.running == total_of(seen.accounts, "running")
    ends = [step for step in steps if step[0] == "end"]
    assert Counter(step[3] for step in ends) == Counter(
        {each: getattr(seen.total, each) for each in OUTCOMES} if steps else {}
    )


@given(
    st.lists(st.tuples(st.sampled_from(CALLERS), st.sampled_from([*ACCOUNTS, None]), st.integers(1, 4)), max_size=40)
)
def test_in_good_order_all_is_exact(requests: list[tuple[str, str | None, int]]) -> None:
    """Each request is where its last step has brought it: 1 waits, 2 runs, 3 waits once more, 4 has ended."""
    figures = Figures(AT)
    for caller, account, last in requests:
        told(figures, "begin", caller, None)
        if account is not None:
            for step in ("sent", "unsent", "sent")[: {2: 1, 3: 2, 4: 3}.get(last, 0)]:
                told(figures, step, caller, account)
        if last == 4:
            told(figures, "end", caller, account)
    seen = figures.snapshot(AT)
    for caller in {each[0] for each in requests}:
        own = [each for each in requests if each[0] == caller]
        expected = Counts(
            waiting=sum(last in (1, 3) or (account is None and last == 2) for _, account, last in own),
            running=sum(last == 2 and account is not None for _, account, last in own),
            done=sum(last == 4 for *_, last in own),
            pictures=sum(last == 4 for *_, last in own),
            credits=2.0 * sum(last == 4 for *_, last in own),
        )
        assert seen.callers[caller] == expected
    for account in {each[1] for each in requests if each[1] is not None and each[2] > 1}:
        own = [each for each in requests if each[1] == account]
        assert seen.accounts[account].running == sum(last == 2 for *_, last in own)
        assert (seen.accounts[account].done, seen.accounts[account].waiting) == (sum(last == 4 for *_, last in own), 0)


def test_an_end_elsewhere_frees_what_ran() -> None:
    """What ends without a word of where, or with another account than it was sent to, runs no more."""
    figures = Figures(AT)
    told(figures, "begin", "ann", None)
    told(figures, "sent", "ann", "kie-3")
    told(figures, "end", "ann", "kie-3")
    for account in (None, "kie-2"):
        told(figures, "sent", "bob", "kie-2")
        told(figures, "begin", "ann", None)
        told(figures, "sent", "ann", "kie")
        told(figures, "end", "ann", account)
        seen = figures.snapshot(AT)
        assert (seen.callers["ann"].running, seen.callers["bob"].running) == (0, 1)
        told(figures, "end", "bob", None)


def test_each_word_of_what_happens_is_the_last_one() -> None:
    """When something was last heard of is known, whatever it was; of nothing yet it is None."""
    figures = Figures(AT)
    assert figures.snapshot(AT + 9).last is None
    for number, step in enumerate(("begin", "sent", "unsent", "end"), 1):
        {
            "begin": lambda at: figures.begin("ann", at),
            "sent": lambda at: figures.sent("ann", "kie", at),
            "unsent": lambda at: figures.unsent("ann", "kie", at),
            "end": lambda at: figures.end("ann", None, "left", 0, None, None, at),
        }[step](AT + number)
        assert figures.snapshot(AT + 9).last == AT + number
    assert figures.snapshot(AT + 9).total == Counts(left=1)


@given(pictures=st.one_of(st.integers(), st.booleans()), credits=ANY_NUMBER, latency=ANY_NUMBER, at=st.floats())
def test_no_amount_spoils_the_sums(pictures: int, credits: float | None, latency: float | None, at: float) -> None:
    """Whatever is told of an end, the figures can be written as JSON and read again, and only grow."""
    figures = Figures(AT)
    figures.end("ann", "kie", "done", 1, 8.0, 12.0, AT)
    figures.end("ann", "kie", "done", pictures, credits, latency, at)
    seen = figures.snapshot(AT)
    assert seen.total.done == 2
    assert seen.total.pictures >= 1
    assert 8.0 <= seen.total.credits < math.inf
    assert 12.0 <= seen.latencies.sum < math.inf
    again = msgspec.json.decode(msgspec.json.encode(seen), type=Snapshot, strict=False) if math.isfinite(at) else seen
    assert again == seen
    assert len(seen.minutes) == MINUTES


@pytest.mark.parametrize(
    ("pictures", "credits", "counted"),
    [
        (10_000, 1e12, (10_000, 1e12)),
        (10_001, 1.001e12, (0, 0.0)),
        (1, None, (1, 0.0)),
        (1, 0.25, (1, 0.25)),
        (-1, -1.0, (0, 0.0)),
    ],
)
def test_what_cannot_be_counts_as_nothing(pictures: int, credits: float | None, counted: tuple[int, float]) -> None:
    """An amount is believed up to a bound that no request comes to; beyond, and below zero, it is nothing."""
    figures = Figures(AT)
    figures.end("ann", "kie", "done", pictures, credits, None, AT)
    total = figures.snapshot(AT).total
    assert (total.done, (total.pictures, total.credits)) == (1, counted)


@pytest.mark.parametrize(
    ("prompt", "kept"),
    [
        ("x" * LONGEST_PROMPT, "x" * LONGEST_PROMPT),
        ("x" * (LONGEST_PROMPT + 1), "x" * (LONGEST_PROMPT - 1) + "…"),
        ("a fox" + " \n" * LONGEST_PROMPT, "a fox…"),
        ("a fox \n", "a fox"),
        ("x" * (LONGEST_PROMPT - 2) + " yz", "x" * (LONGEST_PROMPT - 2) + "…"),
        ("a \U0001f469\u200d\U0001f680", "a \U0001f469\u200d\U0001f680"),
    ],
    ids=["fits", "one-more", "blanks", "line", "at-a-blank", "joined"],
)
def test_a_prompt_is_cut_short(prompt: str, kept: str) -> None:
    """What has room stays as it is; what is cut says so."""
    figures = Figures(AT)
    figures.picture("/files/1.png", "ann", prompt, "imagen4", AT)
    assert figures.snapshot(AT).pictures[0].prompt == kept


def test_an_address_is_kept_whole_or_not_at_all() -> None:
    """A cut one would lead elsewhere."""
    figures = Figures(AT)
    for url in ("/" + "x" * 1999, "/" + "x" * 2000, "/half\ud800"):
        figures.picture(url, "ann", "a fox", "imagen4", AT)
    assert [picture.url for picture in figures.snapshot(AT).pictures] == ["", "", "/" + "x" * 1999]


def test_names_and_prompts_may_be_anything() -> None:
    """Half characters, controls, a prompt of megabytes: kept short, on one line, and as JSON."""
    figures = Figures(AT)
    for text in ("\ud800", "a\0b", "x\ny\u202e", "", "  ", "long " * 1_000_000):
        told(figures, "begin", text, None)
        told(figures, "end", text, text)
        figures.picture(f"/files/{text[:10]}", text, text, text, AT)
    seen = figures.snapshot(AT)
    assert msgspec.json.decode(msgspec.json.encode(seen), type=Snapshot) == seen
    assert len(msgspec.json.encode(seen)) < 30_000
    assert seen.pictures[0].prompt.endswith("long…")
    assert seen.pictures[3].prompt == "x y\\u202e"
    assert seen.pictures[5].url == ""


@given(st.lists(st.tuples(st.floats(0, 3 * 3600), st.integers(0, 3), st.floats(0.2, 5000)), min_size=1, max_size=50))
def test_each_minute_has_what_ended_in_it(ends: list[tuple[float, int, float]]) -> None:
    """Pictures and credits of the last two hours are exact, by the minute; the two latencies to a twentieth."""
    figures = Figures(AT)
    ends.sort()
    for after, pictures, latency in ends:
        figures.end("ann", "kie", "done", pictures, 4.0, latency, AT + after)
    now = AT + ends[-1][0]
    seen = figures.snapshot(now)
    for number, minute in enumerate(seen.minutes, int(now // 60) - MINUTES + 1):
        own = [each for each in ends if (AT + each[0]) // 60 == number]
        assert (minute.pictures, minute.credits) == (sum(each[1] for each in own), 4.0 * len(own))
        for found, part in ((minute.median, 0.5), (minute.p95, 0.95)):
            if not own:
                assert found is None
                continue
            exact = sorted(each[2] for each in own)[math.ceil(part * len(own)) - 1]
            assert found == pytest.approx(exact, rel=0.03)
    later = figures.snapshot(now + 60 * MINUTES)
    assert set(later.minutes) == {Minute()}
    assert later.total.pictures == sum(each[1] for each in ends)


def test_the_quickest_count_as_a_tenth_of_a_second() -> None:
    """Below it no bin tells more; right above, one does, and so does the last one. No time has no minutes."""
    figures = Figures(AT)
    figures.end("ann", "kie", "done", 1, 1.0, 0.001, AT)
    figures.end("ann", "kie", "done", 1, 1.0, 0.104, AT + 60)
    minutes = figures.snapshot(AT + 60).minutes
    assert (minutes[-2].median, minutes[-2].p95) == (0.1, 0.1)
    assert minutes[-1].median == pytest.approx(0.1025, rel=0.001)
    figures.end("ann", "kie", "done", 1, 1.0, 25_000.0, AT + 120)
    assert figures.snapshot(AT + 120).minutes[-1].median == pytest.approx(25_000.0, rel=0.03)
    assert figures.snapshot(math.nan).minutes == ()


@pytest.mark.parametrize("moved", [-86_400, 86_400 * 365, -120 * 60])
def test_a_clock_that_is_set_does_not_stop_the_plots(moved: int) -> None:
    """What ends after the clock was moved is in its minute, and nothing of another time is shown there."""
    figures = Figures(AT)
    figures.end("ann", "kie", "done", 5, 1.0, 1.0, AT)
    figures.end("ann", "kie", "done", 1, 1.0, 1.0, AT + moved)
    minutes = figures.snapshot(AT + moved).minutes
    assert (minutes[-1].pictures, sum(each.pictures for each in minutes)) == (1, 1)


def test_what_is_between_two_buckets_counts_for_the_upper_one() -> None:
    """A bucket holds what took up to its seconds, those included; the last one what took longer than all."""
    figures = Figures(AT)
    for latency in (0.5, 1, 1.001, 600, 601, None, -1.0, math.nan):
        figures.end("ann", "kie", "done", 1, 1.0, latency, AT)
    latencies = figures.snapshot(AT).latencies
    counts = latencies.counts
    assert latencies.sum == 0.5 + 1 + 1.001 + 600 + 601
    assert (counts[:2], counts[-2:], len(counts)) == ((2, 1), (1, 1), len(BUCKETS) + 1)


def test_callers_beyond_the_first_thousand_are_counted_together() -> None:
    """All of them are counted, under one name; and the last pictures are the last ones."""
    figures = Figures(AT)
    for number in range(MOST_NAMES + 500):
        told(figures, "begin", f"caller {number}", None)
        told(figures, "sent", f"caller {number}", "kie")
        told(figures, "end", f"caller {number}", "kie")
        figures.picture(f"/files/{number}.png", "ann", "a fox", "imagen4", AT)
    seen = figures.snapshot(AT)
    assert (len(seen.callers), seen.callers[OTHERS].done, seen.total.done) == (MOST_NAMES + 1, 500, MOST_NAMES + 500)
    assert (seen.total.waiting, seen.total.running) == (0, 0)
    newest = [f"/files/{number}.png" for number in range(MOST_NAMES + 499, MOST_NAMES + 499 - MOST_RECENT, -1)]
    assert [picture.url for picture in seen.pictures] == newest


@pytest.mark.slow
def test_memory_stays_flat() -> None:
    """Once all that is remembered is there, another hundred thousand requests of ten thousand callers cost nothing."""
    figures = Figures(AT)

    def ask(first: int, last: int) -> None:
        for number in range(first, last):
            caller, at = f"caller {number % 10_000}", AT + number
            figures.begin(caller, at)
            figures.sent(caller, "kie", at)
            figures.end(caller, "kie", "done", 1, 8.0, 1 + number % 100, at)
            figures.picture(f"/files/{number}.png", caller, "a prompt " * 10, "imagen4", at)

    ask(0, 20_000)
    tracemalloc.start()
    try:
        ask(20_000, 30_000)
        before = tracemalloc.get_traced_memory()[0]
        ask(30_000, 130_000)
        assert tracemalloc.get_traced_memory()[0] - before < 200_000
    finally:
        tracemalloc.stop()
    assert figures.snapshot(AT + 130_000).total.done == 130_000
