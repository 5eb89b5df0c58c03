"""What a world has left behind when it has ended, by the ledger, the lines, the journal and what was told."""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
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


class Facts:
    """What a world has left, by prompt.

    Attributes:
        tasks: Those that were made, and `failed`: their ids that failed there.
        entries: What the journal says at the end.
        lost: Creates of each prompt of which the client could not know what became of them.
        said_lost: Creates of each prompt of which it was said that they may have made a task.
        ordered: How often each prompt was in the longest input.
        announced_at: World time at which a callback first named a task, of those that were taken.
    """

    def __init__(self, world: World) -> None:
        ledger = world.sandbox.ledger
        self.tasks = defaultdict[str, list[Create]](list)
        for create in ledger.tasks:
            self.tasks[create.prompt].append(create)
        made = zip(ledger.tasks, world.faults.of_tasks, strict=True)
        self.failed = {create.task_id for create, fault in made if fault in FAILING}
        self.entries = entries_of(world.journal)
        self.lost = Counter(each.prompt for each in world.gateway.exchanges if is_lost(each)) + world.lost_by_end
        self.said_lost = Counter[str]()
        for entry in self.entries:
            self.said_lost[entry.request.prompt] += entry.lost
        if not world.terms.has_journal:
            self.said_lost.update(each.prompt for each in world.witness.told if each.error == "UnknownOutcome")
            said = [line for line in world.witness.heard if "nobody waited for the end of" in line]
            is_said = {prompt: any(repr(prompt) in line for line in said) for prompt in self.lost}
            # One that was sent again by order is told as what came of it in the end.
            self.said_lost.update(each for each in self.lost if is_said[each] or world.terms.resubmits)
        inputs = [Counter(world.prompts(run)) for run in range(world.runs)]
        self.ordered = {prompt: max(each[prompt] for each in inputs) for each in inputs for prompt in each}
        self.announced_at = dict(self._announced(world))

    def found_at(self, lost: Exchange) -> float:
        """World time at which a callback named the task of a create that was lost."""
        body = b"" if lost.plain is None else lost.plain.body
        return min((at for task_id, at in self.announced_at.items() if task_id.encode() in body), default=math.inf)

    def _announced(self, world: World) -> Iterator[tuple[str, float]]:
        made = {str(create.task_id) for create in world.sandbox.ledger.tasks}
        for each in reversed(world.gateway.exchanges):
            if each.asked.road == "callback" and each.plain is not None and each.plain.status == 200:
                for named in re.findall(rb'"task_?[iI]d": *"([^"]+)"', each.asked.body):
                    if named.decode() in made:
                        yield named.decode(), each.began_at


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
    if exchange.fate.what == "redirected" and exchange.is_answered:
        return False  # it says that nobody has looked at it
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


def is_limit(answer: Answer | None) -> bool:
    """Say whether an answer refuses a request for its rate."""
    if answer is None:
        return False
    try:
        return answer.status == 429 or json.loads(answer.body).get("code") == 429
    except ValueError:
        return False
