"""What the sandbox saw and would have billed."""

from __future__ import annotations

from array import array
from collections import Counter

import msgspec


class Create(msgspec.Struct, frozen=True):
    """One create that reached the sandbox.

    Attributes:
        provider: Which of the APIs it came to.
        prompt: What it asked for.
        model: The model's name on the wire.
        task_id: The task that it made, or None when it was refused.
        credits: What that would have cost; 0 when refused or when no price is known.
        fault: What was made to go wrong, or None.
        input: All that was asked for, as it stood on the wire.
        callback_url: Where its end is to be announced, or None.
    """

    provider: str
    prompt: str
    model: str
    task_id: str | None
    credits: float
    fault: str | None
    input: dict[str, object]
    callback_url: str | None = None


class Ledger:
    """Every create, poll and picture.

    Attributes:
        creates: In the order of arrival.
        create_times: When each create arrived, refused ones included, in seconds of the server's clock.
        poll_times: When each status call arrived.
        polls: Status calls by task id.
        pictures: Picture files sent whole, by task id.
        uploads: Files taken, by the sha256 of each.
        callbacks: Callbacks sent, repeats included, by task id.
        withheld: Callbacks that were not sent, since they would have left this machine, by task id.
        announced: The tasks whose callback was taken: answered 2xx.
        callback_answers: What they were answered, by HTTP status; 0 for none.
        refused: Refusals by reason: `submit`, `running`, `status` for the limits, else the code.
        key_leaks: Requests for a file that carried an Authorization header: there must be none.
    """

    def __init__(self) -> None:
        self.creates: list[Create] = []
        self.create_times: array[float] = array("d")
        self.poll_times: array[float] = array("d")
        self.polls: Counter[str] = Counter()
        self.pictures: Counter[str] = Counter()
        self.uploads: Counter[str] = Counter()
        self.callbacks: Counter[str] = Counter()
        self.withheld: Counter[str] = Counter()
        self.callback_answers: Counter[int] = Counter()
        self.announced: set[str] = set()
        self.refused: Counter[str] = Counter()
        self.key_leaks = 0

    @property
    def tasks(self) -> list[Create]:
        """The creates that made a task: what a provider would have billed."""
        return [create for create in self.creates if create.task_id is not None]

    @property
    def credits(self) -> float:
        """What it would all have cost."""
        return sum(create.credits for create in self.creates)

    def tasks_by_prompt(self) -> Counter[str]:
        """How many tasks each prompt made."""
        return Counter(create.prompt for create in self.tasks)

    def summary(self) -> dict[str, object]:
        """The figures, for people and for JSON."""
        doubled = {prompt: count for prompt, count in self.tasks_by_prompt().items() if count > 1}
        return {
            "creates": len(self.creates),
            "tasks": len(self.tasks),
            "credits": self.credits,
            "polls": len(self.poll_times),
            "pictures": sum(self.pictures.values()),
            "uploads": sum(self.uploads.values()),
            "callbacks": {str(status): count for status, count in sorted(self.callback_answers.items())},
            "callbacks_withheld": sum(self.withheld.values()),
            "refused": dict(self.refused),
            "faults": dict(Counter(create.fault for create in self.creates if create.fault)),
            "prompts_with_several_tasks": doubled,
            "key_leaks": self.key_leaks,
        }
