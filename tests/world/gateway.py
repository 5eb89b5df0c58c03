"""What stands on every line of a world: sees each request and answer, and lets befall them what the seed has drawn."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .accidents import ANY, EVERY_ROAD, STRAY, Accident
from .answers import Answer, Asked, Oddity, of_road
from .network import Terms
from .wire import Exchange, Fate, Tap, prompt_of, summary_of

if TYPE_CHECKING:
    from .network import End
    from .process import Process
    from .universe import Universe


class Gateway:
    """Every line of a world.

    Args:
        universe: Whose.
        accidents: What befalls its requests, answers and connections.
        trip: Seconds that bytes take one way.

    Attributes:
        exchanges: All requests that were written, in their order.
        pictures: The files that the provider has sent, by their paths.
        is_calm: True once nothing befalls anybody any more.
        on_create: Is told whose create is written.
    """

    def __init__(self, universe: Universe, accidents: Sequence[Accident], trip: float) -> None:
        self.exchanges: list[Exchange] = []
        self.pictures: dict[str, bytes] = {}
        self.is_calm = False
        self.on_create: Callable[[Process], object] = lambda process: None
        self._universe, self._accidents = universe, accidents
        self._roads = Counter[str]()
        self._taps: list[Tap] = []
        self._last: dict[str, tuple[str, Answer]] = {}
        network = universe.network
        network.terms = Terms(trip, trip / 2)
        network.new_wire = self._new_tap
        network.handshake = self._handshake

    def end_idle(self, process: Process, *, speaks: bool) -> None:
        """End what a process has open and asks nothing on, by the other end, which may say so."""
        for tap in self._taps:
            if tap.client.process is process and tap.is_idle:
                tap.end(speaks=speaks)

    def _new_tap(self, client: End, server: End) -> Tap:
        self._taps = [tap for tap in self._taps if tap.client.is_open]
        self._taps.append(Tap(client, server, self._ask, self._answer))
        return self._taps[-1]

    def _number(self, road: str) -> int:
        self._roads[road] += 1
        return self._roads[road] - 1

    def _handshake(self, process: Process, port: int) -> tuple[str, float]:
        number = self._number("connect")
        for each in () if self.is_calm else self._accidents:
            if each.kind == "connect" and each.at == number:
                self._universe.trace.add(process.name, f"connects to {port} — {each.what}")
                return each.what, each.amount
        return "made", 0.0

    def _ask(self, process: Process, method: str, path: str, body: bytes, began: tuple[float, int]) -> Exchange:
        road = _road_of(method, path)
        number = self._number(road)
        task_id = path.rpartition("=")[2].rpartition("/")[2] if road == "poll" else ""
        prompt = prompt_of(body) if road == "create" else ""
        exchange = Exchange(process, Asked(road, path, body, task_id), prompt, number, began)
        exchange.fate = Fate() if self.is_calm else self._fate(road, number)
        self.exchanges.append(exchange)
        fate = exchange.fate
        befalls = f" — {fate.what} {fate.amount:.4g}" * bool(fate.what) + f" — {fate.oddity}" * bool(fate.oddity)
        self._universe.trace.add(process.name, f"asks {road} {number}: {prompt or path}{befalls}")
        if road == "create":
            self.on_create(process)
        return exchange

    def _fate(self, road: str, number: int) -> Fate:
        fate = Fate()
        for each in self._accidents:
            if each.road not in (road, EVERY_ROAD) or (each.kind != "always" and each.at != number):
                continue
            if each.kind == "line":
                fate = fate._replace(what=each.what, amount=each.amount)
            elif each.kind in ("answer", "always"):
                fate = self._odd(fate, each, road, number)
        return fate

    def _other(self, answer: Answer, asked: Asked) -> Answer | None:
        """What was answered last about another task of the account."""
        task_id, last = self._last.get(asked.path.split("/")[1], ("", answer))
        return last if task_id not in ("", asked.task_id) else None

    def _odd(self, fate: Fate, accident: Accident, road: str, number: int) -> Fate:
        if accident.what == STRAY:
            return fate._replace(change=self._other, means="later", oddity=STRAY)
        oddity = self._oddity(accident, road, number)
        if oddity is None:  # callbacks have none
            return fate
        chance = random.Random(f"{self._universe.seed}/{oddity.name}/{number}")

        def change(answer: Answer, asked: Asked) -> Answer | None:
            return oddity.change(answer, asked, chance)

        return fate._replace(change=change, means=oddity.means, oddity=oddity.name)

    def _oddity(self, accident: Accident, road: str, number: int) -> Oddity | None:
        if accident.what == ANY:
            harmless = [each for each in of_road(road) if each.means in ("same", "bill")]
            return self._universe.chance(f"{ANY}/{road}/{number}").choice(harmless)
        name = f"{road}: {accident.what}" if accident.road == EVERY_ROAD else accident.what
        return next((each for each in of_road(road) if each.name == name), None)

    def _answer(self, exchange: Exchange, answer: Answer) -> None:
        if exchange.asked.road == "file" and answer.status == 200 and answer.body.startswith(b"\x89PNG"):
            self.pictures[exchange.asked.path.partition("?")[0]] = answer.body
        asked = exchange.asked
        if asked.road == "poll" and answer.status == 200 and b"http://" in answer.body:
            self._last[asked.path.split("/")[1]] = (asked.task_id, answer)
        who = f"{exchange.asked.road} {exchange.number}"
        self._universe.trace.add("provider", f"answers {who}: {answer.status} {summary_of(answer.body)}")


def _road_of(method: str, path: str) -> str:
    if "/files/" in path:
        return "file"
    if path.startswith("/imagen"):
        return "callback"
    if "/createTask" in path or "/images/generations" in path:
        return "create"
    if "/recordInfo" in path or "/tasks/" in path:
        return "poll"
    return "renewal" if method == "POST" else "credits"
