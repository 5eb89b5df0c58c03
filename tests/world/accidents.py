"""What a seed draws: what is asked for, under which terms, and which accidents befall it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import msgspec

from .answer_pages import HEADS
from .answers import Oddity, of_road

OF_THE_PROGRAM = (
    "listener raises",
    "slow reader",
    "input raises",
    "input repeats",
    "input is edited",
    "file is there",
)
ROADS = ("create", "poll", "file", "callback")

SLOW_WAYS = ("late answer", "slow answer", "late request", "late request")
OF_A_COMMIT = ("killed before", "killed after", "torn")
AT_A_FILE = ("killed at a file", "power at a file")
WAYS = ("cut request", "swallowed request", "cut answer", "short answer", "swallowed answer", *SLOW_WAYS)
ASLEEP = "with its computer, which sleeps"
WHILE_SPEAKS = "while connections are ended with a word"
WHILE_ENDS = "while connections end"
HELD_UP = "after a commit, and is left then"
IN_A_BURST = "as a create has left, while connections end"
AGAIN = "cancel, and turns later again"
BETWEEN = "between two runs"
STILLS = ("", ASLEEP, WHILE_SPEAKS, WHILE_ENDS, HELD_UP, IN_A_BURST)
EVERY_ROAD = "every road"
ANY = "another way each time"
STRAY = "what was answered about another task"
HARMLESS_WAYS = ("chunked answer", "closed after", "silent after", "unasked after", "answered twice")
REDIRECTED = "redirected"


class Terms(msgspec.Struct, frozen=True):
    """What a program is to do, and where.

    Attributes:
        program: `batch`, or `single`: requests one by one, beside each other.
        requests: How many.
        accounts: Providers, each one an account at the sandbox.
        calls_back: True where the provider calls back; `signs`: and signs what it says there.
        link_life: Seconds after which links to pictures are dead, and new ones can be had; None: never.
        resubmits: True where lost creates are ordered to be sent again.
        latency: Seconds that a task takes in the middle.
        trip: Seconds that bytes take one way.
        submit, per, running: The limits of each account.
        runs: Runs in which there may be accidents; then as many as it takes, without.
    """

    program: str
    requests: int
    accounts: tuple[str, ...]
    calls_back: bool
    signs: bool
    link_life: float | None
    has_journal: bool
    saves: bool
    retries: int
    resubmits: bool
    ordered: bool
    drains: bool
    max_credits: float | None
    latency: float
    trip: float
    submit: int
    per: float
    running: int
    status: int
    connections: int
    timeout: float
    images: int
    deadline: float
    runs: int


class Accident(msgspec.Struct, frozen=True):
    """Something that goes wrong.

    Attributes:
        kind: Of what sort.
        what: Which of that sort.
        road: For requests: on which.
        at: Which one of a road, a commit, a result, or of the creates of its run; or seconds since that began, or with
            `in_turns` turns of its loop, which are close together where much happens.
        run: In which run.
        amount: A share, or seconds; of what is in the way several times in a row: how often.
    """

    kind: str
    what: str = ""
    road: str = ""
    at: float = 0.0
    run: int = 0
    amount: float = 0.0
    in_turns: bool = False

    def __str__(self) -> str:
        words = [self.kind, self.what, self.road and f"on {self.road}", f"at {'turn ' * self.in_turns}{self.at:g}"]
        words += [f"of {self.amount:.4g}" if self.amount else "", f"in run {self.run}" if self.run else ""]
        return " ".join(filter(None, words))


def terms_of(chance: random.Random) -> Terms:
    """Draw what is to be done."""
    is_single = chance.random() < 0.15
    has_journal = not is_single and chance.random() < 0.85
    accounts = chance.choice([("kie",), ("kie",), ("sandbox",), ("liangxin",), ("apiin",), ("kie", "apikley")])
    per = chance.choice([1.0, 2.0, 10.0])
    return Terms(
        program="single" if is_single else "batch",
        requests=chance.choice([3, 8, 14, 20, 24, 28]),
        accounts=accounts,
        calls_back=chance.random() < 0.3,
        signs=chance.random() < 0.5,
        # Who gives new links: of the others a picture would be lost with its link, whatever is done.
        link_life=chance.choice([None, 2.0, 20.0]) if set(accounts) <= {"kie", "sandbox"} else None,
        has_journal=has_journal,
        saves=is_single or chance.random() < 0.85,
        retries=chance.choice([0, 0, 1]),
        resubmits=not is_single and chance.random() < 0.15,
        ordered=chance.random() < 0.2,
        drains=chance.random() < 0.2,
        max_credits=chance.choice([40.0, 90.0]) if not is_single and chance.random() < 0.25 else None,
        latency=chance.choice([0.5, 3.0, 12.0]),
        trip=chance.choice([0.001, 0.02, 0.15]),
        submit=chance.randint(2, 6) if per == 1.0 else chance.randint(3, 10),
        per=per,
        running=chance.choice([3, 10, 100]),
        status=chance.choice([3, 10, 50]),
        connections=chance.choice([2, 4, 64]),
        timeout=chance.choice([5.0, 15.0, 60.0]),
        images=chance.choice([1, 1, 1, 2]),
        deadline=chance.choice([40.0, 900.0, 900.0]),
        runs=chance.choice([1, 2, 2, 3]) if has_journal else 1,
    )


def accidents_of(terms: Terms, chance: random.Random) -> tuple[Accident, ...]:
    """Draw what goes wrong: mostly a few things, at times nothing, at times very much."""
    count = chance.choice([0, 1, 2, 4, 6, 8, 12, 20])
    makers = [make for make, weight in _MAKERS for _ in range(weight)]
    drawn = (chance.choice(makers)(terms, chance) for _ in range(count))
    answers = _odd_answers(terms, chance) if chance.random() < 0.7 else ()
    return tuple(each for each in (*answers, *drawn) if each is not None)


def _place(road: str, terms: Terms, chance: random.Random) -> int:
    return int(chance.random() ** 1.5 * terms.requests * (3 if road == "poll" else 1.2))


def _way(terms: Terms, chance: random.Random) -> Accident | None:
    road = chance.choice(ROADS if terms.calls_back else ROADS[:3])
    what = chance.choice((*WAYS, *HARMLESS_WAYS, *((REDIRECTED,) if road in ("create", "poll") else ())))
    amount = chance.random()
    if what in SLOW_WAYS:
        amount = chance.choice([0.5, 4.0, terms.timeout - 0.1, terms.timeout + 5])
        amount = chance.choice([0.5, 2.0, 4.0]) if what == "late request" else amount
    elif what in HARMLESS_WAYS:
        amount = chance.choice([0.0, 0.0, 0.001, 0.3, 3.0])
    return Accident("line", what, road, _place(road, terms, chance), amount=amount)


def _oddity(chance: random.Random, *meanings: str) -> Oddity:
    """One of any road, and of any meaning there: there are many more of some than of others."""
    road = chance.choice(["create", "create", "poll", "poll", "file", "renewal", "credits"])
    means = chance.choice(sorted({each.means for each in of_road(road)} & set(meanings)))
    return chance.choice([each for each in of_road(road) if each.means == means])


def _odd_answers(terms: Terms, chance: random.Random) -> tuple[Accident, ...]:
    """Some of them: they cost a world nothing."""
    drawn = (_oddity(chance, "same", "lost", "later", "refused", "bill") for _ in range(chance.choice([3, 8, 20])))
    return tuple(Accident("answer", each.name, each.road, _place(each.road, terms, chance)) for each in drawn)


def _always_odd(terms: Terms, chance: random.Random) -> Accident | None:
    oddity = _oddity(chance, "same", "bill")
    return Accident("always", oddity.name, oddity.road)


def _always_any(terms: Terms, chance: random.Random) -> Accident | None:
    """A provider that says the same in other words each time."""
    return Accident("always", ANY, chance.choice(["create", "create", "poll", "file", "renewal", "credits"]))


def _always_head(terms: Terms, chance: random.Random) -> Accident | None:
    """A server, or what stands before it, with a head of its own kind for everything."""
    return Accident("always", chance.choice(sorted(HEADS)), EVERY_ROAD)


def _stray(terms: Terms, chance: random.Random) -> Accident | None:
    """The answer that was given about another task."""
    return Accident("answer", STRAY, "poll", _place("poll", terms, chance))


def _order(terms: Terms, chance: random.Random) -> Accident | None:
    from imagen_async.sandbox import CALLBACK_FAULTS, CREATE_FAULTS, FILE_FAULTS, POLL_FAULTS, TASK_FAULTS
    from imagen_async.sandbox._faults import FORGERIES

    faults = {"create": CREATE_FAULTS, "poll": POLL_FAULTS, "task": TASK_FAULTS, "file": FILE_FAULTS}
    road = chance.choice([*faults, *(["callback"] if terms.calls_back else [])])
    what = chance.choice(faults.get(road, CALLBACK_FAULTS + FORGERIES))
    # A picture that cannot be had several times in a row is believed to be gone.
    times = chance.choice([1, 1, 1, 5]) if road in ("create", "task") else 1
    return Accident("order", what, road, _place(road, terms, chance), amount=times)


def _refusal(terms: Terms, chance: random.Random) -> Accident | None:
    """A provider likes none of some prompts, before it makes a task of them or after."""
    road, what = chance.choice([("create", "500"), ("create", "500"), ("task", "fail_word")])
    return Accident("order", what, road, _place(road, terms, chance), amount=chance.choice([1, 3]))


def _connect(terms: Terms, chance: random.Random) -> Accident | None:
    what = chance.choice(["refused", "slow", "never"])
    return Accident("connect", what, at=chance.randrange(6), amount=chance.choice([0.2, 1.0, 3.0, 7.0]))


def _moment(terms: Terms, chance: random.Random, kind: str, what: str = "", amount: float = 0.0) -> Accident:
    """Something that happens to a process at any time, or at any await."""
    run = chance.randrange(terms.runs)
    if chance.random() < 0.6:
        return Accident(kind, what, at=float(chance.randrange(1200)), run=run, amount=amount, in_turns=True)
    return Accident(kind, what, at=round(chance.random() ** 2 * 40.0, 4), run=run, amount=amount)


def _still(terms: Terms, chance: random.Random) -> Accident | None:
    what = chance.choice(["", "", WHILE_ENDS, WHILE_SPEAKS, ASLEEP])
    return _moment(terms, chance, "still", what, chance.choice([0.3, 3.0, 20.0, 100.0, 1000.0]))


def _held_up(terms: Terms, chance: random.Random) -> Accident | None:
    """It stands still between what it has noted and what follows from that, and is left soon after it goes on."""
    at, run = float(chance.randint(3, 15)), chance.randrange(terms.runs)
    return Accident("still", HELD_UP, at=at, run=run, amount=chance.choice([30.0, 100.0]))


def _in_a_burst(terms: Terms, chance: random.Random) -> Accident | None:
    """It stands still while other creates are about to leave, and what these were to leave on is ended meanwhile."""
    at, run = float(chance.randrange(terms.requests)), chance.randrange(terms.runs)
    return Accident("still", IN_A_BURST, at=at, run=run, amount=chance.choice([0.3, 3.0, 20.0]))


def _clock(terms: Terms, chance: random.Random) -> Accident | None:
    what, amount = chance.choice(["", BETWEEN]), chance.choice([-86400.0, -3600.0, -5.0, 5.0, 3600.0, 1e8])
    return _moment(terms, chance, "clock", what, amount)


def _end(terms: Terms, chance: random.Random) -> Accident | None:
    """An end of the process by force; only where something remembers what it did."""
    if not terms.has_journal:
        return None
    what = chance.choice(["kill", "kill", "power", *OF_A_COMMIT, *AT_A_FILE, *AT_A_FILE])
    if what in AT_A_FILE:
        at = float(chance.randint(1, 12 * terms.requests))
        return Accident("end", what, at=at, run=chance.randrange(terms.runs))
    if what not in OF_A_COMMIT:
        return _moment(terms, chance, "end", what)
    return Accident("end", what, at=float(chance.randint(1, 30)), run=chance.randrange(terms.runs))


def _leave(terms: Terms, chance: random.Random) -> Accident | None:
    what = chance.choice(["break", "cancel", AGAIN, "SIGTERM", "SIGHUP", "SIGINT"])
    if what != "break":
        return _moment(terms, chance, "leave", what, float(chance.randint(1, 40)) if what == AGAIN else 0.0)
    at = float(chance.randrange(terms.requests))
    return Accident("leave", what, at=at, run=chance.randrange(terms.runs)) if terms.program == "batch" else None


def _second(terms: Terms, chance: random.Random) -> Accident | None:
    return _moment(terms, chance, "second") if terms.has_journal else None


def _disk(terms: Terms, chance: random.Random) -> Accident | None:
    what = chance.choice(["full", "read-only", "locked", "slow"])
    return _moment(terms, chance, "disk", what, chance.choice([0.05, 1.0, 10.0, 40.0]))


def _own(terms: Terms, chance: random.Random) -> Accident | None:
    """What the program around it does."""
    what = chance.choice(OF_THE_PROGRAM)
    if terms.program == "single" and what != "listener raises":
        return None
    at = float(chance.randrange(terms.requests))
    return Accident("own", what, at=at, run=chance.randrange(terms.runs), amount=chance.choice([0.1, 2.0, 30.0]))


_MAKERS: Sequence[tuple[Callable[[Terms, random.Random], Accident | None], int]] = (
    (_way, 7),
    (_always_odd, 2),
    (_always_any, 2),
    (_always_head, 4),
    (_stray, 1),
    (_order, 6),
    (_refusal, 2),
    (_connect, 3),
    (_still, 4),
    (_held_up, 1),
    (_in_a_burst, 2),
    (_clock, 1),
    (_end, 3),
    (_leave, 3),
    (_second, 1),
    (_disk, 2),
    (_own, 2),
)
