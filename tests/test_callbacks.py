"""Tokens that nobody else can make, the task that a callback names, kie.ai's signature, and whose each callback is."""

from __future__ import annotations

import base64
import gzip
import json
import math
import string
import time
import zlib
from codecs import BOM_UTF8
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import inner
import msgspec
import pytest
from builders import upstream
from conftest import naming
from hypothesis import example, given, settings
from hypothesis import strategies as st
from samples import EVENTS, STATES, job_in

from imagen_async import Callback
from imagen_async.errors import ConfigurationError, ProtocolError
from imagen_async.providers import PROVIDERS
from imagen_async.webhooks import verify_signature

URL_SAFE = string.ascii_letters + string.digits + "-_"
ANY_CHARACTER = st.sampled_from(URL_SAFE + "+/=\n .") | st.characters() | st.characters(categories=["Cs"])
ANY_TEXT = st.text(ANY_CHARACTER, max_size=60)
OFTEN = settings(max_examples=60)

SEAL = inner.Seal(b"a secret of this test, 32 bytes.")
TOKEN = SEAL.token(inner.Address(SEAL.name("fox"), 1))

NOW = 1700000000
TASK = "task_google_1765172350621"
KEY = "k"
GOOD = inner.signature_of(TASK, str(NOW), KEY)
DOCUMENT = {"code": 200, "data": {"taskId": TASK, "state": "success"}, "msg": "ok"}


def headers(signature: str = GOOD, timestamp: str = str(NOW)) -> dict[str, str]:
    """The two headers of a signature, beside another one."""
    return {"Content-Type": "application/json", "X-Webhook-Timestamp": timestamp, "X-Webhook-Signature": signature}


def as_bytes(document: object) -> bytes:
    """A callback's body."""
    return json.dumps(document).encode()


def is_good(document: dict[str, Any], lines: dict[str, str], key: str = KEY, now: float = NOW) -> bool:
    """What both readers say of a callback; they must agree."""
    said = inner.is_signed(lines, document, key, now=now, tolerance=math.inf)
    assert verify_signature(lines, as_bytes(document), key, math.inf) == said
    return said


@OFTEN
@given(secret=st.binary(min_size=1, max_size=64), text=st.text(), create=st.integers(0, 2**32 - 1))
@example(secret=b"s" * 32, text="", create=2**32 - 1)
def test_a_token_opens_to_what_it_was_made_of(secret: bytes, text: str, create: int) -> None:
    """Whatever the job and the create, 36 characters that are safe in a URL say which it is, to its own secret."""
    seal = inner.Seal(secret)
    address = inner.Address(seal.name(text), create)
    token = seal.token(address)
    assert len(token) == 36
    assert set(token) <= set(URL_SAFE)
    assert seal.opened(token) == inner.Seal(secret).opened(token) == address
    assert inner.Seal(secret + b"x").opened(token) is None


@OFTEN
@given(text=ANY_TEXT | st.text(ANY_CHARACTER, min_size=36, max_size=36), cut=st.integers(0, 35))
@example(text="\ud800" * 36, cut=0)
@example(text="é" * 18, cut=0)
@example(text="A" * 32 + "====", cut=0)
def test_what_was_not_made_here_does_not_open(text: str, cut: int) -> None:
    """Neither any text nor a part of a token, at either end, nor one with something before, after or inside it."""
    others = (text + TOKEN, TOKEN + text, TOKEN[:cut] + text + TOKEN[cut:]) if text else ()
    for changed in (text, TOKEN[:cut], TOKEN[36 - cut :], *others):
        assert SEAL.opened(changed) is None


def test_no_two_tokens_are_alike_and_none_is_guessed() -> None:
    """No single change of a token opens; no two jobs, creates or secrets share one, and none tells its job."""
    changed = [TOKEN[:at] + other + TOKEN[at + 1 :] for at in range(36) for other in URL_SAFE if other != TOKEN[at]]
    assert not any(map(SEAL.opened, changed))
    names = {SEAL.name(f"{number:05}.png") for number in range(5000)}
    tokens = {SEAL.token(inner.Address(name, create)) for name in sorted(names)[:100] for create in range(20)}
    assert (len(names), len(tokens)) == (5000, 2000)
    assert not names & {inner.Seal(b"another").name(f"{number:05}.png") for number in range(5000)}
    # URLs end up in other people's logs.
    assert b"fox" not in SEAL.name("fox") + base64.urlsafe_b64decode(TOKEN)


DOCUMENTS = json.loads((Path(__file__).parent / "data" / "callbacks.json").read_text())
NAMED, HINTED = ([row for rows in DOCUMENTS[what].values() for row in rows] for what in ("named", "hinted at"))


def test_a_task_is_named_at_any_of_three_places_that_agree() -> None:
    """Where none is named, several that differ, or what is no id, no signature is good; unsigned, any place will do."""
    for document, task_id in NAMED:
        with naming(document):
            assert inner.task_named_by(document) == task_id
            claims = {TASK, "another", "", "None", "True", "1", task_id or TASK}
            good = [claim for claim in claims if is_good(document, headers(inner.signature_of(claim, str(NOW), KEY)))]
            assert good == ([] if task_id is None else [task_id])
    for document, task_id in HINTED:
        assert inner.task_hinted_at(document) == task_id, document


def test_a_signature_that_was_computed_elsewhere_is_good() -> None:
    """It is ours, and good to both readers, for its own task, time and key alone."""
    key, task_id, at = "test-webhook-hmac-key", "ee9c2715375b7837f8bb51d641ff5863", 1769670760
    signature = "xG6/yOyrMyJtUdc1yjmHpKLHSHF3MpzOPa6uxSj3qb4="
    lines, document = headers(signature, str(at)), {"data": {"taskId": task_id}}
    assert inner.signature_of(task_id, str(at), key) == signature
    assert is_good(document, lines, key)
    assert verify_signature(lines, as_bytes(document), f" {key}\n", math.inf), "as it was copied"
    assert not any(is_good(document, lines, other) for other in (key + "x", key.upper(), "x"))
    assert not is_good({"data": {"taskId": task_id + "x"}}, lines, key)
    assert not is_good(document, headers(signature, str(at + 1)), key)


ODD_TIMES = [*DOCUMENTS["odd times"], "9" * 5000]
ODD_SIGNATURES = [
    *("", "x", GOOD[:-1], GOOD + "=", "x" + GOOD, GOOD[1:], GOOD.lower(), GOOD.rstrip("="), f"sha256={GOOD}"),
    *(GOOD.translate(str.maketrans("+/", "-_")), base64.b64decode(GOOD).hex()),
    *("é" * 44, "狐" * 44, "\0" * 44, "=" * 44, "\udc80" * 44, "A" * 100_000),
]


def test_odd_headers_are_no_signature() -> None:
    """Names are taken in any case; a time is plain digits, and a signature its 44 characters, with blanks around."""
    for change in (str.lower, str.upper, str.title, str.swapcase):
        assert is_good(DOCUMENT, {change(name): value for name, value in headers(f" {GOOD}\t").items()})
    assert is_good(DOCUMENT, headers(inner.signature_of(TASK, "9" * 15, KEY), "9" * 15))
    for lines in ({}, {"X-Webhook-Timestamp": str(NOW)}, {"X-Webhook-Signature": GOOD}):
        assert not is_good(DOCUMENT, lines), lines
    for timestamp in ODD_TIMES:
        assert not is_good(DOCUMENT, headers(inner.signature_of(TASK, timestamp, KEY), timestamp)), timestamp[:50]
    for signature in ODD_SIGNATURES:
        assert not is_good(DOCUMENT, headers(signature)), signature[:50]


@pytest.mark.parametrize("tolerance", [0, 1, 60.5, None, 1e6])
def test_the_tolerance_is_exact(tolerance: float | None) -> None:
    """A signature is good up to the tolerance before and after its time, and no longer: five minutes by itself."""
    given_one, longest = ({}, 300) if tolerance is None else ({"tolerance": tolerance}, tolerance)
    for away in (0.0, longest / 2, longest, longest + 0.001, longest + 1e9):
        for now in (NOW - away, NOW + away):
            assert inner.is_signed(headers(), DOCUMENT, KEY, now=now, **given_one) == (away <= longest)
    for none in (math.nan, -1.0, -math.inf):
        assert not inner.is_signed(headers(), DOCUMENT, KEY, now=NOW, tolerance=none)


def test_the_public_reader_goes_by_the_clock_and_needs_a_key() -> None:
    """A signature of now is good, one of six minutes ago or ahead is not; with an empty key anybody could sign."""
    for away in (-360, -240, 0, 240, 360):
        at = str(int(time.time()) + away)
        lines = headers(inner.signature_of(TASK, at, KEY), at)
        assert verify_signature(lines, as_bytes(DOCUMENT), KEY) == (abs(away) < 300), away
    for body in (as_bytes(DOCUMENT), b"", b"garbage"):
        with pytest.raises(ConfigurationError, match="key is empty"):
            verify_signature(headers(inner.signature_of(TASK, str(NOW), "")), body, " ")


KEYS = st.sampled_from(["taskId", "task_id", "data", "x"])
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(TASK),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
)


@OFTEN
@given(body=JSONS.map(as_bytes) | st.binary(max_size=60), timestamp=ANY_TEXT, signature=ANY_TEXT)
@example(body=as_bytes({"taskId": 10**400}), timestamp="", signature="")
def test_nothing_that_comes_is_an_error(body: bytes, timestamp: str, signature: str) -> None:
    """Whatever a body is, it is signed where it names the task that is; whatever the headers are, they are none."""
    assert not verify_signature(headers(signature, timestamp), as_bytes(DOCUMENT), KEY, math.inf)
    try:
        task_id = inner.task_named_by(inner.read_callback(body))
    except ProtocolError:
        task_id = None
    assert verify_signature(headers(), body, KEY, math.inf) == (task_id == TASK)


NO_OBJECTS = [
    *(b"null", b"[]", b"17", b'"taskId"', as_bytes([DOCUMENT] * 2), b'{"taskId": ', b"{'taskId' 'x'}", b"a task"),
    *(
        b"<p class=taskId>x</p>",
        b"--b\r\n\r\n--b--",
        b"--b\r\n" + b"Content-Type: message/rfc822\r\n\r\n" * 5000,
        zlib.compress(b" " * inner.MAX_CALLBACK + b"{}"),
        gzip.compress(b"no"),
    ),
    *(
        as_bytes(DOCUMENT)[:-9],
        gzip.compress(as_bytes(DOCUMENT))[:-9],
        b"&".join([b"a=1"] * 101),
        *(b"taskId=1&<p>=2", b"hello&taskId=2", zlib.compress(b"{}" + b" " * (inner.MAX_CALLBACK - 1))),
        b"\xff\xfe\x00\x80",
        b'{"data": ' + b"[" * 100_000,
        b'{"data": ' * 100_000,
    ),
]
NEARLY = (b"\xef\xbb\xbf" + as_bytes(DOCUMENT), as_bytes(DOCUMENT) * 2, as_bytes(DOCUMENT).replace(b"200", b"NaN"))
PART = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n--b--\r\n'
FORMS = (
    *(as_bytes([DOCUMENT]), as_bytes(as_bytes(DOCUMENT).decode()), as_bytes(DOCUMENT).decode().encode("utf-16")),
    *(gzip.compress(as_bytes(DOCUMENT)), zlib.compress(as_bytes(DOCUMENT)), zlib.compress(as_bytes(DOCUMENT))[2:-4]),
    *(urlencode({name: as_bytes(DOCUMENT)}).encode() for name in ("data", "payload", "x[y]")),
    *(
        urlencode({"n": 1, "data": as_bytes(DOCUMENT["data"])}).encode(),
        b"\xef\xbb\xbfstate=success&taskId=" + TASK.encode(),
    ),
    *(
        PART % (b"taskId", TASK.encode()),
        PART % (b"data", as_bytes(DOCUMENT)),
        b"\r\n" + PART % (b"x", as_bytes(DOCUMENT)),
    ),
    gzip.compress(urlencode({"data": as_bytes(DOCUMENT)}).encode()),
)
DAMAGED = (b'"\xff"', b'"\\ud800"', b"NaN", b"1" * 5000, b'"a\\u0000"', b'"%s"' % (b"x" * 513), b'" "', b'"\\t\\n"')


def test_a_body_that_is_nearly_json_names_its_task() -> None:
    """In whatever form it comes, the task that is signed is the one that is read; half an id is none."""
    for body in (*NEARLY, *FORMS):
        with naming(body):
            assert verify_signature(headers(), body, KEY, math.inf)
            assert inner.task_named_by(inner.read_callback(body)) == TASK
    form = urlencode({"n": "one", "data": as_bytes(DOCUMENT["data"])}).encode()
    assert inner.read_callback(form) == {"n": "one", "data": DOCUMENT["data"]}
    assert inner.read_callback(urlencode({"n": 1, "job": b'{"id": "x"}'}).encode()) == {"id": "x"}
    assert inner.read_callback(zlib.compress(b"{}" + b" " * (inner.MAX_CALLBACK - 2))) == {}, "as long as one may be"
    for task_id in DAMAGED:
        with naming(task_id[:60]):
            document = inner.read_callback(b'{"data": {"taskId": %s, "id": %s}}' % (task_id, task_id))
            assert (inner.task_named_by(document), inner.task_hinted_at(document)) == (None, None)


def test_a_body_that_is_no_object_is_not_signed() -> None:
    """It is a ProtocolError to the one reader, and plainly not signed to the public one; an empty one names nothing."""
    assert [inner.read_callback(body) for body in (b"", b"\r\n ", BOM_UTF8)] == [{}] * 3
    assert not verify_signature(headers(), b"", KEY, math.inf)
    for body in NO_OBJECTS:
        with naming(body[:60]):
            assert not verify_signature(headers(), body, KEY, math.inf)
            with pytest.raises(ProtocolError):
                inner.read_callback(body)


HERE = "https://example.com"
WRONG: list[tuple[Any, Any, str]] = [
    *((url, None, "is no address") for url in ("example.com", "https://example .com/", "https://@example.com", None)),
    *((HERE + end, None, "is no address") for end in ("/?", "/?token=1", "/#")),
    ("http://example.com/imagen", None, "use https://"),
    *((HERE, key, "not empty") for key in (" ", "", 7, {"kie": None}, {"kie": "k", "apiin": ""})),
]


def test_a_wrong_callback_is_refused_before_anything_is_sent() -> None:
    """An address that cannot be reached so, and a key that cannot be one, are named."""
    for url, key, message in WRONG:
        with naming(url, key), pytest.raises(ConfigurationError, match=message):
            Callback(url, signing_key=key)


KEYS_OF: list[tuple[tuple[str, ...], Any, dict[str, str] | str]] = [
    (("kie", "apiin"), " secret\n", {"kie": "secret"}),
    (("apikley",), "secret", {"apikley": "secret"}),
    (("kie", "apiin"), {"apiin": " secret "}, {"apiin": "secret"}),
    (("kie", "apiin"), None, {}),
    (("apikley", "apiin"), "secret", "none of apikley, apiin is known to sign callbacks; say whose key it is"),
    (("kie", "apiin"), {"liangxin": "secret"}, "no account 'liangxin', only kie, apiin"),
]


def test_whose_key_it_is() -> None:
    """One key is that of the accounts that sign, or of the only one; where none signs, it has to be said."""
    for accounts, key, keys in KEYS_OF:
        callback = Callback("http://127.0.0.1:8080", signing_key=key)
        providers = {name: PROVIDERS[name] for name in accounts}
        shown = None if key is None else "***"
        with naming(accounts, key):
            assert repr(callback) == f"Callback('http://127.0.0.1:8080', signing_key={shown!r})"
            if isinstance(keys, dict):
                assert callback.keys(providers) == keys
            else:
                with pytest.raises(ConfigurationError, match=keys):
                    callback.keys(providers)


def lived(registry: inner.CallbackRegistry, job: inner.Job, *events: str) -> str:
    """Let a job come in, and these events happen to it; the token of its last create."""
    registry.on_change(inner.Change(None, job, inner.Added()), 0.0)
    for name in events:
        before, job = job, inner.advance(job, EVENTS[name], 0.0)
        registry.on_change(inner.Change(before, job, EVENTS[name]), 0.0)
    return registry.url_of(job).removeprefix(f"{HERE}/")


def found(registry: inner.CallbackRegistry, token: str) -> inner.CallbackClaim:
    """What a token is about; it is a good one."""
    claim = registry.find(token)
    assert (claim is not None, registry.is_token(token)) == (True, True)
    return claim


def test_a_job_is_known_from_its_turn_on() -> None:
    """Not while it only waits; then by the number of its create, and with what it came to when it has ended."""
    registry, job = inner.CallbackRegistry(f"{HERE}/", {}), job_in("Queued", account="mine")
    retried = ("Taken", "Leaves", "Rejected BACK_OFF", "Taken")
    lives = ((), retried[:1], retried, ("Taken", "Leaves", "Accepted", "Succeeded"))
    queued, taken, again, done = [found(registry, lived(registry, job, *events)) for events in lives]
    assert queued.job_id is None
    assert taken == inner.CallbackClaim(0, inner.Address(taken.address.name, 1), 1, "kie", None)
    assert again == msgspec.structs.replace(taken, address=inner.Address(taken.address.name, 2))
    assert done.ending == inner.EndedJob("fox", is_unknown=False, task_id="t1", lost_creates=())
    assert (registry.journal_of(done), registry.find(TOKEN), registry.is_token(TOKEN)) == (None, None, False)


def test_a_job_that_comes_in_is_known_where_a_task_of_it_may_be_announced() -> None:
    """One that runs, waits for a callback or had a create lost in an earlier run; not one of which nothing can come."""
    kinds = inner.Running | inner.Confirming | inner.AwaitingCallback
    announced = [name for name, state in STATES.items() if isinstance(state, kinds)]
    for state in ("Queued", "Queued after a failure", "Queued after a loss", "Fetching", *announced):
        with naming(state):
            registry = inner.CallbackRegistry(HERE, {})
            claim = found(registry, lived(registry, job_in(state)))
            assert (claim.job_id == 1) == (state in ("Queued after a loss", *announced))


def test_a_job_with_a_lost_create_is_never_forgotten() -> None:
    """However many jobs end after it, its callback is told; of the others the last thousand are known."""
    registry = inner.CallbackRegistry(HERE, {})
    jobs = [msgspec.structs.replace(job_in("Queued"), id=number) for number in range(1, 1003)]
    tokens = [lived(registry, jobs[0], "Taken", "Leaves", "Lost")]
    tokens += [lived(registry, job, "Taken", "Leaves", "Accepted", "Succeeded") for job in jobs[1:]]
    claims = [found(registry, tokens[at]) for at in (0, 1, 2, -1)]
    assert [claim.ending is not None for claim in claims] == [True, False, True, True]
    assert {claim.address.create for claim in claims} == {1}
    assert claims[0].ending == inner.EndedJob("fox", is_unknown=True, task_id=None, lost_creates=(1,))


def test_a_journal_s_tokens_are_known_to_whoever_has_it_open() -> None:
    """Its jobs are told by their keys, in any process; once it is closed here, whoever calls back tries again later."""
    registry, seal = inner.CallbackRegistry(HERE, {}), inner.Seal(b"a journal's secret, of 32 bytes.")
    fox, lost = inner.Address(seal.name("fox"), 1), inner.Address(seal.name("lost"), 3)
    journal: Any = SimpleNamespace(seal=seal, account_of={lost.name: "kie"}.get)
    registry.connect(1, journal)
    token = lived(registry, job_in("Queued"), "Taken")
    other = lived(registry, job_in("Queued", owner=2, id=2), "Taken")
    claim = found(registry, token)
    assert (claim, registry.journal_of(claim)) == (inner.CallbackClaim(1, fox, 1, "kie", None), journal)
    of_an_earlier_run = found(registry, seal.token(lost))
    assert of_an_earlier_run == inner.CallbackClaim(1, lost, None, "kie", None)
    ended = lived(registry, job_in("Queued", key="lost", id=3), "Taken", "Leaves", "Lost")
    assert found(registry, ended).ending is not None
    registry.disconnect(2)
    registry.disconnect(1)
    assert [registry.find(each) for each in (token, ended)] == [None, None]
    assert found(registry, other).job_id == 2
    registry.connect(1, journal)
    assert found(registry, token) == inner.CallbackClaim(1, fox, None, None, None)


def test_an_account_s_callbacks_are_signed_where_it_has_a_key(caplog: pytest.LogCaptureFixture) -> None:
    """What is not signed so is not genuine, which is said once an account; without a key the token is enough."""
    registry = inner.CallbackRegistry(HERE, {"kie": KEY, "kie-2": KEY})
    at = str(int(time.time()))
    good, bad = headers(inner.signature_of(TASK, at, KEY), at), headers(timestamp=at)
    create = inner.Address(b"", 1)
    claims = [inner.CallbackClaim(0, create, 1, account, None) for account in ("kie", "kie-2", "apiin", None)]
    assert ([registry.is_genuine(claim, good, DOCUMENT) for claim in claims], caplog.messages) == ([True] * 4, [])
    assert [registry.is_genuine(claim, bad, DOCUMENT) for claim in claims * 2] == [False, False, True, True] * 2
    assert [message.partition(":")[0] for message in caplog.messages] == ["kie", "kie-2"]
    assert (registry.key_of("kie"), registry.key_of("apiin")) == (KEY, None)


def test_silence_and_a_task_that_nobody_waits_for_are_told(caplog: pytest.LogCaptureFixture) -> None:
    """Where tasks end and no callback ever comes, the log says once which account; what is paid for it says each time,
    safe to print."""
    kie = upstream("kie")
    watch = inner.SilenceWatch(inner.Upstreams([kie, upstream("mine")]), HERE)
    for number in range(10):
        watch.on_change(inner.Change(None, job_in("Running"), inner.Added()), 0.0)
        assert caplog.messages == []
        kie.poll_queue.reliability.ended(number, announced=False)
    for account in ("kie", "mine", "kie"):
        watch.on_change(inner.Change(None, job_in("Running", account=account), inner.Added()), 0.0)
    inner.log_stray("kie", "t9\x1b")
    silence, stray = caplog.messages
    assert silence.startswith(f"kie: tasks end and no callback comes: can it reach {HERE} ")
    assert stray == "kie: task t9\\u001b was made by a create whose answer was lost; it is paid for: collect it"
