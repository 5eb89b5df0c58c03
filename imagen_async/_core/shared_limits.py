"""The limits of one key that several clients use, of one process or many: what all of them have, and who goes next.

There is one thing that a client says, its `Position`: all that it has, not what has changed. So whatever was lost on
the way, or whole states with what they knew, comes again with the next one. A server can keep such a state as well as a
file can. Times are seconds of the machine's clock, which goes on while that sleeps and which nobody sets.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import msgspec

from .rate_limit import LearnedLimit, Rate

Kind = Literal["submit", "status"]
"""A limit of creates, or of status calls."""

KINDS: tuple[Kind, Kind] = ("submit", "status")

UNKNOWN: dict[Kind, int] = dict.fromkeys(KINDS, 2**31)
"""Places whose requests may have left, of a process that has not said how many."""

LATELY = 20.0
"""Windows for which it counts who was given how many places."""

KEPT = 60.0
"""Seconds for which a callback is kept that was handed on."""

MOST_KEPT = 1000
"""Callbacks that are kept at most."""

FRESH = 1.0
"""Seconds for which whoever has asked for places is waited for: then it stands still, or wants none any more."""

Places = list[tuple[float, int]]
"""Times, and how many places each is about, in any order."""


class Held(msgspec.Struct):
    """Places of one limit that are not free.

    Attributes:
        leases: Places whose request may be on its way, or may go yet: by when it will have reached the server, if ever.
        answered: Places whose request was answered: when.
    """

    leases: Places = []
    answered: Places = []

    def count(self, per: float, now: float) -> int:
        """How many of them are in a window of that length now."""
        return sum(count for at, count in (*self.leases, *self.answered) if at + per > now)

    def times(self, per: float) -> Iterator[float]:
        """When they are free again, if nothing happens."""
        return (at + per for at, _ in (*self.leases, *self.answered))

    def without_past(self, per: float, now: float) -> Held:
        """Those that are in such a window."""
        return Held(*([(at, count) for at, count in each if at + per > now] for each in (self.leases, self.answered)))

    def __add__(self, other: Held) -> Held:
        return Held([*self.leases, *other.leases], [*self.answered, *other.answered])


class Wish(msgspec.Struct):
    """What a client says of one of its limits.

    Attributes:
        rate: As that client was given it.
        held: All places that it has.
        wanted: Requests that find none.
        answers: Answers since it said this last.
        refusals: Since then: when the server has refused for the rate, and for how long it wants to be left alone.
        blocks: The same where no rate explains it.
        earlier: Answers that a journal knows of, from before this client: most of them are known here.
    """

    rate: Rate
    held: Held
    wanted: int = 0
    answers: int = 0
    refusals: list[tuple[float, float | None]] = []
    blocks: list[tuple[float, float | None]] = []
    earlier: Places = []


class Position(msgspec.Struct):
    """What a client says.

    Attributes:
        name: Its own; the name of its process stands before the slash.
        wishes: By the kind of limit.
        load: Tasks that it has at the provider, or that a place which it has may come to make.
        room: Tasks that the key may have at once.
        lease: Seconds after which a request that is given a place now has reached the server, or never will.
        leaves: True where it is said for the last time.
    """

    name: str
    wishes: dict[Kind, Wish]
    load: int
    room: int
    lease: float
    leaves: bool = False


class Word(msgspec.Struct):
    """What a client is told of one of its limits.

    Attributes:
        granted: Places that it has from now on.
        until: By when the requests for these must have reached the server.
        limit: Places, as they are now.
        blocked_until: Before that nothing may be sent.
        frees_at: When a place may be free that is not now; infinity while only an answer can tell.
        others: Places that others have.
    """

    granted: int
    until: float
    limit: int
    blocked_until: float
    frees_at: float
    others: int


class Member(msgspec.Struct):
    """What is known of a client.

    Attributes:
        said: Its last position.
        at: When it said that.
        served: By kind, when it was given places last, and how many it was given lately: old ones count less and less.
    """

    said: Position
    at: float
    served: dict[Kind, tuple[float, float]] = {}

    def lately(self, kind: Kind, now: float) -> float:
        """How many places it was given lately."""
        at, count = self.served.get(kind, (now, 0.0))
        return count * math.exp((at - now) / (LATELY * self.said.wishes[kind].rate.per))


class HandedOn(msgspec.Struct):
    """A callback that came to a client which does not wait for it.

    Attributes:
        token: Tells whose it is.
        named: The task that it names where providers document it.
        hinted: The same, read more generously.
        timestamp: Of its signature, where it has one.
        signature: The signature.
        number: Counts what was handed on.
        at: When.
    """

    token: str
    named: str | None
    hinted: str | None
    timestamp: str = ""
    signature: str = ""
    number: int = 0
    at: float = 0.0


class SharedLimits(msgspec.Struct):
    """All that is known of a key.

    Attributes:
        boot: Which start of which machine the times are of; None where nobody can tell.
        at: When it was changed last.
        lost_at: When it had to begin anew, nobody knowing what was sent before: one window is waited for from there.
        members: Who uses the key, by name.
        left: What those have left behind who do so no more.
        learned: What the provider is known to take, by kind and rate.
        secret: By which the clients know one another's callback tokens; made when it is needed first.
        calls: Callbacks that were handed on lately.
    """

    boot: str | None
    at: float
    lost_at: float = -math.inf
    members: dict[str, Member] = {}
    left: dict[Kind, Held] = {}
    learned: dict[str, LearnedLimit] = {}
    secret: bytes = b""
    calls: list[HandedOn] = []

    def secret_or(self, fresh: bytes) -> bytes:
        """The secret, which this one becomes where there is none yet."""
        self.secret = self.secret or fresh
        return self.secret

    def hand_on(self, callback: HandedOn, now: float) -> None:
        """Keep a callback for whoever waits for it; who has not heard it after a minute asks for the status anyway."""
        recent = [each for each in self.calls if each.at + KEPT > now][-MOST_KEPT + 1 :]
        # By a number that goes on also where the last ones are forgotten.
        callback.number = max((each.number for each in self.calls), default=int(now * 1000)) + 1
        callback.at = now
        self.calls = [*recent, callback]

    def exchange(self, said: Position, now: float) -> dict[Kind, Word]:
        """Take a client's position, and give it what it may have."""
        self.at = now
        member = self.members.get(said.name)
        if member is None:
            member = self.members[said.name] = Member(said, now)
        member.said, member.at = said, now
        self._forget_the_past(now)
        words = {kind: self._word(kind, member, now) for kind in KINDS if kind in said.wishes}
        if said.leaves:
            self._take_leave(said.name)
        return words

    def bury(self, process: str, marked: Mapping[Kind, int]) -> None:
        """Let a process that is dead have nothing any more, but for places whose requests may have left.

        Args:
            process: Its name.
            marked: How many had, at most. The others are free at once.
        """
        for kind in KINDS:
            for name in self.of(process):
                wish = self.members[name].said.wishes.get(kind)
                if wish is not None:
                    self.left[kind] = self.left.get(kind, Held()) + Held([], wish.held.answered)
            self.left[kind] = self.left.get(kind, Held()) + Held(self._latest(kind, process, marked.get(kind, 0)), [])
        for name in self.of(process):
            del self.members[name]

    def processes(self) -> set[str]:
        """The names of the processes that use the key."""
        return {name.partition("/")[0] for name in self.members}

    def of(self, process: str) -> list[str]:
        """The names of a process's clients."""
        return [name for name in self.members if name.partition("/")[0] == process]

    def rename(self, process: str, name: str) -> None:
        """Know a process by another name."""
        for each in self.of(process):
            self.members[f"{name}/{each.partition('/')[2]}"] = self.members.pop(each)

    def begin_at_boot(self, boot: str | None, now: float) -> None:
        """Go on after another start of the machine: what was out, or in a window, is so since that at the latest."""
        for process in self.processes():
            self.bury(process, UNKNOWN)
        self._forget_the_past(self.at)
        lease = max((until - self.at for held in self.left.values() for until, _ in held.leases), default=0.0)
        for kind, held in self.left.items():
            out = sum(count for _, count in held.leases)
            was_answered = sum(count for _, count in held.answered)
            self.left[kind] = Held([(lease, out)] if out else [], [(0.0, was_answered)] if was_answered else [])
        for learned in self.learned.values():
            learned.blocked_until = learned.clean_since = learned.cut_at = -math.inf
        # What nobody knew is no better known now: it left before the boot.
        self.lost_at = 0.0 if self.lost_at > -math.inf else -math.inf
        # Whoever waited for these has ended.
        self.calls = []
        self.boot, self.at = boot, now

    def limit_of(self, kind: Kind, rate: Rate) -> LearnedLimit:
        """What is known of a limit, by whoever was given that rate."""
        key = f"{kind} {rate.count}/{rate.per:g}{'?' * rate.guess}"
        if key not in self.learned:
            self.learned[key] = LearnedLimit(rate, rate.count)
        return self.learned[key]

    def taken(self, kind: Kind, per: float, now: float) -> int:
        """Places of a limit that are not free now."""
        left = self.left.get(kind, Held()).count(per, now)
        wishes = [wish for _, wish in self._wishes(kind)]
        # What a journal knows is mostly known here, too: as what was left behind.
        earlier = max((Held([], wish.earlier).count(per, now) for wish in wishes), default=0)
        return sum(wish.held.count(per, now) for wish in wishes) + max(left, earlier)

    def _wishes(self, kind: Kind) -> Iterator[tuple[Member, Wish]]:
        for member in self.members.values():
            if kind in member.said.wishes:
                yield member, member.said.wishes[kind]

    def _word(self, kind: Kind, member: Member, now: float) -> Word:
        wish, per = member.said.wishes[kind], member.said.wishes[kind].rate.per
        learned = self._learn(kind, wish, now)
        taken = self.taken(kind, per, now)
        blocked_until = max(learned.blocked_until, self.lost_at + per)
        granted, until = 0, now + member.said.lease
        # Who leaves while it still waits takes nothing with it.
        if wish.wanted and blocked_until <= now and not member.said.leaves:
            granted = self._share(kind, member, learned.limit - taken, learned.limit, now)
        if granted:
            learned.took(now, taken + granted)
            wish.held.leases.append((until, granted))
            wish.wanted -= granted
            member.served[kind] = now, member.lately(kind, now) + granted
            member.said.load += granted if kind == "submit" else 0
        others = taken - (wish.held.count(per, now) - granted)
        return Word(granted, until, learned.limit, blocked_until, self._frees_at(kind, per, now), others)

    def _learn(self, kind: Kind, wish: Wish, now: float) -> LearnedLimit:
        own = self.limit_of(kind, wish.rate)
        # What the server refuses it refuses to all, whatever limit they were given.
        for learned in [each for key, each in self.learned.items() if key.startswith(kind)]:
            for at, retry_after in wish.blocks:
                learned.block(at, retry_after)
            for at, retry_after in wish.refusals:
                learned.refused(at, retry_after)
        if wish.answers:
            out = sum(count for _, other in self._wishes(kind) for _, count in other.held.leases)
            own.answered(now, out, lambda: self.taken(kind, wish.rate.per, now))
        return own

    def _share(self, kind: Kind, member: Member, free: int, limit: int, now: float) -> int:
        """How many of the free places one may have, beside the others that wait as well."""
        room = member.said.room - sum(other.said.load for other in self.members.values())
        is_room_scarce = kind == "submit" and room < free
        free = min(free, room) if is_room_scarce else free
        per, waiting = member.said.wishes[kind].rate.per, list[Waiting]()
        for other, wish in self._wishes(kind):
            if wish.wanted and (other is member or now - other.at <= FRESH):
                level = other.said.load if is_room_scarce else round(other.lately(kind, now))
                has = 0 if is_room_scarce else wish.held.count(per, now)
                since = other.served.get(kind, (-math.inf, 0))[0]
                waiting.append(Waiting(level, since, other.said.name, wish.wanted, has))
        return shares(waiting, free, limit).get(member.said.name, 0)

    def _frees_at(self, kind: Kind, per: float, now: float) -> float:
        held = [self.left.get(kind, Held()), *(wish.held for _, wish in self._wishes(kind))]
        return min((at for each in held for at in each.times(per) if at > now), default=math.inf)

    def _latest(self, kind: Kind, process: str, count: int) -> Places:
        """So many of a process's leases, those that are over last."""
        wishes = (self.members[name].said.wishes for name in self.of(process))
        leases = sorted((each for wish in wishes if kind in wish for each in wish[kind].held.leases), reverse=True)
        found: Places = []
        for until, places in leases:
            if count > 0:
                found.append((until, min(places, count)))
            count -= places
        return found

    def _take_leave(self, name: str) -> None:
        for kind, wish in self.members.pop(name).said.wishes.items():
            self.left[kind] = self.left.get(kind, Held()) + wish.held

    def _forget_the_past(self, now: float) -> None:
        for kind in KINDS:
            # As the longest window has it: others may have been given another one.
            per = max((each.rate.per for key, each in self.learned.items() if key.startswith(kind)), default=math.inf)
            if kind in self.left:
                self.left[kind] = self.left[kind].without_past(per, now)


class Waiting(msgspec.Struct, order=True):
    """One of those that wait for places; who has a lower level goes first, and of equals who has waited longer.

    Attributes:
        level: How many places it was given lately.
        since: When it was given the last one.
        name: Its name.
        wanted: How many it wants.
        has: How many places of the window it has.
    """

    level: int
    since: float
    name: str
    wanted: int
    has: int


def shares(waiting: Sequence[Waiting], free: int, limit: int) -> dict[str, int]:
    """How many of the free places each may have of those that wait: whoever was given the fewest has the next.

    While others wait nobody has more of the window than its part and a little, so that who comes anew, or comes back,
    does not take all until it has caught up.

    Args:
        waiting: All who wait.
        free: Places.
        limit: Places of the whole window.
    """
    part = -(-limit // len(waiting)) + max(1, limit // (10 * len(waiting)))
    within = [msgspec.structs.replace(each, wanted=min(each.wanted, max(0, part - each.has))) for each in waiting]
    given = _evenly(within, free)
    free -= sum(given.values())
    if free:
        rest = [msgspec.structs.replace(each, wanted=each.wanted - given.get(each.name, 0)) for each in waiting]
        for name, more in _evenly(rest, free).items():
            given[name] = given.get(name, 0) + more
    return given


def _evenly(waiting: Iterable[Waiting], free: int) -> dict[str, int]:
    given: dict[str, int] = {}
    still = sorted(each for each in waiting if each.wanted)
    while still and free > 0:
        lowest = [each for each in still if each.level == still[0].level]
        above = still[len(lowest)].level - lowest[0].level if len(lowest) < len(still) else math.inf
        # As high as the next one stands, as the least of them wants, or as the places last.
        step = int(min(above, *(each.wanted for each in lowest), free // len(lowest)))
        # Where there are too few for all of them: one each, for those who have waited longest.
        for each in lowest if step else lowest[:free]:
            given[each.name] = given.get(each.name, 0) + (step or 1)
        if not step:
            break
        free -= step * len(lowest)
        raised = (msgspec.structs.replace(each, level=each.level + step, wanted=each.wanted - step) for each in lowest)
        still = sorted([*still[len(lowest) :], *(each for each in raised if each.wanted)])
    return given
