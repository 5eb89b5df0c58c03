"""How a service is talked to, without one: its answers, its groups, the names of creates, what an address may be."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from builders import make_job
from conftest import naming
from hypothesis import given
from hypothesis import strategies as st
from inner import (
    CONTENT,
    Accepted,
    Failure,
    HttpRequest,
    HttpResponse,
    InputFile,
    InputPicture,
    Lost,
    Noting,
    Pending,
    Reader,
    Refused,
    Rejected,
    Remedy,
    Router,
    Succeeded,
    TaskFailed,
)

from imagen_async import ImageRequest, errors
from imagen_async._core.dialects.served import FAILED_BEFORE, TaskReport
from imagen_async._core.naming import CreateName, Names, NamingDialect
from imagen_async._transport.groups import MOST_BYTES, MOST_CALLS, Groups
from imagen_async.providers import PROVIDERS
from imagen_async.service._task_reading import TaskRequest, TaskTerms, kept, read_task

RECORD = next(record for record in PROVIDERS.values() if record.is_service)
assert isinstance(RECORD.dialect, NamingDialect)
DIALECT: NamingDialect = RECORD.dialect
MODEL = RECORD.find("imagen4")
assert MODEL is not None

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def create(key: str, prompt: str = "a fox", **terms: Any) -> HttpRequest:
    """A create of that name."""
    assert MODEL is not None
    return DIALECT.build_named(ImageRequest(prompt, model="imagen4"), MODEL, CreateName(key, 900.0, **terms))


def answer(told: object, status: int = 200, **fields: Any) -> HttpResponse:
    """An answer of JSON, or of bytes as they are."""
    body = told if isinstance(told, bytes) else msgspec.json.encode(told)
    return HttpResponse(status, body, **fields)


@given(st.lists(st.tuples(st.text(min_size=1, max_size=40), st.text(max_size=40)), min_size=1, max_size=20))
def test_several_calls_are_one_and_their_answers_are_theirs(calls: list[tuple[str, str]]) -> None:
    """A group has each of its calls at its place, whatever these hold, and each gets the answer at that place."""
    requests = [create(key, prompt, waits=True) for key, prompt in calls]
    joined = DIALECT.join(requests)
    body = joined.request.body
    assert isinstance(body, bytearray)
    tasks = msgspec.json.decode(body)["tasks"]
    assert [(task["key"], task["request"].get("prompt", "")) for task in tasks] == calls
    assert [msgspec.json.decode(body[start:end]) for start, end in joined.places] == tasks
    parts = [TaskReport(f"img-{number}", "queued") for number in range(len(calls))]
    split = DIALECT.split(answer({"tasks": parts}), len(calls))
    assert [DIALECT.read_created(each) for each in split] == [Accepted(part.id, is_named=True) for part in parts]
    for other in (answer({"tasks": parts[1:]}), answer(b"{"), answer({"tasks": parts}, 502)):
        assert DIALECT.split(other, len(calls)) == [other] * len(calls)


@given(st.binary(max_size=60) | JSON.map(msgspec.json.encode), st.integers(100, 599))
def test_whatever_comes_is_read(body: bytes, status: int) -> None:
    """No answer raises anything; what is no word of a service makes no task, and is no reason to pay again."""
    response = HttpResponse(status, body)
    told = DIALECT.read_created(response)
    if isinstance(told, Accepted):
        assert status == 200
    elif isinstance(told, Lost):
        assert told.is_named
    else:
        assert isinstance(told, Rejected)
    DIALECT.read_status(response, "img-1")
    DIALECT.read_ends(body)
    assert len(DIALECT.split(response, 3)) == 3


ERROR = {"message": "why", "status": 400, "code": "x"}
CREATED: list[tuple[dict[str, Any], Remedy, type[errors.ImagenError]]] = [
    ({**ERROR}, Remedy.FAIL, errors.InvalidRequest),
    ({**ERROR, "kind": "GenerationFailed", "status": 424}, Remedy.FAIL, errors.GenerationFailed),
    ({**ERROR, "kind": "NoSuchKind"}, Remedy.FAIL, errors.ImagenError),
    ({**ERROR, "kind": "InsufficientCredits", "status": 402}, Remedy.STOP, errors.InsufficientCredits),
    ({**ERROR, "kind": "BudgetReached", "status": 402}, Remedy.STOP, errors.BudgetReached),
    ({**ERROR, "kind": "ConfigurationError", "status": 424}, Remedy.FAIL, errors.ConfigurationError),
    ({**ERROR, "code": "model_not_allowed", "status": 403}, Remedy.CLOSE_MODEL, errors.ModelUnavailable),
    ({**ERROR, "code": "model_not_found", "status": 404}, Remedy.CLOSE_MODEL, errors.ModelUnavailable),
    ({**ERROR, "code": "too_many_unfinished", "status": 429}, Remedy.REPEAT, errors.RateLimited),
    ({**ERROR, "kind": "JournalError", "status": 503}, Remedy.REPEAT, errors.JournalError),
    (
        {**ERROR, "code": FAILED_BEFORE, "kind": "GenerationFailed", "id": "img-1"},
        Remedy.RENEW,
        errors.GenerationFailed,
    ),
]


def test_each_refusal_asks_for_what_it_is() -> None:
    """By its class where the library has one, else by its code or status; passing ones are repeated by their name."""
    for error, remedy, kind in CREATED:
        with naming(error):
            told = DIALECT.read_created(answer({"error": error}))
            assert isinstance(told, Rejected)
            assert (told.remedy, told.failure.kind, told.failure.message) == (remedy, kind, "why")
            assert told.failure.task_id == error.get("id")


WHOLE: list[tuple[int, object, Remedy | None]] = [
    (401, {"error": {**ERROR, "code": "invalid_api_key"}}, Remedy.STOP),
    (403, {"error": {**ERROR, "code": "foreign_host"}}, Remedy.STOP),
    (404, {"error": {**ERROR, "code": "not_found"}}, Remedy.STOP),
    (404, b"<html>", Remedy.STOP),
    (302, b"", Remedy.STOP),
    (407, b"", Remedy.STOP),
    (413, b"<html>", Remedy.FAIL),
    (429, b"<html>", Remedy.REPEAT),
    (503, {"error": {**ERROR, "code": "leaving"}}, Remedy.REPEAT),
    (424, {"error": {**ERROR, "code": "fault"}}, None),
    (500, {"error": ERROR}, None),
    (502, b"<html>", None),
    (400, b"<html>", None),
    (200, b"<html>", None),
    (200, {"id": ""}, None),
]


def test_what_is_said_to_a_whole_group() -> None:
    """A refusal stops or is repeated; what nobody understands is lost, and is sent again by its name."""
    for status, body, remedy in WHOLE:
        with naming(status, body):
            told = DIALECT.read_created(answer(body, status, retry_after=3.0))
            if remedy is None:
                assert isinstance(told, Lost)
                assert (told.is_named, told.retry_after) == (True, 3.0)
            else:
                assert isinstance(told, Rejected)
                assert told.remedy is remedy


def test_a_task_is_told_as_it_stands() -> None:
    """Queued and running, done with all that is known, failed as the same class, or given back unsent."""

    def said(told: TaskReport, task_id: str = "img-1") -> Any:
        return DIALECT.read_status(answer(told), task_id)

    assert said(TaskReport("img-1", "queued", waits=True)) == Pending("queued", waits=True)
    assert said(TaskReport("img-1", "running")) == Pending("running")
    assert said(TaskReport("img-1", "odd")) == Pending("odd", known=False)
    done = said(TaskReport("img-1", "done", False, ("https://s/files/1",), 8.0, 3.5, ("seed",), model="imagen4-fast"))
    assert done == Succeeded(("https://s/files/1",), 3.5, 8.0, done.raw, ("seed",), "", "imagen4-fast")
    unknown = {**ERROR, "kind": "UnknownOutcome", "may_have_cost": 8, "task_id": "x", "provider_code": 7}
    failed = said(TaskReport("img-1", "failed", credits=8.0, error=unknown))
    assert isinstance(failed, TaskFailed)
    why = failed.failure
    assert (why.kind, why.credits, why.code, why.task_id, failed.credits) == (errors.UnknownOutcome, 8, 7, None, 8.0)
    empty = said(TaskReport("img-1", "unsent", error={**ERROR, "kind": "InsufficientCredits"}))
    assert (empty.is_unsent, empty.credits, empty.failure.kind) == (True, 0.0, errors.InsufficientCredits)
    assert said(TaskReport("img-1", "unsent")).is_unsent
    # What would fail in the same way again is no reason to send it once more.
    assert not said(TaskReport("img-1", "unsent", error={**ERROR, "kind": "InvalidRequest"})).is_unsent
    assert type(said(TaskReport("img-2", "done"))).__name__ == "NoAnswer"
    assert type(said(TaskReport("img-1", "later"))).__name__ == "NoAnswer"
    gone = DIALECT.read_status(answer({"error": {**ERROR, "status": 404, "code": "no_such_order"}}), "img-1")
    assert (type(gone).__name__, gone.failure.kind) == ("TaskRefused", errors.InvalidRequest)  # type: ignore[union-attr]
    for status, kind in ((401, "TaskRefused"), (429, "NoAnswer"), (503, "NoAnswer"), (502, "NoAnswer")):
        assert type(DIALECT.read_status(answer({"error": ERROR}, status), "img-1")).__name__ == kind
    assert DIALECT.read_ends(b'data: ["img-1","img-2"]\n') == ("img-1", "img-2")
    assert DIALECT.read_ends(b"data: null\n") is None
    assert DIALECT.read_ends(b": here\n") == DIALECT.read_ends(b"\n") == ()


def test_a_name_is_the_same_for_the_same_and_for_nothing_else() -> None:
    """A user's key travels as it is; any other name is its client's, or its journal's, and of one task of its job."""
    names, others = Names("one"), Names("two")
    single = make_job(7, owner=7, request=ImageRequest("a fox", key="order-17"), attempts=1, expires_at=1010.0)
    assert names.name(single, 1000.0) == others.name(single, 1000.0) == CreateName("order-17", 10.0)
    # A batch's keys are for that batch alone.
    batch = make_job(7, request=ImageRequest("a fox", key="order-17"), key="order-17", attempts=1)
    assert names.name(batch, 0.0).key != others.name(batch, 0.0).key
    assert names.name(batch, 0.0).waits
    own = {names.name(make_job(number, key="k", attempts=count), 0.0).key for number in (1, 2) for count in (1, 2)}
    assert len(own) == 4
    names.connect(1, "secret")
    others.connect(1, "secret")
    assert names.name(batch, 0.0).key == others.name(msgspec.structs.replace(batch, id=9), 0.0).key
    names.disconnect(1)
    assert names.name(batch, 0.0).key != others.name(batch, 0.0).key
    failed = Failure(errors.GenerationFailed, "no", account=single.account, task_id="img-1")
    again = msgspec.structs.replace(single, state=Noting(failed), attempts=2)
    assert (names.name(again, 0.0).key, names.name(again, 0.0).after) == ("order-17", "img-1")
    assert names.name(msgspec.structs.replace(again, account="elsewhere"), 0.0).after is None


async def test_what_may_not_leave_is_taken_out_of_its_group() -> None:
    """In the last moment each is asked once; what may not go is no part of what leaves, and was not sent."""
    sent: list[bytes] = []

    async def send(account: str, request: HttpRequest, *, within: Any = None, leaves: Any = None) -> HttpResponse:
        if not leaves():
            raise errors.TransportError("nothing left", sent=False)
        sent.append(bytes(request.body or b""))
        tasks = msgspec.json.decode(sent[-1])["tasks"]
        reports = [TaskReport() if task is None else TaskReport(task["key"], "queued") for task in tasks]
        return answer({"tasks": reports})

    async with asyncio.TaskGroup() as group:
        groups = Groups(send, {"served": DIALECT}, lambda work: group.create_task(work()) and None)
        asked: list[int] = []

        def gate(number: int, *, may: bool) -> Any:
            return lambda: asked.append(number) or may

        calls = [groups.send("served", create(f"k{n}"), leaves=gate(n, may=n % 2 == 0)) for n in range(6)]
        told: list[Any] = await asyncio.gather(*calls, return_exceptions=True)
        alone = groups.send("served", create("k9"), leaves=gate(9, may=False))
        with pytest.raises(errors.TransportError) as caught:
            await alone
    assert not caught.value.sent
    assert asked == [0, 1, 2, 3, 4, 5, 9]
    assert [task and task["key"] for task in msgspec.json.decode(sent[0])["tasks"]] == [
        "k0",
        None,
        "k2",
        None,
        "k4",
        None,
    ]
    assert len(sent) == 1
    for number, each in enumerate(told):
        assert each.sent is False if number % 2 else DIALECT.read_created(each) == Accepted(f"k{number}", is_named=True)


async def test_a_group_is_bounded() -> None:
    """So many calls, and so many bytes, go as one; an error is each one's own, and other accounts' go by themselves."""
    seen: list[tuple[str, int, int]] = []

    async def send(account: str, request: HttpRequest, *, within: Any = None, leaves: Any = None) -> HttpResponse:
        body = bytes(request.body or b"")
        seen.append((account, len(msgspec.json.decode(body).get("ids", ())), len(body)))
        raise errors.TransportError("reset")

    async with asyncio.TaskGroup() as group:
        groups = Groups(send, {"served": DIALECT}, lambda work: group.create_task(work()) and None)
        many = [groups.send("served", DIALECT.build_status(f"img-{n}"), within=1.0) for n in range(MOST_CALLS + 10)]
        long = [groups.send("served", create(f"k{n}", "x" * 20_000)) for n in range(40)]
        other = groups.send("kie", DIALECT.build_status("img-1"))
        told: list[Any] = await asyncio.gather(*many, *long, other, return_exceptions=True)
    assert len({id(each) for each in told}) == len(told)
    assert sorted(count for account, count, _ in seen if account == "served" and count) == [10, MOST_CALLS]
    assert max(length for _, _, length in seen) < MOST_BYTES + 30_000
    assert [account for account, _, _ in seen].count("kie") == 1


def reader() -> Reader:
    """Reads what is asked of an account of kie.ai, which is none of this machine."""
    return Reader(Router({"kie": PROVIDERS["kie"]}), {"gpt-image-1": "imagen4-fast"})


def test_a_task_has_all_that_a_request_says() -> None:
    """Each field that says what is wanted travels, in the order that requests have them."""
    assert TaskRequest.__struct_fields__[2:] == CONTENT[2:]
    assert set(TaskRequest.__struct_fields__) == set(CONTENT)


def test_a_task_is_read_again_as_it_was_kept() -> None:
    """Its pictures are known by their content, wherever they were asked for; alternatives make no other request."""
    picture = InputPicture("sha256:aa", "/kept/aa", InputFile("aa", 9, "image/png"))
    digests = set()
    for host in ("http://10.0.0.5:8790", "https://serve.example"):
        url = f"{host}/v1/files/{'a' * 64}"
        request = TaskRequest("make it night", model="nano-banana-2", images=(url, "https://x.example/1.png"))
        for instead in ((), ("imagen4",)):
            body = kept(TaskTerms(request, 7.0, waits=True, instead=instead), {url: picture})
            again = msgspec.json.decode(msgspec.json.encode(body), type=type(body))
            asked = read_task(reader(), again)
            (part,) = asked.parts
            assert part.images == ("/kept/aa", "https://x.example/1.png")
            assert part.model == ",".join(("nano-banana-2", *instead))
            assert set(part.local_files) == {"/kept/aa"}
            assert (asked.deadline, asked.waits, asked.is_async) == (7.0, True, True)
            digests.add(asked.digest)
    assert len(digests) == 1
    alias = read_task(reader(), kept(TaskTerms(TaskRequest("a fox", model="gpt-image-1")), {}))
    assert alias.parts[0].model == "imagen4-fast"


@pytest.mark.parametrize(
    "address", ["/etc/passwd", "file:///etc/passwd", "http://10.0.0.1/1.png", "https://127.0.0.1/1.png", "sha256:aa"]
)
def test_nothing_of_the_service_s_machine_goes_in(address: str) -> None:
    """A path, or an address inside of its networks, is refused, whoever asks; also in a field of the model's own."""
    for request in (
        TaskRequest("x", model="nano-banana-2", images=(address,)),
        TaskRequest("x", model="qwen2", extra={"image_url": address}),
    ):
        with pytest.raises(Refused) as caught:
            read_task(reader(), kept(TaskTerms(request), {}))
        assert caught.value.refusal.status == 400
