"""A second store for a batch's jobs: a dict, which outlives it as a file outlives its process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import msgspec
from inner import EDGES, ENDED, LONGEST_WAY, bill_of, cut_off

from imagen_async import ImageRequest, InvalidRequest, JournalError
from imagen_async.ports import Bill, Claim, JournalEntry


class DictStore:
    """A JobStore in memory, whose promises stand at the port: what is written is as durable as it will be, at once.

    Args:
        kept: All that it knows; a later store over the same dict goes on with that, and several at once share it.
    """

    name = "a dict"

    def __init__(self, kept: dict[str, Any]) -> None:
        self.is_new = True
        self._jobs: dict[str, JournalEntry] = kept.setdefault("jobs", {})
        self._sends: list[tuple[str, str, float]] = kept.setdefault("sends", [])
        self._notes: dict[str, str] = kept.setdefault("notes", {})
        self._owners: dict[str, str] = kept.setdefault("owners", {})
        self._dropped: dict[str, float] = kept.setdefault("dropped", {})
        # Who lives: whoever has not been closed.
        self._alive: set[str] = kept.setdefault("alive", set())
        kept["count"] = kept.get("count", 0) + 1
        self._me = f"store {kept['count']}"
        self._alive.add(self._me)
        self._seen: Counter[str] = Counter()
        self._is_in_use = False

    def begin_run(self) -> None:
        if self._is_in_use:
            raise JournalError(f"{self.name} is in use: another batch of this program is at work on it.")
        self._is_in_use = True
        self.is_new = not self._of_batches()
        self._seen.clear()
        on_the_way = [entry for entry in self._of_batches() if entry.state == "submitting"]
        self._jobs.update({entry.key: cut_off(entry) for entry in on_the_way})

    def end_run(self) -> None:
        self._is_in_use = False

    def close(self) -> None:
        self._alive.discard(self._me)

    def write(self, entries: Iterable[JournalEntry]) -> None:
        entries = list(entries)
        if any(entry.state == "submitting" and not self._is_mine(entry.key) for entry in entries):
            raise ValueError("its key is another's")
        mine = [entry for entry in entries if self._is_mine(entry.key)]
        changed = {entry.key: _changed(self._jobs.get(entry.key, entry), entry) for entry in mine}
        on_the_way = [entry for entry in changed.values() if entry.state == "submitting" and entry.sent_at is not None]
        self._jobs.update(changed)
        self._sends.extend((entry.account, entry.key, entry.sent_at or 0.0) for entry in on_the_way)

    def note(self, notes: Mapping[str, str]) -> None:
        self._notes.update(notes)

    def notes(self) -> dict[str, str]:
        return dict(self._notes)

    def find(self, key: str) -> JournalEntry | None:
        return self._jobs.get(key)

    def find_task(self, task_id: str) -> JournalEntry | None:
        return next(iter(self._those(lambda each: each.task_id == task_id)), None)

    def unfinished(self) -> list[JournalEntry]:
        states = ("running", "ready")
        is_named = ("unknown", False)
        found = self._of_batches()
        return [each for each in found if each.state in states or (each.state, each.task_id is None) == is_named]

    def with_lost_creates(self) -> list[JournalEntry]:
        return [each for each in self._of_batches() if each.lost > 0]

    def counts(self) -> Counter[str]:
        return Counter(each.state for each in self._of_batches())

    def bills(self) -> list[tuple[Bill, int]]:
        return list(Counter(map(bill_of, self._of_batches())).items())

    def latencies(self, account: str, at_most: int) -> list[tuple[ImageRequest, float]]:
        own = self._those(lambda each: each.account == account and each.made_by is None)
        known = [(job.request, job.latency) for job in own if job.latency is not None and 0 <= job.latency <= EDGES[-1]]
        return known[max(0, len(known) - at_most) :]

    def sent_since(self, account: str, moment: float) -> list[tuple[float, float | None]]:
        found = []
        for key, sent_at in ((key, sent_at) for whose, key, sent_at in self._sends if whose == account):
            job = self._jobs.get(key)
            over_at = None
            if job is None:
                pass  # one that was let go of, or dropped: nobody knows when it was over
            elif (job.sent_at or 0) > sent_at:
                over_at = None if job.lost else job.sent_at
            elif (job.accepted_at or 0) >= sent_at:
                over_at = job.accepted_at
            elif (job.ended_at or 0) > sent_at:
                over_at = job.ended_at
            if (over_at or sent_at + LONGEST_WAY) > moment:
                found.append((sent_at, over_at))
        return found

    def times_seen(self, key: str) -> int:
        self._seen[key] += 1
        return self._seen[key]

    def note_once(self, name: str, value: str) -> str:
        return self._notes.setdefault(name, value)

    def claim(self, entry: JournalEntry, again: Collection[str] = (), *, held: bool = False) -> Claim:
        if entry.key in self._dropped:
            raise InvalidRequest("dropped")
        if entry.key not in self._jobs:
            self._jobs[entry.key], self._owners[entry.key] = entry, self._me
            return Claim(entry, is_ours=True)
        found = self._jobs[entry.key]
        if found.state not in ("done", "failed") and (self.owner(entry.key) or self._me) != self._me:
            return Claim(found, is_others=True)
        if entry.key not in self._owners and (found.state not in ENDED or found.state in again):
            raise InvalidRequest("a batch's")
        if found.state == "submitting":
            self._jobs[entry.key] = found = cut_off(found)
        is_awaited = found.state == "unknown" and (held or found.task_id is not None) and entry.key in self._owners
        if found.state in ENDED and not (found.state in again or is_awaited):
            return Claim(found)
        self._owners[entry.key] = self._me
        if found.state in again:
            self._jobs[entry.key] = msgspec.structs.replace(found, state="queued")
        return Claim(found, is_ours=True)

    def owner(self, key: str) -> str | None:
        owner = self._owners.get(key)
        return owner if owner is None or owner in self._alive else ""

    def release(self, keys: Iterable[str]) -> None:
        for key in keys:
            if self._owners.get(key) == self._me:
                self._owners[key] = ""
                if self._jobs[key].state == "queued" and not self._jobs[key].attempts:
                    del self._jobs[key], self._owners[key]

    def abandoned(self) -> list[JournalEntry]:
        def is_left(each: JournalEntry) -> bool:
            is_named = each.state == "unknown" and each.task_id is not None
            return (each.state not in ENDED or is_named) and self.owner(each.key) == ""

        return self._those(is_left)

    def drop(self, before: float, kept: float) -> int:
        ended = self._those(lambda each: each.state in ("done", "failed") and (each.ended_at or before) < before)
        found = [each.key for each in ended if each.key in self._owners]
        for key in found:
            self._dropped[key] = kept
            del self._jobs[key], self._owners[key]
        return len(found)

    def _is_mine(self, key: str) -> bool:
        return self._owners.get(key) in (None, self._me) and key not in self._dropped

    def _of_batches(self) -> list[JournalEntry]:
        return self._those(lambda each: each.key not in self._owners)

    def _those(self, condition: Callable[[JournalEntry], bool] = lambda each: True) -> list[JournalEntry]:
        # A copy, made in one go: the writer's thread may add to the dict meanwhile.
        return [each for each in list(self._jobs.values()) if condition(each)]


def _changed(before: JournalEntry, entry: JournalEntry) -> JournalEntry:
    """The entry with what it leaves as it was."""
    stays: dict[str, Any] = {"position": before.position}
    times = ("sent_at", "accepted_at", "ended_at")
    if entry.state != "submitting" and entry.attempts:
        stays |= {"request": before.request, "price": before.price}
        stays |= {name: getattr(before, name) for name in times if getattr(entry, name) is None}
    return msgspec.structs.replace(entry, **stays)
