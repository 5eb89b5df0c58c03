"""Tokens that nobody else can make, the task that a callback names, and kie.ai's signature: right, or simply not."""

from __future__ import annotations

import base64
import json
import math
import string
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from conftest import naming
from hypothesis import example, given, settings
from hypothesis import strategies as st
from samples import EVENTS, STATES, job_in

from imagen_async._callbacks import CallbackClaim, CallbackRegistry, EndedJob
from imagen_async._core.callbacks import (
    TOLERANCE,
    Address,
    Seal,
    is_signed,
    read_callback,
    signature_of,
    task_hinted_at,
    task_named_by,
)
from imagen_async._core.change import Change
from imagen_async._core.job import Job
from imagen_async._core.job_events import Added
from imagen_async._core.machine import advance
from imagen_async._core.states import AwaitingCallback, Confirming, Running
from imagen_async.errors import ConfigurationError, ProtocolError
from imagen_async.webhooks import verify_signature

ANNOUNCED = [name for name, state in STATES.items() if isinstance(state, Running | Confirming | AwaitingCallback)]

URL_SAFE = string.ascii_letters + string.digits + "-_"
SURROGATES = st.characters(categories=["Cs"])
ANY_CHARACTER = st.one_of(st.sampled_from(URL_SAFE + "+/=\n ."), st.characters(), SURROGATES)
ANY_TEXT = st.text(ANY_CHARACTER, max_size=60)

SEAL = Seal(b"a secret of this test, 32 bytes.")
ADDRESSES = st.builds(Address, name=st.text().map(SEAL.name), create=st.integers(0, 2**32 - 1))

VECTORS = [
    (
        "test-webhook-hmac-key",
        "ee9c2715375b7837f8bb51d641ff5863",
        1769670760,
        "xG6/yOyrMyJtUdc1yjmHpKLHSHF3MpzOPa6uxSj3qb4=",
    ),
    ("k", "task_google_1765172350621", 1700000000, "NxMBkEb15g/FU6hAoAL0z9oxSPE+9myafNFGpfzhBAI="),
]
"""Key, task id, time and signature, as they were computed elsewhere."""

NOW = 1700000000
TASK = "task_google_1765172350621"
KEY = "k"
GOOD = signature_of(TASK, str(NOW), KEY)
DOCUMENT = {"code": 200, "data": {"taskId": TASK, "state": "success"}, "msg": "ok"}


def headers(signature: str = GOOD, timestamp: str = str(NOW)) -> dict[str, str]:
    """The two headers of a signature, beside another one."""
    return {"Content-Type": "application/json", "X-Webhook-Timestamp": timestamp, "X-Webhook-Signature": signature}


def as_bytes(document: object) -> bytes:
    """A callback's body."""
    return json.dumps(document).encode()


def is_good(document: dict[str, Any], task_id: str = TASK) -> bool:
    """What both say of a document under the signature of a task id; they must agree."""
    lines = headers(signature_of(task_id, str(NOW), KEY))
    said = is_signed(lines, document, KEY, now=NOW)
    assert verify_signature(lines, as_bytes(document), KEY, math.inf) == said
    return said


# Tokens


@settings(deadline=None, max_examples=40)
@given(secret=st.binary(min_size=1, max_size=64), text=st.text(), create=st.integers(0, 2**32 - 1))
@example(secret=b"s" * 32, text="", create=0)
@example(secret=b"s" * 32, text="fox.png", create=2**32 - 1)
def test_a_token_opens_to_what_it_was_made_of(secret: bytes, text: str, create: int) -> None:
    """Whatever the job and the create, the token is 36 characters that are safe in a URL, and says which it is."""
    seal = Seal(secret)
    address = Address(seal.name(text), create)
    token = seal.token(address)
    assert len(token) == 36
    assert set(token) <= set(URL_SAFE)
    assert seal.opened(token) == Seal(secret).opened(token) == address


@settings(deadline=None, max_examples=100)
@given(address=ADDRESSES, place=st.integers(0, 35), other=ANY_CHARACTER)
def test_a_token_changed_in_one_character_does_not_open(address: Address, place: int, other: str) -> None:
    """A token with any one other character is none, but where base64 takes the two characters for the same."""
    token = SEAL.token(address)
    same = {token[place], token[place].translate(str.maketrans("-_", "+/"))}
    changed = token[:place] + other + token[place + 1 :]
    assert SEAL.opened(changed) == (address if other in same else None)


def test_no_single_change_of_a_token_opens() -> None:
    """Each of the 36 characters counts, against every other one of the alphabet."""
    token = SEAL.token(Address(SEAL.name("fox"), 1))
    changed = [token[:at] + other + token[at + 1 :] for at in range(36) for other in URL_SAFE if other != token[at]]
    assert not any(map(SEAL.opened, changed))


@settings(deadline=None, max_examples=60)
@given(address=ADDRESSES, cut=st.integers(0, 35), more=st.text(ANY_CHARACTER, min_size=1, max_size=40))
def test_a_token_that_is_cut_or_lengthened_does_not_open(address: Address, cut: int, more: str) -> None:
    """A part of a token is none, at either end, nor is one with anything before, after or inside it."""
    token = SEAL.token(address)
    for changed in (token[:cut], token[36 - cut :], token + more, more + token, token[:cut] + more + token[cut:]):
        assert SEAL.opened(changed) is None


@settings(deadline=None, max_examples=100)
@given(text=ANY_TEXT | st.text(ANY_CHARACTER, min_size=36, max_size=36))
@example(text="")
@example(text="A" * 36)
@example(text="=" * 36)
@example(text="\ud800" * 36)
@example(text="é" * 36)
@example(text="é" * 18)
@example(text="A" * 35 + "\n")
@example(text="A" * 32 + "====")
def test_any_text_does_not_open(text: str) -> None:
    """Text that was not made here is no token, and no error either."""
    assert SEAL.opened(text) is None


@settings(deadline=None, max_examples=40)
@given(one=st.binary(min_size=1, max_size=64), other=st.binary(min_size=1, max_size=64), text=st.text())
def test_a_token_of_another_secret_does_not_open(one: bytes, other: bytes, text: str) -> None:
    """Another secret makes other tokens, of the same job too."""
    # An HMAC takes a key for the same with zeros after it; real secrets are all of one length.
    if one.rstrip(b"\0") != other.rstrip(b"\0"):
        assert Seal(other).opened(Seal(one).token(Address(Seal(one).name(text), 1))) is None


def test_names_and_tokens_are_never_shared() -> None:
    """Of many jobs and many creates, no two share a name or a token, nor do two secrets give a job the same name."""
    names = [SEAL.name(f"{number:05}.png") for number in range(5000)]
    tokens = [SEAL.token(Address(name, create)) for name in names[:100] for create in range(20)]
    assert len(set(names)) == 5000
    assert len(set(tokens)) == 2000
    assert not set(names) & {Seal(b"another").name(f"{number:05}.png") for number in range(5000)}


@settings(deadline=None, max_examples=40)
@given(text=st.text(min_size=4))
@example(text="fox")
@example(text="12345678")
def test_a_token_does_not_tell_the_job(text: str) -> None:
    """Neither the name nor the token holds what it stands for: URLs end up in other people's logs."""
    token = SEAL.token(Address(SEAL.name(text), 1))
    assert text.encode() not in SEAL.name(text)
    assert text.encode() not in base64.urlsafe_b64decode(token)
    assert text not in token


# Which task


PLACES: dict[str, dict[str, Any]] = {
    "data.taskId": {"data": {"taskId": TASK}},
    "data.task_id": {"data": {"task_id": TASK}},
    "taskId": {"taskId": TASK},
    "all three": {"taskId": TASK, "data": {"taskId": TASK, "task_id": TASK}},
    "two, one is null": {"taskId": TASK, "data": {"taskId": None, "task_id": TASK}},
    "one, one is empty": {"taskId": "", "data": {"taskId": TASK}},
    "data is null": {"taskId": TASK, "data": None},
    "data is a list": {"taskId": TASK, "data": [{"taskId": "another"}]},
    "data is a text": {"taskId": TASK, "data": "taskId"},
}


@pytest.mark.parametrize("place", PLACES)
def test_a_task_is_named_at_any_of_three_places(place: str) -> None:
    """The id may stand in `data.taskId`, `data.task_id` or `taskId`, or in several that agree."""
    assert task_named_by(PLACES[place]) == TASK
    assert is_good(PLACES[place])
    assert not is_good(PLACES[place], task_id="another")


UNNAMED: dict[str, dict[str, Any]] = {
    "nothing": {},
    "nothing in data": {"data": {}},
    "null": {"taskId": None, "data": {"taskId": None, "task_id": None}},
    "empty": {"taskId": "", "data": {"taskId": ""}},
    "another place": {"task_id": TASK},
    "deeper": {"data": {"data": {"taskId": TASK}}},
    "data differs": {"data": {"taskId": TASK, "task_id": "another"}},
    "the top differs": {"taskId": "another", "data": {"taskId": TASK}},
    "one of three differs": {"taskId": TASK, "data": {"taskId": TASK, "task_id": "another"}},
    "case differs": {"taskId": TASK.upper(), "data": {"taskId": TASK}},
    "a list": {"taskId": [TASK]},
    "an object": {"data": {"taskId": {"taskId": TASK}}},
    "true": {"taskId": True},
    "false": {"taskId": False},
    "a fraction": {"taskId": 1.5},
    "a list beside it": {"taskId": TASK, "data": {"taskId": [TASK]}},
    "an object beside it": {"taskId": {}, "data": {"taskId": TASK}},
    "true beside it": {"taskId": True, "data": {"taskId": TASK}},
    "two numbers": {"taskId": 1, "data": {"taskId": 2}},
}


@pytest.mark.parametrize("why", UNNAMED)
def test_who_names_no_task_or_several_is_not_signed(why: str) -> None:
    """Where no task is named, or several that differ, or something that is no id, no signature is good."""
    assert task_named_by(UNNAMED[why]) is None
    assert not any(is_good(UNNAMED[why], task_id=claimed) for claimed in (TASK, "another", "", "None", "True", "1"))


@pytest.mark.parametrize("number", [0, 1, 1700000000, 2**63, -5])
def test_an_id_may_be_a_number(number: int) -> None:
    """Ids are opaque: a number is as good as its digits."""
    assert task_named_by({"data": {"taskId": number}}) == str(number)
    assert is_good({"taskId": number, "data": {"taskId": number}}, task_id=str(number))
    assert is_good({"taskId": str(number), "data": {"taskId": number}}, task_id=str(number))


def test_an_id_may_have_any_letters() -> None:
    """An id of other letters than ASCII is signed as its UTF-8."""
    assert is_good({"taskId": "задача-狐"}, task_id="задача-狐")


# The signature


@pytest.mark.parametrize(("key", "task_id", "at", "signature"), VECTORS, ids=["kie", "short"])
def test_known_signatures_are_good(key: str, task_id: str, at: int, signature: str) -> None:
    """Signatures that were computed elsewhere are ours, and good to both readers."""
    lines, document = headers(signature, str(at)), {"data": {"taskId": task_id}}
    assert signature_of(task_id, str(at), key) == signature
    assert is_signed(lines, document, key, now=float(at))
    assert verify_signature(lines, as_bytes(document), key, tolerance=1e11)
    assert verify_signature(lines, as_bytes(document), f" {key}\n", tolerance=1e11), "as it was copied"
    for other in (key + "x", key.upper(), "x"):
        assert not is_signed(lines, document, other, now=float(at))
        assert not verify_signature(lines, as_bytes(document), other, tolerance=1e11)


@settings(deadline=None, max_examples=40)
@given(key=st.text(min_size=1), task_id=st.text(min_size=1), at=st.integers(0, 10**12))
def test_what_is_signed_is_good(key: str, task_id: str, at: int) -> None:
    """Any task, any time and any key make a good signature, for this task, this time and this key alone."""
    lines, document = headers(signature_of(task_id, str(at), key), str(at)), {"taskId": task_id}
    assert is_signed(lines, document, key, now=at)
    assert not is_signed(lines, document, key + "x", now=at)
    assert not is_signed(lines, {"taskId": task_id + "x"}, key, now=at)
    assert not is_signed(headers(lines["X-Webhook-Signature"], str(at + 1)), document, key, now=at)


@pytest.mark.parametrize("change", [str.lower, str.upper, str.title, str.swapcase])
def test_header_names_are_taken_in_any_case(change: Callable[[str], str]) -> None:
    """Servers write header names as they like."""
    lines = {change(name): value for name, value in headers().items()}
    assert is_signed(lines, DOCUMENT, KEY, now=NOW)
    assert verify_signature(lines, as_bytes(DOCUMENT), KEY, tolerance=math.inf)


@pytest.mark.parametrize("missing", ["X-Webhook-Timestamp", "X-Webhook-Signature"])
def test_a_missing_header_is_no_signature(missing: str) -> None:
    """Without a time or without a signature nothing is signed, and without both neither."""
    lines = headers()
    del lines[missing]
    for each in (lines, {}, {missing: ""}):
        assert not is_signed(each, DOCUMENT, KEY, now=NOW)
        assert not verify_signature(each, as_bytes(DOCUMENT), KEY, tolerance=math.inf)


ODD_TIMES = [
    "",
    "now",
    "-1700000000",
    "+1700000000",
    " 1700000000",
    "1700000000\n",
    "1700000000.0",
    "1.7e9",
    "1_700_000_000",
    "0x6553f100",
    "nan",
    "inf",
    "１７００００００００",  # which int() takes, as the next one
    "١٧٠٠٠٠٠٠٠٠",
    "17000000²²",
    "9" * 16,
    "9" * 5000,
    "0" * 20 + "1700000000",
]


@pytest.mark.parametrize("timestamp", ODD_TIMES)
def test_an_odd_time_is_no_signature(timestamp: str) -> None:
    """A time that is not plain digits, or far too many of them, is not good, whatever is signed with it."""
    lines = headers(signature_of(TASK, timestamp, KEY), timestamp)
    assert not is_signed(lines, DOCUMENT, KEY, now=NOW, tolerance=math.inf)
    assert not verify_signature(lines, as_bytes(DOCUMENT), KEY, tolerance=math.inf)


ODD_SIGNATURES = [
    "",
    "x",
    GOOD[:-1],
    GOOD + "=",
    "x" + GOOD,
    GOOD[1:],
    GOOD.lower(),
    GOOD.rstrip("="),
    GOOD.translate(str.maketrans("+/", "-_")),
    base64.b64decode(GOOD).hex(),
    f"sha256={GOOD}",
    "é" * 44,
    "狐" * 44,
    "\0" * 44,
    "=" * 44,
    "A" * 100_000,
]


@pytest.mark.parametrize("signature", ODD_SIGNATURES, ids=range(len(ODD_SIGNATURES)))
def test_an_odd_signature_is_none(signature: str) -> None:
    """Anything but the 44 characters is not good, and no error either."""
    assert not is_signed(headers(signature), DOCUMENT, KEY, now=NOW)
    assert not verify_signature(headers(signature), as_bytes(DOCUMENT), KEY, tolerance=math.inf)


@settings(deadline=None, max_examples=60)
@given(timestamp=ANY_TEXT, signature=st.text() | st.text("a\udc80\udcff", min_size=1))
def test_no_header_is_an_error(timestamp: str, signature: str) -> None:
    """Whatever the headers are, they are no signature, and never an error."""
    assert not is_signed(headers(signature, timestamp), DOCUMENT, KEY, now=NOW)
    assert not verify_signature(headers(signature, timestamp), as_bytes(DOCUMENT), KEY)


# Its time


@pytest.mark.parametrize("tolerance", [0, 1, 60.5, TOLERANCE, 1e6])
def test_the_tolerance_is_exact(tolerance: float) -> None:
    """A signature is good up to the tolerance before and after its time, and no longer."""
    for away in (0.0, tolerance / 2, tolerance):
        for now in (NOW - away, NOW + away):
            assert is_signed(headers(), DOCUMENT, KEY, now=now, tolerance=tolerance)
    for away in (tolerance + 0.001, tolerance + 1, tolerance + 1e9):
        for now in (NOW - away, NOW + away):
            assert not is_signed(headers(), DOCUMENT, KEY, now=now, tolerance=tolerance)


def test_the_tolerance_is_five_minutes() -> None:
    """Who says nothing of it has five minutes before and after."""
    assert [is_signed(headers(), DOCUMENT, KEY, now=NOW + away) for away in (-301, -300, 300, 301)] == [
        False,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(("away", "is_in_time"), [(-330, False), (-270, True), (0, True), (270, True), (330, False)])
def test_the_public_reader_goes_by_the_clock(away: int, is_in_time: bool) -> None:
    """A signature of now is good, one of five and a half minutes ago or ahead is not."""
    at = str(int(time.time()) + away)
    assert verify_signature(headers(signature_of(TASK, at, KEY), at), as_bytes(DOCUMENT), KEY) == is_in_time


def test_a_tolerance_that_is_no_number_takes_nothing() -> None:
    """Nothing is within a tolerance that is not a number, or below 0."""
    for tolerance in (math.nan, -1.0, -math.inf):
        assert not is_signed(headers(), DOCUMENT, KEY, now=NOW, tolerance=tolerance)


# The body


@settings(deadline=None, max_examples=40)
@given(more=st.dictionaries(st.text(max_size=5), st.none() | st.booleans() | st.integers() | st.text(max_size=5)))
def test_only_the_task_and_the_time_are_signed(more: dict[str, Any]) -> None:
    """The rest of the body may be anything: a signature says nothing of it, and so no URL of it is to be believed."""
    more.pop("taskId", None)
    assert is_good({**more, "data": {**more, "task_id": None, "taskId": TASK, "resultJson": "https://bad.example"}})


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(TASK),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["taskId", "task_id", "data", "x"]), inner, max_size=4)
    ),
    max_leaves=10,
)


@settings(deadline=None, max_examples=60)
@given(document=JSONS)
@example(document={"taskId": 10**400})
@example(document={"taskId": math.nan})
def test_no_json_is_an_error(document: Any) -> None:
    """Whatever JSON a body is, it is signed or not, and it is where it names the task that is."""
    body = as_bytes(document)
    good = verify_signature(headers(), body, KEY, tolerance=math.inf)
    try:
        assert good == (task_named_by(read_callback(body)) == TASK)
    except ProtocolError:
        assert not good


BODIES = [
    b"",
    b" ",
    b"null",
    b"[]",
    b"17",
    b'"taskId"',
    as_bytes([DOCUMENT]),
    b'{"taskId": ',
    b"{'taskId': 'x'}",
    b"taskId=" + TASK.encode(),
    b"\xff\xfe\x00\x80",
    b"\xef\xbb\xbf" + as_bytes(DOCUMENT),
    b'{"taskId": "\xff"}',
    b'{"taskId": "\\ud800"}',
    b'{"taskId": NaN}',
    b'{"taskId": ' + b"1" * 5000 + b"}",
    b'{"data": ' + b"[" * 100_000,
    b'{"data": ' * 100_000,
    as_bytes(DOCUMENT) * 2,
]


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_a_body_that_is_no_object_is_not_signed(body: bytes) -> None:
    """What is no JSON object is a ProtocolError to the one reader, and plainly not signed to the public one."""
    assert not verify_signature(headers(), body, KEY, tolerance=math.inf)
    with pytest.raises(ProtocolError):
        read_callback(body)


@settings(deadline=None, max_examples=60)
@given(body=st.binary(max_size=60))
def test_no_body_is_an_error(body: bytes) -> None:
    """Arbitrary bytes are not signed, and never an error."""
    assert not verify_signature(headers(), body, KEY, tolerance=math.inf)


@pytest.mark.parametrize("body", [as_bytes(DOCUMENT), b"", b"garbage"], ids=["good", "empty", "garbage"])
def test_an_empty_key_is_refused(body: bytes) -> None:
    """An empty key, by which anybody could sign, is a ConfigurationError before anything is looked at."""
    lines = headers(signature_of(TASK, str(NOW), ""))
    for each in (lines, {}):
        with pytest.raises(ConfigurationError, match="key is empty"):
            verify_signature(each, body, "")


# Whose it is


def lived(registry: CallbackRegistry, job: Job, *events: str) -> str:
    """Let a job come in, and these events happen to it; the token of its last create."""
    registry.on_change(Change(None, job, Added()), 0.0)
    for name in events:
        before, job = job, advance(job, EVENTS[name], 0.0)
        registry.on_change(Change(before, job, EVENTS[name]), 0.0)
    return registry.url_of(job).removeprefix("https://example.com/")


def found(registry: CallbackRegistry, token: str) -> CallbackClaim:
    """What a token is about; it is a good one."""
    claim = registry.find(token)
    assert claim is not None
    return claim


def test_a_job_is_known_from_its_turn_on() -> None:
    """Not while it only waits; then by the number of its create, and with what it came to when it has ended."""
    registry = CallbackRegistry("https://example.com/", {})
    job = job_in("Queued", account="mine")
    assert found(registry, lived(registry, job)).job_id is None
    claim = found(registry, lived(registry, job, "Taken"))
    assert (claim.owner, claim.address.create, claim.job_id, claim.account, claim.ending) == (0, 1, 1, "kie", None)
    again = found(registry, lived(registry, job, "Taken", "Leaves", "ConnectFailed", "Taken"))
    assert (again.address.name, again.address.create, again.ending) == (claim.address.name, 2, None)
    done = found(registry, lived(registry, job, "Taken", "Leaves", "Accepted", "Succeeded"))
    assert done.ending == EndedJob(is_unknown=False, task_id="t1", lost_creates=())


def test_a_job_that_comes_in_is_known_where_a_task_of_it_may_be_announced() -> None:
    """One that runs, waits for a callback or had a create lost in an earlier run; not one of which nothing can come."""
    for state in ("Queued", "Queued after a failure", "Queued after a loss", "Fetching", *ANNOUNCED):
        with naming(state):
            registry = CallbackRegistry("https://example.com", {})
            claim = found(registry, lived(registry, job_in(state)))
            assert (claim.job_id == 1) == (state in ("Queued after a loss", *ANNOUNCED))


def test_a_job_with_a_lost_create_is_never_forgotten() -> None:
    """However many jobs end after it, a callback for a lost create is told from one about nothing."""
    registry = CallbackRegistry("https://example.com", {})
    jobs = [msgspec.structs.replace(job_in("Queued"), id=number) for number in range(1, 2200)]
    tokens = [lived(registry, jobs[0], "Taken", "Leaves", "Lost")]
    tokens += [lived(registry, job, "Taken", "Leaves", "Accepted", "Succeeded") for job in jobs[1:]]
    claims = [found(registry, token) for token in (tokens[0], tokens[1], tokens[-1])]
    assert [claim.address.create for claim in claims] == [1, 1, 1]
    assert [claim.ending is not None for claim in claims] == [True, False, True]
    assert claims[0].ending == EndedJob(is_unknown=True, task_id=None, lost_creates=(1,))


@pytest.mark.parametrize(
    ("document", "task_id"),
    [
        ({"task_id": "a"}, "a"),
        ({"id": "a"}, "a"),
        ({"data": {"id": "a"}}, "a"),
        ({"data": {"recordId": "a", "taskId": "b"}}, "b"),
        ({"data": {"recordId": 7}}, "7"),
        ({"data": [], "id": [1]}, None),
    ],
)
def test_unsigned_callbacks_are_read_generously(document: dict[str, object], task_id: str | None) -> None:
    """Where no signature fixes the place of the task id, it is looked for wherever answers have it."""
    assert task_hinted_at(document) == task_id
