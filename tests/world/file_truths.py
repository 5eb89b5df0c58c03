"""What must be true of the files of a world, of what was told of them, and of where the key went."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .wire import AGAIN, KEY

if TYPE_CHECKING:
    from .facts import Facts
    from .world import World

STRANGER = b"\x89PNG of somebody else"
"""What is in a file that somebody else has put where a picture is to lie."""


def _whole(world: World, facts: Facts) -> Iterator[str]:
    """Whatever has a picture's name is one that the provider has sent, whole; what was told to be there is there."""
    sent = set(world.gateway.pictures.values())
    folder = world.folder / "pictures"
    for path in sorted(folder.glob("*.png")) if folder.exists() else ():
        if path not in world.strangers and path.read_bytes() not in sent:
            yield f"{path.name} is no picture that was sent: {path.stat().st_size} bytes"
    for entry in facts.entries:
        if entry.state == "done" and world.terms.saves and len(entry.files) != len(entry.urls):
            yield f"{entry.request.prompt!r} is done with {len(entry.files)} of {len(entry.urls)} files"
        for number, file in enumerate(entry.files, start=1):
            path, own = folder / file.path.rpartition("/")[2], f"/files/{entry.account}/{entry.task_id}/{number}.png"
            if not path.exists():
                yield f"the journal has {path.name}, which is not there"
            elif file.sha256 != hashlib.sha256(path.read_bytes()).hexdigest() or file.size != path.stat().st_size:
                yield f"{path.name} is not what the journal says of it: {file.sha256} {file.size}"
            elif path.read_bytes() != world.gateway.pictures.get(own):
                yield f"{path.name} is another picture than that of its task {entry.task_id}"


def _key_at_home(world: World, facts: Facts) -> Iterator[str]:
    """The key goes with no question about a file, and is nowhere on the disk or in what was said."""
    for each in world.gateway.exchanges:
        if each.has_key and AGAIN in each.asked.path:
            yield f"the key followed a redirect to {each.asked.path}"
        if each.has_key and each.asked.road in ("file", "callback"):
            yield f"the key went with {each.asked.path}"
    for path in world.folder.rglob("*"):
        if path.is_file() and KEY.encode() in path.read_bytes():
            yield f"the key is in {path.name}"
    if any(KEY in line for line in world.witness.heard):
        yield "the key was said"


def _swept(world: World, facts: Facts) -> Iterator[str]:
    """What dead processes have left unfinished beside their journal is swept up."""
    if world.terms.has_journal and world.journal.parent.name == "pictures":
        for path in world.journal.parent.glob(".imagen-*.part"):
            yield f"{path.name} was left"


def _untouched(world: World, facts: Facts) -> Iterator[str]:
    """What somebody else has put there is as it was."""
    for path in world.strangers:
        if not path.exists() or path.read_bytes() != STRANGER:
            yield f"{path.name} was somebody else's"


def _told_once(world: World, facts: Facts) -> Iterator[str]:
    """What a program is told of a batch comes no oftener than it was ordered, and with its files."""
    if world.terms.program != "batch":
        return
    count = Counter((each.process, each.prompt, each.task_id) for each in world.witness.told if each.task_id)
    for (process, prompt, task_id), times in count.items():
        if times > 1:
            yield f"{process} was told {times} times of {prompt!r}: {task_id}"
    for each in world.witness.told:
        if not each.error and world.terms.saves and not each.files and not each.is_left:
            yield f"{each.process} was told of {each.prompt!r} without its files"


def _all_come_out(world: World, facts: Facts) -> Iterator[str]:
    """The last run, which nothing befalls, tells of each request as often as it was asked for."""
    if not world.terms.has_journal or world.terms.max_credits is not None:
        return
    last = f"run {world.runs - 1}"
    told = Counter(each.prompt for each in world.witness.told if each.process == last)
    for prompt, times in Counter(world.prompts(world.runs - 1)).items():
        if told[prompt] != times:
            yield f"{last} told {told[prompt]} times of {prompt!r}, which was asked for {times} times"
    known = {each.task_id for each in world.witness.told}
    for entry in facts.entries:
        if entry.state == "done" and entry.task_id not in known:
            yield f"{entry.request.prompt!r} is done, and nobody was ever told: {entry.task_id}"


TRUTHS = (_whole, _key_at_home, _swept, _untouched, _told_once, _all_come_out)
