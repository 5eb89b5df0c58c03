"""Prompt files: what each kind says, what is refused and by which line number, and keys that stay."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import naming
from hypothesis import given, settings
from hypothesis import strategies as st

from imagen_async import ConfigurationError, ImageRequest
from imagen_async._cli.library import Router, with_defaults
from imagen_async._cli.prompt_files import BadLine, PromptFile, PromptLine
from imagen_async.providers import PROVIDERS

KINDS = ("txt", "jsonl", "csv", "tsv")
ROUTER = Router({"sandbox": PROVIDERS["sandbox"]})

Load = Callable[..., PromptFile]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Write a prompt file of a kind and open it."""

    def write(kind: str, content: str | bytes, limit: int | None = None) -> PromptFile:
        path = tmp_path / f"p.{kind}"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return PromptFile(str(path), limit=limit)

    return write


def admit(request: ImageRequest) -> object:
    """The check that the command makes: kie.ai's models as the sandbox serves them."""
    return ROUTER.route(with_defaults(request, ImageRequest("-")))


def good(file: PromptFile) -> list[PromptLine]:
    """All requests of a file in which nothing is wrong."""
    assert file.check(admit) == []
    requests = list(file)
    assert len(file) == len(requests)
    return requests


def prompts(file: PromptFile) -> list[str]:
    """All prompts of a file in which nothing is wrong."""
    return [request.prompt for request in good(file)]


def wrong(file: PromptFile) -> list[tuple[int, str]]:
    """What is wrong with a file: line numbers and problems."""
    return [(bad.line, bad.problem) for bad in file.check(admit)]


FOX_AND_DOG = {
    "txt": " a fox \na dog\n",
    "TXT": "a fox\na dog\n",
    "jsonl": '"a fox"\n{"prompt": " a dog"}\n',
    "csv": 'id,prompt\n1,"a fox"\n2,a dog\n',
    "tsv": "prompt\tid\na fox\t1\na dog\t2\n",
}
FORMS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "marked": "\ufeff{}".format,
    "crlf": lambda text: text.replace("\n", "\r\n"),
    "no last newline": str.strip,
    "blank lines": lambda text: "\n" + text.replace("\n", "\n \n\n"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", FOX_AND_DOG)
def test_each_kind_gives_its_prompts(load: Load, kind: str, form: str) -> None:
    """Every kind gives its prompts in order, with or without a BOM, CRLF, blank lines or a last newline."""
    assert prompts(load(kind, FORMS[form](FOX_AND_DOG[kind]))) == ["a fox", "a dog"]


@pytest.mark.parametrize(
    ("kind", "text"),
    [(None, "a fox\n"), ("txt", "a fox\n"), ("jsonl", '"a fox"\n'), ("csv", "seed,prompt\n7,a fox\n")],
)
def test_stdin_is_a_file_too(monkeypatch: pytest.MonkeyPatch, kind: str | None, text: str) -> None:
    """`-` reads stdin, as lines of text unless another kind is named."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    file = PromptFile("-", kind)
    assert (file.name, prompts(file)) == ("stdin", ["a fox"])


FIELDS: dict[str, Any] = {"model": "imagen4-fast", "aspect_ratio": "16:9", "seed": 7, "num_images": 2, "key": "k1"}
HEADER = ("PROMPT", "Model", "Aspect_Ratio", "SEED", "Num_Images", "KEY")
ROW = ("a fox", *map(str, FIELDS.values()))
QUOTED = 'prompt,seed\n"a fox,\n""red"",\nat night",7\n'

READ = {
    "csv-any-case": ("csv", f"{','.join(HEADER)}\n{','.join(ROW)}\n", FIELDS),
    "tsv-any-case": ("tsv", "\t".join(HEADER) + "\n" + "\t".join(ROW), FIELDS),
    "jsonl-any-case": ("jsonl", json.dumps(dict(zip(HEADER, ("a fox", *FIELDS.values()), strict=True))), FIELDS),
    "hash": ("txt", "# a heading", {"prompt": "# a heading"}),
    "extra": ("csv", 'prompt,model,extra\nx,raw:any/model,"{""steps"": 4}"\n', {"extra": {"steps": 4}}),
    "columns": ("csv", "prompt,Type,note\nx,Animals, wild \n", {"columns": {"Type": "Animals", "note": " wild "}}),
    "values": ("jsonl", '{"prompt": "x", "C": ["a", 1], "n": null}', {"columns": {"C": ["a", 1], "n": None}}),
    "empty": ("csv", "prompt,model,seed,extra,note\nx,,,,\n", {"model": None, "seed": None, "extra": {}}),
    "short": ("csv", "prompt,model,seed,extra,note\nx\n", {"model": None, "seed": None, "columns": {"note": None}}),
    "number-as-key": ("jsonl", '{"prompt": "x", "key": 12}', {"key": "12"}),
    "quoted-lines": ("csv", QUOTED, {"prompt": 'a fox,\n"red",\nat night', "seed": 7, "line": 2}),
    "tsv-quotes": ("tsv", 'Prompt\tn\na ""b"" "c\t1\n', {"prompt": 'a ""b"" "c', "columns": {"n": "1"}}),
    "tsv-quoted": ("tsv", 'Prompt\tn\n"quoted"\t1\n', {"prompt": '"quoted"'}),
    "spaces": ("tsv", "prompt\tseed\nx\t 7 \n", {"seed": 7}),
}


@pytest.mark.parametrize(("kind", "content", "fields"), READ.values(), ids=READ)
def test_what_a_line_says(load: Load, kind: str, content: str, fields: dict[str, Any]) -> None:
    """A column of a field's name, in any case, is that field, of its type; empty cells say nothing; others stay."""
    (request,) = good(load(kind, content))
    assert {name: getattr(request, name) for name in fields} == fields


@pytest.mark.parametrize("kind", KINDS)
def test_only_newlines_end_a_line(load: Load, kind: str) -> None:
    """Unicode's other line separators are part of a prompt, and do not shift the numbers of the lines after it."""
    header = "prompt\n" if kind in ("csv", "tsv") else ""
    for separator in "\u2028\u2029\x0b\x0c\x85\x1c\x1e":
        with naming(separator):
            prompt = f"a fox{separator}at night"
            line = json.dumps(prompt, ensure_ascii=separator < "\x1f") if kind == "jsonl" else prompt
            first, second = good(load(kind, f"{header}{line}\n{line.replace('fox', 'dog')}\n"))
            assert (first.prompt, second.prompt) == (prompt, prompt.replace("fox", "dog"))
            assert second.line == first.line + 1 == 2 + bool(header)


def test_a_limit_takes_the_first_requests(load: Load) -> None:
    """A limit counts requests, not lines, and does not look behind the last of them."""
    assert prompts(load("txt", "a\n\n\nb\nc\n", limit=2)) == ["a", "b"]
    assert prompts(load("csv", "prompt,seed\n\na,1\nb,two\n", limit=1)) == ["a"]
    assert wrong(load("csv", "prompt,seed\n\na,1\nb,two\n", limit=2))[0][0] == 4
    assert prompts(load("txt", "a\nb\n", limit=9)) == ["a", "b"]


# What is refused

WRONG_JSON = {
    '{"prompt": "no end': "this is not JSON",
    '["a list"]': "a line must be a JSON object with a prompt, or a string",
    "null": "a line must be a JSON object with a prompt, or a string",
    '{"prompt": "x", "model": "imagen4-fast", "num_images": "two"}': "num_images='two': allowed is a whole number from",
    '{"seed": 7}': "there is no prompt",
    '{"prompt": 5}': "prompt=5: allowed is a non-empty string",
    '{"prompt": "  "}': "prompt='': allowed is a non-empty string",
    '{"prompt": "x", "seed": 1.5}': "seed=1.5: allowed is a whole number",
    '{"prompt": "x", "seed": true}': "seed=True: allowed is a whole number",
    '{"prompt": "x", "seed": NaN}': "this is not JSON",
    '{"prompt": "x", "Prompt": "y"}': "two of its fields have one name",
    '{"prompt": "x", "extra": "steps"}': "extra='steps'",
    '{"prompt": "x", "extra": {"steps": 4}}': "steps=4: imagen4 has no such parameter",
    "[" * 100_000: "this is not JSON",
    r'{"prompt": "a \ud800"}': "this is not JSON in Unicode",
    r'{"prompt": "x", "key": "\ud800"}': "this is not JSON in Unicode",
    r'{"prompt": "x", "note": "\ud800"}': "this is not JSON in Unicode",
}


def test_every_bad_line_of_a_file_is_named(load: Load) -> None:
    """One look finds all that is wrong, each with its line number, and leaves the good lines alone."""
    found = wrong(load("jsonl", "\n".join(['"fine"', "", *WRONG_JSON, '{"prompt": "fine too"}'])))
    assert [line for line, _ in found] == list(range(3, 3 + len(WRONG_JSON)))
    said = dict(zip(WRONG_JSON, (problem for _, problem in found), strict=True))
    assert {line[:70]: problem for line, problem in said.items() if WRONG_JSON[line] not in problem} == {}


WRONG_TABLES = {
    "\nPromt{}Category\nx\n": (2, "there is no column named prompt, only Promt, Category"),
    "prompt{}Seed{}SEED\nx{}1{}2\n": (1, "two columns are named 'seed'"),
    "prompt{}seed\nx{}1\ny{}{}2\nz{}3\n": (3, "there are 3 fields under 2 columns"),
    "prompt{}seed\nx{}7.0\n": (2, "seed='7.0': allowed is a whole number"),
    "prompt{}extra\nx{}steps\n": (2, "extra='steps': allowed is a mapping"),
    "prompt{}seed\n{}7\n": (2, "prompt='': allowed is a non-empty string"),
    "prompt{}key\nx{}k\ny{}\nz{}k\n": (4, "key 'k' is taken by line 2; keys must differ"),
    "prompt{}seed\n": (0, "there is no prompt in it"),
}
WRONG_FILES = [
    *(("csv", content.replace("{}", ","), *told) for content, told in WRONG_TABLES.items()),
    *(("tsv", content.replace("{}", "\t"), *told) for content, told in WRONG_TABLES.items()),
    ("csv", 'prompt\n"a fox\nand no end', 2, "this is not CSV, and the rest was not read: "),
    ("csv", 'prompt\na fox\n"a dog" x\n', 3, "this is not CSV"),
    ("csv", f"prompt,seed\na fox,{'1' * 5000}\n", 2, "seed='111"),
    ("csv", f'{QUOTED}a dog,two\n"an\nowl",3\n', 5, "seed='two'"),
    ("jsonl", '{"prompt": "x", "key": 1}\n{"prompt": "y", "key": "1"}', 2, "key '1' is taken by line 1; keys must"),
    *((kind, text, 0, "there is no prompt in it") for kind in KINDS for text in ("", "\ufeff", "\n\n \r\n")),
]


@pytest.mark.parametrize(("kind", "content", "line", "problem"), WRONG_FILES)
def test_what_is_wrong_with_a_file(load: Load, kind: str, content: str, line: int, problem: str) -> None:
    """A header without prompts, a line of too many cells, a taken key, broken quotes: each is wrong at its line."""
    ((found, told),) = wrong(load(kind, content))
    assert (found, told[: len(problem)]) == (line, problem)


def test_an_object_is_not_mixed_with_what_is_none(load: Load) -> None:
    """A line whose `extra` is no object is a bad line, also when `--extra` gives the others one."""
    defaults = ImageRequest("-", model="raw:any/model", extra={"steps": 4})
    file = load("jsonl", '{"prompt": "a fox", "extra": "steps"}')
    (bad,) = file.check(lambda request: ROUTER.route(with_defaults(request, defaults)))
    assert (bad.line, "extra='steps'" in bad.problem) == (1, True)


USELESS = {
    "p.txt": (b"a fox\na caf\xe9\n", r"p\.txt:2: the byte b'\\xe9' is not UTF-8; save the file as UTF-8"),
    "p.csv": (b"prompt\nx\ny\n\xff\n", r"p\.csv:4: the byte b'\\xff' is not UTF-8"),
    "p.jsonl": (b'"x"\r\n"\xe9"\r\n', r"p\.jsonl:2: "),
    "p.tsv": (b"\n\xc3", r"p\.tsv:2: "),
    "le.csv": ("\ufeffprompt\n".encode("utf-16-le"), r"le\.csv is UTF-16; save it as UTF-8"),
    "be.csv": ("\ufeffprompt\n".encode("utf-16-be"), r"be\.csv is UTF-16; save it as UTF-8"),
    "none.txt": (None, r"none\.txt cannot be read: No such file"),
    "..": (None, r"\.\. cannot be read: Is a directory"),
    "prompts": (b"a fox", r"prompts: its name does not tell its kind \(\.txt, \.jsonl, \.csv, \.tsv\); .*--format"),
    "prompts.xlsx": (b"a fox", r"prompts\.xlsx: its name does not tell its kind"),
}


@pytest.mark.parametrize(("name", "content", "told"), [(name, *each) for name, each in USELESS.items()], ids=USELESS)
def test_a_file_that_is_no_use(tmp_path: Path, name: str, content: bytes | None, told: str) -> None:
    """A file that is missing, no UTF-8 or of no known kind is an error that names it, the place and the remedy."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigurationError, match=told):
        PromptFile(str(tmp_path / name))


def test_a_bad_line_never_comes_out_as_a_request(load: Load) -> None:
    """Who loops over a file that was not checked hears of its first bad line."""
    with pytest.raises(ConfigurationError, match=r"p\.jsonl:2: this is not JSON"):
        list(load("jsonl", '"fine"\n{\n'))


MISSPELT = {
    "prompt,aspect ratio\na fox\na dog,16:9\n": [("aspect ratio", "aspect_ratio")],
    "prompt,numimages,Negative-Prompt\nx,1,\n": [("Negative-Prompt", "negative_prompt"), ("numimages", "num_images")],
    "prompt,category,id,Challenge,note\nx,1,2,3,4\n": [],
    "prompt,seed,model\nx,1,imagen4\n": [],
}


@pytest.mark.parametrize(("content", "expected"), MISSPELT.items())
def test_a_column_that_looks_misspelt(load: Load, content: str, expected: list[tuple[str, str]]) -> None:
    """A column whose name is nearly a field's is pointed out; one of a name of its own is not."""
    file = load("csv", content)
    assert (file.check(admit), file.odd_columns()) == ([], expected)


# Keys


def test_the_second_of_two_like_lines_has_a_key_of_its_own(load: Load) -> None:
    """Lines that say the same have the same key, numbered from the second on."""
    first, other, second, third = (request.key for request in good(load("txt", "a fox\na dog\na fox\na fox\n")))
    assert first != other
    assert (second, third) == (f"{first}-2", f"{first}-3")


def test_a_key_is_made_of_what_is_asked_for(load: Load) -> None:
    """A key does not depend on the file's kind or on its other columns; it does on every field of the request."""
    plain = good(load("txt", "a fox\n"))[0].key
    assert good(load("csv", "id,prompt\n77,a fox\n"))[0].key == plain
    assert good(load("jsonl", '{"note": "x", "prompt": " a fox "}'))[0].key == plain
    changes = ['"seed": 1', '"seed": 2', '"aspect_ratio": "16:9"', '"model": "imagen4-fast"', '"negative_prompt": "x"']
    changed = good(load("jsonl", "\n".join(f'{{"prompt": "a fox", {change}}}' for change in changes)))
    assert len({plain, *(request.key for request in changed)}) == 6


# Whatever a file holds


def written(kind: str, content: bytes, folder: pytest.TempPathFactory) -> PromptFile:
    """A prompt file of a kind."""
    path = folder.getbasetemp() / f"any.{kind}"
    path.write_bytes(content)
    return PromptFile(str(path))


@given(st.data(), st.lists(st.sampled_from(["a fox", "a dog", "an owl", "# 1"]), min_size=1, max_size=12))
@settings(deadline=None, max_examples=30)
def test_reordering_a_file_changes_no_key(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, lines: list[str]
) -> None:
    """The same lines in another order have the same keys, each prompt its own."""
    orders = [lines, data.draw(st.permutations(lines))]
    files = [good(written("txt", "\n".join(order).encode(), tmp_path_factory)) for order in orders]
    before, after = ({(request.prompt, request.key) for request in requests} for requests in files)
    assert len(before) == len(lines)
    assert after == before


def in_csv(lines: list[str]) -> str:
    """As a spreadsheet writes it."""
    out = io.StringIO()
    csv.writer(out).writerows([["id", "prompt"], *([number, line] for number, line in enumerate(lines))])
    return out.getvalue()


WRITERS: dict[str, Callable[[list[str]], str]] = {
    "jsonl": lambda lines: "".join(json.dumps({"prompt": line}, ensure_ascii=False) + "\n" for line in lines),
    "csv": in_csv,
    "tsv": lambda lines: "".join(f"{line}\n" for line in ["Prompt\tid", *(f"{line}\t1" for line in lines)]),
}
"""How programs write them; PartiPrompts is a .tsv without quoting."""

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), min_size=1, max_size=40)


@given(st.lists(TEXT.filter(str.strip), min_size=1, max_size=8))
@settings(deadline=None, max_examples=40)
def test_prompts_survive_the_way_through_a_file(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    """Any prompts without newlines come out of .jsonl and .csv and, without tabs, .tsv as they went in, but trimmed."""
    for kind, write in WRITERS.items():
        if kind != "tsv" or not any("\t" in line for line in lines):
            file = written(kind, write(lines).encode(), tmp_path_factory)
            assert prompts(file) == [line.strip() for line in lines], kind


ANYTHING = st.one_of(
    st.binary(max_size=60),
    st.text('prompt,seed\t"\n\r {}[]:\\17\u2028-', max_size=60).map(str.encode),
    st.builds(
        lambda header, body: header.encode() + body,
        st.sampled_from(['prompt,seed,extra\n"', "prompt\tkey\tseed\n", '{"prompt": ', '"']),
        st.one_of(st.binary(max_size=40), st.text('a,\t"\n\r{}[]:1²٣-', max_size=40).map(str.encode)),
    ),
)


@given(ANYTHING, st.sampled_from(KINDS))
@settings(deadline=None, max_examples=150)
def test_any_bytes_are_prompts_or_a_named_problem(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, kind: str
) -> None:
    """Whatever a file holds, it is requests with keys of their own, or problems with a line, or one of our errors."""
    try:
        file = written(kind, content, tmp_path_factory)
    except ConfigurationError:
        with pytest.raises(UnicodeDecodeError):
            content.decode()
        return
    bad = file.check(admit)
    assert all(isinstance(line, BadLine) and line.problem for line in bad)
    assert all(0 <= line.line <= content.count(b"\n") + content.count(b"\r") + 1 for line in bad)
    if not bad:
        requests = list(file)
        assert len({request.key for request in requests}) == len(requests) == len(file) > 0
