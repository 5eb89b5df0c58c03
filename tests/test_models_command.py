"""The command and the models: what it lists, what it makes of pages, and what it takes for fields of a model."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import inner
import msgspec
import pytest
from commands import METADATA, Call, at, call, clean_environment, lines_of
from pages import page_of
from PIL import Image

from imagen_async.providers import PROVIDERS
from imagen_async.sandbox import Sandbox

__all__ = ["call", "clean_environment"]


def test_models_are_listed(call: Call) -> None:
    """With price, kind and what goes in, for people and as JSON; the fields of one by its name."""
    lines = call("models").lines
    assert [line.split(":")[0] for line in lines if not line.startswith(" ")] == list(PROVIDERS)[:-2]
    assert "  nano-banana-2                8 to 18 credits      text to image; takes image_input" in lines
    assert "  qwen2                        price unknown        text to image, edit; takes image_url" in lines
    records = call("models", "-p", "sandbox", "--json").records
    assert (len(records), records[0]["wire_name"], records[0]["price"]) == (64, "google/imagen4", 8)
    shown = call("models", "show", "gpt-image-2", "-p", "kie").out
    for told in (
        "gpt-image-2 at kie: gpt-image-2-image-to-image, image to image, 6 to 16 credits",
        "  input_urls (as images): a list of at most 16, each the URL of a picture; required",
        "  resolution: one of 1K, 2K, 4K",
    ):
        assert told in shown
    refused = call("models", "show", "nano-bananas", "-p", "kie")
    assert (refused.code, "Did you mean nano-banana?" in refused.err) == (2, True)
    assert call("models", "show").code == call("models", "import", "x").code == call("models", "refresh").code == 2


def test_pages_become_a_file_that_is_used(call: Call, imagen_sandbox: Sandbox) -> None:
    """Bad pages are named; the records of the good ones are checked as any, and keep the short names that are known."""
    Path("painter.md").write_text(page_of("maker/painter"))
    Path("ultra.md").write_text(page_of("google/imagen4-ultra"))
    Path("bad.md").write_text("# nothing")
    made = call("models", "import", "painter.md", "bad.md", "ultra.md", "-o", "m.json", "-p", "kie")
    assert (made.code, "bad.md: This is no page of a model" in made.err) == (1, True)
    assert "2 models written to m.json" in made.err
    names = {
        each["wire_name"]: (each["name"], each.get("credits"))
        for each in json.loads(Path("m.json").read_text())["models"]
    }
    assert names == {"maker/painter": ("maker/painter", None), "google/imagen4-ultra": ("imagen4-ultra", 12)}
    words = (*at(imagen_sandbox), "--models-file", "m.json", "-m", "maker/painter")
    assert "ink='c': allowed is one of a, b" in call("generate", "a fox", *words, "--set", "ink=c").err
    assert call("generate", "a fox", *words, "--set", "ink=b", "--set", "steps=7").code == 0
    (task,) = imagen_sandbox.ledger.tasks
    assert (task.model, task.input) == ("maker/painter", {"prompt": "a fox", "ink": "b", "steps": 7})
    assert call("models", "list", "-p", "sandbox", "--models-file", "painter.md").code == 2


def test_the_providers_own_list_is_fetched(call: Call, imagen_sandbox: Sandbox) -> None:
    """Of the named models, or of all; what is known of one beside its schema stays."""
    words = (*at(imagen_sandbox), "-o", "m.json")
    fetched = call("models", "refresh", "z-image", "qwen/text-to-image", "z-imag", *words)
    assert "z-imag is not in the list. Did you mean z-image?" in fetched.err
    assert (fetched.code, "64 models are listed; 2 are asked about" in fetched.err) == (0, True), fetched.err
    file = json.loads(Path("m.json").read_text())
    assert (file["provider"], [each["name"] for each in file["models"]]) == ("sandbox", ["qwen", "z-image"])
    known = {model.wire_name: model for model in PROVIDERS["kie"].models}
    assert file["models"][0]["credits"] == known["qwen/text-to-image"].credits
    assert call("models", "list", "-p", "sandbox", "--models-file", "m.json").code == 0
    refused = call("models", "refresh", "-p", "apiin", "-o", "x.json", "--base-url", imagen_sandbox.url_of("apiin"))
    assert refused.code == 2
    assert not Path("x.json").exists()


_PARTS = {"model": {"const": "painter"}, "input": {"properties": {"prompt": {"type": "string"}}}}
_BODY = {"content": {"application/json": {"schema": {"properties": _PARTS}}}}
PAINTER = {"openapi": "3.1.0", "paths": {"/api/v1/jobs/createTask": {"post": {"requestBody": _BODY}}}}

LISTS: list[tuple[Any, list[tuple[str, float | None, str]]]] = [
    (["a", "b/c", "no model's name"], [("a", None, ""), ("b/c", None, "")]),
    ({"data": {"models": [{"model": "a", "pricingDesc": "4 credits per image"}]}}, [("a", 4.0, "4 credits per image")]),
    ([{"id": "a", "price": f"{10**12} credits per image"}], [("a", None, f"{10**12} credits per image")]),
    (
        {"data": [{"modelId": "a"}, {"model_name": "a"}, {"slug": "x y", "name": "b"}]},
        [("a", None, ""), ("b", None, "")],
    ),
    (
        [{"id": "a", "pricing": {"text": "2 credits per image, 4 credits per image at 4K"}}],
        [("a", None, "2 credits per image, 4 credits per image at 4K")],
    ),
    ({"a": {"b": {"c": {"d": {"e": {"f": {"g": ["a"]}}}}}}}, []),
    ({"data": [{"title": "nothing"}, 7, None]}, []),
    ("a", []),
]


@pytest.mark.parametrize(("answer", "found"), LISTS)
def test_a_list_is_read_loosely(answer: Any, found: list[tuple[str, float | None, str]]) -> None:
    """Wherever it is in the answer, whatever its names are called; a price only where there is one alone."""
    listed = inner.listed_in(answer)
    assert [(each.wire_name, each.credits, each.price) for each in listed] == found


REFRESHED = [
    (
        {
            "/api/v1/models": {"data": [{"model": "a"}]},
            "/api/v1/models/a/schema": {"data": {"openapi": PAINTER}},
        },
        1,
        "a is left out: its schema is of painter",
    ),
    ({}, 1, "gave no list of models"),
    ({"/api/v1/models": {"code": 200, "data": []}}, 1, "gave no list of models"),
    ({"/api/v1/models": {"code": 401, "msg": "invalid token"}}, 1, "invalid token"),
    (
        {"/api/v1/models": {"data": [{"model": "a"}, {"model": "b"}]}, "/api/v1/models/a/schema": {"data": {}}},
        1,
        "a is left out: |b is left out: |No record could be made; nothing was written",
    ),
]


@pytest.mark.parametrize(("answers", "code", "told"), REFRESHED)
def test_a_provider_that_tells_nothing(
    call: Call, monkeypatch: pytest.MonkeyPatch, answers: dict[str, Any], code: int, told: str
) -> None:
    """Why is told, each model that is left out is named, and no file is written that has nothing."""
    monkeypatch.setenv("KIE_API_KEY", "k")
    with answering(answers) as url:
        found = call("models", "refresh", "-p", "kie", "--base-url", url, "-o", "m.json")
    assert (found.code, Path("m.json").exists()) == (code, False), found.err
    assert all(each in found.err for each in told.split("|")), found.err


def test_what_a_list_tells_of_a_price_is_kept(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the provider's words, where they make no figure."""
    monkeypatch.setenv("KIE_API_KEY", "k")
    listed = {"data": [{"model": "painter", "pricingDesc": "4 credits per image, 8 credits per image at 4K"}]}
    answers = {"/api/v1/models": listed, "/api/v1/models/painter/schema": {"data": {"openapi": PAINTER}}}
    with answering(answers) as url:
        assert call("models", "refresh", "-p", "kie", "--base-url", url, "-o", "m.json").code == 0
    (model,) = json.loads(Path("m.json").read_text())["models"]
    assert "its price, in the provider's words: 4 credits per image, 8 credits per image at 4K" in model["notes"]
    assert "credits" not in model


@contextmanager
def answering(answers: Mapping[str, Any]) -> Iterator[str]:
    """A server that has these answers, and 404 for all else; its address."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(answers.get(self.path, {"code": 404, "msg": "not found"})).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


USES = [
    ("models list nano-banana", "models show nano-banana"),
    ("models show", "Say which model to show"),
    ("models show nano-banan-2", "nano-banana-2"),
    ("models import", "Say which pages"),
    ("models import none.md -o m.json", "none.md"),
    ("models import none.md -o m.json -p kie -p apiin", "one provider at most"),
    ("models refresh -o m.json", "Say whose models"),
    ("models refresh -p kie", "Say whose models"),
]


@pytest.mark.parametrize(("words", "told"), USES)
def test_what_cannot_be_meant_is_told(call: Call, monkeypatch: pytest.MonkeyPatch, words: str, told: str) -> None:
    """In words that say what is missing; nothing is written."""
    monkeypatch.setenv("KIE_API_KEY", "k")
    found = call(*words.split())
    assert (found.code in (1, 2), told in found.err, Path("m.json").exists()) == (True, True, False), found.err


def test_a_file_that_cannot_be_written(call: Call) -> None:
    """It is told, and an earlier file is as it was."""
    Path("page.md").write_text(page_of("maker/painter"))
    found = call("models", "import", "page.md", "-o", "no/such/folder.json")
    assert (found.code, "no/such/folder.json cannot be written" in found.err) == (2, True), found.err


def test_words_for_a_model_without_a_record(call: Call, imagen_sandbox: Sandbox) -> None:
    """A number, a truth value, a list or an object are read as such, all else is a text."""
    words = ("--set", "steps=7", "--set", "fast=true", "--set", "sizes=[1, 2]", "--set", "ink=blue one")
    assert call("generate", "a fox", *at(imagen_sandbox), "-m", "raw:maker/x", *words).code == 0
    (task,) = imagen_sandbox.ledger.tasks
    assert task.input == {"prompt": "a fox", "steps": 7, "fast": True, "sizes": [1, 2], "ink": "blue one"}


ROWS = "prompt,resolution,sku,Output_Format\na fox,2K,17,png\na heron,,18,\n"


def test_columns_that_are_fields_of_the_model(call: Call, imagen_sandbox: Sandbox) -> None:
    """They are sent, checked and listed; other columns go by; `--set` is for lines that do not say it."""
    Path("p.csv").write_text(ROWS)
    words = ("p.csv", *at(imagen_sandbox), "-m", "nano-banana-2", "-o", "out")
    told = (
        "p.csv: taken for fields of the model: resolution, Output_Format; no fields, and for metadata.jsonl alone: sku"
    )
    planned = call("plan", *words)
    assert (planned.code, planned.err.splitlines()) == (0, [told])
    assert "2 pictures, 20 credits" in planned.out
    made = call("batch", *words, "-q", "--set", "output_format=jpg")
    assert (made.code, made.err.splitlines()[0]) == (0, told)
    sent = {create.prompt: create.input for create in imagen_sandbox.ledger.creates}
    own = {
        prompt: {name: value for name, value in wire.items() if "_" in name or name == "resolution"}
        for prompt, wire in sent.items()
    }
    ratio = {"aspect_ratio": "auto"}
    assert own == {
        "a fox": {**ratio, "resolution": "2K", "output_format": "png"},
        "a heron": {**ratio, "output_format": "jpg"},
    }
    assert {line["sku"] for line in lines_of(METADATA)} == {"17", "18"}
    assert "Nothing is left" in call("batch", *words, "-q", "--set", "output_format=jpg").err
    Path("p.csv").write_text(ROWS.replace("2K", "9K"))
    refused = call("plan", *words[:-2])
    assert (refused.code, "p.csv:2: resolution='9K': allowed is one of 1K, 2K, 4K" in refused.err) == (2, True)


def test_a_column_that_is_nearly_a_field_is_told(call: Call) -> None:
    """It would go by without a word, and the picture be paid for without it; in `--set` it is refused."""
    Path("p.csv").write_text("prompt,resolutoin,sku\na fox,2K,17\n")
    found = call("plan", "p.csv", "-p", "sandbox", "-m", "nano-banana-2")
    assert "warning: the column 'resolutoin' is no field of the model (resolution?)" in found.err
    assert "sku" not in found.err
    wrong = call("generate", "x", "-p", "sandbox", "-m", "nano-banana-2", "--set", "resolutoin=2K")
    assert (wrong.code, "Did you mean resolution?" in wrong.err) == (2, True), wrong.err


@pytest.mark.parametrize("version", ["this", "older"])
def test_a_column_stays_what_it_was_in_a_folder(call: Call, imagen_sandbox: Sandbox, version: str) -> None:
    """What went by before is no field now, though the model has one of that name: the keys stay, nothing is paid."""
    Path("p.csv").write_text(ROWS)
    fast = ("p.csv", *at(imagen_sandbox), "-o", "out", "-q")
    assert call("batch", *fast, "-m", "imagen4-fast").code == 0
    if version == "older":
        with closing(sqlite3.connect("out/run.db")) as journal, journal:
            assert journal.execute("DELETE FROM notes WHERE name = 'columns'").rowcount == 1
    added = call("batch", *fast, "-m", "nano-banana-2", "--add")
    assert "as in the runs before, no fields of the model: resolution, Output_Format" in added.err
    assert [create.input for create in imagen_sandbox.ledger.creates if "resolution" in create.input] == []
    assert {line["resolution"] for line in lines_of(METADATA)} == {"2K", None}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--set resolution", "'resolution' is not NAME=VALUE"),
        ("--set resolution=2K --set resolution=4K", "resolution is said twice"),
        ("--set seed=x", "seed='x'"),
        ("--aspect-ratio 1:1 --set aspect_ratio=16:9", "aspect_ratio is said twice"),
        ("--set prompt=x", "that is no field of a model"),
        ("--models-file none.json", "none.json cannot be read"),
        ("-p none.toml", "none.toml cannot be read"),
    ],
)
def test_what_cannot_be_set(call: Call, imagen_sandbox: Sandbox, words: str, told: str) -> None:
    """Nothing is sent, and the word is named."""
    refused = call("generate", "a fox", *at(imagen_sandbox), "-m", "nano-banana-2", *words.split())
    assert (refused.code, told in refused.err, imagen_sandbox.ledger.creates) == (2, True, []), refused.err


def test_a_provider_in_a_file(call: Call, imagen_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """`-p FILE.toml` and `-p NAME=FILE.toml`: the same words go on with a folder."""
    monkeypatch.setenv("MINE_API_KEY", imagen_sandbox.key)
    monkeypatch.setenv("OTHER_API_KEY", imagen_sandbox.key)
    Path("mine.toml").write_text(
        f'name = "mine"\nmodels_of = "kie"\nprices = 4\nbase_url = "{imagen_sandbox.url_of("kie")}"\n'
    )
    Path("p.txt").write_text("a fox\n")
    assert call("batch", "p.txt", "-p", "mine.toml", "-m", "z-image", "-o", "out", "-q").code == 0
    (line,) = lines_of(METADATA)
    assert (line["provider"], line["model"]) == ("mine", "z-image")
    assert "Nothing is left" in call("batch", "p.txt", "-p", "mine.toml", "-m", "z-image", "-o", "out", "-q").err
    other = call("generate", "a fox", "-p", "other=mine.toml", "-m", "z-image", "--json")
    assert other.records[0]["provider"] == "other"


PROMPTLESS = [
    ("p.csv", "image_url,upscale_factor\na.png,2\n", "topaz-upscale", "20 credits"),
    ("p.jsonl", '{"image": "a.png"}\n', "recraft-remove-background", "1 request"),
    ("p.csv", "Caption,image_url\nx,a.png\n", "topaz-upscale", "did you mean 'Caption'? Rename it to prompt"),
    ("p.csv", "resolution\n2K\n4K\n", "nano-banana-2", "p.csv:1: there is no column named prompt, only resolution"),
    ("p.csv", "image_url,upscale_factor\na.png,2\na.png,99\n", "topaz-upscale", "p.csv:3: upscale_factor='99'"),
    ("p.csv", "a red fox\nan owl\na bear\n", "topaz-upscale", "1 problem of 1 request"),
    ("p.csv", 'image_url\na.png\n""\nno.png\n', "topaz-upscale", "p.csv:4: 'no.png' goes in"),
    ("p.csv", "image_url,model\na.png,topaz-upscale\na.png,z-image\n", "topaz-upscale", "p.csv:3: there is no prompt"),
]


@pytest.mark.parametrize(("name", "text", "model", "told"), PROMPTLESS)
def test_a_model_without_a_prompt_is_asked_by_its_own_columns(
    call: Call, name: str, text: str, model: str, told: str
) -> None:
    """And no other is: what is no field of the model makes no picture."""
    Image.new("RGB", (4, 4)).save("a.png")
    Path(name).write_text(text)
    found = call("plan", name, "-p", "sandbox", "-m", model)
    assert told in found.out + found.err


def test_a_price_by_a_field_that_is_gone_is_the_dearest(call: Call) -> None:
    """Where a page of today has the field no more, its record says so, and nothing fails for it."""
    known = PROVIDERS["kie"].find("nano-banana-2")
    fields = {name: each for name, each in (known.parameters or {}).items() if name != "resolution"}
    before = inner.completed(msgspec.structs.replace(known, parameters=fields), known, is_priced=True)
    assert before.notes[-1] == "its price went by resolution, which it has no more: the dearest is reckoned with"
    Path("m.json").write_bytes(inner.written(inner.ModelFile((before,))))
    Path("p.txt").write_text("a fox\n")
    found = call("plan", "p.txt", "-p", "sandbox", "-m", "nano-banana-2", "--models-file", "m.json")
    assert (found.code, "18 credits" in found.out) == (0, True), found.err


def test_numbers_of_a_column_with_gaps_are_whole(call: Call) -> None:
    """As pandas writes them: 10.0 where a whole number is wanted, and no other."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    for value, code in ((7.0, 0), (7.5, 2)):
        parquet.write_table(pyarrow.table({"prompt": ["a", "b"], "n": [value, None]}), "p.parquet")
        assert call("plan", "p.parquet", "-p", "sandbox", "-m", "wan-2-7-image").code == code
