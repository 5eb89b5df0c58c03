"""The records of models that come with the package: what each takes, at the client and at the sandbox, and costs."""

from __future__ import annotations

import json
import math
import re
from functools import cache, partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import naming
from hypothesis import given, settings
from hypothesis import strategies as st
from inner import (
    Accepted,
    HttpResponse,
    Parameter,
    Pending,
    Succeeded,
    TaskFailed,
    check,
    file_of,
    model_of,
    named,
    openapi_of,
    problem_of,
    read_models,
    read_provider,
    written,
)
from readme import program_of

from imagen_async import Account, Client, ImageRequest, Limits, Rate
from imagen_async.errors import ConfigurationError, InvalidRequest
from imagen_async.models import from_openapi
from imagen_async.providers import (
    PROVIDERS,
    Anything,
    Choice,
    Either,
    Fields,
    File,
    Flag,
    Items,
    JobsDialect,
    LatencyPrior,
    Model,
    Number,
    Price,
    Text,
    Uploads,
    Whole,
)
from imagen_async.sandbox import Sandbox
from imagen_async.sandbox._dialects import CreateBody

KIE = PROVIDERS["kie"]
MODELS = list(KIE.models)
URL = "https://files.example/fox.png"

each_model = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.wire_name)


def least(parameter: Parameter) -> Any:
    """A value that it takes."""
    match parameter:
        case Text(min_length=length):
            return "a fox"[: max(5, length)]
        case File():
            return URL
        case Choice(values=values):
            return values[0]
        case Whole(minimum=minimum) | Number(minimum=minimum):
            return minimum or 1
        case Flag():
            return True
        case Items(of=each, min_items=count):
            return [least(each)] * max(1, count)
        case Fields(fields=fields):
            return {name: least(each) for name, each in fields.items()}
    raise AssertionError(parameter)


def smallest(model: Model) -> ImageRequest:
    """A request with what must be said, and nothing else."""
    schema = model.parameters or {}
    needed = [name for name, each in schema.items() if each.required and each.default is None]
    needed += model.branches[0].required if model.branches else ()
    extra = {name: least(schema[name]) for name in needed if name != "prompt"}
    return ImageRequest("a fox" if "prompt" in schema else "", extra=extra)


def refused_by_sandbox(model: Model, request: ImageRequest) -> tuple[int, str] | None:
    """What the sandbox objects to of a request as it is sent."""
    return problem_of(KIE, CreateBody(model.wire_name, json.loads(json.dumps(model.input_of(request)))))


@each_model
def test_a_request_of_its_defaults_is_taken(model: Model) -> None:
    """By the client and by the sandbox; what is required and has a default is sent, and the aspect ratio always."""
    request = smallest(model)
    assert (model.problems(request), refused_by_sandbox(model, request)) == ([], None)
    sent = model.input_of(request)
    for name, parameter in (model.parameters or {}).items():
        assert not (parameter.required and name not in sent)
    if model.aspect_ratio is not None:
        assert [value for value in sent.values() if value == model.aspect_ratio] or model.translations["aspect_ratio"]


@each_model
def test_each_value_of_a_choice_is_taken(model: Model) -> None:
    """At both ends; what is next to it at neither."""
    request = smallest(model)
    for name, parameter in (model.parameters or {}).items():
        for value in parameter.values if isinstance(parameter, Choice) else ():
            with naming(name, value):
                said = msgspec.structs.replace(request, extra={**request.extra, name: value})
                assert (model.problems(said), refused_by_sandbox(model, said)) == ([], None)
                odd = msgspec.structs.replace(request, extra={**request.extra, name: f"{value} "})
                assert (len(model.problems(odd)), refused_by_sandbox(model, odd)[0]) == (1, 500)


def near(parameter: Parameter) -> st.SearchStrategy[Any]:
    """Values that a parameter takes, and their neighbours that it does not."""
    match parameter:
        case Choice(values=values):
            return st.sampled_from([*values, *(str(value).lower() for value in values), f"{values[0]}x"])
        case Text(max_length=longest, min_length=length):
            lengths = st.sampled_from([0, 1, length, max(0, length - 1), *([longest, longest + 1] if longest else [])])
            return st.builds("x".__mul__, lengths) | st.text(max_size=9)
        case File():
            return st.sampled_from([URL, "asset://a1", "fox.png", "", "https://", "http://x y", "data:,x"])
        case Whole(minimum=minimum, maximum=maximum) | Number(minimum=minimum, maximum=maximum):
            ends = [end + step for end in (minimum, maximum) if end is not None for step in (-1, 0, 1, 0.5)]
            return st.sampled_from([*ends, 0, 7, 2**63, "7"]) | st.floats(allow_nan=False, allow_infinity=False)
        case Items(of=each, max_items=most):
            return st.lists(near(each), max_size=(most or 3) + 1)
        case Fields(fields=fields):
            return st.fixed_dictionaries({}, optional={**{name: near(each) for name, each in fields.items()}})
    return st.booleans()


ANY = st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3) | st.lists(st.integers(), max_size=2)


def fields_of(model: Model) -> st.SearchStrategy[tuple[str, Any]]:
    """A field of a model's own, and a value for it."""
    pairs = [
        st.tuples(st.just(name), near(each) | ANY)
        for name, each in (model.parameters or {}).items()
        if name != "prompt"
    ]
    return st.one_of(pairs)


@settings(max_examples=600)
@given(data=st.data())
def test_client_and_sandbox_agree_on_every_value_of_a_known_field(data: st.DataObject) -> None:
    """What the client refuses the sandbox refuses, and what it takes that takes; null means that nothing is said."""
    model = data.draw(st.sampled_from([model for model in MODELS if set(model.parameters or {}) - {"prompt"}]))
    name, value = data.draw(fields_of_name(model.wire_name))
    base = smallest(model)
    request = msgspec.structs.replace(base, extra={**base.extra, name: value})
    wire = {**model.input_of(base), name: value}
    told = problem_of(KIE, CreateBody(model.wire_name, json.loads(json.dumps(wire))))
    assert bool(model.problems(request)) == (told is not None), (model.problems(request), told)


@cache
def fields_of_name(wire_name: str) -> st.SearchStrategy[tuple[str, Any]]:
    """As `fields_of`, once for each model."""
    return fields_of(KIE.find(wire_name))


OF_EVERY_KIND: dict[str, Any] = {
    "either": Either((Choice(("a", 1)), Flag(), Text(min_length=2, max_length=3))),
    "fields": Fields({"x": Number(minimum=0.5, maximum=1), "y": Items(Whole(minimum=1, maximum=2), 3, 1)}),
    "any": Anything(),
    "prompt": Text(required=True),
}


@pytest.mark.parametrize("model", [*MODELS, Model("of every kind", "x", OF_EVERY_KIND)], ids=lambda each: each.name)
def test_its_schema_makes_its_record_again(model: Model) -> None:
    """What the sandbox tells of a model, as kie.ai does, is read as that record."""
    again = from_openapi({"code": 200, "data": {"openapi": openapi_of(model)}})
    assert (again.parameters, again.branches) == (model.parameters, model.branches)
    assert again.translations == model.translations


def test_names() -> None:
    """Each is found by our name and by kie.ai's own; halves of one model have one name, and differ in what goes in."""
    for model in MODELS:
        assert KIE.find(model.wire_name).wire_name == model.wire_name or KIE.named(model.wire_name)
        assert model in KIE.named(model.name)
    known = "nano-banana nano-banana-2 nano-banana-pro gpt-image-2 seedream-5-pro flux-2-pro qwen3 z-image ideogram-v3"
    assert all(KIE.named(name) for name in known.split())
    for name in {model.name for model in MODELS}:
        files = [frozenset(n for n, each in half.files.items() if each.required) for half in KIE.named(name)]
        assert len(set(files)) == len(files), name


HALVES = {
    ("gpt-image-2", ""): "gpt-image-2-text-to-image",
    ("gpt-image-2", "input_urls"): "gpt-image-2-image-to-image",
    ("ideogram-v3", ""): "ideogram/v3-text-to-image",
    ("ideogram-v3", "image_url"): "ideogram/v3-remix",
    ("ideogram-v3", "image_url mask_url"): "ideogram/v3-edit",
    ("ideogram-v3", "mask_url"): "ideogram/v3-edit",
    ("ideogram-character", "reference_image_urls"): "ideogram/character",
    ("ideogram-character", "reference_image_urls image_url"): "ideogram/character-remix",
    ("ideogram-character", "reference_image_urls image_url mask_url"): "ideogram/character-edit",
    ("qwen3", "image_urls"): "qwen3/image-to-image",
    ("nano-banana", "image_urls"): "google/nano-banana-edit",
}


def test_the_pictures_that_go_in_tell_which_half_is_meant() -> None:
    """Those that are filled in, and of which there is none."""
    for (name, files), wire_name in HALVES.items():
        with naming(name, files):
            extra = {field: least(dict(KIE.find(wire_name).parameters)[field]) for field in files.split()}
            assert KIE.find(name, ImageRequest("a fox", extra=extra)).wire_name == wire_name
    with pytest.raises(InvalidRequest, match="images=None: it is required; allowed is the URL of a picture"):
        check(ImageRequest("a fox", extra={"mask_url": URL}), "ideogram-v3", KIE, ())


PRICES: list[tuple[str, dict[str, Any], float | None]] = [
    ("nano-banana-2", {}, 8),
    ("nano-banana-2", {"extra": {"resolution": "4K"}}, 18),
    ("gpt-image-2", {}, 16),
    ("gpt-image-2", {"extra": {"resolution": "1K"}}, 6),
    ("seedream-4", {"num_images": 3}, 15),
    ("seedream-4", {"extra": {"max_images": 3}}, 15),
    ("grok-imagine", {"extra": {"enable_pro": False}}, 4),
    ("grok-imagine", {"extra": {"enable_pro": True}}, 5),
    ("qwen3", {"extra": {"image_urls": [URL, URL]}}, 5.8),
    ("seedream-5-pro", {"extra": {"image_urls": [URL]}}, 7),
    ("seedream-5-pro", {"extra": {"image_urls": [URL] * 3, "quality": "high"}}, 15),
    ("ideogram-v3", {"extra": {"rendering_speed": "TURBO"}}, 3.5),
    ("qwen2", {}, None),
    ("wan-2-7-image", {"num_images": 4}, 19.2),
]


def test_what_a_request_costs() -> None:
    """By what it asks for; where nobody says what decides, the dearest."""
    for name, fields, credits in PRICES:
        with naming(name, fields):
            request = ImageRequest("a fox", name, **fields)
            price = check(request, name, KIE, ()).price(request)
            assert price == credits if price is None or credits is None else math.isclose(price, credits)


def test_nothing_gives_credits_back() -> None:
    """Less than one picture is refused on either side, whatever an older journal says; what is null is not said."""
    wan = KIE.find("wan-2-7-image")
    for number in (0, -5):
        assert refused_by_sandbox(wan, ImageRequest("a fox", extra={"n": number})) == (422, "n is invalid")
        # As an entry of an earlier journal may have it.
        assert model_of(ImageRequest("a fox", extra={"n": number}), -24.0, wan).credits == 0
    assert wan.price(ImageRequest("a fox", num_images=3, extra={"n": None})) == 3 * wan.credits


WRITTEN: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("seedream-4", {"num_images": 2, "aspect_ratio": "16:9"}, {"max_images": 2, "image_size": "landscape_16_9"}),
    ("seedream-3", {"aspect_ratio": "square"}, {"image_size": "square"}),
    ("wan-2-7-image", {"num_images": 2}, {"n": 2}),
    ("imagen4", {"seed": 7}, {"seed": "7"}),
    ("4o-image", {"aspect_ratio": "3:2"}, {"size": "3:2"}),
    ("z-image", {}, {"aspect_ratio": "1:1"}),
    ("qwen3", {"seed": 7, "negative_prompt": "mud"}, {"seed": 7, "negative_prompt": "mud", "image_size": "16:9"}),
]


def test_fields_of_ours_are_written_in_the_models_own() -> None:
    """Under its name, in its type and its words."""
    for name, fields, wire in WRITTEN:
        with naming(name, fields):
            request = ImageRequest("a fox", name, **fields)
            sent = check(request, name, KIE, ()).input_of(request)
            assert {field: sent[field] for field in wire} == wire


SAID_WRONG: list[tuple[str, dict[str, Any], str]] = [
    (
        "seedream-4",
        {"aspect_ratio": "1:1", "extra": {"image_size": "square"}},
        "image_size='square': aspect_ratio says",
    ),
    ("grok-imagine-2", {}, "aspect_ratio=None: it is required; allowed is one of 1:1, 2:3"),
    ("nano-banana-2", {"extra": {"resolution": "8K"}}, "resolution='8K': allowed is one of 1K, 2K, 4K"),
    ("nano-banana-2", {"extra": {"image_input": [URL] * 15}}, "allowed is a list of at most 14, each the URL of a"),
    ("nano-banana-2", {"extra": {"image_input": ["fox.png"]}}, "allowed is a list of at most 14"),
    ("recraft-crisp-upscale", {"extra": {"image": URL}}, "prompt='a fox': recraft-crisp-upscale has no such parameter"),
    ("grok-imagine-2-segment-map", {"prompt": ""}, "wants one of: task_id or image_url"),
    ("grok-imagine-2-segment-map", {"prompt": "", "extra": {"task_id": "t", "image_url": URL}}, "wants one of"),
    ("wan-2-7-image", {"num_images": 0}, "num_images=0: allowed is a whole number of at least 1"),
    ("wan-2-7-image", {"extra": {"n": 0}}, "n=0: allowed is a whole number of at least 1"),
    ("wan-2-7-image", {"extra": {"n": -5}}, "n=-5: allowed is a whole number of at least 1"),
    (
        "wan-2-7-image",
        {"extra": {"color_palette": [{"hex": "#fff"}] * 3}},
        "an object of hex (a non-empty string), ratio",
    ),
    (
        "seedream-5-lite",
        {"prompt": "no"},
        "allowed is a non-empty string of at least 3 and of at most 3,000 characters",
    ),
    ("qwen", {"extra": {"guidance_scale": True}}, "a truth value is no number; allowed is a number from 0 to 20"),
]


def test_what_a_model_would_not_take_is_named() -> None:
    """With the field, what was given, and what is allowed."""
    for name, fields, told in SAID_WRONG:
        with naming(name, fields), pytest.raises(InvalidRequest) as caught:
            check(ImageRequest(fields.pop("prompt", "a fox"), name, **fields), name, KIE, ())
        assert told in caught.value.message


def test_a_file_of_models(tmp_path: Path) -> None:
    """What is written is read again; what is none is refused by a word that says where."""
    file = read_models(Path(__file__).parent.parent / "imagen_async" / "providers" / "kie.json")
    assert (file.provider, file.date, len(file.models)) == ("kie", "2026-10-06", 64)
    path = tmp_path / "m.json"
    path.write_bytes(written(file))
    assert read_models(path) == file
    negative = '{"models": [{"name": "a", "wire_name": "a", "parameters": null, "credits": -1}]}'
    wrong = {"{": "is no file of models", '{"models": [], "host": "x"}': "unknown field `host`"}
    for content, told in {**wrong, negative: r"m\.json: a: credits=-1\.0"}.items():
        path.write_text(content)
        with pytest.raises(ConfigurationError, match=told):
            read_models(path)
    for given_models in (7, [], ["x"], {"a": 1}):
        with pytest.raises(ConfigurationError, match="allowed is the path of a file of models"):
            Client("sandbox", models=given_models)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Client("sandbox", models=tmp_path)


async def test_a_model_of_ones_own_is_used(imagen_sandbox: Sandbox) -> None:
    """Checked, priced and sent as those that come with the package; one of a known wire name takes that one's place."""
    painter = Model("painter", "maker/painter", {"prompt": Text(required=True), "ink": Choice(("a", "b"))}, credits=3)
    fast = msgspec.structs.replace(KIE.find("imagen4-fast"), credits=Price(2))
    async with Client(
        "sandbox", api_key=imagen_sandbox.key, base_url=imagen_sandbox.url, models=[painter, fast]
    ) as own:
        with pytest.raises(InvalidRequest, match="ink='c': allowed is one of a, b"):
            await own.generate("a fox", model="painter", extra={"ink": "c"})
        made = await own.generate("a fox", model="painter", extra={"ink": "a"})
        with pytest.raises(InvalidRequest, match="with max_credits"):
            await own.generate("a fox", model="imagen4-fast", extra={"with max_credits": 1})
    (task,) = imagen_sandbox.ledger.tasks
    assert (task.model, task.input, made.model) == ("maker/painter", {"prompt": "a fox", "ink": "a"}, "painter")


TOML = """\
name = "mine"
base_url = "https://mine.example/v2"
models_of = "kie"
dialect = { kind = "createTask", create_path = "/make", status_path = "/made/{task_id}", no_credit = [402, 490] }
uploads = { base_url = "https://files.mine.example", path = "/up", fields = { kind = "in" } }
limits = { submit = { count = 5, per = 1 }, status = { count = 10, per = 1 }, running = 7 }
prices = 3

[[models]]
name = "painter"
wire_name = "maker/painter"
parameters = { prompt = { kind = "text", required = true }, ink = { kind = "choice", values = ["a", "b"] } }
"""


async def test_a_provider_of_ones_own(tmp_path: Path) -> None:
    """Out of a file or as a record: at its paths, under its limits, with its models and others' at its prices."""
    path = tmp_path / "mine.toml"
    path.write_text(program_of("accounts"))
    printed = read_provider(path, PROVIDERS)
    assert (printed.name, printed.find("nano-banana-2").credits, len(printed.models)) == ("mine", 3, 64)
    path.write_text(TOML)
    mine = read_provider(path, PROVIDERS)
    assert mine.uploads == Uploads("/up", "https://files.mine.example", fields={"kind": "in"})
    assert (mine.limits, mine.key_variable) == (Limits(Rate(5, per=1), Rate(10, per=1), 7), "MINE_API_KEY")
    assert (mine.find("painter").credits, mine.find("nano-banana-2").credits, len(mine.models)) == (3, 3, 65)
    async with Sandbox(providers=[mine]) as sandbox:
        account = Account(mine, api_key=sandbox.key, base_url=sandbox.url_of("mine"))
        assert repr(account).startswith("Account('mine', api_key='***'")
        async with Client(account) as client:
            result = await client.generate("a fox", model="painter", extra={"ink": "b"})
    assert (result.provider, result.credits, sandbox.ledger.tasks[0].provider) == ("mine", 3, "mine")
    for change, told in {"models_of": "model_of", '"kie"': '"kia"', "[402, 490]": '"x"', "name = ": "nam = "}.items():
        path.write_text(TOML.replace(change, told, 1))
        with pytest.raises(ConfigurationError):
            read_provider(path, PROVIDERS)
    with pytest.raises(ConfigurationError, match="allowed is a text, not int"):
        Client(Account(7, api_key="k"))  # type: ignore[arg-type]


OF_A_MODEL, PLAIN = "[[models]]", "prices = 3"
WRONG: list[tuple[str, str, str]] = [
    *((PLAIN, f"prices = {price}", f"prices={float(price)}: it must be") for price in ("-3", "nan", "inf", "1e12")),
    ("running = 7 }", "runing = 7 }", "unknown field `runing`"),
    ("count = 5, per = 1", "count = 5, pre = 1, per = 1", "unknown field `pre`"),
    (PLAIN, "latency = { median = 5, sigma = 1, sigmma = 2 }", "unknown field `sigmma`"),
    ('values = ["a", "b"]', "values = []", "A choice has no values"),
    ('values = ["a", "b"]', 'values = ["a", "b"], default = "c"', "default='c': allowed is one of a, b"),
    ('create_path = "/make"', 'create_path = "/make/{x}"', "create_path='/make/{x}': no brace"),
    (
        'create_path = "/make"',
        'create_path = "/make", input_field = "model"',
        "input_field='model': that field is taken",
    ),
    (PLAIN, "prices = { imagen4 = -1 }", "prices['imagen4']=-1.0: it must be a number of credits"),
    (OF_A_MODEL, f"{OF_A_MODEL}\ncredits = -2", "painter: credits=-2.0"),
    (OF_A_MODEL, f"{OF_A_MODEL}\ncredits = {{ credits = -1 }}", "credits=-1.0"),
    (OF_A_MODEL, f"{OF_A_MODEL}\ncredits = {{ credits = 3, by_value = {{ a = nan }} }}", "by_value['a']=nan"),
    (OF_A_MODEL, f"{OF_A_MODEL}\ncredits = {{ credits = 3, each_input = -1 }}", "each_input=-1.0"),
    (OF_A_MODEL, f"{OF_A_MODEL}\ncredits = {{ credits = 3, free_inputs = -1 }}", "free_inputs=-1: it must be a whole"),
    (OF_A_MODEL, f"{OF_A_MODEL}\nresults = 0", "painter: results=0"),
    (OF_A_MODEL, f"{OF_A_MODEL}\nlatency = {{ median = 0, sigma = 1 }}", "latency.median=0.0"),
    (PLAIN, "latency = { median = -4, sigma = 1 }", "latency.median=-4.0: it must be a number from 0.001 to 1,000,000"),
    (PLAIN, "latency = { median = inf, sigma = 1 }", "latency.median=inf"),
    *((PLAIN, f"latency = {{ median = 5, sigma = {each} }}", "latency.sigma=") for each in ("0", "nan", "99")),
    *(
        ('create_path = "/make"', f'{field} = "{path}"', f"{field}={path!r}: it must be a path")
        for field in ("create_path", "credits_path", "renewal_path", "models_path", "schema_path")
        for path in ("make/{model}", "//a.example/{model}", "https://a.example/{model}", "")
    ),
    ("/made/{task_id}", "92/made/{task_id}", "status_path='92/made/{task_id}': it must be a path"),
    ("/made/{task_id}", "/made#{task_id}", "status_path='/made#{task_id}': it must be a path"),
    ('"/up"', '"up"', "uploads.path='up': it must be a path"),
    ('"/up"', '"/up", lifetime = -1', "uploads.lifetime=-1.0"),
    ('"/up"', '"/up", max_bytes = 0', "uploads.max_bytes=0"),
    ("https://files.mine.example", "ftp://x", "'ftp://x' is no address of an API"),
    ("https://files.mine.example", "http://x", "http://x would send the key unencrypted"),
    ("https://mine.example/v2", "mine.example", "'mine.example' is no address of an API"),
    *(('"mine"', f'"{name}"', f"name={name!r}: a provider's name is a word") for name in ("", " ", "my own", "a=b")),
    ("running = 7", "running = 0", "running=0: it must be a whole number of at least 1"),
]


@pytest.mark.parametrize(("line", "wrong", "told"), WRONG)
def test_what_a_record_cannot_be_is_refused_by_its_name(tmp_path: Path, line: str, wrong: str, told: str) -> None:
    """Numbers with which a budget or a forecast would go wrong, and addresses by which the key would go elsewhere."""
    assert TOML.count(line) == 1
    path = tmp_path / "mine.toml"
    path.write_text(TOML.replace(line, wrong))
    with pytest.raises(ConfigurationError, match=re.escape(told)):
        named([Account(read_provider(path, PROVIDERS))])


@pytest.mark.parametrize("number", [True, "3", 10**400, -1, math.nan])
def test_it_is_refused_in_python_as_well(number: Any) -> None:
    """By the same code, whatever type it has."""
    of_all = partial(msgspec.structs.replace, KIE, prices=number)
    for make in (of_all, partial(Price, number), partial(LatencyPrior, number, 1)):
        with pytest.raises(ConfigurationError, match="it must be a number"):
            make()


def test_a_provider_without_models_says_so() -> None:
    """What it takes all the same is told behind that."""
    with pytest.raises(InvalidRequest, match=r"kie.ai has no models in its record; a createTask API also takes raw:"):
        check(ImageRequest("a fox"), "imagen4", msgspec.structs.replace(KIE, models=()), ())


@pytest.mark.parametrize("name", ["modkie", "ruxa"])
async def test_apis_of_the_same_bodies_at_other_paths(name: str, imagen_sandbox: Sandbox) -> None:
    """By their records alone, with kie.ai's models, at prices that nobody knows."""
    async with Client(name, api_key=imagen_sandbox.key, base_url=imagen_sandbox.url_of(name)) as client:
        result = await client.generate("a fox", model="nano-banana-2", aspect_ratio="21:9")
    assert (len(result.urls), PROVIDERS[name].find("nano-banana-2").credits) == (1, None)
    assert imagen_sandbox.ledger.tasks[0].input == {"prompt": "a fox", "aspect_ratio": "21:9"}


def test_an_api_without_an_envelope() -> None:
    """The dialect's seams carry it: another name for the input, a task's id at the top, a list of objects with URLs."""
    dialect = JobsDialect(input_field="inputs")
    record = Model("painter", "maker/painter", None)
    assert json.loads(dialect.build_create(ImageRequest("a fox"), record).body or b"") == {
        "model": "maker/painter",
        "inputs": {"prompt": "a fox"},
    }
    assert dialect.read_created(HttpResponse(200, b'{"taskId": "kv_1"}')) == Accepted("kv_1")
    told = {"taskId": "kv_1", "creditsUsed": 0, "output": None, "error": None}
    ends: list[tuple[dict[str, Any], type]] = [
        ({"status": "processing"}, Pending),
        ({"status": "failed", "error": "The model is busy"}, TaskFailed),
        ({"status": "success", "creditsUsed": 15, "output": [{"url": "https://a.example/1.png"}]}, Succeeded),
    ]
    for change, end in ends:
        found = dialect.read_status(HttpResponse(200, json.dumps({**told, **change}).encode()), "kv_1")
        assert type(found) is end
    assert isinstance(found, Succeeded)
    assert (found.urls, found.credits) == (("https://a.example/1.png",), 15.0)


def test_every_field_for_files_is_one() -> None:
    """No field whose name says that it takes a picture is a plain text."""
    for model in MODELS:
        named = {name for name in model.parameters or {} if name.endswith(("_url", "_urls")) or name in ("image",)}
        assert named <= set(model.files), model.name
        assert all(file_of(each) is not None for each in model.files.values())
