"""The odd answers on record: what a provider, or whatever stands before it, makes of an answer, and what that means.

What each means is not learned from the client that is tried out with it: a good one knows what `means` says.
"""

from __future__ import annotations

import functools
import json
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

from . import answer_changes as changes
from . import answer_pages as pages
from . import answer_shapes as shapes
from . import record_shapes as records
from .answer_changes import Answer, Asked, Change, Make, Means, Oddity, Record, always, gateway, page

__all__ = ["DISPUTED", "NOWHERE", "ODDITIES", "Answer", "Asked", "Oddity", "of_road"]

NOWHERE = "http://127.0.0.1:9/files"
"""Where the pictures of a stranger are that is told of before any link is known: nobody listens there."""


def _many(road: str, means: Means, kinds: dict[str, Change]) -> Iterator[Oddity]:
    return (Oddity(f"{road}: {name}", road, change, means) for name, change in kinds.items())


def _instead(road: str, means: Means, kinds: dict[str, Make]) -> Iterator[Oddity]:
    return _many(road, means, {name: changes.instead(road, make) for name, make in kinds.items()})


def _of_any_api(road: str, untold: Means) -> Iterator[Oddity]:
    yield from _many(road, "same", pages.HEADS)
    yield from _many(road, "same", {f"JSON, {name}": changes.in_text(it) for name, it in shapes.NEARLY_JSON.items()})
    yield from _many(road, "same", {f"under {status}": changes.under(road, status) for status in (201, 202, 203, 206)})
    yield from _instead(road, untold, pages.PAGES)
    plain = {name: _only_good(road, change) for name, change in pages.BADLY_PACKED.items()}
    yield from _many(road, untold, plain)


def _only_good(road: str, change: Change) -> Change:
    """Of a refusal nothing is to be lost: it has made nothing."""
    of_good = changes.instead(road, always(page(200)))
    return lambda answer, asked, chance: change(answer, asked, chance) if of_good(answer, asked, chance) else None


# Creates.


def _under_its_status(answer: Answer, code: int, text: str, _: random.Random) -> Answer | None:
    is_status = code in (400, 402, 404, 422, 429) and answer.status == 200
    return changes.in_json(answer, {"code": code, "msg": text}, code) if is_status else None


def _before_the_api(answer: Answer, code: int, text: str, chance: random.Random) -> Answer | None:
    """In the envelope of the layer before it, whose own code says nothing."""
    said = {"error": {"message": text, "type": "new_api_error", "code": chance.choice(("", None, "some_word"))}}
    return changes.in_json(answer, said, code) if code in (400, 402, 404, 422, 429) else None


def _reworded(form: str) -> Change:
    return changes.of_refusal(
        lambda answer, code, text, _: changes.in_json(answer, shapes.refused_as(form, code, text))
    )


def _alone(spoil: Callable[[bytes], bytes]) -> Change:
    """The id with no envelope around it, in a text with more."""
    bare = changes.named(shapes.CREATED["the id alone"])

    def change(answer: Answer, asked: Asked, chance: random.Random) -> Answer | None:
        told = bare(answer, asked, chance)
        return None if told is None else told._replace(body=spoil(told.body))

    return change


def _of_creates() -> Iterator[Oddity]:
    road = "create"
    yield from _of_any_api(road, "lost")
    yield from _many(road, "same", {name: changes.named(make) for name, make in shapes.CREATED.items()})
    yield from _many(road, "same", {name: changes.enveloped(it) for name, it in records.AROUND.items()})
    around = ("a notice before it", "a log's line before it", "a report after it")
    yield from _many(road, "same", {f"the id alone, {it}": _alone(shapes.NEARLY_JSON[it]) for it in around})
    yield from _many(
        road, "same", {f"made, under {each}": changes.under(road, each) for each in (400, 429, 500, 502, 504)}
    )
    nameless = {f"success with {name}": always(gateway(it, 200)) for name, it in shapes.NAMELESS.items()}
    yield from _instead(road, "lost", nameless)
    # Done, and told elsewhere; the other redirects are a setting to correct, and stop an account.
    yield from _instead(road, "lost", {"303": always(page(303, b"", Location="/jobs"))})
    yield from _many(road, "refused", {f"refused, {form}": _reworded(form) for form in shapes.REFUSED})
    yield from _many(road, "refused", {"refused, under its status": changes.of_refusal(_under_its_status)})
    yield from _many(road, "refused", {"refused, before the API": changes.of_refusal(_before_the_api)})
    limits = {**pages.asked_to_wait(429), **_said_in_body(pages.asked_to_wait(429, {"code": 429, "msg": "slow down"}))}
    yield from _many(road, "refused", {f"refused, {name}": changes.of_limit(make) for name, make in limits.items()})


def _said_in_body(kinds: dict[str, Make]) -> dict[str, Make]:
    return {f"{name}, in JSON": make for name, make in kinds.items()}


# Polls.


def _respelt(spell: Callable[[str], str], record: Record, links: list[str]) -> Record:
    spelt = [spell(link) for link in links]
    result = {"resultJson": json.dumps({"resultUrls": spelt})} if "resultJson" in record else {"output": spelt}
    return records.with_result(record, **result)


def _replaced(place: Callable[[list[str]], Record], record: Record, links: list[str]) -> Record:
    return records.with_result(record, **place(links))


def _same_of_records() -> Iterator[tuple[str, Change]]:
    for name, wrap in records.ENVELOPES.items():
        yield name, changes.enveloped(wrap)
    for name, change in records.STATED.items():
        yield name, changes.of_record(change)
    for name, place in records.LINKED.items():
        yield f"links, {name}", changes.of_links(functools.partial(_replaced, place))
    for name, spell in records.SPELT.items():
        yield f"links, {name}", changes.of_links(functools.partial(_respelt, spell))


def another_id(task_id: str, chance: random.Random) -> str:
    """An id of the same form: other digits in the place of its digits."""

    def other(found: re.Match[str]) -> str:
        digits = "0123456789" if found[0].isdigit() else "0123456789abcdef"
        new = "".join(chance.choice(digits) for _ in found[0])
        return new if new != found[0] else new[::-1] + "0"

    return re.sub(r"[0-9a-f]{10,}", other, task_id)


def _stranger(state: str) -> Change:
    """What is told of another task, as a cache has it that does not look at the query."""

    def change(answer: Answer, asked: Asked, chance: random.Random) -> Answer | None:
        record = changes.record_of(answer)
        own = str(record.get(records.own_field(record), "")) if record else ""
        other = another_id(own, chance)
        if not own or other == own:
            return None
        links = records.links_in(record) or [f"{NOWHERE}/{own}/1.png"]
        told = records.told_as(state, record, [link.replace(own, other) for link in links])
        return changes.in_json(answer, {**changes.read(answer), "data": {**told, records.own_field(record): other}})

    return change


def _unlinked(fields: Record) -> Change:
    return changes.of_links(lambda record, _: records.with_result(record, **fields))


def _cached(record: Record, _: random.Random) -> Record | None:
    """What was true a while ago."""
    return records.told_as("waiting", record, []) if records.kind_of(record) in ("made", "broken") else None


_DENIALS: dict[str, Make] = {
    "null for its record": always(gateway({"code": 200, "msg": "success", "data": None}, 200)),
    "recordInfo is null": always(gateway({"code": 422, "msg": "recordInfo is null", "data": None}, 200)),
    "a page of 404": always(page(404)),
}
"""What is said of a task that there is not, and passes; said for half a minute on end it is believed."""

_UNTOLD: dict[str, Any] = {
    "an empty object": {"code": 200, "msg": "success", "data": {}},
    "a list of nothing known": {"code": 200, "msg": "success", "data": [1, "two", None]},
    "a word": {"code": 200, "msg": "success", "data": "ok"},
    "a word that no page has": {"code": 200, "data": {"state": "pondering", "status": "pondering"}},
    "500 in the body": {"code": 500, "msg": "Server exception, please try again later", "data": None},
    "455 in the body": {"code": 455, "msg": "The system is under maintenance", "data": None},
    "408 in the body": {"code": 408, "msg": "upstream", "data": None},
    "429 in the body": {"code": 429, "msg": "Too many status calls", "data": None},
    "an error under 200": {"error": {"message": "busy", "code": ""}},
    "the health of something": {"status": "ok"},
    "a success of no task": {"status": "success", "message": "pong"},
    "an error of no task": {"status": "error", "message": "Bad gateway"},
    "an error of no task, with no data": {"status": "error", "message": "Bad gateway", "data": None},
    "a failure of no task": {"status": "failed"},
    "a failure of no task beside a code": {"code": 200, "state": "fail"},
    "501 of no task": {"code": 501, "message": "Not Implemented"},
    "null": None,
    "an empty list": [],
}


def _of_polls() -> Iterator[Oddity]:
    road = "poll"
    yield from _of_any_api(road, "later")
    yield from _many(road, "same", dict(_same_of_records()))
    yield from _many(road, "same", {"under 500": changes.under(road, 500)})
    yield from _instead(road, "later", {f"told {it}": always(gateway(c, 200)) for it, c in _UNTOLD.items()})
    yield from _instead(road, "later", _DENIALS)
    limits = {**pages.asked_to_wait(429), **_said_in_body(pages.asked_to_wait(429, {"code": 429, "msg": "slow down"}))}
    yield from _instead(road, "later", limits)
    yield from _many(road, "later", {f"success before links, {it}": _unlinked(c) for it, c in records.UNLINKED.items()})
    yield from _many(road, "later", {"as it was a while ago": changes.of_record(_cached)})
    # A slip of a provider's page: the whole record under a code that is none of a success.
    yield from _many(road, "later", {"505 with its record": changes.enveloped(lambda it: {"code": 505, "data": it})})
    states = {"success": "made", "failure": "broken", "wait": "waiting"}
    yield from _many(road, "later", {f"the {it} of another task": _stranger(state) for it, state in states.items()})
    for name, bill in records.BILLS.items():
        yield Oddity(
            f"{road}: a bill, {name}", road, changes.of_record(functools.partial(records.billed, bill)), "bill"
        )


# Files.


def _elsewhere(status: int, lead: Callable[[str], str]) -> Change:
    """Led to the same file; once, for who is led there comes with a mark."""

    def change(answer: Answer, asked: Asked, _: random.Random) -> Answer | None:
        is_first = answer.status == 200 and "again" not in asked.path
        return page(status, b"", Location=lead(asked.path)) if is_first else None

    return change


def _again(path: str) -> str:
    return f"{path}{'&' if '?' in path else '?'}again=1"


def _again_beside(path: str) -> str:
    """As a name alone; slashes of a query are none of the path's."""
    folder = path.partition("?")[0].rpartition("/")[0]
    return _again(path[len(folder) + 1 :])


def _cut(status: int, size: Callable[[int], int]) -> Change:
    """The beginning of a picture, with a length that fits."""
    return _only_good(
        "file", lambda answer, *_: answer._replace(status=status, body=answer.body[: size(len(answer.body))])
    )


_NOT_THE_FILE: dict[str, Make] = {
    "a page": always(page(200)),
    "a page said to be a picture": always(page(200, kind="image/png")),
    "an error in JSON": always(gateway({"code": 404, "msg": "not yet"}, 200)),
    "nothing": always(page(200, b"", "image/png")),
    "404": always(page(404)),
    "403 of a store": always(page(403, b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "text/xml")),
    **{f"a page of {status}": always(page(status)) for status in (408, 500, 502, 504, 520, 524)},
    **pages.asked_to_wait(503),
    **pages.asked_to_wait(429),
}


def _of_files() -> Iterator[Oddity]:
    road = "file"
    types = ("text/html", "image/webp", "application/octet-stream", "image/png; charset=utf-8", "IMAGE/PNG, image/png")
    yield from _many(road, "same", {name: _only_good(road, change) for name, change in pages.HEADS.items()})
    for kind in types:
        yield Oddity(f"{road}: as {kind}", road, _only_good(road, changes.headed(Content_Type=kind)), "same")
    for status in (301, 302, 303, 307, 308):
        yield Oddity(f"{road}: {status} to itself", road, _elsewhere(status, _again), "same")
    yield Oddity(f"{road}: 302 beside itself", road, _elsewhere(302, _again_beside), "same")
    yield from _instead(road, "later", _NOT_THE_FILE)
    yield from _many(road, "later", {name: _only_good(road, change) for name, change in pages.BADLY_PACKED.items()})
    yield Oddity(f"{road}: half of it", road, _cut(200, lambda size: size // 2), "later")
    yield Oddity(f"{road}: all but its end", road, _cut(200, lambda size: size - 12), "later")
    yield Oddity(f"{road}: its first bytes", road, _cut(200, lambda size: 16), "later")
    yield Oddity(f"{road}: half of it under 206", road, _cut(206, lambda size: size // 2), "later")


# New links, and what is left.


def _of_renewals() -> Iterator[Oddity]:
    road = "renewal"
    yield from _of_any_api(road, "later")
    yield from _many(road, "same", {f"a link, {it}": changes.of_data(make) for it, make in shapes.RENEWED.items()})
    yield from _instead(road, "later", {"null for a link": always(gateway({"code": 200, "data": None}, 200))})
    yield from _instead(road, "later", {"429 in the body": always(gateway({"code": 429, "msg": "slow down"}, 200))})


def _of_credits() -> Iterator[Oddity]:
    road = "credits"
    yield from _of_any_api(road, "later")
    yield from _many(road, "same", {f"a balance, {it}": changes.of_data(make) for it, make in shapes.BALANCES.items()})
    yield from _many(road, "bill", {"a debt": changes.of_data(lambda left: {"code": 200, "data": -abs(left) - 1})})
    yield from _instead(road, "later", {"null for a balance": always(gateway({"code": 200, "data": None}, 200))})


ODDITIES: tuple[Oddity, ...] = (*_of_creates(), *_of_polls(), *_of_files(), *_of_renewals(), *_of_credits())
"""All of them."""


def _disputed() -> Iterator[Oddity]:
    done = {f"{status} to elsewhere": always(page(status, b"", Location="/login")) for status in (302, 307, 308)}
    yield from _instead("create", "lost", done)


DISPUTED: tuple[Oddity, ...] = tuple(_disputed())
"""Answers of which it is not agreed what they mean, for whoever asks for them: none of them is among `ODDITIES`."""


@functools.cache
def of_road(road: str) -> tuple[Oddity, ...]:
    """Those that may befall the answers of a road."""
    return tuple(oddity for oddity in ODDITIES if oddity.road == road)
