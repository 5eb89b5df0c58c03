"""The catalogue of odd answers: each befalls some plain answer, the same way for a seed, and means what it says."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections.abc import Iterator
from typing import Any

import inner
import pytest

from imagen_async import ImageRequest, Limits
from imagen_async.providers import PROVIDERS
from imagen_async.sandbox import Faults, Latency, Ledger
from tests.world.answers import DISPUTED, ODDITIES, Answer, Asked, Oddity, of_road

PROVIDER_NAMES = ("kie", "apikley", "liangxin", "apiin")
ROADS = ("create", "poll", "file", "renewal", "credits")
HEADERS = (("Content-Type", "application/json; charset=utf-8"), ("Server", "a server"))
FILES = "http://127.0.0.1:8000/files"
PROMPT = "a red \"fox\" {x}, 'so' it\\says: 狐"
PICTURE = inner.paint(PROMPT, "16:9", "1")
REFUSED = ("429", "500", "455", "model_gone")
SEEDS = range(5)

Plain = tuple[str, Answer, Asked]


def plain_answers(provider: str) -> Iterator[Plain]:
    """What the sandbox answers as a provider does, to each kind of question, in all states of a task."""
    record, ledger, faults = PROVIDERS[provider], Ledger(), Faults()
    terms: dict[str, Any] = {"limits": Limits(), "latency": Latency(median=10, sigma=0), "faults": faults}
    service = inner.Service(record, key="k", ledger=ledger, files=FILES, balance=5000.0, **terms)
    dialect = record.dialect
    request = ImageRequest(PROMPT, aspect_ratio="16:9")
    body = dialect.build_create(request, record.find("imagen4-fast"), "http://me/token").body or b""

    def answered(road: str, reply: Any, task_id: str = "") -> Plain:
        return provider, Answer(reply.status, "OK", HEADERS, reply.body), Asked(road, "/x", body, task_id)

    faults.order("task", None, "fail_word")
    for refusal in (None, None, *REFUSED):
        faults.order("create", refusal)
        yield answered("create", service.create("Bearer k", body, 0.0, 1.8e9))
    made, failed = (str(task.task_id) for task in ledger.tasks)
    for task_id, now in ((made, 0.0), (made, 5.0), (made, 10.0), (failed, 10.0)):
        yield answered("poll", service.status("Bearer k", task_id, now), task_id)
    if dialect.build_credits() is not None:
        yield answered("credits", service.credits("Bearer k"))
    if dialect.build_renewal("") is not None:
        link = json.dumps({"url": f"{FILES}/{provider}/{made}/1.png"}).encode()
        yield answered("renewal", service.renew("Bearer k", link, 10.0))


PLAIN: list[Plain] = [each for provider in PROVIDER_NAMES for each in plain_answers(provider)]
A_FILE = ("kie", Answer(200, "OK", (("Content-Type", "image/png"),), PICTURE), Asked("file", "/files/1.png", b"", ""))


def changed(oddity: Oddity) -> Iterator[tuple[Plain, Answer]]:
    """What becomes of each plain answer that it befalls, for several seeds."""
    for plain in [*PLAIN, A_FILE]:
        _, answer, asked = plain
        for seed in SEEDS if asked.road == oddity.road else ():
            odd = oddity.change(answer, asked, random.Random(seed))
            assert odd == oddity.change(answer, asked, random.Random(seed)), "nothing but the seed decides"
            if odd is not None:
                yield plain, odd


def unpacked(answer: Answer) -> bytes | None:
    """The body as it was before it was packed; None where that cannot be told."""
    encoding = {name.lower(): value for name, value in answer.headers}.get("content-encoding")
    try:
        if encoding == "gzip":
            return gzip.decompress(answer.body)
        if encoding == "deflate":
            # Many send it without its head.
            packer = zlib.decompressobj(zlib.MAX_WBITS if answer.body[0] & 15 == 8 else -zlib.MAX_WBITS)
            body = packer.decompress(answer.body)
            return body if packer.eof else None
    except (OSError, EOFError, zlib.error):
        return None
    return answer.body


def told(plain: Plain, answer: Answer) -> Any:
    """What the client reads in an answer in the place of a plain one; None where it gets none to read."""
    provider, _, asked = plain
    body, dialect = unpacked(answer), PROVIDERS[provider].dialect
    response = inner.HttpResponse(answer.status, body or b"")
    if body is None:
        return None
    match asked.road:
        case "create":
            return dialect.read_created(response)
        case "poll":
            return dialect.read_status(response, asked.task_id)
        case "renewal":
            return dialect.read_renewal(response)
    return dialect.read_credits(response)


def gist(value: Any) -> Any:
    """What of it a client goes by: the task, how it stands, where its pictures are but for the links' queries."""
    match value:
        case inner.Accepted():
            return value.task_id
        case inner.Rejected():
            return value.remedy, value.failure.kind
        case inner.Succeeded():
            return [url.partition("?")[0] for url in value.urls]
        case inner.Pending():
            return "pending", value.known
        case str():
            return value.partition("?")[0]
    return value if isinstance(value, float) else type(value)


def is_as_told(oddity: Oddity, plain: Plain, odd: Answer) -> bool:
    """Whether the client learns of an answer what the catalogue says that it means."""
    before, after = told(plain, plain[1]), told(plain, odd)
    is_task = isinstance(before, inner.Accepted)
    match oddity.means, oddity.road:
        case ("lost", _):
            return is_task and (after is None or isinstance(after, inner.Lost))
        case ("later", "poll"):
            kinds = (inner.NoAnswer, inner.TaskRefused, inner.LinksMissing, inner.Pending)
            return after is None or isinstance(after, kinds)
        case ("later", _):
            return after is None or (isinstance(after, inner.Failure) and not after.is_gone)
        case ("bill", "credits"):
            return isinstance(after, float) and after < 0
    return gist(after) == gist(before) and (oddity.means == "refused") <= isinstance(before, inner.Rejected)


@pytest.mark.parametrize("road", ROADS)
def test_each_befalls_something_the_same_way_for_a_seed(road: str) -> None:
    """And leaves what it does not befall alone; no two have one name."""
    names = [oddity.name for oddity in of_road(road)]
    assert len(set(names)) == len(names) > 0
    assert [oddity.name for oddity in (*ODDITIES, *DISPUTED) if oddity.road == road and not any(changed(oddity))] == []


@pytest.mark.parametrize("road", [road for road in ROADS if road != "file"])
def test_the_client_reads_what_each_means(road: str) -> None:
    """Of no odd answer it learns more or less than can be learned of it, at any provider, in any state of a task."""
    read = [(oddity, plain, odd) for oddity in of_road(road) for plain, odd in changed(oddity)]
    assert [(it.name, plain[0], odd.body[:99]) for it, plain, odd in read if not is_as_told(it, plain, odd)] == []


def test_a_file_is_whole_or_is_not_there() -> None:
    """What means the same gives the same bytes, here or where it leads; the rest never looks like the whole of it."""
    for oddity in of_road("file"):
        for (_, _, asked), odd in changed(oddity):
            where = dict(odd.headers).get("Location", "")
            is_led = 301 <= odd.status <= 308 and where.endswith("1.png?again=1")
            is_whole = odd.status == 200 and unpacked(odd) == PICTURE
            assert (is_led or is_whole) == (oddity.means == "same"), oddity.name
            led = asked._replace(path="/files/1.png?again=1")
            assert not is_led or oddity.change(A_FILE[1], led, random.Random(1)) is None, "it would lead on for ever"


def test_a_stranger_s_pictures_are_nowhere() -> None:
    """Another task's answer names another one, and no link of it is one of ours."""
    for oddity in (each for each in of_road("poll") if "another task" in each.name):
        for (_, _, asked), odd in changed(oddity):
            assert asked.task_id.encode() not in odd.body
