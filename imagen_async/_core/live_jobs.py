"""Every live job, by its id, and found by its owner and by its task as well: no look at all of them for a few."""

from __future__ import annotations

from collections import Counter

from .job import Job


class LiveJobs(dict[int, Job]):
    """Jobs by their ids, in the order in which they came in. Changed by `keep` and `drop` alone."""

    def __init__(self) -> None:
        super().__init__()
        # Sets that keep their order.
        self._of: dict[int, dict[int, None]] = {}
        # None until a callback asks for the first time: mostly nobody does, and then no job pays for it.
        self._tasks: Counter[tuple[str, str]] | None = None

    def keep(self, job: Job) -> Job | None:
        """Keep a job as it is now; returns it as it was, or None where it is new."""
        before = self.get(job.id)
        self[job.id] = job
        if before is None:
            self._of.setdefault(job.owner, {})[job.id] = None
        self._count(before, -1)
        self._count(job, 1)
        return before

    def drop(self, job: Job) -> None:
        """Keep a job no more."""
        last = self.pop(job.id)
        own = self._of[job.owner]
        del own[job.id]
        if not own:
            del self._of[job.owner]
        self._count(last, -1)

    def of(self, owner: int) -> list[Job]:
        """Those of an owner, in the order in which they came in."""
        return [self[job_id] for job_id in self._of.get(owner, ())]

    def has_any(self, owner: int) -> bool:
        """True while a job of that owner lives."""
        return owner in self._of

    def has_another(self, task_id: str, job: Job) -> bool:
        """True where another job of the account has that task."""
        if self._tasks is None:
            self._tasks = Counter()
            for each in self.values():
                self._count(each, 1)
        return self._tasks[job.account, task_id] > (self[job.id].task_id == task_id)

    def _count(self, job: Job | None, number: int) -> None:
        if self._tasks is None or job is None or (task_id := job.task_id) is None:
            return
        key = (job.account, task_id)
        self._tasks[key] += number
        if not self._tasks[key]:
            del self._tasks[key]
