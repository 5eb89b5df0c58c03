"""How far a batch is, as users read it."""

from __future__ import annotations

import msgspec

from ._core.upstream import Health
from ._core.values import Result


class AccountProgress(Health, frozen=True):
    """How one account of a client fares: the attributes of `Health`, `running` of all its batches, and these.

    Attributes:
        done: Requests of this batch that it finished with their pictures, in this run.
        credits: Billed for the requests of this batch that ended with it, in this run.
    """

    done: int
    credits: float


class Progress(msgspec.Struct, frozen=True):
    """How far a batch is, at one moment.

    Attributes:
        total: Requests in the input, or None where it has no length.
        pulled: Requests taken from the input so far.
        queued: Of these, waiting to be sent.
        submitting: Creates on the way.
        held: Creates whose answer was lost, and of which a callback may still tell.
        running: Tasks at the provider.
        saving: Finished tasks whose pictures are being fetched or wait for it.
        done: Finished with their pictures.
        failed: Finished without, the unknown ones included.
        unknown: Creates whose answer was lost.
        earlier: Of the done and failed, those that an earlier run of the journal had brought to their end.
        credits: Billed in this run, as the results tell; those that tell nothing count 0.
        reserved: Credits that the tasks at the providers are expected to cost, and what creates may have cost whose
            answer was lost in this run.
        projected: Credits in this run by its end: these, and what is not sent at the mean price of what was; None where
            the input has no length or a price is unknown.
        elapsed: Seconds since the batch began.
        rate: Requests finished per second of late, earlier ones not counted.
        eta: Seconds to the end, by the limits, by how long tasks have taken so far (before any has ended, by what the
            provider's record says), and by `rate` once that is steady; None where the input has no length, and while
            what is to be sent waits for accounts that are all paused.
        latency: Seconds that the providers took for a task, the median of the last 512; None before any.
        latency_p95: Of these, what 95 in a hundred stay below.
        calls_per_task: Status calls that a finished task took, on average; None before any.
        recent: The last results, at most 48, the newest last.
        accounts: How each account fares.
    """

    total: int | None
    pulled: int
    queued: int
    submitting: int
    held: int
    running: int
    saving: int
    done: int
    failed: int
    unknown: int
    earlier: int
    credits: float
    reserved: float
    projected: float | None
    elapsed: float
    rate: float
    eta: float | None
    latency: float | None
    latency_p95: float | None
    calls_per_task: float | None
    recent: tuple[Result, ...]
    accounts: tuple[AccountProgress, ...]

    @property
    def is_paused(self) -> bool:
        """True while no account takes a request, and one of them may again."""
        return {"paused"} <= {account.state for account in self.accounts} <= {"paused", "stopped"}
