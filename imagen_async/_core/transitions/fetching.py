"""What became of fetching a finished task's pictures."""

from __future__ import annotations

import msgspec

from ...errors import DownloadFailed
from ..job import Job
from ..job_events import NotSaved, Saved
from ..states import Failed, Fetching, Links, Relinking
from ..wording import picture_gone
from .claims import PATIENCE

replace = msgspec.structs.replace


def save(job: Job, state: Fetching, event: Saved, now: float) -> Job:
    """All of it is here."""
    return job.to(state.done(event.files))


def not_save(job: Job, state: Fetching, event: NotSaved, now: float) -> Job:
    """A picture that is not where it was: ask for its links again, then for new ones; then it is gone."""
    failure = event.failure
    if failure.is_a(DownloadFailed) and failure.is_gone:
        # Once each: links that die at once would be asked for without end.
        if state.links is Links.FIRST:
            # The picture is paid for: a deadline that is near, or over, still leaves a minute to ask.
            until = max(job.expires_at or 0.0, now + 2 * PATIENCE)
            relinking = Relinking(state.task_id, since=now, outcome=state.outcome)
            return replace(job, expires_at=until, state=relinking)
        if state.links is Links.ASKED_AGAIN:
            return job.to(Fetching(state.task_id, state.outcome, Links.RENEWED))
        failure = picture_gone(failure)
    return job.to(Failed(failure.about(account=job.account, task_id=state.task_id), state.outcome, event.files))
