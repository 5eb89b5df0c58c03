"""The one machine that moves jobs: state × event → what becomes of it. `advance` is the only way a job changes state.

    Queued ──Taken──> Noting ──Leaves──> Sending ──Accepted──> Running ──Succeeded──> Fetching ──Saved──> Done
      ^                  │                 │ │ │                ^ │ ^                   │ │
      │  nothing left ───┘                 │ │ └ CallbackNamed  │ │ └─ its links died ──┘ └─ not saved ──> Failed
      │  (no connection, aborted,          │ │      > Claimed ──┤ │    (Relinking)
      │   callback, caller left)           │ │                  │ └─ TaskFailed, TaskRefused, Expired ──> Failed
      ├── 429, 455, account stopped ───────┘ └─ Lost ──> AwaitingCallback ──CallbackNamed──> Confirming ──> Running
      │                                                       │
      └── failed, and a new task is wanted                    └─ Expired ──> Unknown

Between Queued and Noting stands Preparing where files of this machine go in: they are uploaded first, and only Prepared
leads on from there; else it goes back as from Noting.

Only where callbacks are asked for is a lost create awaited: one may name its task yet. Else it is Unknown at once.

A create is sent again only from Queued, and only these lead back there: not sent, 429, 455, an account that takes
nothing or does not serve the model, a failed generation where the caller asked for `retries`, a denied task that is to
be replaced, and once a lost answer where the caller asked for that. Where creates have names by which they are known,
as at a service, a lost one is sent again as it was, and so is a task that the service gives back unsent.
From Queued a job may go to any account of its route; after a lost answer to the same one only. NotAdmitted and Left end
a job that nobody will send or wait for any more; Orphaned is one whose caller left while its create was on the way.

What has no entry in the table cannot happen to a job, and is a bug.
"""

from __future__ import annotations

from typing import NamedTuple

from .job import Job
from .job_events import (
    CallbackNamed,
    Event,
    Expired,
    FetchBegun,
    Leaves,
    NobodyTakes,
    NotSaved,
    OverBudget,
    OwnerGone,
    OwnerLeft,
    OwnerWithholds,
    Prepared,
    Readmitted,
    Saved,
    SendAborted,
    StatusAsked,
    Taken,
    TurnMissed,
    Unsendable,
)
from .states import (
    AwaitingCallback,
    Claimed,
    Collected,
    Confirming,
    Done,
    Doubted,
    Failed,
    Fetching,
    Left,
    NotAdmitted,
    Noting,
    Orphaned,
    Preparing,
    Queued,
    Relinking,
    Running,
    Sending,
    State,
    Unknown,
)
from .transitions import asking, claims, ends, fetching, sending
from .transitions.move import Move
from .wire import (
    Accepted,
    ConnectFailed,
    LinksMissing,
    Lost,
    NoAnswer,
    Pending,
    Rejected,
    Succeeded,
    TaskFailed,
    TaskRefused,
)


class Entry(NamedTuple):
    """What an event makes of a state: who makes it, and every state that it can come to."""

    by: Move
    to: tuple[type[State], ...]


def _to(by: Move, *to: type[State]) -> Entry:
    return Entry(by, to)


_FALLEN = (Unknown, Failed)
"""The ends of one that had a lost or failed create before."""


def _asked(own: type[State]) -> dict[type[Event], Entry]:
    """What may happen to a task of this kind while it is asked about."""
    return {
        StatusAsked: _to(ends.stay, own),
        Pending: _to(asking.go_on, own, Failed),
        Succeeded: _to(asking.succeed, Fetching, Done),
        LinksMissing: _to(asking.await_links, own, Failed),
        TaskFailed: _to(asking.fail, Failed, Queued),
        TaskRefused: _to(asking.deny, own, Failed),
        NoAnswer: _to(asking.miss, own, Failed),
        CallbackNamed: _to(ends.stay, own),
        Expired: _to(ends.expire, Failed),
        OwnerWithholds: _to(ends.stay, own),
        OwnerLeft: _to(ends.leave, Left),
        OwnerGone: _to(ends.leave, Left),
        Readmitted: _to(ends.readmit, own),
    }


def _unsent(own: type[State]) -> dict[type[Event], Entry]:
    """What may happen to a create of which nothing has left: what ends its turn ends it as if it had not begun."""
    return {
        ConnectFailed: _to(sending.miss_connection, Queued, *_FALLEN),
        SendAborted: _to(sending.abort, Left, NotAdmitted, *_FALLEN),
        TurnMissed: _to(sending.miss_turn, Queued, *_FALLEN),
        Unsendable: _to(sending.give_up_writing, *_FALLEN),
        CallbackNamed: _to(claims.claim_noting, own, Confirming),
        OwnerWithholds: _to(sending.leave_noting, Left, *_FALLEN),
        OwnerLeft: _to(sending.leave_noting, Left, *_FALLEN),
        OwnerGone: _to(sending.leave_noting, Left, *_FALLEN),
        Readmitted: _to(ends.readmit, own),
    }


_ROWS: dict[type[State], dict[type[Event], Entry]] = {
    Queued: {
        Taken: _to(sending.take, Noting, Preparing),
        CallbackNamed: _to(claims.claim_queued, Queued, Confirming),
        Expired: _to(ends.expire, *_FALLEN),
        NobodyTakes: _to(ends.turn_away, Queued, NotAdmitted, *_FALLEN),
        OverBudget: _to(ends.stop_spending, NotAdmitted, *_FALLEN),
        OwnerWithholds: _to(ends.leave, Left, *_FALLEN),
        OwnerLeft: _to(ends.leave, Left, *_FALLEN),
        OwnerGone: _to(ends.leave, Left, *_FALLEN),
        Readmitted: _to(ends.readmit, Queued),
    },
    Preparing: {
        **_unsent(Preparing),
        Prepared: _to(sending.prepare, Noting),
        Rejected: _to(sending.refuse_files, Queued, *_FALLEN),
    },
    Noting: {**_unsent(Noting), Leaves: _to(sending.leave_home, Sending)},
    # No Expired while a create is on its way: its answer counts, however late, for it may name a task that is paid for.
    Sending: {
        Accepted: _to(sending.accept, Running),
        Rejected: _to(sending.refuse, Queued, AwaitingCallback, *_FALLEN),
        Lost: _to(sending.lose, Queued, AwaitingCallback, *_FALLEN),
        CallbackNamed: _to(claims.claim_sending, Sending, Claimed),
        OwnerWithholds: _to(ends.stay, Sending),
        OwnerLeft: _to(sending.orphan, Orphaned),
        OwnerGone: _to(sending.cut_off, Unknown),
        Readmitted: _to(ends.readmit, Sending),
    },
    # A task exists, whatever the answer says: none of these entries leads back to Queued.
    Claimed: {
        Accepted: _to(sending.accept, Running),
        Rejected: _to(sending.refuse_claimed, Confirming),
        Lost: _to(sending.lose_claimed, Confirming),
        CallbackNamed: _to(ends.stay, Claimed),
        OwnerWithholds: _to(ends.stay, Claimed),
        OwnerLeft: _to(sending.orphan, Orphaned),
        OwnerGone: _to(sending.cut_off, Unknown),
        Readmitted: _to(ends.readmit, Claimed),
    },
    Orphaned: {
        Accepted: _to(sending.hear_out, Left),
        Rejected: _to(sending.hear_out, Left, *_FALLEN),
        Lost: _to(sending.hear_out, Left, *_FALLEN),
        CallbackNamed: _to(claims.claim_sending, Orphaned),
        OwnerWithholds: _to(ends.stay, Orphaned),
        OwnerLeft: _to(ends.stay, Orphaned),
        OwnerGone: _to(sending.cut_off, Unknown),
        Readmitted: _to(ends.stay, Orphaned),
    },
    # What may come true yet is not sent again: none of these entries leads back to Queued.
    AwaitingCallback: {
        CallbackNamed: _to(claims.claim_awaited, AwaitingCallback, Confirming),
        Expired: _to(ends.expire, Unknown),
        OwnerWithholds: _to(ends.stay, AwaitingCallback),
        OwnerLeft: _to(ends.leave, Unknown),
        OwnerGone: _to(ends.leave, Unknown),
        Readmitted: _to(ends.readmit, AwaitingCallback),
    },
    Confirming: {
        StatusAsked: _to(ends.stay, Confirming),
        Pending: _to(asking.confirm, Running, Failed),
        Succeeded: _to(asking.confirm, Fetching, Done),
        LinksMissing: _to(asking.confirm, Running, Failed),
        TaskFailed: _to(asking.confirm, Failed, Queued),
        TaskRefused: _to(asking.doubt_claim, Confirming, AwaitingCallback),
        NoAnswer: _to(ends.stay, Confirming),
        CallbackNamed: _to(ends.stay, Confirming),
        Expired: _to(ends.expire, Unknown),
        OwnerWithholds: _to(ends.stay, Confirming),
        OwnerLeft: _to(ends.leave, Unknown),
        OwnerGone: _to(ends.leave, Unknown),
        Readmitted: _to(ends.readmit, Confirming),
    },
    Running: {**_asked(Running), Readmitted: _to(ends.readmit_running, Running, Doubted)},
    # No new task for one that was named by its id: the request that it was made for is not known.
    Collected: {**_asked(Collected), TaskFailed: _to(asking.fail, Failed), TaskRefused: _to(asking.deny, Failed)},
    # Only here a denial may lead to a new task, for only here the caller has asked for that.
    Doubted: {**_asked(Doubted), TaskRefused: _to(asking.deny, Doubted, Queued, Failed)},
    Relinking: {
        **_asked(Relinking),
        # It had finished once and is paid for, so no word of failure leads to an end or to a new task.
        TaskFailed: _to(asking.renew, Fetching),
        LinksMissing: _to(asking.await_links, Relinking, Fetching, Failed),
        TaskRefused: _to(asking.deny_relinking, Relinking, Fetching, Failed),
    },
    # Made and paid for: none of these entries leads to another create.
    Fetching: {
        FetchBegun: _to(ends.stay, Fetching),
        Saved: _to(fetching.save, Done),
        NotSaved: _to(fetching.not_save, Relinking, Fetching, Failed),
        CallbackNamed: _to(ends.stay, Fetching),
        OwnerWithholds: _to(ends.stay, Fetching),
        OwnerLeft: _to(ends.leave, Left),
        OwnerGone: _to(ends.leave, Left),
        Readmitted: _to(ends.readmit, Fetching),
    },
}

TABLE: dict[tuple[type[State], type[Event]], Entry] = {
    (state, event): entry for state, row in _ROWS.items() for event, entry in row.items()
}
"""Every state that is no end, and every event that can meet it there."""


def advance(job: Job, event: Event, now: float) -> Job:
    """Say what an event makes of a job at loop time `now`. Pure; an event that does not fit its state is a bug."""
    entry = TABLE.get((type(job.state), type(event)))
    if entry is None:
        raise AssertionError(f"{type(event).__name__} cannot happen to a job that is {type(job.state).__name__}")
    return entry.by(job, job.state, event, now)
