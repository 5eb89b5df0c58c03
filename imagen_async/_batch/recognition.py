"""What each request of a batch's input is: new, known to the journal, or none that can be sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from .._core.defaults import DefaultsChanged, as_request
from .._core.failure import Failure
from .._core.job import Job
from .._core.plain_values import plain_item, showable
from .._core.values import ImageRequest, Result
from .._input_files import Unreadable
from .._job_factory import JobFactory
from ..errors import ImagenError, JournalError
from .inputs import LookedUp, Requests

if TYPE_CHECKING:
    # They load sqlite3, which only a batch with a journal needs.
    from .._journal.batch_journal import BatchJournal
    from .._journal.resume import TakenUp


class Recognition:
    """Tells of each request of an input what it is.

    Args:
        requests: The input.
        factory: Makes the jobs.
        journal: What knows of earlier runs, or None.
        owner: Whose the jobs are to be.
        count: Counts a request whose result stands.
    """

    def __init__(
        self,
        requests: Requests,
        factory: JobFactory,
        journal: BatchJournal | None,
        owner: int,
        count: Callable[[], None],
    ) -> None:
        self.factory = factory
        self._looked_up = requests if isinstance(requests, LookedUp) else None
        self._journal = journal
        self._owner = owner
        self._count = count

    def passes_over(self, index: int) -> bool:
        """Count a request whose result stands, as whoever gives the input knows; False where it may be another."""
        if self._looked_up is None or not self._looked_up.is_settled(index):
            return False
        if self._journal is not None:
            self._journal.resume.unmet -= 1
        self._count()
        return True

    def of(self, given: object, index: int, number: int) -> Job | Result | TakenUp:
        """A job to send, with that number for its id; one taken up, an earlier result, or the result of a refusal."""
        item: str | ImageRequest | None = None
        try:
            if type(given) is Unreadable:
                item = given.request
                raise given.error
            item = plain_item(given)
            if self._journal is None:
                return self.factory.job(item, index, self._owner, number)
            key = None if self._looked_up is None else partial(self._looked_up.key, index)
            return self._journal.resume.meet(item, index, self._owner, number, key)
        except (JournalError, DefaultsChanged):
            raise
        except ImagenError as error:
            request = showable(given) if item is None else as_request(item)
            return _refused(request, index, self.factory.accounts, Failure.of(error))


def _refused(request: ImageRequest, index: int, accounts: Iterable[str], failure: Failure) -> Result:
    """The result of a request of which nothing was sent; it is the account's where there is only one."""
    account, *others = accounts
    account = "" if others else account
    if type(request.prompt) is not str:  # a number, which whoever shows the result would take for a text
        request = msgspec.structs.replace(request, prompt=str(request.prompt))
    return Result(
        key=str(request.key or index),
        index=index,
        request=request,
        provider=account,
        model=str(request.model or ""),
        error=failure.about(account=account or None).exception(),
    )
