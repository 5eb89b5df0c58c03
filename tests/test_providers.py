"""The providers' records, to the letter of their pages: what each model takes, refuses, sends and costs."""

from __future__ import annotations

import ast
import itertools
import math
import statistics
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import naming
from inner import HttpRequest, check

from imagen_async import ImageRequest, Limits, Rate, Result, raw_model
from imagen_async._core.suggestion import did_you_mean
from imagen_async.errors import ConfigurationError, DownloadFailed, InvalidRequest
from imagen_async.providers import PROVIDERS
from imagen_async.sandbox import Latency

PACKAGE = Path(__file__).parent.parent / "imagen_async"

Pair = tuple[str, str]
PREFIXED = {name: f"google/{name}" for name in ("imagen4", "imagen4-fast", "imagen4-ultra")}
PRICES: dict[str, float | None] = {"imagen4": 8, "imagen4-fast": 4, "imagen4-ultra": 12}
RECORDS: dict[str, tuple[str | None, dict[str, str], dict[str, float | None]]] = {
    "kie": ("https://api.kie.ai", PREFIXED, PRICES),
    "apikley": ("https://api.apikley.ru", PREFIXED, dict.fromkeys(PREFIXED)),
    "liangxin": (None, {name: name for name in PREFIXED if name != "imagen4"}, {}),
    "apiin": ("https://apiin.one", {name: name for name in PREFIXED}, PRICES),
}
"""Where each is, what its models are called on the wire, and what they cost: nobody claims what no page tells."""

LIKE_KIE = ("modkie", "ruxa")
"""APIs of the same bodies at paths of their own, which tell no price."""

EVERY = [(provider, model) for provider, (_, models, _) in RECORDS.items() for model in models]
KIE_LIKE = [pair for pair in EVERY if pair[0] in ("kie", "apikley")]
KIE_FAST = [pair for pair in KIE_LIKE if pair[1] == "imagen4-fast"]
KIE_STANDARD = [pair for pair in KIE_LIKE if pair not in KIE_FAST]
KIE = [pair for pair in KIE_LIKE if pair[0] == "kie"]
# Apikley's page has a field that kie.ai's had before.
SEVERAL_OF_FAST = [("apikley", "imagen4-fast")]
LIANGXIN = [pair for pair in EVERY if pair[0] == "liangxin"]
APIIN = [pair for pair in EVERY if pair[0] == "apiin"]
ELSEWHERE = KIE_LIKE + APIIN
RAW = raw_model("seedream/5-lite-text-to-image")
RAWS = [(provider, RAW) for provider in ("kie", "apikley", "liangxin")]

LIANGXIN_RATIOS = {"1:1": "square_1_1", "9:16": "social_story_9_16", "16:9": "widescreen_16_9"}
LIANGXIN_RATIOS |= {"3:4": "traditional_3_4", "4:3": "classic_4_3"}
LIANGXIN_FIELDS: dict[str, list[Any]] = {
    "person_generation": ["dont_allow", "allow_adult", "allow_all"],
    "safety_settings": ["block_low_and_above", "block_medium_and_above", "block_only_high", "block_none"],
    "enhance_prompt": [True, False],
    "language": ["auto", "en", "zh", "zh-CN", "hi", "ja", "ko", "pt", "es"],
    "output_format": ["png", "jpeg", "jpg", "image/png", "image/jpeg"],
    "compression_quality": [1, 75, 100],
}


def create(pair: Pair, prompt: Any = "a red fox", callback_url: str | None = None, **fields: Any) -> HttpRequest:
    """The create of a request that was checked, as the client does it."""
    record = PROVIDERS[pair[0]]
    others = [each for each in PROVIDERS.values() if each is not record and not (each.is_local or each.is_service)]
    request = ImageRequest(prompt, model=pair[1], **fields)
    return record.dialect.build_create(request, check(request, pair[1], record, others), callback_url)


def sent(pair: Pair, wire: dict[str, Any], callback_url: str | None = None) -> HttpRequest:
    """What goes over the wire: to a path, so that the key goes home only; its defaults are ours, whosever they are."""
    provider, model = pair
    ratio = "square_1_1" if pair in LIANGXIN else "16:9" if pair in KIE_FAST else "1:1"
    wire = {"prompt": "a red fox", **({} if model == RAW else {"aspect_ratio": ratio}), **wire}
    path, name, placed = "/api/v1/jobs/createTask", "callBackUrl", {"input": wire}
    if provider == "apiin":
        path, name, placed = "/api/v1/images/generations", "callback_url", wire
    called = {} if callback_url is None else {name: callback_url}
    named = {"model": RECORDS[provider][1].get(model, model.removeprefix("raw:"))}
    return HttpRequest("POST", path, msgspec.json.encode({**named, **called, **placed}), "create")


def refusal(pair: Pair, prompt: Any = "a red fox", **fields: Any) -> str:
    """The message with which a request is refused, naming whose account it was for."""
    with pytest.raises(InvalidRequest) as caught:
        create(pair, prompt, **fields)
    assert caught.value.provider in (pair[0], None)
    return caught.value.message


def test_the_records_are_to_the_letter_of_the_pages() -> None:
    """Each is known by its own name, at its address, with its models under the provider's names and at its prices."""
    assert set(PROVIDERS) == {*RECORDS, *LIKE_KIE, "served", "sandbox"}
    assert all(record.name == name for name, record in PROVIDERS.items())
    for name, (base_url, models, prices) in RECORDS.items():
        with naming(name):
            record = PROVIDERS[name]
            variables = (f"{name.upper()}_API_KEY", f"{name.upper()}_BASE_URL")
            assert (record.base_url, record.key_variable, record.base_url_variable) == (base_url, *variables)
            found = {model.name: model for model in record.models if model.name in PREFIXED}
            assert {each: model.wire_name for each, model in found.items()} == models
            others = [model for model in record.models if model.name not in PREFIXED]
            assert name == "kie" or all(model.parameters is None for model in others)
            asked = ImageRequest("x"), ImageRequest("x", num_images=3)
            told = {each: tuple(map(model.price, asked)) for each, model in found.items()}
            assert told == {each: (price, price and price * 3) for each in models for price in [prices.get(each)]}


def test_a_running_limit_is_a_whole_number_above_zero() -> None:
    """Any other is a mistake in the setup, and names what was given."""
    for running in (0, -1, 2.5, "100", None):
        with naming(running), pytest.raises(ConfigurationError, match=r"running=.*at least 1"):
            Limits(running=running)
    assert Limits(running=1).running == 1


def test_each_record_tells_its_limits_and_how_long_tasks_take() -> None:
    """kie.ai's as published, its status limit a guess as all of its likes', API in One's tasks as it claims."""
    rates = [Rate(20, per=10), Rate(10, per=1)]
    guessed = Limits(*(Rate(rate.count, rate.per, guess=True) for rate in rates), running=100)
    assert PROVIDERS["kie"].limits == Limits(rates[0], guessed.status, running=100)
    assert [PROVIDERS[name].limits for name in ("apikley", "liangxin", "apiin")] == [guessed] * 3
    seen = [math.log(seconds) for seconds in (13, 13, 29, 46, 48, 55, 66, 112, 274)]
    kie, apiin, sandbox = (PROVIDERS[name].latency for name in ("kie", "apiin", "sandbox"))
    fitted = (statistics.median(seen), statistics.stdev(seen))
    assert (math.log(kie.median), kie.sigma) == pytest.approx(fitted, abs=0.1)
    assert [PROVIDERS[name].latency for name in ("apikley", "liangxin")] == [kie, kie]
    # Most of them take 3 to 8 s.
    assert apiin.survival(3) - apiin.survival(8) > 0.6
    assert (sandbox.median, sandbox.sigma) == (Latency().median, Latency().sigma)


OWN_PRICES: list[tuple[Any, list[float | None]]] = [
    (None, [8, 4, None, None]),
    (2, [2, 2, 2, None]),
    ({"imagen4": 1.5}, [1.5, 4, None, None]),
    ({RAW: 5}, [8, 4, 5, None]),
]


@pytest.mark.parametrize(("prices", "credits"), OWN_PRICES, ids=repr)
def test_a_price_of_the_account_s_own_stands_in_the_record(prices: Any, credits: list[float | None]) -> None:
    """For one model or for all of them, raw ones too, in place of what the models say."""
    record = msgspec.structs.replace(PROVIDERS["kie"], prices=prices)
    models = [record.find(name) for name in ("imagen4", "imagen4-fast", RAW, "imagen5")]
    assert [model and model.credits for model in models] == credits


def test_provider_files_are_data() -> None:
    """No file of a provider holds a function or a class: what differs between APIs is a field of the record."""
    files = sorted((PACKAGE / "providers").glob("*.py"))
    assert {file.stem for file in files} == {"__init__", *PROVIDERS}
    for file in files:
        kinds = {type(node) for node in ast.walk(ast.parse(file.read_text()))}
        assert not kinds & {ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef}, file.name


def test_no_line_asks_which_provider_it_is() -> None:
    """Outside of the records no comparison and no `case` holds a provider's name, or that of its record."""
    names = set(PROVIDERS) | {name.upper() for name in PROVIDERS}
    for path in sorted(PACKAGE.rglob("[!.]*.py")):
        if path.parent.name != "providers":
            nodes = list(ast.walk(ast.parse(path.read_text())))
            compared = [node for node in nodes if isinstance(node, ast.Compare)]
            compared += [node.pattern for node in nodes if isinstance(node, ast.match_case)]
            parts = itertools.chain.from_iterable(map(ast.walk, compared))
            found = {getattr(part, "id", getattr(part, "value", None)) for part in parts}
            assert not found & names, path.relative_to(PACKAGE)


LONG = "狐" * 5000
MOST = 2**63 - 1
LIANGXIN_OWN = [(field, value) for field, values in LIANGXIN_FIELDS.items() for value in values]
RAW_EXTRA = {"quality": "basic", "n": 1, "image_urls": ["https://x.example/1.png"], "input": None}
LIKE_OURS = {"aspect_ratio": "21:9", "negative_prompt": "x", "num_images": "1", "seed": 7}
SEVERAL = {"negative_prompt": "x", "num_images": 2, "seed": 7}
SENT: list[tuple[list[Pair], dict[str, Any], dict[str, Any]]] = [
    *((EVERY, {"callback_url": url}, {}) for url in (None, "https://example.com/token")),
    *((ELSEWHERE, {"aspect_ratio": ratio}, {"aspect_ratio": ratio}) for ratio in LIANGXIN_RATIOS),
    *((LIANGXIN, {"aspect_ratio": ours}, {"aspect_ratio": theirs}) for ours, theirs in LIANGXIN_RATIOS.items()),
    *((LIANGXIN, {"aspect_ratio": theirs}, {"aspect_ratio": theirs}) for theirs in LIANGXIN_RATIOS.values()),
    *((KIE_STANDARD, {"seed": seed}, {"seed": str(seed)}) for seed in (7, 0, -5, MOST, -MOST)),
    *((KIE_FAST + APIIN, {"seed": seed}, {"seed": seed}) for seed in (7, 0, -5, MOST, -MOST)),
    *((LIANGXIN, {"seed": seed}, {"seed": seed}) for seed in (1, 7, MOST)),
    *((SEVERAL_OF_FAST, {"num_images": count}, {"num_images": str(count)}) for count in (1, 2, 3, 4)),
    (KIE, {"aspect_ratio": "auto"}, {"aspect_ratio": "auto"}),
    *((APIIN, {"num_images": count}, {"num_images": count}) for count in (1, 9)),
    *((ELSEWHERE, {"negative_prompt": text}, {"negative_prompt": text}) for text in ("", "blurry", "模糊 🦊", LONG)),
    (EVERY, {"prompt": "a 🦊"}, {"prompt": "a 🦊"}),
    (EVERY, {"prompt": LONG}, {"prompt": LONG}),
    (LIANGXIN + APIIN, {"prompt": LONG * 4}, {"prompt": LONG * 4}),
    *((LIANGXIN, {"extra": {field: value}}, {field: value}) for field, value in LIANGXIN_OWN),
    # A raw model's fields may be called as ImageRequest's own are.
    *((RAWS, {"extra": extra}, extra) for extra in ({}, RAW_EXTRA, LIKE_OURS)),
    (APIIN, SEVERAL, SEVERAL),
]


def test_what_is_asked_is_what_is_sent() -> None:
    """Just what was set, in the provider's types and words, and the aspect ratio always: providers' defaults differ.
    Any model of a createTask API can be named; its input is the prompt and `extra` as it is."""
    for pairs, fields, wire in SENT:
        for pair in pairs:
            with naming(pair, fields):
                assert create(pair, **fields) == sent(pair, wire, fields.get("callback_url"))


HALF = "a fox \ud83e"
FOREIGN = {
    HALF: "7 is U+D83E (half of a character); allowed is a non-empty string",
    "a red\0 fox": "6 is U+0000 (NULL)",
    "\x1b[0m": "1 is U+001B (ESCAPE)",
    "a fox\n\x1a": "7 is U+001A (SUBSTITUTE, the end of a file in DOS)",
    "\x93a fox\x94": "1 is U+0093 (a control character)",
    "a\ufeff fox": "2 is U+FEFF (ZERO WIDTH NO-BREAK SPACE, the mark at the beginning of a file)",
}
UNSEEN = {
    "\u200b": "U+200B (ZERO WIDTH SPACE)",
    " \u200e\u200f\u200b": "U+200E (LEFT-TO-RIGHT MARK), U+200F (RIGHT-TO-LEFT MARK), U+200B (ZERO WIDTH SPACE);",
    "\U000e0000\U000e0fff": "U+E0000 (no name), U+E0FFF (no name)",
    "\u3164": "U+3164 (HANGUL FILLER)",
    "\u2800\u2800": "U+2800 (BRAILLE PATTERN BLANK)",
    "\u0301": "U+0301 (COMBINING ACUTE ACCENT)",
    "\ufe0f\u00ad\u2060\u115f": "U+FE0F (VARIATION SELECTOR-16), U+00AD (SOFT HYPHEN), U+2060 (WORD JOINER) and others",
}
PARAMETERS = ("aspect_ratio", "negative_prompt", "num_images", "seed")
REFUSED: list[tuple[list[Pair], str, list[Any], str]] = [
    (EVERY, "aspect_ratio", ["2:3", "", "1:1 ", "16x9", 1, True], "allowed is one of 1:1, "),
    (ELSEWHERE, "aspect_ratio", ["square_1_1"], "allowed is one of 1:1, "),
    (SEVERAL_OF_FAST, "num_images", [0, 5, -1, "2", 2.0, True], "allowed is one of 1, 2, 3, 4"),
    (APIIN, "num_images", [0, -1, "2", 2.0, True], "allowed is a whole number of at least 1"),
    (KIE + KIE_STANDARD + LIANGXIN, "num_images", [1, 2], "imagen4"),
    (APIIN + [pair for pair in KIE_LIKE if pair not in KIE], "aspect_ratio", ["auto"], "allowed is one of 1:1, "),
    (ELSEWHERE, "seed", ["7", 7.0, True, False, [7], 2**63, -(2**63)], "allowed is a whole number below 2^63."),
    (LIANGXIN, "seed", ["7", 7.0, True, False, [7], 2**63], "allowed is a whole number of at least 1."),
    (LIANGXIN, "seed", [0, -1], "allowed is a whole number of at least 1 (taken by: "),
    (LIANGXIN, "negative_prompt", ["blurry"], "imagen4"),
    (ELSEWHERE, "negative_prompt", [7], "allowed is a string"),
    (ELSEWHERE, "negative_prompt", ["a\0"], "its character 2 is U+0000 (NULL); allowed is a string"),
    (EVERY + RAWS, "prompt", ["", " ", "\n\t ", None, 7, b"a fox"], "allowed is a non-empty string"),
    *((EVERY + RAWS, "prompt", [text], f"its character {place}") for text, place in FOREIGN.items()),
    *((EVERY + RAWS, "prompt", [text], f"there is nothing to see in it, only {name}") for text, name in UNSEEN.items()),
    (LIANGXIN, "person_generation", ["allow"], "allowed is one of dont_allow, "),
    (LIANGXIN, "safety_settings", ["BLOCK_NONE"], "allowed is one of block_low_and_above, "),
    (LIANGXIN, "enhance_prompt", [1, "true"], "allowed is true or false"),
    (LIANGXIN, "language", ["de"], "allowed is one of auto, "),
    (LIANGXIN, "output_format", ["webp"], "allowed is one of png, "),
    (LIANGXIN, "compression_quality", [0, 101, "75", True], "allowed is a whole number from 1 to 100"),
    *((ELSEWHERE, field, values, "imagen4") for field, values in LIANGXIN_FIELDS.items()),
    (EVERY, "sede", [7], "imagen4"),
    *((RAWS, field, ["1:1", 7], "a raw model takes its parameters, this one too, from") for field in PARAMETERS),
]


def test_what_cannot_even_be_shown_is_refused_before_a_cent() -> None:
    """Python writes no number of more than 4,300 digits."""
    assert "seed=<int that cannot be shown>: allowed is a whole number" in refusal(("kie", "imagen4"), seed=10**5000)


def test_what_a_model_does_not_take_is_refused_before_a_cent() -> None:
    """The message names the field, what was given, and what is allowed; `imagen4…` says that it has no such field."""
    for pairs, field, values, said in REFUSED:
        is_own = field in ("prompt", *PARAMETERS)
        for pair, value in itertools.product(pairs, values):
            with naming(pair, field, value):
                message = refusal(pair, **({field: value} if is_own else {"extra": {field: value}}))
                odd = "a truth value is no number; " * (isinstance(value, bool) and "whole number" in said)
                assert f"{field}={value!r}: {odd}{said}" in message
                assert ("has no such parameter, only prompt, " in message) == (said == "imagen4")


def test_what_belongs_to_a_script_is_taken() -> None:
    """Joiners in emoji and in Persian, combining marks, tags of a flag, and what word processors put between words."""
    for prompt in (
        "👩\u200d🚀",
        "❤️",
        "می\u200cخواهم",
        "e\u0301",
        "🏴\U000e0067\U000e007f",
        "a\tfox\r\nat\vnight",
        "?",
        "\u200fשועל",
    ):
        assert create(KIE_FAST[0], prompt) == sent(KIE_FAST[0], {"prompt": prompt})


def test_kies_texts_end_at_5000_characters() -> None:
    """One more is refused with its length and the limit, and with no more of the text than a message bears."""
    told = {58: "x" * 58 + "'", 59: "x" * 55 + "…' (59 characters)"}
    for length, text in told.items():
        assert refusal(KIE_LIKE[0], aspect_ratio="x" * length).startswith(f"aspect_ratio='{text}: "), length
    kinds = {"prompt": "a non-empty string", "negative_prompt": "a string"}
    for pair, (field, kind) in itertools.product(KIE_LIKE, kinds.items()):
        message = refusal(pair, **{field: "x" * 5001})
        assert f"{'x' * 55}…' (5,001 characters): allowed is {kind} of at most 5,000 characters" in message
        assert len(message) < 300


LOOP: dict[str, Any] = {}
LOOP["again"] = LOOP
EXTRAS: list[tuple[list[Pair], list[Any], str]] = [
    *((EVERY, [{field: "1:1"}], f"extra holds {field}: set it on the request") for field in ("prompt", *PARAMETERS)),
    (RAWS, [{"prompt": "x"}], "extra holds prompt: set it on the request itself."),
    (EVERY + RAWS, [None, [], "x"], "extra="),
    (EVERY + RAWS, [{"x": object()}, {None: 1}, {"x": HALF}, LOOP], "extra cannot be written as JSON: "),
]


def test_extra_is_a_mapping_of_other_fields_that_can_be_written() -> None:
    """A field that the request itself has would win or lose in secret; what is no JSON could not be sent or keyed."""
    for pairs, extras, said in EXTRAS:
        for pair, extra in itertools.product(pairs, extras):
            with naming(pair, said):
                assert refusal(pair, extra=extra).startswith(said)


def test_every_problem_is_named_at_once() -> None:
    """One refusal names all that is wrong with a request."""
    message = refusal(("kie", "imagen4"), " ", aspect_ratio="2:3", seed="x", num_images=2, extra={"sede": 7})
    fields = ("prompt", "aspect_ratio", "seed", "num_images", "sede")
    assert [field for field in fields if f"{field}=" not in message] == []


@pytest.mark.parametrize(
    ("pair", "fields", "takers"),
    [
        (
            ("kie", "imagen4"),
            {"num_images": 2},
            " (taken by: apiin (imagen4), kie (seedream-4), kie (ideogram-character), ",
        ),
        (("kie", "imagen4"), {"num_images": 2}, "kie (ideogram-v3) and 3 others)."),
        (("liangxin", "imagen4-fast"), {"negative_prompt": "x"}, "kie (imagen4-fast), apikley (imagen4-fast), apiin"),
        (("apiin", "imagen4-ultra"), {"extra": {"language": "zh"}}, " (taken by: liangxin (imagen4-ultra))."),
        (("kie", "imagen4"), {"extra": {"language": "zh"}}, "imagen4 has no such parameter, only "),
        (("kie", "imagen4"), {"extra": {"sede": 7}}, "negative_prompt, aspect_ratio, seed"),
    ],
)
def test_the_message_names_who_takes_the_field(pair: Pair, fields: dict[str, Any], takers: str) -> None:
    """Another model of the same provider, or the same model elsewhere, where there is one; else nobody is named."""
    message = refusal(pair, **fields)
    assert (takers in message, "taken by" in message) == (True, "(" in takers)


@pytest.mark.parametrize("model", ["imagen5", "google/imagen5", "Imagen4", "imagen-4", "", None, 4])
def test_an_unknown_model_lists_the_known_ones(model: Any) -> None:
    """A model that no record knows is refused with those of the provider; one that others serve names these."""
    for provider, (_, models, _) in RECORDS.items():
        message = refusal((provider, model))
        assert message.startswith(f"model={model!r}: ")
        more = provider in ("kie", "liangxin")
        assert f" has {', '.join(models)}{', ' if more else '; '}" in message
        assert ("others (all: imagen-async models); " in message) == (provider == "kie")
        assert "is served by" not in message
    assert "imagen4 is served by: kie, apikley, apiin, modkie, ruxa." in refusal(("liangxin", "imagen4"))
    assert "API in One takes no raw models; only createTask APIs do" in refusal(("apiin", RAW))
    assert "model='raw:'" in refusal(("kie", raw_model(""))), "the prefix alone names no model"
    assert "its character 11 is U+D83E (half of a character)." in refusal(("kie", raw_model(HALF)))


REQUEST = ImageRequest("a red fox", num_images=2)
MADE = Result("fox", 4, REQUEST, "kie", "imagen4", urls=("https://files.example/1.png",), task_id="t1")
FAILED = Result("fox", 4, REQUEST, "kie", "imagen4", error=DownloadFailed("404", task_id="t1"))


def test_a_result_tells_in_a_line_what_became_of_it() -> None:
    """It is good where there is no error, and without a client it has no other face in a notebook."""
    assert (MADE.ok, FAILED.ok, MADE._repr_html_()) == (True, False, None)
    assert repr(MADE) == f"Result(key='fox', index=4, ok=True, urls={list(MADE.urls)}, task_id='t1')"
    assert repr(FAILED) == f"Result(key='fox', index=4, ok=False, error={FAILED.error!r}, task_id=None)"
    assert (REQUEST.count, ImageRequest("x").count) == (2, 1)


async def test_a_result_without_a_picture_cannot_be_saved() -> None:
    """It raises its own error, anew each time, or says what is missing."""
    for _ in range(2):
        with pytest.raises(DownloadFailed) as caught:
            await FAILED.save("out")
        assert caught.value is not FAILED.error
    nothing = msgspec.structs.replace(MADE, urls=())
    for result, said in ((nothing, "has no picture"), (MADE, "has no client to fetch")):
        with pytest.raises(ConfigurationError, match=said):
            await result.save("out")


MEANT = {
    "imagen4fast": "imagen4-fast",
    "IMAGEN4": "imagen4",
    "imagen-4-ultra": "imagen4-ultra",
    "dall-e-3": None,
    4: None,
}


@pytest.mark.parametrize(("name", "meant"), MEANT.items())
def test_a_name_that_nobody_has_may_be_near_one(name: object, meant: str | None) -> None:
    """The closest known name is asked about, whatever its capitals; where none is close, nothing is."""
    assert did_you_mean(name, PREFIXED) == (f" Did you mean {meant}?" if meant else "")
