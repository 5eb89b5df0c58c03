"""What a journal remembers of a job: an entry of each state, what a later run makes of it, and any order of crashes."""

from __future__ import annotations

import itertools
from operator import attrgetter
from typing import Any

import inner
import msgspec
import pytest
from builders import MODELS, failure
from conftest import naming
from hypothesis import example, given, settings
from hypothesis import strategies as st
from samples import EVENTS, FILE, GONE, LOST_BEFORE, NOW, STATES, SUCCESS, can_meet, job_in

from imagen_async import ImageRequest, errors

EPOCH = 1_700_000_000.0
AT = EPOCH + NOW
REQUEST = ImageRequest("a red fox", model="imagen4", aspect_ratio="1:1")
COUNTS: dict[str, Any] = {"attempts": 3, "retried": 1, "lost": 1, "lost_creates": (2,)}


def remembered(state: inner.State | str, **fields: Any) -> inner.JournalEntry | None:
    """What is remembered of a job in this state."""
    return inner.entry_of(job_in(state, request=REQUEST, **fields), NOW, EPOCH)


def entry_in(state: str, **fields: Any) -> inner.JournalEntry:
    """An entry as a journal has it."""
    own = {"key": "fox", "position": 4, "account": "kie", "request": REQUEST}
    return inner.JournalEntry(**{**own, "state": state, **fields})


def blank(**fields: Any) -> inner.Job:
    """The job as a later run would make it."""
    return msgspec.structs.replace(job_in("Queued", expires_at=None), **{"id": 77, "owner": 7, "index": 9, **fields})


def after(job: inner.Job, *events: str) -> inner.Job:
    """A job to which these have happened."""
    for name in events:
        job = inner.advance(job, EVENTS[name], NOW)
    return job


def by(kind: type[errors.ImagenError], task_id: str | None = "t1", cause: inner.Failure | None = None) -> inner.Failure:
    """Why a job of kie.ai's came to nothing."""
    return failure(kind, "what happened", account="kie", task_id=task_id, code=7, cause=cause)


def told(why: inner.Failure) -> dict[str, inner.EntryError]:
    """A failure as an entry has it."""
    return {"error": inner.EntryError(why.kind.__name__, why.message, why.code)}


def test_a_journal_does_not_keep_whose_turn_it_is() -> None:
    """For whom a job was made is nothing that an entry says."""
    for state in STATES:
        assert remembered(state, caller="somebody", share=2.0) == remembered(state)


LATE, NOT_SAVED = errors.DeadlineExceeded, errors.DownloadFailed
LIMITED = failure(errors.RateLimited, "429")
DARK = failure(errors.GenerationFailed, "dark")
BROKEN = by(errors.GenerationFailed)
NAMED = failure(errors.UnknownOutcome, "lost", task_id="t1")

QUEUED = {"state": "queued"}
INTENT = {"state": "submitting", "sent_at": AT}
RUNNING = {"state": "running", "task_id": "t1"}
ACCEPTED = {**RUNNING, "accepted_at": AT - 10}
READY = {"state": "ready", "task_id": "t1", "urls": SUCCESS.urls, "credits": 8, "latency": 13.5}
DONE = {**READY, "state": "done", "ended_at": AT}
FETCHED = {**READY, "files": (FILE,), "ended_at": AT}
FAILED = {"state": "failed", "ended_at": AT}
BROKE = {**FAILED, **told(BROKEN), "task_id": "t1"}
HELD = {"state": "unknown", **told(LOST_BEFORE), "ended_at": AT}

ON_THE_WAY = (
    inner.Unknown(LOST_BEFORE, is_on_the_way=True),
    inner.AwaitingCallback(LOST_BEFORE, NOW - 10, NOW + 30, is_on_the_way=True),
)

SAYS_NOTHING = (errors.InvalidRequest, errors.DeadlineExceeded, errors.AuthenticationError, errors.TransportError)
ENTRIES: list[tuple[inner.State | str, dict[str, Any] | None]] = [
    (inner.Queued(LIMITED), {**QUEUED, **told(LIMITED)}),
    (inner.Queued(fallback=DARK), {**FAILED, **told(DARK)}),
    *((state, HELD) for state in ("Queued after a loss", "AwaitingCallback", inner.Unknown(LOST_BEFORE))),
    *((name, INTENT) for name in ("Noting", "Noting after a loss")),
    # On its way its intent is known already; neither that it leaves nor that its caller does adds to it.
    *((name, None) for name in ("Sending", "Sending after a loss", "Orphaned", "Orphaned after a loss")),
    # When one was over that may be on its way nobody knows.
    *((state, {**HELD, "ended_at": None}) for state in ON_THE_WAY),
    ("Confirming", {**HELD, "task_id": "t1"}),
    *((name, ACCEPTED) for name in ("Running", "Collected", "Doubted", "Running denied", "Left")),
    *((name, READY) for name in ("Fetching", "Fetching asked again", "Fetching renewed")),
    # While a finished task is asked about again, no entry replaces the one with its URLs.
    ("Relinking", None),
    (inner.Done("t1", SUCCESS, (FILE,)), {**DONE, "files": (FILE,)}),
    (inner.Done("t1", inner.Succeeded(("u",), 1, 5, b"")), {**DONE, "urls": ("u",), "credits": 5, "latency": 1}),
    (inner.Unknown(NAMED), {**HELD, **told(NAMED), "task_id": "t1"}),
    (inner.NotAdmitted(LIMITED), {**QUEUED, **told(LIMITED)}),
    # One that was left is what it was.
    (inner.Left(inner.Queued(LIMITED)), {**QUEUED, **told(LIMITED)}),
    (inner.Left(inner.Fetching("t1", SUCCESS)), READY),
    (inner.Left(inner.Relinking("t1", since=NOW, outcome=SUCCESS)), None),
    (inner.Failed(by(errors.InvalidRequest, None)), {**FAILED, **told(by(errors.InvalidRequest))}),
    # Nothing that is true of the task: it may still finish.
    *((inner.Failed(by(kind)), {**RUNNING, **told(by(kind))}) for kind in (*SAYS_NOTHING, errors.ProtocolError)),
    # A passing trouble kept it from being accepted, and nothing was paid.
    *((inner.Failed(by(LATE, None, cause)), {**QUEUED, **told(by(LATE))}) for cause in (LIMITED, None)),
    (inner.Failed(by(LATE, None, DARK)), {**FAILED, **told(by(LATE))}),
    (inner.Failed(BROKEN), BROKE),
    (inner.Failed(BROKEN, inner.TaskFailed(DARK, 2.0, b"")), {**BROKE, "credits": 2.0}),
    *((inner.Failed(by(kind), SUCCESS, (FILE,)), {**FETCHED, **told(by(kind))}) for kind in (NOT_SAVED, LATE)),
    (inner.Failed(GONE.about(task_id="t1"), SUCCESS, (FILE,)), {**READY, **FAILED, **told(GONE), "files": (FILE,)}),
]


@pytest.mark.parametrize(("state", "fields"), ENTRIES, ids=lambda value: repr(value)[:40])
def test_every_state_has_its_entry(state: inner.State | str, fields: dict[str, Any] | None) -> None:
    """It is what is true at the provider: a task that may still finish is running, a picture that is there is ready."""
    expected = None if fields is None else entry_in(**COUNTS, price=8.0, **fields)
    assert remembered(state, **COUNTS) == expected


def test_what_this_run_has_not_sent_is_nothing_to_remember() -> None:
    """A job that was never handed out is in the input; one of an earlier run keeps that one's entry."""
    for state, attempts in ((inner.Queued(), 0), (inner.Left(inner.Queued()), 0), (inner.NotAdmitted(LIMITED), 1)):
        assert remembered(state, expires_at=None, attempts=attempts) is None
    assert remembered(inner.NotAdmitted(LIMITED), expires_at=None) == entry_in("queued", **told(LIMITED), price=8.0)
    for event in ("OwnerLeft", "NobodyTakes", "OverBudget"):
        job = inner.sent_again(entry_in("failed", task_id="t1", **told(DARK), attempts=1), blank())
        entry = inner.entry_of(after(job, event), NOW, EPOCH)
        assert entry is None or (entry.state, entry.task_id) == ("failed", "t1"), event


@pytest.mark.parametrize("kind", [inner.Claimed, inner.Orphaned])
def test_what_a_callback_named_early_outlives_a_crash(kind: type[inner.Claimed | inner.Orphaned]) -> None:
    """A create on its way is remembered as lost, with the task that was named: nobody calls again."""
    for before, create, lost in ((None, 3, (3,)), (LOST_BEFORE, 3, (2, 3)), (LOST_BEFORE, 2, (3, 2))):
        counts = COUNTS if before else {"attempts": 3}
        entry = remembered(kind(inner.Claim(create, "t9"), before), **counts)
        why = inner.failure_of(entry)
        counts = {**counts, "lost": len(lost), "lost_creates": lost}
        assert entry == entry_in("unknown", task_id="t9", **told(why), price=8.0, ended_at=AT, **counts)
        assert (why.kind, why.task_id, why.credits) == (errors.UnknownOutcome, "t9", 8 * len(lost))
        assert f"{8 * len(lost)} credits" in why.message


@pytest.mark.parametrize(("price", "said"), [(8.0, "up to 16 credits"), (None, "an unknown price")])
def test_a_create_on_the_way_when_its_process_died_is_unknown(price: float | None, said: str) -> None:
    """It may have made a task: it is unknown since it was sent, counted as lost, and says what it may have cost."""
    counts = {"attempts": 2, "retried": 1, "price": price, "sent_at": AT}
    entry = inner.cut_off(entry_in("submitting", lost=1, lost_creates=(1,), **counts))
    why = inner.failure_of(entry)
    assert entry == entry_in("unknown", **counts, lost=2, lost_creates=(1, 2), **told(why), ended_at=AT)
    assert (why.kind, why.credits) == (errors.UnknownOutcome, price and 16.0)
    assert said in why.message


def reached() -> list[tuple[str, inner.Job, inner.JournalEntry]]:
    """Every job that an event in a state leads to, with its entry where it has one."""
    pairs = itertools.product(STATES, EVENTS)
    jobs = {(state, event): job_in(state, save_to="out", retries=1, resubmits=1) for state, event in pairs}
    moved = {str(what): after(job, what[1]) for what, job in jobs.items() if can_meet(job, EVENTS[what[1]])}
    entries = {what: inner.entry_of(job, NOW, EPOCH) for what, job in moved.items()}
    return [(what, moved[what], entry) for what, entry in entries.items() if entry is not None]


def gone_on(entry: inner.JournalEntry, job: inner.Job, now: float = NOW, epoch: float = EPOCH) -> inner.Job:
    """What a later run makes of an entry, where it goes on."""
    if entry.state == "unknown":
        return inner.awaited(entry, job, now, epoch, 40.0)
    goes_on = entry.state in ("running", "ready", "done")
    return inner.resumed(entry, job, now, epoch) if goes_on else inner.sent_again(entry, job)


def test_an_entry_survives_the_disk_and_gives_the_result_that_was() -> None:
    """Whatever happened in whatever state; a job that an earlier run ended differs in nothing but the raw answer."""
    own = attrgetter("key", "index", "request", "provider", "model", "urls", "files", "task_id", "credits", "latency")
    for what, job, entry in reached():
        with naming(what):
            assert msgspec.json.decode(msgspec.json.encode(entry), type=inner.JournalEntry) == entry
            if entry.state in ("done", "failed") and isinstance(job.state, inner.Done | inner.Failed):
                was, now = inner.result_of(job), inner.earlier_result(entry)
                assert own(now) == own(was)
                assert (now.earlier, now.raw, repr(now.error)) == (True, b"", repr(was.error))


def test_a_job_that_a_later_run_takes_up_is_remembered_as_before() -> None:
    """By its task, its URLs and its counts, at the same cost; one that is held says once what a callback has named."""
    counts = ("attempts", "lost", "lost_creates")
    own = attrgetter("key", "position", "state", "account", "request", "task_id", "urls", "price", *counts)
    for what, _, written in reached():
        with naming(what):
            entry = inner.cut_off(written) if written.state == "submitting" else written
            job = gone_on(entry, blank(save_to="out"))
            assert attrgetter(*counts)(job) == attrgetter(*counts)(entry)
            if entry.state in ("running", "ready", "unknown"):
                again = inner.entry_of(job, NOW, EPOCH)
                assert (own(again), inner.bill_of(again)) == (own(entry), inner.bill_of(entry))
            if entry.state == "unknown":
                held = inner.entry_of(after(job, "Expired"), NOW, EPOCH)
                assert held == inner.entry_of(after(gone_on(held, blank()), "Expired"), NOW, EPOCH)


def test_a_failure_comes_back_as_it_was() -> None:
    """With the kind, the message, the code, the account and the task that it had; an unknown one with its cost."""
    for name, code, task_id in itertools.product(errors.__all__, (None, 422, "SENSITIVE"), (None, "t1")):
        with naming(name, code, task_id):
            credits = 8.0 if name == "UnknownOutcome" else None
            why = failure(getattr(errors, name), "why", account="kie", task_id=task_id, code=code, credits=credits)
            entry = entry_in("failed", **told(why), task_id=task_id, price=8.0, lost=1)
            assert inner.failure_of(msgspec.json.decode(msgspec.json.encode(entry), type=inner.JournalEntry)) == why
    later = entry_in("failed", error=inner.EntryError("OfALaterVersion", "why", 7))
    assert inner.failure_of(later) == failure(errors.ImagenError, "why", code=7, account="kie")
    assert inner.failure_of(entry_in("done")) is None


LATER = 5.0
"""NOW, by the clock of the later process."""

PICTURES = {"task_id": "t1", "urls": SUCCESS.urls, "latency": 13.5, "credits": 8.0, "files": (FILE,)}
OUTCOME = inner.Succeeded(SUCCESS.urls, 13.5, 8.0, b"")
UNKNOWN = failure(errors.UnknownOutcome, "lost", code=502, account="kie", credits=8.0)
LOST = {"state": "unknown", **told(UNKNOWN), "price": 8.0}
CONFIRMING = inner.Confirming(UNKNOWN, LATER - 5, LATER + 60, "t1")


def waits(since: float, until: float, *, is_on_the_way: bool = True) -> dict[str, Any]:
    """For a callback, 40 seconds from its create on, within its deadline."""
    return {"state": inner.AwaitingCallback(UNKNOWN, LATER + since, LATER + until, is_on_the_way)}


RESUMED: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ({**ACCEPTED, "credits": 4.0}, {}, {"state": inner.Running("t1", since=LATER - 10), "spent": 4.0}),
    # Nobody knows when, or by a clock that was set back.
    *(({**RUNNING, "accepted_at": at}, {}, {"state": inner.Running("t1", since=LATER)}) for at in (None, AT + 5)),
    ({**PICTURES, "state": "ready"}, {"save_to": "out"}, {"state": inner.Fetching("t1", OUTCOME)}),
    ({**PICTURES, "state": "ready"}, {}, {"state": inner.Done("t1", OUTCOME, (FILE,))}),
    ({**PICTURES, "state": "done"}, {"save_to": "out"}, {"state": inner.Fetching("t1", OUTCOME)}),
    *(({**LOST, "sent_at": AT - ago}, {}, waits(-ago, 40 - ago)) for ago in (5, 500)),
    *(({**LOST, "sent_at": at}, {}, waits(0, 40)) for at in (None, AT + 5)),
    # Noted when it was sent, by whoever found it so; or when it was seen to be over.
    ({**LOST, "sent_at": AT - 5, "ended_at": AT - 5}, {}, waits(-5, 35)),
    ({**LOST, "sent_at": AT - 5, "ended_at": AT - 4}, {}, waits(-5, 35, is_on_the_way=False)),
    # The answer to its first create came before the one that was lost.
    ({**LOST, "sent_at": AT - 5, "accepted_at": AT - 9}, {}, waits(-5, 35)),
    ({**LOST, "sent_at": AT - 5, "accepted_at": AT - 5}, {}, waits(-5, 35, is_on_the_way=False)),
    (LOST, {"deadline": 20.0}, {**waits(0, 20), "expires_at": LATER + 20}),
    # For a minute at least: a task may be denied for half of it and be known after all.
    ({**LOST, "task_id": "t1", "sent_at": AT - 5}, {}, {"state": CONFIRMING}),
]


@pytest.mark.parametrize(("fields", "terms", "expected"), RESUMED)
def test_what_goes_on_is_the_entry_s_job_on_this_run_s_terms(fields: Any, terms: Any, expected: Any) -> None:
    """Key, place, request, counts and age are the entry's; id, owner, retries, folder and time are this run's."""
    fresh = blank(**{"deadline": 300.0, "retries": 2, "request": ImageRequest("another"), "key": "another", **terms})
    own = {"key": "fox", "index": 4, "request": REQUEST, "expires_at": LATER + 300.0, **COUNTS}
    job = gone_on(entry_in(**COUNTS, **fields), fresh, LATER, AT - LATER)
    assert job == msgspec.structs.replace(fresh, **{**own, **expected})


KIE, MINE = inner.Offer("kie", MODELS["imagen4"]), inner.Offer("mine", MODELS["imagen4"], rank=1)
BOTH, PRICED = inner.Route((KIE, MINE)), {"price": 8.0, "lost": 0, "lost_creates": ()}
ONCE = {**LOST, "lost": 1, "lost_creates": (2,)}
SENT_AGAIN: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({**PRICED, **QUEUED}, {"retried": 1}),
    ({**PRICED, **QUEUED, "credits": 4.0}, {"retried": 1, "spent": 4.0}),
    ({**PRICED, **FAILED, **told(DARK), "task_id": "t1", "credits": 2.0}, {"spent": 2.0}),
    ({**PRICED, **FAILED, **told(DARK), "task_id": "t1"}, {"spent": 8.0}),
    # Only where its task may be can anybody tell two for one; where that account is gone, the others are left.
    (ONCE, {"resubmits": 0, "route": inner.Route((KIE,))}),
    ({**ONCE, "account": "mine"}, {"resubmits": 0, "route": inner.Route((MINE,))}),
    ({**ONCE, "account": "theirs"}, {"resubmits": 0}),
]


@pytest.mark.parametrize(("fields", "expected"), SENT_AGAIN)
def test_an_entry_that_may_be_sent_again_begins_anew(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    """Its creates stay counted, and what they cost; a lost one is sent once, to its own account where that is there."""
    entry = entry_in(**fields, attempts=3, retried=1)
    fresh = blank(route=BOTH, retries=1, resubmits=1, request=ImageRequest("a red fox", model="imagen4"))
    offer = expected.get("route", BOTH).offers[0]
    ours = {"account": offer.account, "model": offer.model, "index": 4, "request": REQUEST}
    counts = {"attempts": 3, "retried": 0, "lost": entry.lost, "lost_creates": entry.lost_creates}
    state = inner.Queued(fallback=None if entry.state == "queued" else inner.failure_of(entry))
    expected = {**ours, **counts, "state": state, **expected}
    assert inner.sent_again(entry, fresh) == msgspec.structs.replace(fresh, **expected)
    assert inner.sent_again(entry, blank()).way == inner.Route((KIE,))


def test_only_a_running_task_that_was_not_known_is_denied() -> None:
    """Nobody can tell what became of it; any other trouble, or another state, says nothing of the task."""
    denied = told(by(errors.InvalidRequest))
    entries = [entry_in("running", **denied), entry_in("failed", **denied), entry_in("running", **told(LIMITED))]
    assert [inner.is_denied(entry) for entry in (*entries, entry_in("running"))] == [True, False, False, False]


BILLS: list[tuple[str, float | None, float | None, int, bool, tuple[float, float, float], bool]] = [
    # State, credits, price, lost, whether there is a task; what is open, at risk and all, and whether that is known.
    ("queued", 4.0, 8.0, 0, False, (0, 0, 4), True),
    ("queued", None, 8.0, 2, False, (0, 16, 16), True),
    ("queued", None, None, 0, False, (0, 0, 0), True),
    ("queued", None, None, 1, False, (0, 0, 0), False),
    ("submitting", None, 8.0, 1, False, (0, 16, 16), True),
    ("submitting", None, None, 0, False, (0, 0, 0), False),
    ("submitting", None, None, 1, False, (0, 0, 0), False),
    ("running", 4.0, 8.0, 1, True, (8, 8, 20), True),
    ("running", 4.0, None, 0, True, (0, 0, 4), False),
    ("ready", 0.0, 8.0, 0, True, (0, 0, 0), True),
    ("ready", None, 8.0, 0, True, (0, 0, 8), True),
    ("done", 5.0, None, 0, True, (0, 0, 5), True),
    ("done", None, None, 0, True, (0, 0, 0), False),
    ("done", None, 8.0, 1, True, (0, 8, 16), True),
    ("done", -3.0, 8.0, 0, True, (0, 0, 3), True),
    ("failed", None, 8.0, 0, False, (0, 0, 0), True),
    ("failed", None, 8.0, 0, True, (0, 0, 8), True),
    ("unknown", 4.0, 8.0, 2, True, (0, 16, 20), True),
]


def test_a_bill_is_what_was_billed_or_may_have_been() -> None:
    """What the provider told counts; where it tells nothing, and for each lost create, the price does."""
    for state, credits, price, lost, has_task, figures, is_known in BILLS:
        entry = entry_in(state, credits=credits, price=price, lost=lost, task_id="t1" if has_task else None)
        bill = inner.bill_of(entry)
        assert bill == inner.Bill(state, credits, price, lost, has_task)
        assert (bill.open, bill.at_risk, bill.total, bill.is_known) == (*figures, is_known), bill


def test_an_entry_s_model_costs_what_it_cost_then() -> None:
    """The table of models wins over what an entry says of it, but its task was made at the entry's price."""
    models = [inner.model_of(ImageRequest("a red fox", "imagen4"), price, MODELS["imagen4"]) for price in (99.0, None)]
    assert models == [msgspec.structs.replace(MODELS["imagen4"], credits=99.0), MODELS["imagen4"]]
    for num_images, price in ((None, 8.0), (1, 8.0), (3, 12.0), (None, None)):
        request = ImageRequest("a red fox", model="imagen3", num_images=num_images)
        model = inner.model_of(request, price, None)
        assert (model.name, model.wire_name, model.parameters) == ("imagen3", "imagen3", None), "it keeps its name"
        assert model.price(request) == price
    nameless = entry_in("done", request=ImageRequest("x"))
    assert (inner.model_of(nameless.request, nameless.price, None).name, inner.earlier_result(nameless).model) == (
        "",
        "",
    )


X = "x" * 60
CHANGED: list[tuple[dict[str, Any], dict[str, Any], list[str]]] = [
    ({}, {"prompt": "a blue fox"}, ['prompt was "a red fox" and is "a blue fox" now']),
    ({}, {"seed": 7, "num_images": 2}, ["num_images was null and is 2 now", "seed was null and is 7 now"]),
    ({}, {"extra": {"a": 1}}, ['extra was {} and is {"a":1} now']),
    # What does not reach the provider, and the order of extra's fields, make no other picture.
    ({"extra": {"a": 1, "b": [1, {"c": 2, "d": 3}]}}, {"key": "k", "extra": {"b": [1, {"d": 3, "c": 2}], "a": 1}}, []),
    # A long text is told from shortly before where it differs.
    ({"prompt": X[:48] + "a"}, {"prompt": X[:48] + "b"}, [f'prompt was "{X[:48]}a" and is "{X[:48]}b" now']),
    ({"prompt": X[:49] + "a"}, {"prompt": X[:49] + "b"}, [f'prompt was …{X[:20]}a" and is …{X[:20]}b" now']),
    ({"prompt": X + "a"}, {"prompt": X + "b" * 99}, [f'prompt was …{X[:20]}a" and is …{X[:20]}{"b" * 35}…" now']),
]


def test_every_change_of_a_request_is_named() -> None:
    """Each parameter that another request has under the same key is named, with both values, and nothing else."""
    for before, now, said in CHANGED:
        with naming(before, now):
            was = msgspec.structs.replace(REQUEST, **before)
            assert list(map(str, inner.different(was, msgspec.structs.replace(was, **now)))) == said
    assert [inner.shown("x" * length) for length in (0, 60, 61, 999)] == ["", X, f"{X[:56]}…x", f"{X[:56]}…x"]


class Request:
    """One request through any number of processes: what was noted of it, and what may have been billed for it.

    As the shell does it, each step is noted, and the intent is on disk before a create goes; a crash loses some of what
    was noted since. Only with leave may another create go; where creates have names, the same one makes nothing more.
    """

    def __init__(
        self, leave: frozenset[str], *, expects_callbacks: bool = False, has_names: bool = False, **terms: Any
    ) -> None:
        self._terms, self._leave, self._expects_callbacks = terms, leave, expects_callbacks and not has_names
        self._has_names = has_names
        self.names: set[int] = set()
        self._now, self._durable = 0.0, 0
        self.notes: list[inner.JournalEntry] = []
        self.job: inner.Job | None = None
        self.billed, self.has_leave = 0, True
        self.failed: set[str | None] = set()
        self.logged: set[str] = set()

    def live(self, *steps: str | int) -> None:
        """Play a script of turns, events, and crashes that lose so many notes; what has ended may be taken up again."""
        for step in steps:
            if isinstance(step, int):
                self.crash(step)
            elif self.job is None:
                self.job = self.taken_up()
            elif step != "wake":
                self.happen(self.job, step)
            elif isinstance(self.job.state, inner.Queued):
                self._move(self.job, EVENTS["Taken"])
                self._durable = len(self.notes)
            elif isinstance(self.job.state, inner.Noting):
                self._move(self.job, EVENTS["Leaves"])
            if self.job is not None and isinstance(self.job.state, inner.Ended):
                self.crash(0)

    def crash(self, forgotten: int) -> None:
        """The process ends: some of what was noted last is forgotten, and a create on the way gets no answer."""
        if self.job is not None and isinstance(self.job.state, inner.OnTheWay):
            self._bill(self.job)
        del self.notes[max(self._durable, len(self.notes) - forgotten) :]
        self._durable, self.job = len(self.notes), None

    def happen(self, job: inner.Job, name: str) -> None:
        """Let an event happen to the job, if it fits, and count what it says of money."""
        last = f"t{job.attempts}"
        taken = {"Accepted": inner.Accepted(last), "Accepted by name": inner.Accepted(last, is_named=True, waits=True)}
        event = {**EVENTS, **taken, "Called": inner.CallbackNamed(job.attempts, last)}[name]
        if isinstance(event, inner.Lost | inner.Accepted) and event.is_named != self._has_names:
            return
        if isinstance(event, inner.Lost | inner.Rejected):
            event = msgspec.structs.replace(event, callback_wait=30.0 * self._expects_callbacks)
        is_odd = name == "Expired" and job.expires_at is None
        is_odd |= isinstance(event, inner.CallbackNamed) and not self._expects_callbacks
        is_odd |= name in OF_SERVICES and not self._has_names
        if is_odd or not can_meet(job, event):
            return
        self._now += 20.0
        if isinstance(job.state, inner.OnTheWay):
            claim = getattr(job.state, "claim", None)
            is_named = claim is not None and claim.create == job.attempts
            if isinstance(event, inner.Accepted | inner.Lost | inner.OwnerGone) or (
                is_named and isinstance(event, inner.Rejected | inner.ConnectFailed)
            ):
                self._bill(job)
        elif isinstance(event, inner.TaskFailed) and event.is_unsent:
            # It has made nothing.
            self.has_leave, self.billed = True, self.billed - 1
            self.logged.add(str(job.state.task_id))
        elif isinstance(event, inner.TaskFailed) and not isinstance(job.state, inner.Relinking):
            self.failed.add(job.state.task_id)
        self._move(job, event)

    def taken_up(self) -> inner.Job | None:
        """The job that the next process makes of what is on disk; None where it leaves that alone."""
        fresh = blank(**self._terms)
        if not self.notes:
            assert not self.billed, "a create was sent, and nothing remembers it"
            return fresh
        if self.notes[-1].state == "submitting":
            self.notes[-1] = inner.cut_off(self.notes[-1])
        entry = self.notes[-1]
        if entry.state in ("running", "ready"):
            return inner.resumed(entry, fresh, self._now, EPOCH)
        if self._has_names and entry.state == "unknown" and entry.task_id is None:
            return inner.repeated(entry, fresh)
        if self._expects_callbacks and entry.state == "unknown" and (entry.task_id or "unknown" not in self._leave):
            return inner.awaited(entry, fresh, self._now, EPOCH, 1e6)
        if entry.state == "queued" or entry.state in self._leave:
            self.has_leave |= entry.state != "queued"
            return inner.sent_again(entry, fresh)
        return None

    def _move(self, before: inner.Job, event: inner.Event) -> None:
        """What the machine makes of it is noted; a task that may still be paid for is not forgotten."""
        self.job = after = inner.advance(before, event, self._now)
        if isinstance(event, inner.CallbackNamed) and after is not before:
            self.has_leave &= not isinstance(before.state, inner.Queued | inner.Noting)
            # Another create has left meanwhile, by leave: should that be accepted, the log tells of this task.
            if isinstance(before.state, inner.Sending) and event.create != before.attempts:
                self.logged.add(event.task_id)
        is_sent_again = after.retried > before.retried or after.resubmits < before.resubmits
        self.has_leave |= isinstance(after.state, inner.Queued) and is_sent_again
        entry = inner.entry_of(after, self._now, EPOCH)
        if entry is not None:
            was = self.notes[-1] if self.notes and entry.state != "submitting" else entry
            is_kept = was.task_id in (None, entry.task_id, *self.failed, *self.logged) or was.state in self._leave
            assert is_kept, "a task's id is lost from the journal"
            self.notes.append(entry)

    def _bill(self, job: inner.Job) -> None:
        if self._has_names and job.attempts in self.names:
            return
        self.names.add(job.attempts)
        assert self.has_leave, "a create went that may be paid twice, and nobody gave leave"
        self.has_leave = False
        self.billed += 1


OF_SERVICES = ("Rejected REPEAT", "TaskFailed unsent", "Pending its turn")
"""What is said only where creates have names."""
# The last only where the caller has given leave.
ANY_EVENT = sorted(name for name in EVENTS if not name.startswith(("Taken", "Leaves", "Readmitted", "Rejected RENEW")))
USUAL = [*["wake"] * 6, *["Accepted", "Accepted by name", "Succeeded", "Called"] * 2]
USUAL += ["TaskFailed", "NotSaved gone", "CallbackNamed"]
STEPS = st.sampled_from([*USUAL * 8, *ANY_EVENT, *[0, 1, 2, 3] * 2])
TERMS = {"retries": st.integers(0, 2), "resubmits": st.integers(0, 1), "expects_callbacks": st.booleans()}
TERMS["has_names"] = st.booleans()
TERMS["save_to"] = st.sampled_from([None, "out", "out"])
LEAVE = st.frozensets(st.sampled_from(["failed", "unknown"]))
RESENT = [*["wake"] * 4, "Lost", *["wake"] * 2, "CallbackNamed", "Accepted"]
"""A lost create's task is named while another create is on its way."""


@settings(max_examples=200)
@given(steps=st.lists(STEPS, min_size=10, max_size=60), terms=st.fixed_dictionaries(TERMS), leave=LEAVE)
@example(
    steps=RESENT, terms={"resubmits": 1, "expects_callbacks": True, "retries": 0, "save_to": None}, leave=frozenset()
)
@example(steps=[*["wake"] * 3, "Lost by name"] * 3, terms={"has_names": True}, leave=frozenset())
def test_no_order_of_events_and_crashes_pays_twice_or_loses_what_was_paid(steps: Any, terms: Any, leave: Any) -> None:
    """Between two creates that may be billed the caller gave leave: a retry, a resubmit, or a run that asks for it;
    whatever was sent has an entry with its task, and the bill on disk is never below what it may have cost."""
    request = Request(leave, **terms)
    request.live(*steps)
    assert leave or request.billed <= 1 + terms.get("retries", 0) + terms.get("resubmits", 0)
    request.crash(9)
    taken_up = request.taken_up()
    if request.billed and taken_up is not None and isinstance(taken_up.state, inner.Queued):
        # The same create once more is no other one.
        is_same = taken_up.is_lost_by_name and taken_up.attempts + 1 in request.names
        assert request.has_leave or is_same, "what may be billed is sent again without leave"
    if request.notes:
        assert inner.bill_of(request.notes[-1]).total >= 8 * (request.billed - len(request.failed))
