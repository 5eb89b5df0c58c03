"""What must be true of a world that has ended: by the provider's ledger, by the files, and by what was told."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from . import file_truths
from .facts import Facts, is_limit, is_lost
from .windows import busiest_window

if TYPE_CHECKING:
    from .world import World


LONG_DEADLINE = 900.0
"""Seconds by which all tasks of a world are done, where nothing goes wrong."""


def broken_by(world: World) -> Iterator[str]:
    """Each truth that a world has broken, in words."""
    yield from world.universe.broken
    facts = Facts(world)
    for check in (*_TRUTHS, *file_truths.TRUTHS):
        yield from check(world, facts)


def _paid_once(world: World, facts: Facts) -> Iterator[str]:
    """No request has two tasks unless it was sent again by order."""
    for prompt, tasks in facts.tasks.items():
        ordered = facts.ordered.get(prompt, 0)
        again = min(sum(task.task_id in facts.failed for task in tasks), ordered * world.terms.retries)
        if world.terms.resubmits:
            again += min(facts.lost[prompt] + world.unwritten[prompt], ordered * world.terms.runs)
        may = ordered + again
        if len(tasks) > may:
            yield f"{prompt!r} was paid for {len(tasks)} times, and ordered {may} times"


def _kept_or_told(world: World, facts: Facts) -> Iterator[str]:
    """Each task's pictures are on the disk, or its id is told to somebody, or its create's answer was lost."""
    told = {entry.task_id for entry in facts.entries}
    # What an earlier run was told of is to be found again by the next.
    told |= {each.task_id for each in world.witness.told if not world.terms.has_journal}
    said = "\n".join(world.witness.heard)
    for prompt, tasks in facts.tasks.items():
        missing = [task for task in tasks if task.task_id not in told and str(task.task_id) not in said]
        missing = [task for task in missing if task.task_id not in facts.failed]
        lost = min(facts.lost[prompt], facts.said_lost[prompt])
        if len(missing) > lost:
            names = ", ".join(str(task.task_id) for task in missing)
            yield f"{prompt!r}: nobody was told of {names}, and of {lost} that they may have been made"


def _known(world: World, facts: Facts) -> Iterator[str]:
    """Unknown are no more than creates whose answer was lost."""
    unknown = Counter(entry.request.prompt for entry in facts.entries if entry.state == "unknown")
    if not world.terms.has_journal:
        unknown = Counter(each.prompt for each in world.witness.told if each.error == "UnknownOutcome")
    for prompt, count in unknown.items():
        if count > facts.lost[prompt] + world.unwritten[prompt]:
            yield f"{prompt!r}: {count} are unknown, and {facts.lost[prompt]} answers were lost"


def _within_windows(world: World, facts: Facts) -> Iterator[str]:
    """No window at the server has more creates, or status calls, than its limit."""
    ledger, terms = world.sandbox.ledger, world.terms
    by_account = defaultdict[str, list[float]](list)
    for create, at in zip(ledger.creates, ledger.create_times, strict=True):
        by_account[create.provider].append(at)
    for account, times in by_account.items():
        if (busiest := busiest_window(times, terms.per)) > terms.submit:
            yield f"{busiest} creates of {account} within {terms.per:g} s, where {terms.submit} may be"
    # Whoever asked did not live to see when it had arrived, and status calls are noted nowhere: they cost nothing.
    polls = (each for each in world.gateway.exchanges if each.asked.road == "poll" and not each.is_answered)
    too_many = ledger.refused["status"] - sum(each.fate.what == "late request" for each in polls)
    if too_many > 0:
        yield f"{too_many} status calls were too many"


def _after_leaving(world: World, facts: Facts) -> Iterator[str]:
    """No create is sent after leaving."""
    for exchange in world.gateway.exchanges:
        if exchange.asked.road != "create":
            continue
        for prompt in ("", exchange.prompt):
            left = world.witness.left.get((exchange.process.name, prompt))
            if left is not None and exchange.began > left[1]:
                yield f"{exchange.prompt!r} was created at {exchange.began_at:.4f}, after leaving at {left[0]:.4f}"


def _within_budget(world: World, facts: Facts) -> Iterator[str]:
    """What was spent is no more than the budget."""
    if world.terms.max_credits is None:
        return
    spent = sum(create.credits for create in world.sandbox.ledger.tasks if create.task_id not in facts.failed)
    if spent > world.terms.max_credits:
        yield f"{spent:g} credits were spent of {world.terms.max_credits:g}"


def _on_the_living(world: World, facts: Facts) -> Iterator[str]:
    """No create is written on a connection that has ended already."""
    for each in world.gateway.exchanges:
        if each.asked.road == "create" and each.is_on_ended:
            yield f"the create of {each.prompt!r} was written at {each.began_at:.4f} on a connection that had ended"


def _held(world: World, facts: Facts) -> Iterator[str]:
    """After a create that was refused for its rate no create of the account goes for a window."""
    creates = [each for each in world.gateway.exchanges if each.asked.road == "create"]
    refused = [each for each in creates if each.answered_at and each.means == "same" and is_limit(each.plain)]
    for each in creates:
        for other in refused:
            is_same = each.process is other.process and each.asked.path.split("/")[1] == other.asked.path.split("/")[1]
            since = each.began_at - other.answered_at
            if is_same and 0.005 < since < world.terms.per - 0.005:
                yield f"{each.prompt!r} was created at {each.began_at:.4f}, a 429 came at {other.answered_at:.4f}"


def _at_work(world: World, facts: Facts) -> Iterator[str]:
    """Where nothing goes wrong all that was asked for is made, as far as the budget goes, and the deadline."""
    if world.accidents or world.terms.deadline < LONG_DEADLINE:
        return
    prompts, credits = world.prompts(0), world.terms.max_credits
    # The dearest of its pictures costs 12 credits.
    least = len(prompts) if credits is None else min(len(prompts), int(credits // (12 * world.terms.images)))
    made = {each.task_id for each in world.witness.told if not each.error}
    if len(made) < least:
        yield f"nothing went wrong, and {len(made)} of {least} pictures were made"


def _over(world: World, facts: Facts) -> Iterator[str]:
    """In the end all has ended, and each picture that can be had is there."""
    if not world.terms.has_journal:
        return
    if world.terms.max_credits is None:
        missing = set(world.prompts(world.runs - 1)) - {entry.request.prompt for entry in facts.entries}
        yield from (f"{prompt!r} was asked for, and nothing has come of it" for prompt in sorted(missing))
    for entry in facts.entries:
        # One that was sent again, and had a task then which has failed, is over with that.
        is_over = any(task.task_id in facts.failed for task in facts.tasks[entry.request.prompt])
        if entry.state == "failed" and entry.task_id is None and entry.lost and not is_over:
            yield f"{entry.request.prompt!r} has failed, and {entry.lost} creates of it were lost: {entry.error}"
        if entry.state in ("submitting", "running", "ready"):
            yield f"{entry.request.prompt!r} is still {entry.state}: {entry.task_id} {entry.error}"
        elif entry.state == "failed" and entry.task_id is not None and entry.task_id not in facts.failed:
            yield f"{entry.request.prompt!r} has failed with {entry.error}, its task {entry.task_id} has not"


def _side_by_side(world: World, facts: Facts) -> Iterator[str]:
    """What was lost at an account is sent again to no other."""
    lost_at: dict[str, tuple[str, float]] = {}
    for each in world.gateway.exchanges:
        if each.asked.road != "create" or facts.ordered.get(each.prompt) != 1:
            continue
        account = each.asked.path.split("/")[1]
        there, found_at = lost_at.get(each.prompt, (account, 0.0))
        if there != account and found_at > each.began_at:
            yield f"{each.prompt!r} was lost at {there} and sent again to {account}"
        if is_lost(each):
            # By a callback a lost one is found, and what becomes of it is known then.
            lost_at[each.prompt] = account, facts.found_at(each)


def _announced(world: World, facts: Facts) -> Iterator[str]:
    """A task that a callback named, which was taken, is known in the end, or was told of."""
    known = {entry.task_id for entry in facts.entries} | {each.task_id for each in world.witness.told} | facts.failed
    said = "\n".join(world.witness.heard)
    for task_id in sorted(facts.announced_at.keys() - known):
        if task_id not in said:
            yield f"a callback told of {task_id}, and nobody knows of it"


_TRUTHS = (
    _paid_once,
    _kept_or_told,
    _known,
    _within_windows,
    _after_leaving,
    _on_the_living,
    _held,
    _within_budget,
    _at_work,
    _over,
    _side_by_side,
    _announced,
)
