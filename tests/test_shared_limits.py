"""The limits of one key that several clients use: never over them at the server, whatever happens to whom."""

from __future__ import annotations

import math
import random
from typing import Any, Literal

import msgspec
import pytest
from conftest import naming
from hypothesis import given, settings
from hypothesis import strategies as st
from inner import Held, LeasedPlaces, Position, SharedLimits, Waiting, Wish, Word, shares

from imagen_async import Rate
from tests.world.windows import busiest_window

WAY = 1.0
"""Seconds that a request takes to the server at most."""

LEASE = 1.5

TWENTY = Rate(20, per=2)

EIGHTHS = st.integers(0, 12).map(lambda eighths: eighths / 8)
"""Seconds that floats add up without rounding."""


def position(name: str, rate: Rate = TWENTY, *, load: int = 0, room: int = 1000, **wish: Any) -> Position:
    """What a client says of its creates."""
    return Position(name, {"submit": Wish(rate, **{"held": Held(), **wish})}, load, room, lease=10.0)


def said_by(state: SharedLimits, name: str, now: float, **wish: Any) -> Word:
    """What a client is told of its creates."""
    return state.exchange(position(name, **wish), now)["submit"]


class Peer:
    """A client of a process of its own, with what it says, in three steps: it says, it is taken, it hears."""

    def __init__(self, number: int, world: Earth) -> None:
        self.name, self.process = f"{number}-x/0", f"{number}-x"
        self.places = LeasedPlaces(world.rate.per)
        # As others can read it after its death.
        self.noted = 0
        self.unmarked = 0
        self.taken = 0
        self.wanted = 0
        self.refusals: list[tuple[float, float | None]] = []
        # By when each request is answered, and whether that is known by then to have been refused.
        self.answers: list[float] = []
        self.said: tuple[Position, int] | None = None
        self.word: Word | None = None
        self.said_at = world.now
        self._world = world

    def talk(self) -> None:
        """Go one step on."""
        world = self._world
        if self.said is None:
            refusals, self.refusals = self.refusals, []
            held = self.places.held(world.clock)
            wish = Wish(world.rate, held, 0 if self.places.at_hand else self.wanted, refusals=refusals)
            self.said = Position(self.name, {"submit": wish}, 0, 10**6, LEASE), self.unmarked
            self.said_at, self.unmarked = world.now, 0
        elif self.word is None:
            world.bury_the_dead()
            self.word = world.state.exchange(self.said[0], world.clock)["submit"]
            self.noted -= self.said[1]
        else:
            if self.word.granted:
                self.places.add(self.word.until, self.word.granted)
            self.said = self.word = None

    def say_all(self) -> None:
        """Say what it has now, and hear."""
        while self.said is not None:
            self.talk()
        for _ in range(3):
            self.talk()

    def send(self, there: float, back: float) -> None:
        """Have one request leave that has its place, where its lease allows."""
        if self.taken and self._world.clock + WAY <= self.places.oldest_until():
            self.places.leave_one()
            self.places.marked += 1
            self.noted += 1
            self.taken -= 1
            arrives = self._world.now + min(there, WAY)
            self._world.arrivals.append(arrives)
            self.answers.append(arrives + back)

    def hear_answers(self, *, is_refused: bool) -> None:
        """Have what was answered by now."""
        for at in [at for at in self.answers if at <= self._world.now]:
            self.answers.remove(at)
            self.places.marked -= 1
            self.unmarked += 1
            self.places.answer(self._world.clock)
            if is_refused:
                self.refusals.append((self._world.clock, None))

    def release(self) -> None:
        """Have one request not leave that has its place."""
        if self.taken:
            self.taken -= 1
            assert self.places.release()


class Earth:
    """A key, its clients, and the server."""

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self.now = self.booted_at = 0.0
        self.arrivals: list[float] = []
        self.state = SharedLimits("boot", 0.0)
        self.count = 0
        self.peers: list[Peer] = []
        # By process, how many of its requests may have left; and by when these were answered, if it had lived.
        self.dead: dict[str, int] = {}
        self.sent_by_the_dead: list[float] = []
        self.lost_at = -math.inf
        for _ in range(3):
            self.join()

    @property
    def clock(self) -> float:
        """The machine's: it begins anew with that."""
        return self.now - self.booted_at

    @property
    def is_known(self) -> bool:
        """True while no loss is so young that not everybody has said again what it has."""
        return self.lost_at + self.rate.per / 4 < self.now

    def join(self) -> None:
        """Have one more client."""
        self.count += 1
        self.peers.append(Peer(self.count, self))

    def bury_the_dead(self) -> None:
        """As whoever wants places does before."""
        for process in self.state.processes() & self.dead.keys():
            self.state.bury(process, {"submit": self.dead[process]})

    def advance(self, seconds: float) -> None:
        """Let time pass; who lives and has places says so every quarter of a window."""
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self.now + self.rate.per / 8)
            for peer in self.peers:
                if peer.places.are_any and self.now >= peer.said_at + self.rate.per / 8:
                    peer.say_all()

    def die(self, peer: Peer) -> None:
        """Kill a process and start another; not in the midst of another accident."""
        if self.is_known:
            self.sent_by_the_dead += peer.answers
            self.peers.remove(peer)
            self.dead[peer.process] = peer.noted
            self.join()

    def lose(self) -> None:
        """Lose the state; nothing that the dead have sent is on its way any more."""
        if all(at <= self.now for at in self.sent_by_the_dead):
            self.lost_at = self.now
            self.state = SharedLimits("boot", self.clock, lost_at=self.clock)

    def boot(self) -> None:
        """Start the machine again: all die."""
        if self.is_known:
            for peer in [*self.peers]:
                self.die(peer)
            self.bury_the_dead()
            self.booted_at = self.now
            self.state.begin_at_boot("next", 0.0)

    def leave(self, peer: Peer) -> None:
        """Have a client say for the last time what it has, once the server has all that it sent."""
        if all(at <= self.now for at in peer.answers):
            while peer.said is not None:
                peer.talk()
            peer.places.leave(self.clock)
            wishes: dict[Literal["submit", "status"], Wish] = {"submit": Wish(self.rate, peer.places.held(self.clock))}
            self.state.exchange(Position(peer.name, wishes, 0, 10**6, LEASE, leaves=True), self.clock)
            self.peers.remove(peer)
            self.join()


USUAL = ["burst"] * 8 + ["talk"] * 3 + ["take", "send", "send", "answers", "answers", "wait", "wait", "wait"]
SELDOM = ["release", "give back", "refused", "die", "die", "lose", "leave", "boot"]


@settings(max_examples=120)
@given(
    rate=st.builds(Rate, count=st.integers(1, 5), per=st.sampled_from([1.0, 2.0])),
    seed=st.integers(0, 2**32),
)
def test_no_window_at_the_server_holds_more_than_the_limit(rate: Rate, seed: int) -> None:
    """Whoever asks, sends, hears, gives back, dies, leaves or forgets when, all together keep within the limit."""
    world, chance = Earth(rate), random.Random(seed)
    for _ in range(300):
        step = chance.choice(USUAL if chance.random() < 0.9 else SELDOM)
        act(world, step, chance.choice(world.peers), chance.randrange(13) / 8, chance.randrange(13) / 8)
        assert busiest_window(world.arrivals[-60:], rate.per) <= rate.count


def act(world: Earth, step: str, peer: Peer, some: float, more: float) -> None:
    """Have one thing happen."""
    peer.wanted = 1 + int(8 * some)
    if step == "take" and peer.places.at_hand:
        peer.places.take()
        peer.taken += 1
    elif step == "burst":
        peer.say_all()
        for _ in range(peer.places.at_hand):
            act(world, "take", peer, some, more)
            peer.send(some, more)
    elif step == "send":
        peer.send(some, more)
    elif step in ("answers", "refused"):
        peer.hear_answers(is_refused=step == "refused")
    elif step == "give back":
        peer.places.give_back()
    elif step == "wait":
        world.advance(some)
    elif step in ("talk", "release"):
        getattr(peer, step)()
    elif step in ("die", "leave"):
        getattr(world, step)(peer)
    elif step in ("lose", "boot"):
        getattr(world, step)()


@settings(max_examples=20)
@given(
    rate=st.builds(Rate, count=st.integers(1, 6), per=st.sampled_from([1.0, 2.0])),
    delays=st.lists(EIGHTHS, min_size=10, max_size=40),
)
def test_nobody_starves(rate: Rate, delays: list[float]) -> None:
    """Of those that always want more each has its part, as near as whole places and a window allow."""
    world = Earth(rate)
    sent = dict.fromkeys(world.peers, 0)
    for turn in range(40 * rate.count):
        for peer in world.peers:
            peer.wanted = 3
            peer.say_all()
            while peer.places.at_hand:
                act(world, "take", peer, 0, 0)
                peer.send(delays[turn % len(delays)] / 4, 0.0)
                sent[peer] += 1
            peer.hear_answers(is_refused=False)
        world.advance(rate.per / 8)
    assert busiest_window(world.arrivals, rate.per) <= rate.count
    assert max(sent.values()) - min(sent.values()) <= rate.count


@given(
    waiting=st.lists(st.tuples(st.integers(0, 9), EIGHTHS, st.integers(0, 30), st.integers(0, 30)), max_size=6),
    free=st.integers(-3, 30),
    limit=st.integers(1, 40),
)
def test_shares_are_whole(waiting: list[tuple[int, float, int, int]], free: int, limit: int) -> None:
    """No more is given than is free or than is wanted, and none is left over that anybody wants."""
    all_who_wait = [Waiting(level, at, f"{n}", wanted, has) for n, (level, at, wanted, has) in enumerate(waiting)]
    given_to = shares(all_who_wait, free, limit) if all_who_wait else {}
    wanted = {each.name: each.wanted for each in all_who_wait}
    assert all(0 <= count <= wanted[name] for name, count in given_to.items())
    assert sum(given_to.values()) == min(max(free, 0), sum(wanted.values()))


def test_shares_are_even() -> None:
    """Whoever was given the fewest goes first; of equals who has waited longest; nobody goes beyond its part."""
    one, other = Waiting(0, 1.0, "a", 30, 0), Waiting(0, 0.0, "b", 30, 0)
    assert shares([one, other], 20, 20) == {"a": 10, "b": 10}
    assert shares([one, other], 1, 20) == {"b": 1}
    assert shares([one, msgspec.structs.replace(other, level=5)], 9, 20) == {"a": 7, "b": 2}
    behind = msgspec.structs.replace(other, level=500, has=10)
    assert shares([one, behind], 10, 20) == {"a": 10}, "who comes back catches up"
    ahead = msgspec.structs.replace(one, has=10)
    assert shares([ahead, behind], 10, 20) == {"a": 9, "b": 1}, "beyond its part, where else one would be left over"
    assert shares([ahead, msgspec.structs.replace(behind, has=0)], 10, 20) == {"a": 1, "b": 9}
    assert shares([one], 20, 20) == {"a": 20}, "alone it has everything"


def test_who_is_alone_has_all_and_who_comes_gets_its_part_of_what_is_free_next() -> None:
    """One client is given all places; another that waits is given those that are free next, until it has its part."""
    state = SharedLimits(None, 0.0)
    assert said_by(state, "1-x/0", 0.0, wanted=50).granted == 20
    assert said_by(state, "2-x/0", 0.1, wanted=50).granted == 0
    answered = Held([(10.0, 10)], [(0.2, 10)])
    assert said_by(state, "1-x/0", 0.2, wanted=50, held=answered).granted == 0
    assert said_by(state, "2-x/0", 2.2, wanted=50) == Word(10, 12.2, 20, -math.inf, 12.0, 10)


def test_who_waits_no_more_is_waited_for_no_more() -> None:
    """Who has asked, and not again for a second, stands still: the others have its part."""
    state = SharedLimits(None, 0.0)
    for name in ("1-x/0", "2-x/0"):
        assert said_by(state, name, 0.0, wanted=50, room=0).granted == 0
    assert said_by(state, "1-x/0", 1.0, wanted=50).granted == 10
    assert said_by(state, "1-x/0", 1.1, wanted=50, held=Held([(11.0, 10)])).granted == 10


def test_a_death_frees_what_has_not_left_at_once_and_all_within_lease_and_window() -> None:
    """Of a dead process's places those are held that may have left: until a window after their lease."""
    state = SharedLimits(None, 0.0)
    assert said_by(state, "1-x/0", 0.0, wanted=12).granted == 12
    assert said_by(state, "1-x/1", 1.0, wanted=3).granted == 3
    assert said_by(state, "1-x/1", 1.5, held=Held([(11.0, 2)], [(1.5, 1)])).granted == 0
    state.bury("1-x", {"submit": 4})
    assert (state.members, state.taken("submit", 2.0, 1.6)) == ({}, 5), "four that may have left, one answered"
    assert state.taken("submit", 2.0, 3.5) == 4
    assert said_by(state, "2-x/0", 12.5, wanted=99).granted == 18, "of the older lease two, of the later two"
    assert state.taken("submit", 2.0, 13.0) == 18


@pytest.mark.parametrize(("marked", "taken"), [(0, 0), (1, 1), (7, 7), (2**31, 7)])
def test_of_the_dead_no_more_is_held_than_it_had(marked: int, taken: int) -> None:
    """Where nobody can tell how many have left, all that it had may have, and no more."""
    state = SharedLimits(None, 0.0)
    said_by(state, "1-x/0", 0.0, wanted=7)
    state.bury("1-x", {"submit": marked})
    state.bury("9-y", {"submit": marked})
    assert state.taken("submit", 2.0, 0.0) == taken


def test_the_room_for_tasks_is_that_of_all() -> None:
    """Tasks that run, and places that may come to make one, are together no more than the key may have at once."""
    state = SharedLimits(None, 0.0)
    assert said_by(state, "1-x/0", 0.0, room=8, load=3, wanted=50).granted == 5
    assert said_by(state, "2-x/0", 0.0, room=8, wanted=50).granted == 0
    assert said_by(state, "1-x/0", 0.1, room=8, load=4, held=Held([(10.0, 5)])).granted == 0
    assert said_by(state, "2-x/0", 0.1, room=8, wanted=50).granted == 4


def test_scarce_room_is_shared_by_who_has_fewer_tasks() -> None:
    """Where room for tasks is what lacks, it goes to who has fewer of them, whatever each was given before."""
    state = SharedLimits(None, 0.0)
    said_by(state, "1-x/0", 0.0, room=10, load=8, wanted=9)
    said_by(state, "2-x/0", 0.0, room=10, load=0, wanted=0)
    for name, load in (("1-x/0", 6), ("2-x/0", 1)):
        # Without a place it says for how many it waits; the first had two places for tasks, of which one has ended.
        word = said_by(state, name, 0.5, room=10, load=load, wanted=9)
        assert word.granted == (4 if name == "1-x/0" else 0)


def test_what_one_is_refused_all_keep_to() -> None:
    """A refusal halves the limit for all, and holds all for a window, or for as long as the server wants."""
    state = SharedLimits(None, 0.0)
    said_by(state, "1-x/0", 0.0, wanted=5)
    said_by(state, "1-x/0", 0.5, refusals=[(0.5, None)])
    assert said_by(state, "2-x/0", 0.6, wanted=50) == Word(0, 10.6, 10, 2.5, math.inf, 0)
    assert said_by(state, "2-x/0", 2.5, wanted=50).granted == 10
    other_rate = Rate(30, per=2)
    assert state.exchange(position("3-x/0", other_rate, refusals=[(3.0, 7.0)]), 3.0)["submit"].limit == 15
    assert said_by(state, "2-x/0", 3.1).blocked_until == 10.0, "whatever rate each was given"
    questions: dict[Literal["submit", "status"], Wish] = {"status": Wish(TWENTY, Held(), 50)}
    assert state.exchange(Position("2-x/0", questions, 0, 1000, 10.0), 3.2)["status"].granted == 20
    questions["status"] = Wish(TWENTY, Held(), refusals=[(3.3, 99.0)])
    state.exchange(Position("2-x/1", questions, 0, 1000, 10.0), 3.3)
    assert said_by(state, "2-x/0", 3.4).blocked_until == 10.0, "of creates nothing is known by that"


def test_a_block_holds_all_and_lowers_nothing() -> None:
    """A pause that no rate explains is everybody's; the limit stays as it was."""
    state = SharedLimits(None, 0.0)
    said_by(state, "1-x/0", 0.0, blocks=[(0.0, 30.0)])
    assert said_by(state, "2-x/0", 1.0, wanted=9) == Word(0, 11.0, 20, 30.0, math.inf, 0)
    assert said_by(state, "2-x/0", 30.0, wanted=9).granted == 9


def test_clean_windows_give_back_what_a_refusal_took_for_all() -> None:
    """Answers of any of them, in a window without a refusal, raise the limit of all by a place."""
    state = SharedLimits(None, 0.0)
    said_by(state, "1-x/0", 0.0, wanted=5, refusals=[(0.0, None)])
    assert said_by(state, "2-x/0", 3.0, wanted=1).limit == 10
    assert said_by(state, "2-x/0", 4.5, answers=1).limit == 11
    assert said_by(state, "1-x/0", 4.6).limit == 11


def test_what_a_journal_knows_is_not_counted_twice() -> None:
    """Requests of a process before that a journal tells of are those that it left behind here, as far as these go."""
    state = SharedLimits(None, 0.0)
    said_by(state, "1-x/0", 0.0, wanted=6)
    state.bury("1-x", {"submit": 6})
    known: list[tuple[float, int]] = [(0.0, 1)] * 6
    assert said_by(state, "2-x/0", 0.1, wanted=99, earlier=known).granted == 14
    forgotten = SharedLimits(None, 0.0)
    assert said_by(forgotten, "2-x/0", 0.1, wanted=99, earlier=known).granted == 14
    assert said_by(forgotten, "2-x/0", 2.0, wanted=99, earlier=known).granted == 20


def test_who_leaves_has_nothing_at_hand_any_more() -> None:
    """A client that leaves is known no more; what it says that it has is held until its time."""
    state = SharedLimits(None, 0.0)
    said_by(state, "1-x/0", 0.0, wanted=9)
    last = position("1-x/0", wanted=9, held=Held([], [(1.0, 2)]))
    assert state.exchange(msgspec.structs.replace(last, leaves=True), 1.0)["submit"].granted == 0
    assert (state.members, state.taken("submit", 2.0, 1.0), state.taken("submit", 2.0, 3.0)) == ({}, 2, 0)


def test_a_state_that_was_lost_waits_for_a_window_and_hears_all_again() -> None:
    """Nothing goes for a window from where it was lost; what each says again meanwhile counts from then on."""
    state = SharedLimits(None, 100.0, lost_at=100.0)
    assert said_by(state, "1-x/0", 100.1, wanted=9) == Word(0, 110.1, 20, 102.0, math.inf, 0)
    assert said_by(state, "2-x/0", 100.5, held=Held([(109.0, 15)])).granted == 0
    assert said_by(state, "1-x/0", 102.0, wanted=9).granted == 5


def test_after_another_boot_what_was_out_is_out_since_that() -> None:
    """Places on the way are held for a lease and a window from the boot, answered ones and a loss for a window."""
    state = SharedLimits("a", 5000.0)
    said_by(state, "1-x/0", 5000.0, wanted=6)
    said_by(state, "1-x/0", 5001.0, held=Held([(5010.0, 4)], [(5001.0, 2)]), refusals=[(5001.0, 3600.0)])
    state.begin_at_boot("b", 0.5)
    assert (state.boot, state.members) == ("b", {})
    assert [state.taken("submit", 2.0, at) for at in (0.5, 1.9, 2.0, 10.9, 11.0)] == [6, 6, 4, 4, 0]
    assert said_by(state, "2-x/0", 1.0, wanted=99) == Word(4, 11.0, 10, -math.inf, 2.0, 6)
    lost = SharedLimits("a", 5000.0, lost_at=5000.0)
    lost.begin_at_boot("b", 0.5)
    assert [said_by(lost, "2-x/0", at, wanted=1).granted for at in (1.0, 2.0)] == [0, 1]


def test_a_process_that_is_known_by_another_name_is_the_same() -> None:
    """Its clients keep what they have; nobody else's name is changed."""
    state = SharedLimits(None, 0.0)
    for name in ("1-x/0", "1-x/7", "11-x/0"):
        said_by(state, name, 0.0, wanted=2)
    state.rename("1-x", "2-y")
    assert (state.processes(), state.of("2-y")) == ({"2-y", "11-x"}, ["2-y/0", "2-y/7"])
    assert state.taken("submit", 2.0, 0.0) == 6


def test_places_of_two_leases_are_used_by_the_earlier_first() -> None:
    """Each request leaves by a lease that is its own, and what is left over has the later ones."""
    places = LeasedPlaces(2.0)
    places.add(10.0, 1)
    places.add(20.0, 2)
    assert places.next_until() == 10.0
    places.take()
    places.take()
    assert (places.at_hand, places.in_flight, places.oldest_until(), places.next_until()) == (1, 2, 10.0, 20.0)
    places.leave_one()
    assert places.oldest_until() == 20.0
    places.marked += 1
    places.answer(5.0)
    places.marked -= 1
    assert places.held(5.0) == Held([(20.0, 2)], [(5.0, 1)])


def test_a_request_that_does_not_leave_takes_the_earlier_lease_with_it() -> None:
    """Of two that wait for their connections one misses its lease: the other one's is held in full."""
    places = LeasedPlaces(2.0)
    for until in (10.0, 20.0):
        places.add(until, 1)
        places.take()
    assert places.release()
    assert (places.oldest_until(), places.held(0.0)) == (20.0, Held([(20.0, 1)], []))


def test_what_is_not_used_is_given_back_after_a_while() -> None:
    """Places that have just come are not idle, nor those of which one was used since this was asked last."""
    places = LeasedPlaces(2.0)
    places.add(10.0, 3)
    assert [places.is_idle(), places.is_idle()] == [False, True]
    places.take()
    assert not places.is_idle()
    places.give_back()
    assert (places.at_hand, places.taken(0.0), places.is_idle(), places.next_until()) == (0, 1, False, -math.inf)


def test_a_lease_that_is_long_over_is_counted_once_the_answer_comes() -> None:
    """A process that stood still has nothing that others could not count on, and no answer frees two places."""
    places = LeasedPlaces(2.0)
    places.add(10.0, 2)
    places.take()
    places.leave_one()
    assert places.taken(12.0) == 0
    places.answer(13.0)
    assert (places.taken(13.0), places.at_hand, places.are_any) == (1, 1, True)


def test_one_that_leaves_uses_none_any_more() -> None:
    """What is at hand is free, what is on the way was answered at the latest now."""
    places = LeasedPlaces(2.0)
    places.add(10.0, 3)
    places.take()
    places.leave(1.0)
    assert (places.held(1.0), places.at_hand, places.in_flight) == (Held([], [(1.0, 1)]), 0, 0)


def test_few_times_are_kept_of_many_answers() -> None:
    """However many answers a window has, what is said of them is short, and never too early."""
    places = LeasedPlaces(2.0)
    places.add(10.0, 3000)
    for number in range(3000):
        places.take()
        places.leave_one()
        with naming(number):
            places.answer(number / 1500)
    held = places.held(1.9999)
    assert len(held.answered) <= 202
    assert (sum(count for _, count in held.answered), max(at for at, _ in held.answered)) == (3000, 2.0)
    assert places.taken(2.0 + 1.0) == pytest.approx(1500, abs=31)
