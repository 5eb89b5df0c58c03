"""What a question about a running task is worth, as far as an account's answers and callbacks have taught."""

from __future__ import annotations

from .callback_reliability import CallbackReliability
from .poll_schedule import PollSchedule
from .watched import Watched
from .wire import LinksMissing, Pending, Succeeded, TaskFailed, TaskStatus, Told

_SOONER = 20
"""By how much sooner than another question that is asked again which had no answer, where questions are rare."""


class Outlook:
    """When each running task of an account is worth a question.

    Attributes:
        reliability: How far callbacks can be relied upon.
    """

    def __init__(self, schedule: PollSchedule) -> None:
        self.reliability: CallbackReliability = CallbackReliability()
        self._schedule = schedule
        self._silent = 1.0

    def time_of(self, watched: Watched, part: float = 1.0) -> float:
        """Loop time at which a task is to be asked about next, where a call is worth that part of `freshness`."""
        if (every := self._schedule.every) is not None:
            # All at the same times, so that their questions can go as one; soon, where the last had no answer.
            step = every / _SOONER if watched.is_untold else every
            return (watched.asked // step + 2) * step
        asked = watched.asked - watched.since
        return watched.since + self._schedule.next_age(watched.kind, asked, self._chance_of_callback(watched), part)

    def waiting(self, watched: Watched, now: float) -> float:
        """Seconds for which a task is expected to have waited unseen by now."""
        since = watched.since
        if watched.made_at is not None:
            return now - watched.asked  # by now its links will be there
        chance = self._chance_of_callback(watched)
        return self._schedule.waiting(watched.kind, watched.asked - since, now - since, chance)

    def hear(self, job_id: int, watched: Watched, event: TaskStatus, now: float) -> None:
        """Learn from an answer, or from there being none."""
        # Whatever came of it, and were it nothing: the next question comes by the schedule, and not at once.
        watched.asked = now
        watched.is_untold = not isinstance(event, Told)
        ended_at = now if watched.made_at is None else watched.made_at
        if isinstance(event, LinksMissing | Pending):
            watched.made_at = None if isinstance(event, Pending) else ended_at
        if not watched.learns:
            return
        # From when it was seen to run, not from when it was asked about: no answer is no word on that.
        if isinstance(event, Pending):
            self._schedule.lasted(watched.kind, watched.seen - watched.since, now - watched.since)
            # Only an answer moves it: a question that brought none is not taken for a task that still ran.
            watched.seen = now
        elif isinstance(event, Succeeded | TaskFailed):
            self._ended(job_id, watched, event, ended_at)

    def trusts_otherwise(self) -> bool:
        """Say, once, that callbacks are relied upon so much more or less that all questions are to be set anew."""
        silent = 1 - self.reliability.share
        # That is work, worth it only where the share of the silent has changed by half.
        if 0.5 < silent / self._silent < 2:
            return False
        self._silent = silent
        return True

    def has_moved(self, watched: Watched) -> bool:
        """Say, once, that what is known of tasks of that kind has moved, and questions were set by what was before."""
        # What the first of a burst tell holds for all others, which are of one law.
        return watched.learns and self._schedule.has_moved(watched.kind)

    def _ended(self, job_id: int, watched: Watched, event: Succeeded | TaskFailed, ended_at: float) -> None:
        """Learn from a task that had ended by then."""
        latency = event.latency if isinstance(event, Succeeded) else None
        if latency is None and watched.announced_at is not None:
            # A callback comes when the task ends; the answer, when the limit had room for the question.
            latency = watched.announced_at - watched.since
        self._schedule.ended(watched.kind, watched.seen - watched.since, ended_at - watched.since, latency)
        # Callbacks about another process's tasks go there: to miss them here says nothing.
        if watched.announces:
            self.reliability.ended(job_id, watched.announced_at is not None)

    def _chance_of_callback(self, watched: Watched) -> float:
        """How likely a callback is to come yet, once the task ends."""
        return self.reliability.share if watched.announces and watched.announced_at is None else 0.0
