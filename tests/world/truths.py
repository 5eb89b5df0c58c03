"""What must be true of a world that has ended: by the provider's ledger, by the files, and by what was told."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from imagen_async._core.journal_entry import JournalEntry
from imagen_async._journal import JournalReader
from imagen_async.sandbox import Create

from .answers import Answer

if TYPE_CHECKING:
    from .wire import Exchange
    from .world import World

FAILING = frozenset({"fail_digits", "fail_word", "no_urls"})
"""What makes a task fail at the provider, or leaves it without a picture."""


def broken_by(world: World) -> Iterator[str]:
    """Each truth that a world has broken, in words."""
    yield from world.universe.broken
    facts = Facts(world)
    for check in (
        _paid_once,
        _kept_or_told,
        _known,
        _within_windows,
        _after_leaving,
        _within_budget,
        _whole,
        _over,
        _on_the_living,
    ):
        yield from check(world, facts)


class Facts:
    """What a world has left, by prompt.

    Attributes:
        tasks: Those that were made, and `failed`: their ids that failed there.
        entries: What the journal says at the end.
        lost: Creates of each prompt of which the client could not know what became of them.
        said_lost: Creates of each prompt of which it was said that they may have made a task.
        ordered: How often each prompt was in the longest input.
    """

    def __init__(self, world: World) -> None:
        ledger = world.sandbox.ledger
        self.tasks = defaultdict[str, list[Create]](list)
        for create in ledger.tasks:
            self.tasks[create.prompt].append(create)
        made = zip(ledger.tasks, world.faults.of_tasks, strict=True)
        self.failed = {create.task_id for create, fault in made if fault in FAILING}
        self.entries = entries_of(world.folder / "run.db")
        self.lost = Counter(each.prompt for each in world.gateway.exchanges if is_lost(each)) + world.lost_by_end
        self.said_lost = Counter[str]()
        for entry in self.entries:
            self.said_lost[entry.request.prompt] += entry.lost
        if not world.terms.has_journal:
            self.said_lost.update(each.prompt for each in world.told if each.error == "UnknownOutcome")
            said = [line for line in world.heard if "nobody waited for the end of" in line]
            is_said = {prompt: any(repr(prompt) in line for line in said) for prompt in self.lost}
            # One that was sent again by order is told as what came of it in the end.
            self.said_lost.update(each for each in self.lost if is_said[each] or world.terms.resubmits)
        inputs = [Counter(world.prompts(run)) for run in range(world.runs)]
        self.ordered = {prompt: max(each[prompt] for each in inputs) for each in inputs for prompt in each}


def entries_of(path: Path) -> list[JournalEntry]:
    """What a journal says, if it is there."""
    if not path.exists():
        return []
    with JournalReader(path) as reader:
        return list(reader.entries())


def on_the_way(path: Path) -> list[str]:
    """The prompts of which a journal says that their create is on the way."""
    return [entry.request.prompt for entry in entries_of(path) if entry.state == "submitting"]


def is_lost(exchange: Exchange) -> bool:
    """Say whether whoever sent a create could not know what became of it."""
    if exchange.asked.road != "create":
        return False
    return not exchange.is_answered or exchange.means == "lost" or not _tells(exchange.plain)


def _tells(answer: Answer | None) -> bool:
    """Say whether the server's own answer to a create tells what became of it: a task, or none."""
    if answer is None or len(answer.body) > 1 << 20:
        return False
    if answer.status == 429:
        return True
    try:
        content = json.loads(answer.body)
    except ValueError:
        return False
    data = content.get("data")
    return content.get("code") != 200 or (isinstance(data, dict) and bool(data.get("taskId") or data.get("task_id")))


def _paid_once(world: World, facts: Facts) -> Iterator[str]:
    """No request has two tasks unless it was sent again by order."""
    for prompt, tasks in facts.tasks.items():
        again = sum(task.task_id in facts.failed for task in tasks) if world.terms.retries else 0
        again += facts.lost[prompt] if world.terms.resubmits else 0
        may = facts.ordered.get(prompt, 0) + again
        if len(tasks) > may:
            yield f"{prompt!r} was paid for {len(tasks)} times, and ordered {may} times"


def _kept_or_told(world: World, facts: Facts) -> Iterator[str]:
    """Each task's pictures are on the disk, or its id is told to somebody, or its create's answer was lost."""
    told = {each.task_id for each in world.told} | {entry.task_id for entry in facts.entries}
    said = "\n".join(world.heard)
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
        unknown = Counter(each.prompt for each in world.told if each.error == "UnknownOutcome")
    for prompt, count in unknown.items():
        if count > facts.lost[prompt]:
            yield f"{prompt!r}: {count} are unknown, and {facts.lost[prompt]} answers were lost"


def _busiest(times: Iterable[float], per: float) -> int:
    ordered = sorted(times)
    return max((bisect_left(ordered, first + per) - before for before, first in enumerate(ordered)), default=0)


def _within_windows(world: World, facts: Facts) -> Iterator[str]:
    """No window at the server has more creates, or status calls, than its limit."""
    ledger, terms = world.sandbox.ledger, world.terms
    by_account = defaultdict[str, list[float]](list)
    for create, at in zip(ledger.creates, ledger.create_times, strict=True):
        by_account[create.provider].append(at)
    for account, times in by_account.items():
        if (busiest := _busiest(times, terms.per)) > terms.submit:
            yield f"{busiest} creates of {account} within {terms.per:g} s, where {terms.submit} may be"
    if ledger.refused["status"]:
        yield f"{ledger.refused['status']} status calls were too many"


def _after_leaving(world: World, facts: Facts) -> Iterator[str]:
    """No create is sent after leaving."""
    for exchange in world.gateway.exchanges:
        if exchange.asked.road != "create":
            continue
        for prompt in ("", exchange.prompt):
            left = world.left.get((exchange.process.name, prompt))
            if left is not None and exchange.began > left[1]:
                yield f"{exchange.prompt!r} was created at {exchange.began_at:.4f}, after leaving at {left[0]:.4f}"


def _within_budget(world: World, facts: Facts) -> Iterator[str]:
    """What was spent is no more than the budget."""
    if world.terms.max_credits is None:
        return
    spent = sum(create.credits for create in world.sandbox.ledger.tasks if create.task_id not in facts.failed)
    if spent > world.terms.max_credits:
        yield f"{spent:g} credits were spent of {world.terms.max_credits:g}"


def _whole(world: World, facts: Facts) -> Iterator[str]:
    """Whatever has a picture's name is one that the provider has sent, whole; what was told to be there is there."""
    sent = set(world.gateway.pictures.values())
    folder = world.folder / "pictures"
    for path in sorted(folder.glob("*.png")) if folder.exists() else ():
        if path.read_bytes() not in sent:
            yield f"{path.name} is no picture that was sent: {path.stat().st_size} bytes"
    for entry in facts.entries:
        for number, file in enumerate(entry.files, start=1):
            path, own = folder / file.path.rpartition("/")[2], f"/files/{entry.account}/{entry.task_id}/{number}.png"
            if not path.exists():
                yield f"the journal has {path.name}, which is not there"
            elif path.read_bytes() != world.gateway.pictures.get(own):
                yield f"{path.name} is another picture than that of its task {entry.task_id}"


def _over(world: World, facts: Facts) -> Iterator[str]:
    """In the end all has ended, and each picture that can be had is there."""
    if not world.terms.has_journal:
        return
    if world.terms.max_credits is None:
        missing = set(world.prompts(world.runs - 1)) - {entry.request.prompt for entry in facts.entries}
        yield from (f"{prompt!r} was asked for, and nothing has come of it" for prompt in sorted(missing))
    for entry in facts.entries:
        if entry.state in ("submitting", "running", "ready"):
            yield f"{entry.request.prompt!r} is still {entry.state}: {entry.task_id} {entry.error}"
        elif entry.state == "failed" and entry.task_id is not None and entry.task_id not in facts.failed:
            yield f"{entry.request.prompt!r} has failed with {entry.error}, its task {entry.task_id} has not"


def _on_the_living(world: World, facts: Facts) -> Iterator[str]:
    """No create is written on a connection that has ended already."""
    for each in world.gateway.exchanges:
        if each.asked.road == "create" and each.is_on_ended:
            yield f"the create of {each.prompt!r} was written at {each.began_at:.4f} on a connection that had ended"


_TRUTHS = (
    _paid_once,
    _kept_or_told,
    _known,
    _within_windows,
    _after_leaving,
    _within_budget,
    _whole,
    _over,
    _on_the_living,
)
