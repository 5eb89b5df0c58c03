"""The providers' records, to the letter of their pages: what each model takes, refuses, and sends."""

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
from hypothesis import given, settings
from hypothesis import strategies as st

import imagen_async.providers
from imagen_async._core.latency import LatencyPrior
from imagen_async._core.model import Model
from imagen_async._core.provider import Limits, Provider, check
from imagen_async._core.rate_limit import Rate
from imagen_async._core.values import ImageRequest, raw_model
from imagen_async.errors import ConfigurationError, InvalidRequest
from imagen_async.providers import PROVIDERS
from imagen_async.sandbox import Latency

SERVED = {
    "kie": {
        "imagen4": "google/imagen4",
        "imagen4-fast": "google/imagen4-fast",
        "imagen4-ultra": "google/imagen4-ultra",
    },
    "apikley": {
        "imagen4": "google/imagen4",
        "imagen4-fast": "google/imagen4-fast",
        "imagen4-ultra": "google/imagen4-ultra",
    },
    "liangxin": {"imagen4-fast": "imagen4-fast", "imagen4-ultra": "imagen4-ultra"},
    "apiin": {"imagen4": "imagen4", "imagen4-fast": "imagen4-fast", "imagen4-ultra": "imagen4-ultra"},
}
EVERY = [(provider, model) for provider, models in SERVED.items() for model in models]
KIE_LIKE = [(provider, model) for provider, model in EVERY if provider in ("kie", "apikley")]
KIE_FAST = [(provider, model) for provider, model in KIE_LIKE if model == "imagen4-fast"]
KIE_STANDARD = [pair for pair in KIE_LIKE if pair not in KIE_FAST]
LIANGXIN = [pair for pair in EVERY if pair[0] == "liangxin"]
APIIN = [pair for pair in EVERY if pair[0] == "apiin"]
ELSEWHERE = [provider for provider in SERVED if provider != "liangxin"]
RATIOS = ["1:1", "16:9", "9:16", "3:4", "4:3"]

LIANGXIN_RATIOS = {
    "1:1": "square_1_1",
    "9:16": "social_story_9_16",
    "16:9": "widescreen_16_9",
    "3:4": "traditional_3_4",
    "4:3": "classic_4_3",
}
LIANGXIN_FIELDS: dict[str, list[Any]] = {
    "person_generation": ["dont_allow", "allow_adult", "allow_all"],
    "safety_settings": ["block_low_and_above", "block_medium_and_above", "block_only_high", "block_none"],
    "enhance_prompt": [True, False],
    "language": ["auto", "en", "zh", "zh-CN", "hi", "ja", "ko", "pt", "es"],
    "output_format": ["png", "jpeg", "jpg", "image/png", "image/jpeg"],
    "compression_quality": [1, 75, 100],
}


def checked(
    provider: str, model: str, prompt: str = "a red fox", **fields: Any
) -> tuple[Provider, Model, ImageRequest]:
    record = PROVIDERS[provider]
    others = [other for other in PROVIDERS.values() if other is not record and not other.is_local]
    request = ImageRequest(prompt, model=model, **fields)
    return record, check(request, model, record, others), request


def body(provider: str, model: str, prompt: str = "a red fox", **fields: Any) -> dict[str, Any]:
    """The body of a create, checked and built as the client does it."""
    record, found, request = checked(provider, model, prompt, **fields)
    sent = record.dialect.build_create(request, found).body
    assert sent is not None
    decoded: dict[str, Any] = msgspec.json.decode(sent)
    return decoded


def sent(provider: str, model: str, prompt: str = "a red fox", **fields: Any) -> dict[str, Any]:
    """The parameters of a create, wherever the dialect puts them."""
    whole = body(provider, model, prompt, **fields)
    if provider == "apiin":
        return {name: value for name, value in whole.items() if name != "model"}
    assert set(whole) == {"model", "input"}
    parameters: dict[str, Any] = whole["input"]
    return parameters


def refusal(provider: str, model: str, prompt: Any = "a red fox", **fields: Any) -> str:
    """The message with which a request is refused before anything is sent."""
    with pytest.raises(InvalidRequest) as caught:
        checked(provider, model, prompt, **fields)
    return caught.value.message


def same_type(value: object, expected: object) -> bool:
    """'7' is not 7, and 1 is not True."""
    return value == expected and type(value) is type(expected)


# ------------------------------------------------------------------------------------------ where and what


@pytest.mark.parametrize(
    ("provider", "base_url"),
    [
        ("kie", "https://api.kie.ai"),
        ("apikley", "https://api.apikley.ru"),
        ("liangxin", None),
        ("apiin", "https://apiin.one"),
    ],
)
def test_each_provider_is_at_its_address(provider: str, base_url: str | None) -> None:
    """Three addresses are published, and LiangXin's only its users know."""
    assert PROVIDERS[provider].base_url == base_url


def test_the_variables_are_named_after_the_provider() -> None:
    """Keys and addresses come from KIE_API_KEY, KIE_BASE_URL and so on."""
    assert {(record.key_variable, record.base_url_variable) for record in PROVIDERS.values()} >= {
        ("KIE_API_KEY", "KIE_BASE_URL"),
        ("APIKLEY_API_KEY", "APIKLEY_BASE_URL"),
        ("LIANGXIN_API_KEY", "LIANGXIN_BASE_URL"),
        ("APIIN_API_KEY", "APIIN_BASE_URL"),
    }


def test_the_four_providers_and_the_sandbox_are_known() -> None:
    """These providers have a record, each under its own name."""
    assert set(PROVIDERS) >= {*SERVED, "sandbox"}
    assert all(record.name == name for name, record in PROVIDERS.items())


@pytest.mark.parametrize("provider", SERVED)
def test_each_provider_serves_its_models_under_its_own_names(provider: str) -> None:
    """Our names lead to the provider's, with its prefix or without, and no other model is offered."""
    record = PROVIDERS[provider]
    assert {model.name: model.wire_name for model in record.models} == SERVED[provider]
    for name, wire_name in SERVED[provider].items():
        assert body(provider, name)["model"] == wire_name


@pytest.mark.parametrize("provider", ["kie", "apiin"])
def test_published_prices(provider: str) -> None:
    """A picture costs 4, 8 or 12 credits, and each of several pictures is billed."""
    prices = {model.name: model.price(ImageRequest("x")) for model in PROVIDERS[provider].models}
    assert prices == {"imagen4-fast": 4, "imagen4": 8, "imagen4-ultra": 12}
    fast = PROVIDERS[provider].find("imagen4-fast")
    assert fast is not None
    assert fast.price(ImageRequest("x", num_images=3)) == 12


@pytest.mark.parametrize("provider", ["apikley", "liangxin"])
def test_unpublished_prices_are_unknown(provider: str) -> None:
    """Where no page tells a price, none is claimed."""
    assert {model.price(ImageRequest("x")) for model in PROVIDERS[provider].models} == {None}


def test_kies_limits_are_the_published_ones() -> None:
    """20 creates per 10 s, 10 status calls per second, 100 tasks running."""
    assert PROVIDERS["kie"].limits == Limits(submit=Rate(20, per=10), status=Rate(10, per=1), running=100)


def test_limits_refuse_a_running_limit_that_is_no_whole_number_above_zero() -> None:
    """A running limit of zero or of no whole number is a ConfigurationError."""
    for running in (0, -1, 2.5, "100", None):
        with naming(running):
            with pytest.raises(ConfigurationError, match="running"):
                Limits(running=running)


@pytest.mark.parametrize("provider", [*SERVED, "sandbox"])
def test_each_record_tells_how_long_tasks_take(provider: str) -> None:
    """Each record's word on latency is one of seconds to minutes, neither nearly certain nor without any meaning."""
    latency = PROVIDERS[provider].latency
    assert isinstance(latency, LatencyPrior)
    assert 0.5 <= latency.median <= 120
    assert 0.2 <= latency.sigma <= 1.2
    assert latency.median < latency.mean < 2.5 * latency.median


def test_kies_latency_is_the_observed_one() -> None:
    """The nine latencies that were seen at kie.ai's API give the median and the spread of its record."""
    seen = [math.log(seconds) for seconds in (13, 13, 29, 46, 48, 55, 66, 112, 274)]
    latency = PROVIDERS["kie"].latency
    assert math.log(latency.median) == pytest.approx(statistics.median(seen), abs=0.1)
    assert latency.sigma == pytest.approx(statistics.stdev(seen), abs=0.1)


def test_api_in_ones_latency_is_the_claimed_one() -> None:
    """Most of its tasks, by its record, take the 3 to 8 s that its page claims."""
    latency = PROVIDERS["apiin"].latency
    assert latency.survival(3) - latency.survival(8) > 0.6
    assert latency.survival(3) > 0.8


def test_the_sandboxs_latency_is_its_own_default() -> None:
    """The sandbox's record says what its tasks take where nothing else was ordered."""
    latency = PROVIDERS["sandbox"].latency
    assert (latency.median, latency.sigma) == (Latency().median, Latency().sigma)


def test_provider_files_are_data() -> None:
    """No file of a provider holds a function or a class: what differs between APIs is a field of the record."""
    folder = Path(imagen_async.providers.__file__).parent
    files = sorted(folder.glob("*.py"))
    assert {file.stem for file in files} == {"__init__", *PROVIDERS}
    for file in files:
        kinds = {type(node) for node in ast.walk(ast.parse(file.read_text()))}
        assert not kinds & {ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef}, file.name


# ------------------------------------------------------------------------------- what goes over the wire


@pytest.mark.parametrize("provider", SERVED)
def test_creates_are_posted_where_the_provider_takes_them(provider: str) -> None:
    """createTask at three providers, images/generations at API in One; a path, so that the key goes home only."""
    for model in SERVED[provider]:
        with naming(model):
            record, found, request = checked(provider, model)
            create = record.dialect.build_create(request, found)
            path = "/api/v1/images/generations" if provider == "apiin" else "/api/v1/jobs/createTask"
            assert (create.method, create.path) == ("POST", path)


@pytest.mark.parametrize("provider", SERVED)
def test_a_plain_prompt_sends_itself_and_the_documented_aspect_ratio(provider: str) -> None:
    """The aspect ratio is always explicit, with the model's documented default, and nothing else is sent."""
    for model in SERVED[provider]:
        with naming(model):
            ratio = "square_1_1" if provider == "liangxin" else "1:1"
            if (provider, model) in KIE_FAST:
                ratio = "16:9"
            assert sent(provider, model) == {"prompt": "a red fox", "aspect_ratio": ratio}


@pytest.mark.parametrize("provider", SERVED)
def test_the_five_aspect_ratios_are_taken_everywhere(provider: str) -> None:
    """Our five ratios are the provider's own words, which LiangXin spells differently."""
    for model, ratio in itertools.product(SERVED[provider], RATIOS):
        with naming(model, ratio):
            expected = LIANGXIN_RATIOS[ratio] if provider == "liangxin" else ratio
            assert sent(provider, model, aspect_ratio=ratio)["aspect_ratio"] == expected


def test_liangxins_own_aspect_names_are_taken_too() -> None:
    """LiangXin's names may be said as they are."""
    for (provider, model), ratio in itertools.product(LIANGXIN, LIANGXIN_RATIOS.values()):
        with naming(provider, model, ratio):
            assert sent(provider, model, aspect_ratio=ratio)["aspect_ratio"] == ratio


@pytest.mark.parametrize("provider", SERVED)
def test_other_aspect_ratios_are_refused(provider: str) -> None:
    """Any other ratio is refused, and the message names the field, what was given and what is allowed."""
    for model, ratio in itertools.product(SERVED[provider], ("2:3", "", "1:1 ", "16x9", 1, True)):
        with naming(model, ratio):
            message = refusal(provider, model, aspect_ratio=ratio)
            assert f"aspect_ratio={ratio!r}" in message
            assert all(allowed in message for allowed in RATIOS)


@pytest.mark.parametrize("provider", ELSEWHERE)
def test_liangxins_aspect_names_are_its_own(provider: str) -> None:
    """The other providers do not take LiangXin's names."""
    for model in SERVED[provider]:
        with naming(model):
            assert "aspect_ratio='square_1_1'" in refusal(provider, model, aspect_ratio="square_1_1")


@pytest.mark.parametrize(
    ("pairs", "wire"),
    [(KIE_STANDARD, "7"), (KIE_FAST, 7), (LIANGXIN, 7), (APIIN, 7)],
    ids=["kie standard", "kie fast", "liangxin", "apiin"],
)
def test_the_seed_has_the_providers_type(pairs: list[tuple[str, str]], wire: object) -> None:
    """Our seed is a whole number; '7' goes where the provider wants a string, 7 where it wants a number."""
    for provider, model in pairs:
        assert same_type(sent(provider, model, seed=7)["seed"], wire)


@pytest.mark.parametrize(("pairs", "wire"), [(KIE_FAST, "2"), (APIIN, 2)], ids=["kie fast", "apiin"])
def test_num_images_has_the_providers_type(pairs: list[tuple[str, str]], wire: object) -> None:
    """Our num_images is a whole number; kie.ai wants '2', API in One 2."""
    for provider, model in pairs:
        assert same_type(sent(provider, model, num_images=2)["num_images"], wire)


def test_num_images_is_refused_where_it_is_no_field() -> None:
    """imagen4 and imagen4-ultra at kie.ai and Apikley, and all of LiangXin, make one picture a task."""
    for provider, model in KIE_STANDARD + LIANGXIN:
        with naming(provider, model):
            assert "num_images=2" in refusal(provider, model, num_images=2)


@pytest.mark.parametrize(("provider", "model"), KIE_FAST)
def test_one_to_four_pictures_are_taken(provider: str, model: str) -> None:
    """imagen4-fast takes '1' to '4'."""
    for count in (1, 2, 3, 4):
        with naming(count):
            assert sent(provider, model, num_images=count)["num_images"] == str(count)


@pytest.mark.parametrize(("provider", "model"), KIE_FAST)
def test_other_counts_are_refused(provider: str, model: str) -> None:
    """imagen4-fast takes no other count, and no string, fraction or bool."""
    for count in (0, 5, -1, "2", 2.0, True):
        with naming(count):
            message = refusal(provider, model, num_images=count)
            assert f"num_images={count!r}: allowed is a whole number from 1 to 4" in message


def test_api_in_one_takes_a_positive_number_of_pictures() -> None:
    """API in One has no documented upper bound, but no picture or half a picture is none."""
    assert sent("apiin", "imagen4", num_images=9)["num_images"] == 9
    for count in (0, -1, "2", 2.0, True):
        with naming(count):
            assert f"num_images={count!r}" in refusal("apiin", "imagen4", num_images=count)


@pytest.mark.parametrize("provider", SERVED)
def test_a_seed_that_is_no_whole_number_is_refused(provider: str) -> None:
    """A string, a fraction or a bool is no seed: True would be sent as 1 or as 'True'."""
    for model, seed in itertools.product(SERVED[provider], ("7", 7.0, True, False, [7])):
        with naming(model, seed):
            assert f"seed={seed!r}" in refusal(provider, model, seed=seed)


@pytest.mark.parametrize(("provider", "model"), LIANGXIN)
def test_liangxins_seed_starts_at_one(provider: str, model: str) -> None:
    """LiangXin takes seeds of at least 1; the others take 0 too."""
    assert sent(provider, model, seed=1)["seed"] == 1
    for seed in (0, -1):
        assert f"seed={seed}: allowed is a whole number of at least 1" in refusal(provider, model, seed=seed)
    assert sent("kie", model, seed=0)["seed"] in (0, "0")


@pytest.mark.parametrize("provider", ELSEWHERE)
def test_negative_prompt_is_sent_as_it_is(provider: str) -> None:
    """kie.ai, Apikley and API in One have the field."""
    for model in SERVED[provider]:
        with naming(model):
            assert sent(provider, model, negative_prompt="blurry")["negative_prompt"] == "blurry"


@pytest.mark.parametrize(("provider", "model"), LIANGXIN)
def test_liangxin_has_no_negative_prompt_and_the_message_says_who_has(provider: str, model: str) -> None:
    """LiangXin refuses negative_prompt, and the message names those who take it."""
    message = refusal(provider, model, negative_prompt="blurry")
    assert "negative_prompt='blurry'" in message
    assert all(f"{taker} ({model})" in message for taker in ("kie", "apikley", "apiin"))


@pytest.mark.parametrize("provider", ["kie", "apikley"])
def test_kies_texts_end_at_5000_characters(provider: str) -> None:
    """5,000 characters are taken, of any script, and 5,001 are refused with the field, its length and the limit."""
    for model, field in itertools.product(SERVED[provider], ("prompt", "negative_prompt")):
        with naming(model, field):
            assert sent(provider, model, **{field: "狐" * 5000})[field] == "狐" * 5000
            message = refusal(provider, model, **{field: "x" * 5001})
            assert message.startswith(f"{field}=")
            assert "5,001" in message
            assert "5,000" in message
            assert len(message) < 300


def test_no_limit_of_length_is_made_up() -> None:
    """Where no page tells a limit, a long prompt is sent."""
    for provider, model in LIANGXIN + APIIN:
        with naming(provider, model):
            assert len(sent(provider, model, "x" * 20_000)["prompt"]) == 20_000


def test_a_prompt_without_words_is_refused() -> None:
    """An empty or blank prompt, or one that is no string, is refused, also for a raw model."""
    pairs = [*EVERY, ("kie", raw_model("some/model"))]
    for (provider, model), prompt in itertools.product(pairs, ("", " ", "\n\t ", None, 7, b"a red fox")):
        with naming(provider, model, prompt):
            assert f"prompt={prompt!r}" in refusal(provider, model, prompt)


@pytest.mark.parametrize("provider", ELSEWHERE)
def test_a_lone_surrogate_is_refused(provider: str) -> None:
    """Half a character, from a badly decoded file, cannot be sent as JSON and is refused."""
    for model, field in itertools.product(SERVED[provider], ("prompt", "negative_prompt")):
        with naming(model, field):
            assert field in refusal(provider, model, **{field: "a fox \ud83e"})


def test_a_lone_surrogate_is_refused_for_a_raw_model_too() -> None:
    """A raw model's prompt cannot hold half a character either: the create could not be written."""
    assert "prompt" in refusal("kie", raw_model("some/model"), "a fox \ud83e")


def test_a_whole_emoji_is_sent() -> None:
    """Characters beyond the first 65,536 are sent as they are."""
    assert sent("kie", "imagen4", "a 🦊")["prompt"] == "a 🦊"


# ---------------------------------------------------------------------------------------- fields of its own


@pytest.mark.parametrize("field", LIANGXIN_FIELDS)
def test_liangxins_own_fields_go_through_extra(field: str) -> None:
    """Each of LiangXin's own fields takes each of its documented values, of its documented type."""
    for (provider, model), value in itertools.product(LIANGXIN, LIANGXIN_FIELDS[field]):
        with naming(provider, model, value):
            assert same_type(sent(provider, model, extra={field: value})[field], value)


NOT_LIANGXINS = [
    ("person_generation", "allow"),
    ("safety_settings", "BLOCK_NONE"),
    ("enhance_prompt", 1),
    ("enhance_prompt", "true"),
    ("language", "de"),
    ("output_format", "webp"),
    ("compression_quality", 0),
    ("compression_quality", 101),
    ("compression_quality", "75"),
    ("compression_quality", True),
]


@pytest.mark.parametrize(("provider", "model"), LIANGXIN)
def test_liangxins_own_fields_take_nothing_else(provider: str, model: str) -> None:
    """Any other value is refused, and the message names the field, what was given and what is allowed."""
    for field, value in NOT_LIANGXINS:
        with naming(field, value):
            message = refusal(provider, model, extra={field: value})
            assert f"{field}={value!r}: allowed is " in message


@pytest.mark.parametrize("provider", ELSEWHERE)
def test_liangxins_own_fields_are_refused_elsewhere(provider: str) -> None:
    """The other providers ignore such a field without a word, so it is refused, and the message says who takes it."""
    for model, field in itertools.product(SERVED[provider], LIANGXIN_FIELDS):
        with naming(model, field):
            value = LIANGXIN_FIELDS[field][0]
            message = refusal(provider, model, extra={field: value})
            assert f"{field}={value!r}" in message
            assert ("taken by" in message) == (model in SERVED["liangxin"])
            if model in SERVED["liangxin"]:
                assert f"liangxin ({model})" in message


@pytest.mark.parametrize("provider", SERVED)
def test_a_misspelt_field_is_refused_with_the_known_ones(provider: str) -> None:
    """A field that nobody knows is refused, and the message lists those that the model has."""
    for model in SERVED[provider]:
        with naming(model):
            message = refusal(provider, model, extra={"sede": 7})
            assert "sede=7" in message
            assert "prompt" in message
            assert "aspect_ratio" in message
            assert "taken by" not in message


def test_every_problem_is_named_at_once() -> None:
    """One refusal names all that is wrong with a request."""
    message = refusal("kie", "imagen4", " ", aspect_ratio="2:3", seed="x", num_images=2, extra={"sede": 7})
    for field in ("prompt", "aspect_ratio", "seed", "num_images", "sede"):
        assert f"{field}=" in message


def test_the_message_names_another_model_that_takes_the_field() -> None:
    """num_images is refused for imagen4 at kie.ai, and taken by its imagen4-fast and by API in One."""
    message = refusal("kie", "imagen4", num_images=2)
    assert "kie (imagen4-fast)" in message
    assert "apiin (imagen4)" in message
    assert "kie (imagen4)" not in message
    assert "apikley" not in message


def test_a_field_of_the_request_does_not_hide_in_extra() -> None:
    """A field that the request itself has is refused in `extra`, where it would win or lose in secret."""
    for field in ("prompt", "aspect_ratio", "negative_prompt", "num_images", "seed"):
        with naming(field):
            assert field in refusal("kie", "imagen4-fast", extra={field: "1:1"})


def test_extra_is_a_mapping_that_can_be_written_as_json() -> None:
    """What is no mapping, or cannot be sent as JSON, is refused, for a raw model too."""
    for extra in (None, [], "sede", {"when": object()}, {None: 1}, {"x": "\ud83e"}):
        with naming(extra):
            assert "extra" in refusal("kie", "imagen4", extra=extra)
            assert "extra" in refusal("kie", raw_model("some/model"), extra=extra)


def test_an_extra_that_holds_itself_is_refused() -> None:
    """An `extra` that cannot be written because it never ends is refused like any other that cannot be written."""
    extra: dict[str, Any] = {}
    extra["again"] = extra
    assert "extra" in refusal("kie", raw_model("some/model"), extra=extra)


FIELDS = {
    "aspect_ratio": st.sampled_from(RATIOS),
    "negative_prompt": st.sampled_from(["", "blurry", "模糊 🦊"]),
    "seed": st.integers(-5, 5) | st.just(2**63 - 1),
    "num_images": st.integers(1, 4),
}


def refused_fields(provider: str, model: str, fields: dict[str, Any]) -> set[str]:
    """Which of these the table of the create parameters does not allow."""
    refused = set()
    if (provider, model) in KIE_STANDARD + LIANGXIN:
        refused.add("num_images")
    if provider == "liangxin":
        refused |= {"negative_prompt"} | ({"seed"} if fields.get("seed", 1) < 1 else set())
    return refused & set(fields)


@settings(deadline=None)
@given(fields=st.fixed_dictionaries({}, optional=FIELDS), pair=st.sampled_from(EVERY))
def test_a_create_holds_what_the_user_set_and_no_more(fields: dict[str, Any], pair: tuple[str, str]) -> None:
    """Of any request that is taken, exactly the fields that were set are sent, with the aspect ratio always."""
    refused = refused_fields(*pair, fields)
    if refused:
        message = refusal(*pair, **fields)
        assert {name for name in fields if f"{name}=" in message} == refused
        return
    parameters = sent(*pair, **fields)
    assert set(parameters) == {"prompt", "aspect_ratio", *fields}
    assert all(str(parameters[name]) == str(fields[name]) for name in fields if name != "aspect_ratio")


# ----------------------------------------------------------------------------------------------- models


@pytest.mark.parametrize("provider", SERVED)
def test_an_unknown_model_lists_the_known_ones(provider: str) -> None:
    """A model that no record knows is refused, and the message lists those of the provider."""
    for model in ("imagen5", "google/imagen4", "Imagen4", "imagen-4", "", None, 4):
        with naming(model):
            message = refusal(provider, model)
            assert f"model={model!r}" in message
            assert all(name in message for name in SERVED[provider])


def test_a_model_that_only_others_serve_names_them() -> None:
    """LiangXin has no plain imagen4, and the message says who has."""
    message = refusal("liangxin", "imagen4")
    assert "kie, apikley, apiin" in message


@pytest.mark.parametrize("provider", ["kie", "apikley", "liangxin"])
def test_a_raw_model_sends_the_prompt_and_extra(provider: str) -> None:
    """Any model of a createTask API can be named; its input is the prompt and `extra` as it is, its price unknown."""
    extra = {"quality": "basic", "n": 1, "image_urls": ["https://x.example/1.png"], "input": None}
    name = raw_model("seedream/5-lite-text-to-image")
    assert body(provider, name, extra=extra) == {
        "model": "seedream/5-lite-text-to-image",
        "input": {"prompt": "a red fox", **extra},
    }
    _, model, request = checked(provider, name)
    assert model.price(request) is None
    assert sent(provider, name) == {"prompt": "a red fox"}


def test_a_raw_model_takes_any_name_from_extra() -> None:
    """A raw model's parameters may be called as ImageRequest's fields are: they go from `extra` as they are."""
    for field, value in (("aspect_ratio", "21:9"), ("negative_prompt", "x"), ("num_images", "1"), ("seed", 7)):
        with naming(field, value):
            parameters = sent("kie", raw_model("some/model"), extra={field: value})
            assert parameters == {"prompt": "a red fox", field: value}


def test_a_raw_model_is_refused_where_the_api_is_no_createtask() -> None:
    """API in One takes no raw models, and the message says why."""
    message = refusal("apiin", raw_model("seedream/5-lite-text-to-image"))
    assert "raw models" in message
    assert "createTask" in message


def test_a_raw_model_needs_a_name() -> None:
    """The prefix alone names no model."""
    assert "model='raw:'" in refusal("kie", raw_model(""))


def test_a_raw_models_parameters_stand_in_extra() -> None:
    """How a raw model wants a parameter written is not known, so it is refused outside of `extra`."""
    for field, value in (("aspect_ratio", "1:1"), ("negative_prompt", "x"), ("num_images", 1), ("seed", 7)):
        with naming(field, value):
            message = refusal("kie", raw_model("some/model"), **{field: value})
            assert f"{field}={value!r}" in message
            assert "extra" in message


def test_a_raw_models_prompt_does_not_hide_in_extra() -> None:
    """The prompt is the request's own, also for a raw model."""
    assert "prompt" in refusal("kie", raw_model("some/model"), extra={"prompt": "another"})
