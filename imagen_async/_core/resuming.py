"""What a later run makes of a journal's entry: a job that goes on, one that is sent once more, or an earlier result."""

from __future__ import annotations

from typing import Any

import msgspec

from .._text import shown
from .fields import CONTENT
from .job import Job
from .journal_entry import JournalEntry, bill_of, failure_of
from .latency import believed
from .states import AwaitingCallback, Confirming, Done, Failed, Fetching, Queued, Running, Unknown
from .transitions import PATIENCE
from .values import ImageRequest, Result, by_content
from .wire import Succeeded, TaskFailed


def is_at_end(entry: JournalEntry) -> bool:
    """True for one whose pictures were made and saved: a later run has nothing to do for it, whatever it may."""
    return entry.state == "done" and bool(entry.files or not (entry.urls or entry.text))


def earlier_result(entry: JournalEntry) -> Result:
    """The result of a job that an earlier run has brought to its end."""
    failure = failure_of(entry)
    return Result(
        key=entry.key,
        index=entry.position,
        request=entry.request,
        provider=entry.account,
        model=entry.model,
        urls=entry.urls,
        files=entry.files,
        error=None if failure is None else failure.exception(),
        task_id=entry.task_id,
        credits=entry.credits,
        # Versions before have noted whatever the provider's clock told.
        latency=believed(entry.latency),
        earlier=True,
        ignored=entry.ignored,
        text=entry.text or "",
    )


def resumed(entry: JournalEntry, blank: Job, now: float, epoch: float) -> Job:
    """The job that goes on where an entry stopped: its task is asked about, its links are fetched.

    Args:
        entry: A running one, or a ready or done one of which files are missing.
        blank: The job as this run would make it new.
        now: Loop time: its deadline runs anew.
        epoch: The Unix time at which the loop's clock stood at 0.
    """
    assert entry.task_id is not None
    job = _gone_on(entry, blank, now)
    if entry.state == "running":
        # A clock that was set back would make it younger than nothing.
        since = now if entry.accepted_at is None else min(now, entry.accepted_at - epoch)
        # The credits of a running entry are those of tasks that came before the present one.
        job = msgspec.structs.replace(job, spent=entry.credits or 0.0)
        return job.to(Running(entry.task_id, since=since))
    outcome = Succeeded(entry.urls, entry.latency, entry.credits, b"", entry.ignored, entry.text or "")
    if blank.save_to is None:
        return job.to(Done(entry.task_id, outcome, entry.files))
    return job.to(Fetching(entry.task_id, outcome))


def awaited(entry: JournalEntry, blank: Job, now: float, epoch: float, wait: float) -> Job:
    """The job of an unknown entry of which a callback may tell yet, or has told.

    Args:
        entry: Its own.
        blank: The job as this run would make it new.
        now: Loop time.
        epoch: The Unix time at which the loop's clock stood at 0.
        wait: Seconds since its create for which a callback is waited for, within its deadline.
    """
    # Without the task that a callback may have named: nobody has confirmed it.
    unknown = failure_of(msgspec.structs.replace(entry, task_id=None))
    assert unknown is not None
    since = now if entry.sent_at is None else min(now, entry.sent_at - epoch)
    until = min(since + wait, now + blank.deadline)
    job = _gone_on(entry, blank, now)
    if entry.task_id is None:
        return job.to(AwaitingCallback(unknown, since, until, entry.is_on_the_way))
    # A minute at least: a task may be denied for half of it and be known after all.
    return job.to(Confirming(unknown, since, max(until, now + 2 * PATIENCE), entry.task_id))


def _gone_on(entry: JournalEntry, blank: Job, now: float) -> Job:
    """The blank job with what the entry says, and its time from now."""
    return msgspec.structs.replace(
        blank,
        key=entry.key,
        index=entry.position,
        request=entry.request,
        expires_at=now + blank.deadline,
        attempts=entry.attempts,
        retried=entry.retried,
        lost=entry.lost,
        lost_creates=entry.lost_creates,
    )


def repeated(entry: JournalEntry, blank: Job) -> Job:
    """The job of an unknown entry where creates are known by their names: its create goes once more, as it was."""
    # Still as one that was lost: what may be there is to be nowhere else, too.
    lost = {"state": "queued", "attempts": max(0, entry.attempts - 1), "lost": 1, "lost_creates": ()}
    return msgspec.structs.replace(sent_again(msgspec.structs.replace(entry, **lost), blank), is_lost_by_name=True)


def sent_again(entry: JournalEntry, blank: Job) -> Job:
    """The job that starts anew where an entry says that it may: queued, or failed or held, and asked for again."""
    # Whatever was lost may be at its own account; there the two tasks would stand side by side.
    own = blank.way.only(entry.account, entry.model) if entry.lost else None
    # Where its own account is gone, nobody can look there, and the others are what is left.
    route = own or blank.way
    bill = bill_of(entry)
    return msgspec.structs.replace(
        blank,
        account=route.offers[0].account,
        model=route.offers[0].model,
        route=own or blank.route,
        # Another account may have another default.
        request=msgspec.structs.replace(blank.request, aspect_ratio=entry.request.aspect_ratio),
        index=entry.position,
        attempts=entry.attempts,
        retried=entry.retried if entry.state == "queued" else 0,
        lost=entry.lost,
        lost_creates=entry.lost_creates,
        # What was lost is counted by `lost`, and would be counted twice here.
        spent=bill.total - bill.at_risk,
        # That it is sent at all is the leave; lost once more, it is held again.
        resubmits=0 if entry.state == "unknown" else blank.resubmits,
        state=Queued(fallback=None if entry.state == "queued" else failure_of(entry)),
    )


def as_ended(entry: JournalEntry, job: Job) -> Job:
    """The job as an entry of one that has ended tells it, with what it has cost."""
    job = msgspec.structs.replace(job, account=entry.account, request=entry.request)
    failure = failure_of(entry)
    if entry.state == "done":
        outcome = Succeeded(entry.urls, entry.latency, entry.credits, b"", entry.ignored, entry.text or "")
        return job.to(Done(entry.task_id or "", outcome, entry.files))
    assert failure is not None
    told = TaskFailed(failure, entry.credits, b"")
    return job.to(Unknown(failure) if entry.state == "unknown" else Failed(failure, told))


class Change(msgspec.Struct, frozen=True):
    """A field in which two requests differ: what it was, and what it is now."""

    name: str
    was: Any
    now: Any

    def __str__(self) -> str:
        was, now = _text(self.was), _text(self.now)
        return f"{self.name} was {_told(was, now)} and is {_told(now, was)} now"

    @property
    def plainly(self) -> str:
        """From what to what, without quotes."""
        return " → ".join(_plain(value) for value in (self.was, self.now))


def different(before: ImageRequest, after: ImageRequest) -> list[Change]:
    """In which fields two requests differ, defaults filled in; in nothing that says of no picture what it shows."""
    # Most are one and the same; what is in `extra` may be equal to Python, and not to JSON.
    if type(before) is type(after) and before == after and not before.extra:
        return []
    before, after = by_content(before), by_content(after)
    pairs = ((name, getattr(before, name), getattr(after, name)) for name in CONTENT)
    return [Change(name, was, now) for name, was, now in pairs if not _is_same(was, now)]


def _is_same(was: object, now: object) -> bool:
    if was is now or (was == now and (type(was) is str or was == {})):
        return True  # as most are
    # As JSON: what says the same in another order is the same.
    return _text(was) == _text(now)


def _plain(value: object) -> str:
    return "none" if value in (None, {}) else shown(value if isinstance(value, str) else _text(value))


def _told(text: str, other: str) -> str:
    """A text from shortly before where it differs from another."""
    same = next((at for at, (mine, theirs) in enumerate(zip(text, other, strict=False)) if mine != theirs), 0)
    return shown(text if same < 50 else f"…{text[same - 20 :]}")


def _text(value: object) -> str:
    return msgspec.json.encode(value, order="sorted").decode()
