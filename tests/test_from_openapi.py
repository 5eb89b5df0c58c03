"""Pages of models, in the forms in which they are published, and what is no such page."""

from __future__ import annotations

import json
import sys
from typing import Any

import msgspec
import pytest
from conftest import naming

from imagen_async import ImageRequest
from imagen_async.errors import ConfigurationError
from imagen_async.models import from_openapi
from imagen_async.providers import (
    Anything,
    Branch,
    Choice,
    Either,
    Fields,
    File,
    Flag,
    Items,
    Model,
    Number,
    Text,
    Translation,
    Whole,
)

YAML = """\
openapi: 3.0.1
info:
  title: ''
  version: 1.0.0
servers:
- url: https://api.example
paths:
  /api/v1/jobs/createTask:
    post:
      summary: A painter
      requestBody:
        content:
          application/json:
            schema:
              type: object
              properties:
                model:
                  type: string
                  enum:
                    - maker/painter
                input:
                  type: object
                  required:
                    - prompt
                    - quality
                  properties:
                    prompt:
                      description: >-
                        What to show
                        (Max length: 1,000 characters)
                      type: string
                      minLength: 3
                    image_size:
                      type: string
                      enum:
                        - square_hd
                        - landscape_16_9
                      default: square_hd
                    quality: {type: string, enum: [on, no, 1:1, 2026-01-01, 12], default: on}
                    seed: {type: integer, minimum: 0, maximum: 0x7fffffff}
                    strength: {type: number, minimum: 0.1, exclusiveMaximum: true, maximum: 1}
                    'n ': {type: integer}
                    watermark: {type: boolean}
                    reference_images:
                      type: array
                      description: 'File URL after upload. Accepted types: image/png, image/webp; Max size: 7.5MB'
                      minItems: 1
                      maxItems: 3
                      items: {type: string}
                    palette:
                      type: array
                      items: {type: object, required: [hex], properties: {hex: {type: string}, share: {type: number}}}
                    box: {type: array, maxItems: 2, items: {type: array, items: {type: integer}}}
                    more: {type: object}
                    tag: {type: string, pattern: '^a+$', default: 7}
                    style: {type: string, enum: [AUTO, NONE], default: Any}
            example: {model: maker/painter, input: {prompt: ''}}
components: {}
"""

RECORD: dict[str, Any] = {
    "prompt": Text(required=True, min_length=3, max_length=1000),
    "image_size": Choice(("square_hd", "landscape_16_9"), default="square_hd"),
    "quality": Choice(("on", "no", "1:1", "2026-01-01", "12"), default="on", required=True),
    "seed": Whole(minimum=0, maximum=0x7FFFFFFF),
    "strength": Number(minimum=0.1, maximum=1),
    "n": Whole(),
    "watermark": Flag(),
    "reference_images": Items(File(media="image", accepts=("image/png", "image/webp"), max_bytes=7_500_000), 3, 1),
    "palette": Items(Fields({"hex": Text(required=True), "share": Number()})),
    "box": Items(Items(Whole()), 2),
    "more": Anything(),
    "tag": Text(default="7"),
    "style": Choice(("AUTO", "NONE")),
}
NOTES = (
    "strength may come near to 1, and not be that",
    "n is spelt with blanks around it on the page",
    "more is of the type object and not described further, so that its values are not checked",
    "tag has a pattern that is not checked: '^a+$'",
    "style has a default that it does not take: 'Any'",
)
MEANT = {
    "aspect_ratio": Translation("image_size", {"1:1": "square_hd", "16:9": "landscape_16_9"}),
    "num_images": Translation("n"),
    "images": Translation("reference_images"),
}

PAGES = {
    "Markdown": f"# A painter\n\n## OpenAPI Specification\n\n```yaml\n{YAML}\n```\n\nmore: of it\n",
    "four backticks": f"> index\n\n````yaml market/painter.json post /api/v1/jobs/createTask\n{YAML}````",
    "tildes and Windows": f"~~~yaml\n{YAML}~~~\n".replace("\n", "\r\n"),
    "after another block": f"```sh\ncurl x\n```\n```yaml\n{YAML}```",
    "a fence that does not close": f"```yaml\n{YAML}",
    "no fence": f"Market\n\nOpenAPI\n\nmarket/x.json post /x\n{YAML}\n\nTo find navigation, fetch the index\n",
    "YAML alone": YAML,
    "bytes with a mark": b"\xef\xbb\xbf" + YAML.encode(),
}


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES.keys())
def test_a_page_becomes_a_record(page: str | bytes) -> None:
    """Fields by the page's own names, of every kind; what they mean to a request; what cannot be said is noted."""
    model = from_openapi(page)
    assert (model.name, model.wire_name, model.task) == ("maker/painter", "maker/painter", "text to image")
    assert model.parameters == RECORD
    assert (model.notes, model.translations, model.credits) == (NOTES, MEANT, None)
    # Numbers of a page are plain ones, to be written to a file.
    assert msgspec.json.decode(msgspec.json.encode(model), type=Model) == model


def document(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A document of one model whose input has these fields."""
    wire_input = {"type": "object", "properties": properties, **more}
    schema = {"type": "object", "properties": {"model": {"const": "painter"}, "input": wire_input}}
    body = {"content": {"application/json": {"schema": schema}}}
    return {"openapi": "3.1.0", "paths": {"/api/v1/tasks/create": {"post": {"requestBody": body}}}}


def test_the_answer_to_the_question_for_a_schema() -> None:
    """An object in an envelope, a text of it, or bytes; references are followed, however they are spelt."""
    whole = document({"prompt": {"$ref": "#/components/schemas/A%20text"}, "b": {"$ref": "#/components/schemas/B ~1"}})
    whole["components"] = {"schemas": {"A text": {"$ref": "#/components/schemas/T"}, "T": {"type": "string"}}}
    whole["components"]["schemas"]["B%20/"] = {"type": ["boolean", "null"]}
    forms: list[Any] = [whole, {"openapi": whole}, {"code": 200, "msg": "success", "data": {"openapi": whole}}]
    forms += [{"data": {"openapi": json.dumps(whole)}}, *map(json.dumps, forms), json.dumps(whole).encode()]
    for form in forms:
        assert from_openapi(form).parameters == {"prompt": Text(), "b": Flag()}


def test_ways_to_fill_in_an_input_are_alternatives() -> None:
    """Of several branches a request takes one; a field that differs in them is of either kind."""
    ways = [
        {"required": ["task_id"], "properties": {"task_id": {"type": "string"}, "x": {"type": "integer"}}},
        {"required": ["image_url"], "properties": {"image_url": {"type": "string"}, "x": {"type": "boolean"}}},
    ]
    model = from_openapi(document({"size": {"enum": [1, 2]}}, oneOf=ways))
    assert model.parameters == {
        "size": Choice((1, 2)),
        "task_id": Text(),
        "x": Either((Whole(), Flag())),
        "image_url": File(media="image"),
    }
    assert model.branches == (Branch(("task_id",), ("task_id", "x")), Branch(("image_url",), ("image_url", "x")))


KINDS: list[tuple[dict[str, Any], Any]] = [
    ({"type": "string", "format": "uri"}, File()),
    ({"type": "string", "format": "date"}, Text()),
    ({"type": "string", "description": "Supports up to 800 characters."}, Text(max_length=800)),
    ({"enum": ["a", None, "b"]}, Choice(("a", "b"))),
    ({"type": "string", "enum": [5, 10]}, Choice(("5", "10"))),
    ({"enum": [True, False]}, Flag()),
    ({"enum": [{"a": 1}]}, Anything()),
    ({"const": "x"}, Choice(("x",))),
    ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, Whole()),
    ({"oneOf": [{"type": "integer"}, {"type": "string"}]}, Either((Whole(), Text()))),
    ({"type": ["integer", "string"]}, Either((Whole(), Text()))),
    ({"type": "integer", "exclusiveMinimum": 0, "maximum": 10}, Whole(minimum=1, maximum=10)),
    ({"type": "integer", "minimum": 0, "exclusiveMinimum": True}, Whole(minimum=1)),
    ({"items": {"type": "string"}}, Items(Text())),
    ({"type": "array"}, Items(Anything())),
    ({"allOf": [{"type": "object"}], "type": "object", "properties": {"a": {}}}, Fields({"a": Anything()})),
    ({"type": "file"}, Anything()),
    ({"type": ["string", None]}, Text()),
    ({"anyOf": [{"type": "integer"}, {"type": None}]}, Whole()),
    ({"oneOf": [{"type": "null"}]}, Anything()),
    ({"type": "string", "format": "byte"}, Text()),
    ({"type": "string", "enum": [True, False]}, Choice(("true", "false"))),
    ({"enum": ["auto", True, False]}, Either((Choice(("auto",)), Flag()))),
    ({"type": ["integer", "string"], "enum": [1, 2.0, "auto"]}, Choice((1, 2, "auto"))),
    ({"type": "boolean", "enum": ["true", "false"]}, Flag()),
    ({"type": "array", "enum": ["a", "b"], "items": {"type": "string"}}, Items(Choice(("a", "b")))),
    ({"type": "integer", "minimum": 0.5, "maximum": 10.5}, Whole(minimum=1, maximum=10)),
    ({"type": "integer", "minimum": 5, "exclusiveMinimum": 0, "exclusiveMaximum": 10.5}, Whole(minimum=5, maximum=10)),
    ({"type": "integer", "minimum": "1", "maximum": "4"}, Whole(minimum=1, maximum=4)),
    ({"type": "string", "allOf": [{"maxLength": 9}, {"maxLength": 5, "minLength": 2}]}, Text(5, min_length=2)),
    ({"allOf": [{"type": "string", "enum": ["a"]}], "default": "a"}, Choice(("a",), default="a")),
    ({"$ref": "#/components/schemas/R", "default": "b"}, Choice(("a", "b"), default="b")),
    (
        {"type": "string", "maxLength": 30, "anyOf": [{"minLength": 2}, {"enum": ["x"]}]},
        Either((Text(30, min_length=2), Choice(("x",)))),
    ),
    ({"type": "string", "description": "V4: max 300 characters; V5: max 500 characters"}, Text(max_length=500)),
    ({"type": "string", "description": "up to 4 characters in a scene"}, Text()),
    ({"type": "string", "description": "Recommended: up to 500 characters"}, Text()),
    ({"type": "string", "description": f"max length: {'9' * 4500} characters"}, Text()),
    ({"type": "string", "default": False}, Text()),
    ({}, Anything()),
]


@pytest.mark.parametrize(("schema", "parameter"), KINDS, ids=repr)
def test_kinds_of_fields(schema: dict[str, Any], parameter: Any) -> None:
    """Each keyword that a parameter has is in it; where one is not, a note names the field."""
    page = document({"x": schema}) | {"components": {"schemas": {"R": {"type": "string", "enum": ["a", "b"]}}}}
    model = from_openapi(page)
    assert model.parameters == {"x": parameter}
    assert isinstance(parameter, Anything) <= any(note.startswith("x ") for note in model.notes)


FILES: list[tuple[str, dict[str, Any], Any]] = [
    ("mask_url", {"type": "string"}, File(media="image")),
    ("image", {"type": "string"}, File(media="image")),
    ("first_frame_url", {"type": "string", "description": "max 5 MB"}, File(media="image", max_bytes=5_000_000)),
    ("video_urls", {"type": "array", "items": {"type": "string"}}, Items(File(media="video"))),
    ("audio_url", {"type": "string"}, File(media="audio")),
    ("image_prompt", {"type": "string"}, Text()),
    ("image_url_type", {"type": "string"}, Text()),
    ("url_mode", {"type": "string"}, Text()),
    ("image_urls_list", {"type": "array", "items": {"type": "string"}}, Items(File(media="image"))),
    ("mask", {"type": "string", "contentEncoding": "base64"}, Text()),
    (
        "clip_url",
        {"type": "string", "description": "up to 500 KB preview. Max size: 10MB"},
        File(media="video", max_bytes=10_000_000),
    ),
    ("callback_url", {"type": "string", "format": "uri"}, Text()),
    ("imageUrl", {"type": "string", "format": "uri"}, File(media="image")),
]


@pytest.mark.parametrize(("name", "schema", "parameter"), FILES, ids=repr)
def test_which_texts_are_files(name: str, schema: dict[str, Any], parameter: Any) -> None:
    """A text is the address of a file by its format, by its name, or by what its description says."""
    assert from_openapi(document({name: schema})).parameters == {name: parameter}


S = {"type": "string"}


@pytest.mark.parametrize("word", ["oneOf", "anyOf"])
def test_fields_of_every_way_belong_to_none(word: str) -> None:
    """What the input has by itself goes with any of its ways; of `anyOf` several may be gone."""
    ways = [{"properties": {"prompt": S}}, {"required": ["image_url"], "properties": {"image_url": S}}]
    model = from_openapi(document({"prompt": S}, **{word: ways}))
    assert not [model for each in ({}, {"image_url": "https://a.example/1.png"}) if said(model, each)]
    both = [{"required": [name]} for name in ("a", "b")]
    model = from_openapi(document({"a": S, "b": S}, **{word: both}))
    assert model.notes == ()
    assert bool(said(model, {"a": "1", "b": "2"})) == (word == "oneOf")
    assert (said(model, {"a": "1"}), bool(said(model, {}))) == ([], True)


def said(model: Model, extra: dict[str, Any]) -> list[Any]:
    """What a model would not take of a request."""
    return list(model.problems(ImageRequest("a fox" if "prompt" in (model.parameters or {}) else "", extra=extra)))


def test_ways_within_ways_and_parts() -> None:
    """A way may have ways, and an input be put together of parts that have: nothing is lost."""
    inner_ways = {"oneOf": [{"required": ["a"], "properties": {"a": S}}, {"required": ["b"], "properties": {"b": S}}]}
    parts = [{"properties": {"prompt": S}, "required": ["prompt"]}, inner_ways]
    assert [each.required for each in from_openapi(document({}, allOf=parts)).branches] == [("a",), ("b",)]
    outer = [inner_ways, {"required": ["c"], "properties": {"c": S}}]
    model = from_openapi(document({"prompt": S}, oneOf=outer))
    assert [each.required for each in model.branches] == [("a",), ("b",), ("c",)]
    deep = {"allOf": [{"allOf": [{"properties": {"prompt": S}, "required": ["prompt"]}]}]}
    assert from_openapi(document({}, **deep)).parameters == {"prompt": Text(required=True)}


def test_what_binds_the_input_as_a_whole_is_noted() -> None:
    """So is what a create wants beside it, and a field that each way has otherwise."""
    model = from_openapi(
        document({"a": S}, **{"not": {"required": ["a"]}, "minProperties": 1, "additionalProperties": S})
    )
    assert [note.split(":")[0] for note in model.notes] == [
        "its input has a not that is not checked",
        "its input has a minProperties that is not checked",
        "its input may have further fields, which are not taken",
    ]
    ways = [{"properties": {"mode": {"const": word}, word: S}, "required": [word]} for word in ("x", "y")]
    (note,) = from_openapi(document({}, oneOf=ways)).notes
    assert note.startswith("mode differs in several ways")


URI = {"format": "uri"}
_ONE, _OTHER = {"required": ["a"], "properties": {"a": S}}, {"required": ["b"], "properties": {"b": S}}
SAID_ODDLY: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "required and not there": (
        document({"box": {"type": "object", "required": ["x"], "properties": {"y": S}}}),
        {"box": Fields({"y": Text(), "x": Anything(required=True)})},
        "box.x is required, and not described",
    ),
    "required of a way and not there": (
        document({}, oneOf=[_ONE, {"required": ["c"]}]),
        {"a": Text(), "c": Anything()},
        "c is required, and not described",
    ),
    "twice": (document({"n": S, "n%20": {"type": "integer"}}), {"n": Whole()}, "n is there twice"),
    "otherwise in a way": (
        document({"a": {"type": "integer"}}, oneOf=[_ONE, _OTHER]),
        {"a": Whole(), "b": Text()},
        "a is described otherwise in one of several ways",
    ),
    "ways of two kinds": (
        document({}, oneOf=[_ONE], anyOf=[_OTHER]),
        {"a": Text(required=True)},
        "its input has ways of two kinds that bind together",
    ),
    "several ways that bind together": (
        document({}, allOf=[{"oneOf": [_OTHER]}, {"oneOf": [_ONE]}]),
        {"b": Text(required=True)},
        "its input has several oneOf that bind together",
    ),
    "parts of one field": (
        document({}, allOf=[{"properties": {"n": {"minimum": 2}}}, {"properties": {"n": {"type": "integer"}}}]),
        {"n": Whole(minimum=2)},
        "",
    ),
    "parts that bind": (
        document({"n": {"allOf": [{"type": "integer", "minimum": 2, "maximum": 9}, {"minimum": 1, "maximum": 5}]}}),
        {"n": Whole(minimum=2, maximum=5)},
        "",
    ),
    "values of two parts": (
        document({"n": {"allOf": [{"enum": ["a", "b"]}, {"enum": ["b", "c"]}]}}),
        {"n": Choice(("b",))},
        "",
    ),
    "required in two parts": (
        document({"a": S, "b": S}, required=["a"], allOf=[{"required": ["b"]}]),
        {"a": Text(required=True), "b": Text(required=True)},
        "",
    ),
    "a place in a list": (
        document({"a": {"$ref": "#/kinds/1"}}) | {"kinds": [{}, {"type": "boolean"}]},
        {"a": Flag()},
        "",
    ),
    "no fields": (document({}), {}, "no field of its input is described"),
    "numbers with a point": (
        document({"n": {"type": "number", "enum": [0.5, 1.0, 2.0]}}),
        {"n": Choice((0.5, 1.0, 2.0))},
        "",
    ),
    "one or a list of pictures": (
        document({"image": {"oneOf": [{"type": "string", "format": "uri"}, {"type": "array", "items": {**S, **URI}}]}}),
        {"image": Either((File(media="image"), Items(File(media="image"))))},
        "",
    ),
    "nothing among its values": (
        document({"n": {"anyOf": [{"enum": ["a"]}, {"enum": [None]}]}}),
        {"n": Choice(("a",))},
        "",
    ),
    "a bound with a comma": (document({"n": {"type": "string", "maxLength": "5,000"}}), {"n": Text(5000)}, ""),
    "a bound that is none": (
        document({"n": {"type": "string", "maxLength": -1}, "m": {"type": "array", "items": S, "maxItems": "ten"}}),
        {"n": Text(), "m": Items(Text())},
        "m has a maxItems that binds nothing: 'ten'",
    ),
    "what the provider tells": (
        document({"id": {**S, "readOnly": True}, "n": S}),
        {"n": Text()},
        "id is told by the provider, and not taken",
    ),
    "of so many bits": (
        document({"n": {"type": "integer", "format": "int32", "minimum": 0}}),
        {"n": Whole(minimum=0, maximum=2**31 - 1)},
        "",
    ),
    "one way alone": (
        document({}, oneOf=[{"properties": {"mode": {"enum": ["a", "b"], "default": "a"}}, "required": ["mode"]}]),
        {"mode": Choice(("a", "b"), default="a", required=True)},
        "",
    ),
    "a way or nothing": (
        document({}, anyOf=[{"properties": {"prompt": S}, "required": ["prompt"]}, {"type": "null"}]),
        {"prompt": Text(required=True)},
        "",
    ),
    "what all ways want": (
        document({}, oneOf=[{"properties": {"p": S, n: S}, "required": ["p", n]} for n in ("a", "b")]),
        {"p": Text(required=True), "a": Text(), "b": Text()},
        "",
    ),
    "an enum with titles": (
        document({"n": {"type": "string", "default": "a", "oneOf": [{"const": "a", "title": "A"}, {"const": "b"}]}}),
        {"n": Choice(("a", "b"), default="a")},
        "",
    ),
    "required a step too far in": (
        document({"a": S, "required": ["a"]}),
        {"a": Text(required=True)},
        "",
    ),
    "an address of a length": (
        document({"image_url": {**S, "maxLength": 9}}),
        {"image_url": File(media="image")},
        "image_url has",
    ),
}


@pytest.mark.parametrize(("page", "fields", "note"), SAID_ODDLY.values(), ids=SAID_ODDLY.keys())
def test_what_a_page_says_oddly(page: dict[str, Any], fields: dict[str, Any], note: str) -> None:
    """As much of it as a record can say is checked; of the rest a note tells."""
    model = from_openapi(page)
    assert (model.parameters or {}) == fields
    assert any(found.startswith(note) for found in model.notes or ("",))


YAML_BLOCK = f"```yaml\n{YAML}```\n"
LETTERS = {
    "a blank that does not break": ("enum: [AUTO, NONE]", "enum: [AUTO\xa0, NONE]", ("AUTO", "NONE")),
    "a default among numbers": (
        "tag: {type: string, pattern: '^a+$', default: 7}",
        "tag: {type: integer, enum: [5, 10], default: 5}",
        (5, 10),
    ),
    "unquoted numbers of a text": (
        "tag: {type: string, pattern: '^a+$', default: 7}",
        "tag: {type: string, enum: [2.10, 007, 0x1F, 1e3], default: 2.10}",
        ("2.10", "007", "0x1F", "1e3"),
    ),
    "other ends of a line, and tabs": (
        "enum: [AUTO, NONE]",
        "enum: [AUTO,\tNONE]\t,\tdescription: 'on\u2028e, \x85two, \u2029three'",
        ("AUTO", "NONE"),
    ),
}


@pytest.mark.parametrize(("before", "after", "values"), LETTERS.values(), ids=LETTERS.keys())
def test_what_yaml_one_point_one_has_otherwise(before: str, after: str, values: tuple[str, ...]) -> None:
    """Letters stay, and what ends a line is a newline."""
    model = from_openapi(YAML.replace(before, after))
    (found,) = [
        each for each in (model.parameters or {}).values() if isinstance(each, Choice) and each.values == values
    ]
    assert found.default in ((5, "2.10") if "default" in after else (None,))


def test_keys_come_in_any_order() -> None:
    """As a program writes them, sorted: fenced, what stands before `openapi` is part of it."""
    head, _, rest = YAML.partition("paths:")
    paths = "paths:" + rest.replace("components: {}\n", "")
    content = f"components: {{}}\n{paths}{head}"
    other = "```yaml\nopenapi: post /x\n```\n"
    for page in (
        f"# x\n\n```yaml\n{content}```\n",
        content,
        f"# A page\n\n  of words\n\n{content}",
        other + YAML_BLOCK,
    ):
        assert from_openapi(page).parameters == RECORD
    assert from_openapi(f"[Docs](https://a.example)\n\n{YAML_BLOCK}").parameters == RECORD


def test_ways_of_a_whole_body_are_ways_of_its_input() -> None:
    """With the model beside them or in each; also where two kinds of body differ."""
    model = {"const": "painter"}
    inputs = [{"properties": {"prompt": S, name: S}, "required": [name]} for name in ("task_id", "image_name")]
    beside = {"properties": {"model": model}, "oneOf": [{"properties": {"input": each}} for each in inputs]}
    inside = {"oneOf": [{"properties": {"model": model, "input": each}} for each in inputs]}
    for schema in (beside, inside):
        page = document({})
        page["paths"]["/api/v1/tasks/create"]["post"]["requestBody"]["content"]["application/json"]["schema"] = schema
        record = from_openapi(page)
        assert [branch.required for branch in record.branches] == [("task_id",), ("image_name",)]
        assert list(record.parameters or {}) == ["prompt", "task_id", "image_name"]


def test_what_a_create_wants_beside_its_input_is_noted() -> None:
    """Nothing else is sent; so is that an example names another model, and a second body that names none is passed."""
    page = document({"a": S})
    body = page["paths"]["/api/v1/tasks/create"]["post"]["requestBody"]["content"]
    body["application/json"]["schema"]["required"] = ["model", "input", "account"]
    body["application/json"]["example"] = {"model": "sculptor"}
    body["text/plain"] = {"schema": {"type": "object", "properties": {"model": S, "input": {"properties": {"z": S}}}}}
    model = from_openapi(page)
    assert (model.wire_name, list(model.parameters or ())) == ("painter", ["a"])
    assert model.notes == (
        "the create wants account beside its input, which is not sent",
        "its example is one of another model",
    )


def test_an_answer_that_names_its_model() -> None:
    """The name beside the document serves where its `model` names none; what the answer says is told."""
    page = json.loads(json.dumps(document({"prompt": S})).replace('"const": "painter"', '"type": "string"'))
    assert from_openapi({"code": 200, "data": {"model": "v/m", "openapi": page}}).wire_name == "v/m"
    with pytest.raises(ConfigurationError, match="model not found"):
        from_openapi({"code": 404, "msg": "model not found", "data": None})


FENCED = "a description with ```\n                        fences of its own\n                        ```"
TRICKY = {
    "fences inside": f"```yaml\n{YAML}```".replace("What to show", FENCED),
    "an indented fence": "  ```yaml\n" + "".join(f"  {line}\n" for line in YAML.splitlines()) + "  ```",
    "JSON in a fence": "```json\n" + json.dumps({"openapi": "3.0.1"}) + "\n```",
}


def test_fences_of_descriptions_close_no_page() -> None:
    """What stands further in than the fence is part of what is fenced."""
    for name in ("fences inside", "an indented fence"):
        assert list(from_openapi(TRICKY[name]).parameters) == list(RECORD)
    with pytest.raises(ConfigurationError):
        from_openapi(TRICKY["JSON in a fence"])


def test_what_costs_too_much_is_refused_at_once() -> None:
    """Schemas put together of one another many times over, in a circle, or very deep; lines without end."""
    chain = {f"A{n}": {"allOf": [{"$ref": f"#/components/A{n + 1}"}] * 2} for n in range(40)}
    page = document({"x": {"$ref": "#/components/A0"}}) | {"components": {**chain, "A40": S}}
    assert from_openapi(page).parameters == {"x": Text()}
    circle = document({"x": {"$ref": "#/components/A"}}) | {
        "components": {"A": {"allOf": [{"$ref": "#/components/A"}]}}
    }
    deep: dict[str, Any] = S
    for _ in range(1500):
        deep = {"allOf": [deep]}
    names = [f"n{number}" for number in range(60_000)]
    enums = {"allOf": [{"enum": names}, {"enum": names[::-1]}]}
    dear = [document({"x": enums}), document({"x": S}, required=names), "openapi: 3.0.1\npost: 1\nx: " + "!" * 600_000]
    dear += ["openapi: 3.0.1\npost: 1\n" + "---\n" * 200_000]
    for each in (circle, document({"x": deep}), "openapi: 3.0.1\n" + "\n" * 60_000, *dear):
        with pytest.raises(ConfigurationError):
            from_openapi(each)
    huge = from_openapi(
        document({"x": {"type": "integer", "maximum": 10**350}, "y": {"enum": [float("inf"), 1]}, 1: S})
    )
    assert (huge.parameters["x"], huge.parameters["y"], huge.parameters["1"]) == (Whole(), Choice((1,)), Text())


def test_what_holds_itself_is_checked_as_far_as_it_is_new() -> None:
    """A tree of layers, in two ways at once, and lists of lists without end: the rest is noted."""
    layer = {"$ref": "#/components/layer"}
    layers = {"type": "array", "items": layer}
    page = document({"layers": layers, "below": layer, "lists": {"$ref": "#/components/lists"}})
    fields = {"kind": {"type": "string", "enum": ["a", "b"]}, "layers": layers, "mask": layer}
    lists = {"type": "array", "items": {"$ref": "#/components/lists"}}
    page["components"] = {"layer": {"type": "object", "properties": fields}, "lists": lists}
    model = from_openapi(page)
    once = Fields({"kind": Choice(("a", "b")), "layers": Items(Anything()), "mask": Anything()})
    assert (model.parameters["below"], model.parameters["layers"]) == (once, Items(once))
    assert [model.parameters["lists"].takes(value) for value in ([[[]]], [[["x"]]])] == [True, False]
    assert [note for note in model.notes if "lies too deep" not in note] == [
        "layers.layers is of the kind that it stands in, so that its values are not checked",
        "layers.mask is of the kind that it stands in, so that its values are not checked",
        "below.layers is of the kind that it stands in, so that its values are not checked",
        "below.mask is of the kind that it stands in, so that its values are not checked",
    ]
    assert any(note.startswith("lists lies too deep in others") for note in model.notes)


NO_PAGES: dict[str, tuple[Any, str]] = {
    "a page of words": ("# Hello\n\nfox", "there is no OpenAPI document in it"),
    "nothing": ("", "there is no OpenAPI document in it"),
    "JSON of something else": ('{"a": 1}', "there is no OpenAPI document in it"),
    "a list": ("[1]", "there is no OpenAPI document in it"),
    "a number": (7, "not int"),
    "no schema": ({"code": 200, "data": {"openapi": None}}, "`openapi` is null"),
    "JSON that breaks off": ('{"openapi": ', "JSON cannot be read"),
    "no UTF-8": (b"\xff\xfe", "not in UTF-8"),
    "too long": ("x" * (2 << 20), "longer than"),
    "a question": (YAML.replace("post:", "get:"), "no POST is described"),
    "another POST": (YAML.replace("input:", "file:"), "its paths are: /api/v1/jobs/createTask"),
    "several models": (YAML.replace("- maker/painter", "- a\n                    - b"), "several models: a, b"),
    "no model": (document({}) | {"paths": {"/x": {"post": {"requestBody": {}}}}}, "its paths are: /x"),
    "no indentation": ("\n".join(line.lstrip() for line in YAML.split("\n")), "lost its indentation"),
    "YAML that breaks off": (YAML.replace("components: {}", "components: {"), "cannot be read in line"),
    "two fields of one name": (YAML.replace("watermark:", "seed:"), "the name 'seed' twice"),
    "two documents": (YAML + "\n---\n" + YAML, "several documents"),
    "a name that is a list": (YAML.replace("{type: boolean}", "{? [a, b] : 1}"), "a name that is no text"),
    "a model without a name": (
        json.loads(json.dumps(document({"x": S})).replace('"const": "painter"', '"type": "string"')),
        "does not say which model it is about",
    ),
    "too many ways": (document({}, oneOf=[{"required": [f"a{n}"]} for n in range(60)]), "too many ways"),
    "too many parts": (
        document({"x": {"allOf": [{"type": "string", "title": f"{n}"} for n in range(6000)]}}),
        "put together of too many",
    ),
    **{
        f"a model that answers at once: {kinds}": (
            json.loads(json.dumps(document({})).replace('{"type": "object", "properties": {}}', json.dumps(kinds))),
            "no page of a createTask model",
        )
        for kinds in (
            {"type": "string"},
            {"type": ["array", "null"]},
            {"oneOf": [{"type": "string"}, {"type": "array"}]},
        )
    },
    "an alias": (YAML.replace("{type: boolean}", "&a {type: boolean}"), "anchors and aliases"),
    "a document too deep": (YAML.replace("{}", "[" * 70 + "]" * 70), "too much in one another"),
    "very many values": (YAML.replace("{}", "[" + "1," * 60_000 + "1]"), "holds too much"),
    "a circle": (
        document({"x": {"$ref": "#/components/x"}}) | {"components": {"x": {"$ref": "#/components/x"}}},
        "circle",
    ),
    "a reference outside": (document({"x": {"$ref": "https://x.example/s.json"}}), "which is not in it"),
    "a reference to nothing": (document({"x": {"$ref": "#/components/y"}}), "which is not in it"),
    "very many fields": (document({f"f{n}": {"type": "string"} for n in range(600)}), "too many fields"),
}


@pytest.mark.parametrize(("page", "told"), NO_PAGES.values(), ids=NO_PAGES.keys())
def test_what_is_no_page_of_a_model_is_refused(page: Any, told: str) -> None:
    """By a word that says what it is, and never by another error."""
    with pytest.raises(ConfigurationError) as caught:
        from_openapi(page)
    assert told in caught.value.message


def test_the_reader_of_yaml_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the message names the install; JSON is read all the same."""
    monkeypatch.setitem(sys.modules, "ruamel.yaml", None)
    with pytest.raises(ConfigurationError, match=r"imagen-async\[yaml\]"):
        from_openapi(YAML)
    assert from_openapi(document({"prompt": {"type": "string"}})).parameters == {"prompt": Text()}


WORDS: dict[str, Any] = {
    "1:1": "1:1", "on": "on", "yes": "yes", "true": True, "FALSE": False, "null": None, "~": None, "": None,
    "12": 12, "-3": -3, "0o14": 12, "0x1F": 31, "1_000": "1_000", "014": 14, "1.5": 1.5, "1e3": 1000, ".5": 0.5,
    "'7'": "7", '"a\\/b"': "a/b", "2026-01-01": "2026-01-01", "=": "=", "190:20:30": "190:20:30",
}  # fmt: skip


def test_plain_words_are_what_yaml_1_2_says() -> None:
    """By its core schema: no sexagesimal numbers, no dates, no `on`."""
    for word, value in WORDS.items():
        with naming(word):
            page = YAML.replace("[on, no, 1:1, 2026-01-01, 12], default: on", "[a]").replace(
                "enum: [a]", f"const: {word}"
            )
            page = page.replace("quality: {type: string, ", "quality: {")
            if value is None:
                assert isinstance(from_openapi(page).parameters["quality"], Anything)
            elif isinstance(value, bool):
                assert from_openapi(page).parameters["quality"] == Flag(required=True)
            else:
                (found,) = from_openapi(page).parameters["quality"].values
                assert (found, type(found)) == (value, type(value))
