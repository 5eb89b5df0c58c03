"""Prompt files: what each kind says, and what is refused and by which line number."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from commands import clean_environment, data
from hypothesis import given, settings
from hypothesis import strategies as st
from inner import BadLine, PromptFile, PromptLine, Router, with_defaults
from pyarrow import parquet

from imagen_async import ConfigurationError, ImageRequest
from imagen_async.providers import PROVIDERS

__all__ = ["clean_environment"]

KINDS = ("txt", "jsonl", "csv", "tsv")
ROUTER = Router({"sandbox": PROVIDERS["sandbox"]})


def load(kind: str, content: str | bytes, limit: int | None = None) -> PromptFile:
    """A prompt file of a kind, in the test's working folder."""
    path = Path(f"p.{kind}")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return PromptFile(str(path), limit=limit)


def admit(request: ImageRequest, **defaults: Any) -> object:
    """The check that the command makes: kie.ai's models as the sandbox serves them."""
    return ROUTER.route(with_defaults(request, ImageRequest("-", **defaults)))


def good(file: PromptFile) -> list[PromptLine]:
    """All requests of a file in which nothing is wrong."""
    assert (list(file.check(admit)), len(file)) == ([], len(list(file)))
    return list(file)


def prompts(file: PromptFile) -> list[str]:
    """All prompts of a file in which nothing is wrong."""
    return [request.prompt for request in good(file)]


FILES = data("prompt_files.json")
FOX_AND_DOG = FILES["a fox and a dog"]
FORMS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "marked": "\ufeff{}".format,
    "marked twice": "\ufeff\ufeff{}".format,
    "crlf": lambda text: text.replace("\n", "\r\n"),
    "no last newline": str.strip,
    "blank lines": lambda text: "\n" + text.replace("\n", "\n \n\n"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", FOX_AND_DOG)
def test_each_kind_gives_its_prompts(kind: str, form: str) -> None:
    """Every kind gives its prompts in order, with or without a BOM, CRLF, blank lines or a last newline."""
    assert prompts(load(kind, FORMS[form](FOX_AND_DOG[kind]))) == ["a fox", "a dog"]


@pytest.mark.parametrize("kind", [None, "txt", "jsonl", "csv"])
def test_stdin_is_a_file_too(monkeypatch: pytest.MonkeyPatch, kind: str | None) -> None:
    """`-` reads stdin, as lines of text unless another kind is named."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(FOX_AND_DOG[kind or "txt"].encode())))
    file = PromptFile("-", kind)
    assert (file.name, prompts(file)) == ("stdin", ["a fox", "a dog"])


READ = FILES["what a line says"]
QUOTED = READ["quoted-lines"][1]


@pytest.mark.parametrize(("kind", "content", "fields"), READ.values(), ids=READ)
def test_what_a_line_says(kind: str, content: str, fields: dict[str, Any]) -> None:
    """A column of a field's name, in any case, is that field, of its type; empty cells say nothing; others stay."""
    (request,) = good(load(kind, content))
    assert {name: getattr(request, name) for name in fields} == fields


@pytest.mark.parametrize("kind", KINDS)
def test_only_newlines_end_a_line(kind: str) -> None:
    """Unicode's other line separators are part of a prompt, and do not shift the numbers of the lines after it."""
    header = ["prompt"] if kind in ("csv", "tsv") else []
    expected = [f"a fox{separator}at night" for separator in "\u2028\u2029\x0b\x0c"]
    lines = [json.dumps(prompt, ensure_ascii=False) if kind == "jsonl" else prompt for prompt in expected]
    found = {request.line: request.prompt for request in good(load(kind, "\n".join(header + lines)))}
    assert found == dict(enumerate(expected, 1 + len(header)))


def test_a_limit_takes_the_first_requests() -> None:
    """A limit counts requests, not lines, and does not look behind the last of them."""
    assert prompts(load("txt", "a\n\n\nb\nc\n", limit=2)) == ["a", "b"]
    assert prompts(load("csv", "prompt,seed\n\na,1\nb,two\n", limit=1)) == ["a"]
    assert [bad.line for bad in load("csv", "prompt,seed\n\na,1\nb,two\n", limit=2).check(admit)] == [4]
    assert prompts(load("txt", "a\nb\n", limit=9)) == ["a", "b"]


WRONG_JSON = {**FILES["wrong lines of .jsonl"], "[" * 100_000: "this is not JSON"}


def test_every_bad_line_of_a_file_is_named() -> None:
    """One look finds all that is wrong, each with its line number; without it the first bad line is an error."""
    lines = ['"fine"', "", *WRONG_JSON, '{"prompt": "fine too"}']
    found = list(load("jsonl", "\n".join(lines)).check(admit))
    assert [lines[bad.line - 1][:70] for bad in found] == [line[:70] for line in WRONG_JSON]
    assert [bad for bad in found if WRONG_JSON[lines[bad.line - 1]] not in bad.problem] == []
    with pytest.raises(ConfigurationError, match=r"p\.jsonl:2: this is not JSON"):
        list(load("jsonl", '"fine"\n{\n'))


WRONG_FILES = [
    ("txt", "a red fox\r\n\x1a", 2, "prompt='\\x1a': its character 1 is U+001A (SUBSTITUTE, the end of a file in DOS)"),
    (
        "txt",
        "a red fox\n\ufeff\na heron\n",
        2,
        "prompt='\\ufeff': its character 1 is U+FEFF (ZERO WIDTH NO-BREAK SPACE,",
    ),
    (
        "jsonl",
        '"a fox"\n{"prompt": "a red\\u0000 fox"}',
        2,
        "prompt='a red\\x00 fox': its character 6 is U+0000 (NULL)",
    ),
    ("csv", "prompt,seed\n\u200b,1\n", 2, "prompt='\\u200b': there is nothing to see in it, only U+200B (ZERO"),
    *(("csv", content.replace("{}", ","), *told) for content, told in FILES["wrong tables"].items()),
    *(("tsv", content.replace("{}", "\t"), *told) for content, told in FILES["wrong tables"].items()),
    *(("csv", content, *told) for content, told in FILES["broken quotes"].items()),
    ("csv", f"prompt,seed\na fox,{'1' * 5000}\n", 2, "seed='111"),
    ("csv", f'{QUOTED}a dog,two\n"an\nowl",3\n', 5, "seed='two'"),
    ("jsonl", '{"prompt": "x", "key": 1}\n{"prompt": "y", "key": "1"}', 2, "key '1' is taken by line 1; keys must"),
    *(
        (
            "txt",
            line + "\n\n",
            1,
            f"this is no prompt but the beginning of .{told}; say --format {told}, or --format txt",
        )
        for told, line in [
            ("csv", "seed; Prompt"),
            ("tsv", "prompt\tseed"),
            ("jsonl", '{"Prompt": "x"}'),
            ("json", "["),
            ("json", '["a fox", "a dog"]'),
            ("json", "{"),
            ("csv", "Prompt"),
            ("csv", "sep=;"),
        ]
    ),
    *(
        (
            kind,
            f"prompt{at}seed\na\rfox{at}7\n",
            2,
            "this is not CSV, and the rest was not read: a return, and no newline",
        )
        for kind, at in [("csv", ","), ("tsv", "\t")]
    ),
    *(
        ("csv", f"prompt;seed\n{error};7\n", 2, f"prompt is '{error}', a spreadsheet's error; mend the cell")
        for error in ["#NAME?", "#N/A", "#DIV/0!", "#ЗНАЧ!", "#NV", "Err:508"]
    ),
    ("csv", "prompt,note\nx,y\nprompt,note\n", 3, "this is the header once more"),
    ("csv", f"prompt,{'x' * 200_000}\na,b\n", 1, "this is not CSV, and the rest was not read: field larger than"),
    ("tsv", 'prompt\tseed\n"a fox\n"at night"\t7\n', 2, "this is not CSV, and the rest was not read: a quote opens a"),
    (
        "jsonl",
        f'{{"prompt": "x", "n": {"[" * 500}{"]" * 500}}}',
        1,
        "its lists and objects are nested more than 50 deep",
    ),
    *((kind, text, 0, "there is no prompt in it") for kind in KINDS for text in ("", "\ufeff", "\n\n \r\n")),
]


@pytest.mark.parametrize(("kind", "content", "line", "problem"), WRONG_FILES)
def test_what_is_wrong_with_a_file(kind: str, content: str, line: int, problem: str) -> None:
    """A header without prompts, a line of too many cells, a taken key, broken quotes: each is wrong at its line."""
    (bad,) = load(kind, content).check(admit)
    assert (bad.line, bad.problem[: len(problem)]) == (line, problem)


def test_an_object_is_not_mixed_with_what_is_none() -> None:
    """A line whose `extra` is no object is a bad line, also when `--extra` gives the others one."""
    file = load("jsonl", '{"prompt": "a fox", "extra": "steps"}')
    (bad,) = file.check(lambda request: admit(request, model="raw:any/model", extra={"steps": 4}))
    assert (bad.line, "extra='steps'" in bad.problem) == (1, True)


USELESS = {
    "p.txt": (b"a fox\na caf\xe9\n", r"p\.txt:2: the byte b'\\xe9' is not UTF-8; save the file as UTF-8, .*cp1252\."),
    "mac.txt": (b"a fox\ra caf\x8e\r", r"mac\.txt:2: the byte b'\\x8e' is not UTF-8; .*--encoding mac_roman\."),
    "short.txt": ("a fox\nлиса\n".encode("cp1251"), r"short\.txt:2: the byte .* --encoding gb18030, .*cp1251 or"),
    "kanji.txt": ("狐\n鷺\n".encode("shift_jis"), r"kanji\.txt:1: the byte .* --encoding gb18030, shift_jis"),
    "torn.txt": ("\ufeffa fox\n".encode("utf-16-le") + b"a", r"torn\.txt:2: the byte b'a' is not UTF-16; save the "),
    "p.csv": (b"prompt\nx\ny\n\xff\n", r"p\.csv:4: the byte b'\\xff' is not UTF-8"),
    "p.jsonl": (b'"x"\r\n"\xe9"\r\n', r"p\.jsonl:2: "),
    "p.tsv": (b"\n\xc3", r"p\.tsv:2: "),
    **{
        f"{number}.{name}.txt": (
            text.encode(name),
            rf"{name}\.txt is {name[:6].upper()} without a mark; save it as UTF-8, or say --encoding {name}\.",
        )
        for name in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
        for number, text in enumerate(["a red fox", "a fox\r\na heron\n", "红狐狸\n苍鹭\n"])
    },
    "none.txt": (None, r"none\.txt cannot be read: No such file"),
    "..": (None, r"\.\. cannot be read: Is a directory"),
    "prompts": (b"a fox", r"prompts: its name does not tell its kind \(\.txt, \.jsonl, \.csv, .*--format"),
    "prompts.xlsx": (b"a fox", r"prompts\.xlsx is a spreadsheet; save it as CSV"),
    "p.ndjson": (b'"a fox"', r"p\.ndjson is read as JSON lines; say --format jsonl"),
    "named.csv": (b"PK\3\4...", r"named\.csv is an archive; unpack it"),
    "renamed.csv": (b"\xd0\xcf\x11\xe0\xa1", r"renamed\.csv is a spreadsheet; save it as CSV"),
    "picture.txt": (b"\x89PNG\r\n\x1a\n\0\0", r"picture\.txt is no text but PNG; name a file of prompts"),
    "cut.csv.gz": (gzip.compress(b"prompt\na fox\n")[:-9], r"cut\.csv\.gz: its gzip is cut short or damaged"),
    "twice.txt.gz": (gzip.compress(gzip.compress(b"a fox")), r"twice\.txt\.gz is packed twice; unpack it once"),
    "bad.txt.gz": (b"\x1f\x8b\x08\0abc", r"bad\.txt\.gz: its gzip is cut short or damaged"),
    "p.parquet": (b"PAR1 and no more", r"p\.parquet is no whole Parquet file"),
}


@pytest.mark.parametrize(("name", "content", "told"), [(name, *each) for name, each in USELESS.items()], ids=USELESS)
def test_a_file_that_is_no_use(name: str, content: bytes | None, told: str) -> None:
    """A file that is missing, no UTF-8 or of no known kind is an error that names it, the place and the remedy."""
    if content is not None:
        Path(name).write_bytes(content)
    with pytest.raises(ConfigurationError, match=told):
        PromptFile(name)


AS_PEOPLE_HAVE_THEM = FILES["as people have them"]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
@pytest.mark.parametrize(("kind", "content", "told"), AS_PEOPLE_HAVE_THEM.values(), ids=AS_PEOPLE_HAVE_THEM)
def test_files_as_people_have_them(kind: str, content: str, told: list[Any], encoding: str, packed: bool) -> None:
    """What spreadsheets, data frames and old machines write is read, by its true line, marked UTF-16 or packed too."""
    data = content.encode(encoding)
    (request,) = good(load(f"{kind}.gz", gzip.compress(data)) if packed else load(kind, data))
    assert [request.prompt, request.seed, request.line] == told
    assert {name: value for name, value in request.columns.items() if value not in ("1", None)} in ({}, {"": "0"})


def test_a_table_of_arrow_is_a_prompt_file() -> None:
    """Parquet is read as any table is: by its columns' names, a missing number as none, dates as text."""
    columns = {
        "Prompt": ["a fox", "a dog"],
        "seed": [7.0, float("nan")],
        "on": [date(2026, 1, 2), None],
        "x": [[1], []],
        "odd": [{"took": timedelta(seconds=1), "raw": b"abc"}, None],
    }
    parquet.write_table(pyarrow.table(columns), "p.parquet")
    found = [(line.prompt, line.seed, line.line, line.columns) for line in good(PromptFile("p.parquet"))]
    odd = {"took": "0:00:01", "raw": "3 bytes"}
    first = ("a fox", 7, 1, {"on": "2026-01-02", "x": [1], "odd": odd})
    assert found == [first, ("a dog", None, 2, {"on": None, "x": [], "odd": None})]
    parquet.write_table(pyarrow.table({"prompt": [b"a fox", b"\xff"]}), "p.parquet")
    (bad,) = PromptFile("p.parquet").check(admit)
    assert (bad.line, bad.problem[:17]) == (2, "prompt=b'\\xff': a")
    parquet.write_table(pyarrow.table({"caption": ["a fox"]}), "p.parquet")
    assert [bad.problem for bad in PromptFile("p.parquet").check(admit)] == [
        "there is no column named prompt, only caption; did you mean 'caption'? Rename it to prompt"
    ]


def test_a_table_of_arrow_that_is_damaged_or_has_no_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be read of it is a bad line; without pyarrow the extra that brings it is named."""
    parquet.write_table(pyarrow.table({"prompt": [f"a fox {n}" for n in range(3000)]}), "p.parquet")
    for odd in (pyarrow.array([2**30], pyarrow.date32()), pyarrow.array([2**62], pyarrow.timestamp("us"))):
        parquet.write_table(pyarrow.table({"prompt": ["a fox"], "on": odd}), "odd.parquet")
        assert "the rest cannot be read" in next(bad.problem for bad in PromptFile("odd.parquet").check(admit))
    whole = bytearray(Path("p.parquet").read_bytes())
    whole[4:2000] = bytes(1996)
    Path("p.parquet").write_bytes(whole)
    assert "the rest cannot be read" in next(bad.problem for bad in PromptFile("p.parquet").check(admit))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'imagen-async\[export\]'"):
        PromptFile("p.parquet")


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "mac_roman", "utf-16-le", "cp500"])
def test_an_encoding_is_named(encoding: str) -> None:
    """A file is read in the encoding that is named; what it is not, and what is none, is an error that says so."""
    Path("p.csv").write_bytes("prompt,seed\na café,7\n".encode(encoding))
    assert prompts(PromptFile("p.csv", encoding=encoding)) == ["a café"]
    with pytest.raises(ConfigurationError, match=r"p\.csv:[12]: the byte .* is not big5; .* another --encoding"):
        PromptFile("p.csv", encoding="big5")
    for marked in ("utf-8-sig", "utf-16", "utf-32"):
        Path("p.txt").write_bytes("café\n".encode(marked))
        assert prompts(PromptFile("p.txt", encoding=marked)) == ["café"]
        with pytest.raises(
            ConfigurationError, match=rf"p\.txt is {marked[:5].upper()}.* by its mark, and not cp1252; leave"
        ):
            PromptFile("p.txt", encoding="cp1252")


@pytest.mark.parametrize("encoding", ["cp12525", "hex", "rot13", ""])
def test_no_encoding_of_text(encoding: str) -> None:
    """A name of none is an error that names some."""
    with pytest.raises(ConfigurationError, match=f"--encoding {encoding}: there is no such encoding of text.*cp1252"):
        PromptFile(load("txt", "a fox").name, encoding=encoding)


BROKEN_ARRAYS = FILES["broken arrays"]


@pytest.mark.parametrize(("content", "told"), BROKEN_ARRAYS.items(), ids=BROKEN_ARRAYS)
def test_an_array_that_is_broken(content: str, told: tuple[int, str]) -> None:
    """An array is read up to where it breaks, which is named by its line."""
    (bad,) = load("json", content).check(admit)
    assert (bad.line, bad.problem[: len(told[1])]) == tuple(told)


def test_a_mistake_of_every_line_is_told_once() -> None:
    """Lines that differ in nothing but what they say are one mistake, told with a count and three of them."""
    rows = "".join(f"a fox,x{number}\n" for number in range(1632))
    bad = load("csv", f"prompt,seed\n{rows}a dog,1,2\n").check(admit)
    seeds, cells, total = bad.text("p.csv", 1633)
    assert (seeds[:38], seeds[-18:]) == ("p.csv: 1,632 lines: seed='x0': allowed", " (lines 2, 3, 4 …)")
    assert (cells[:12], total) == ("p.csv:1634: ", "1,633 problems of 1,633 requests; nothing was sent.")


def test_mistakes_of_very_many_kinds_are_counted() -> None:
    """A hundred are told, and how many lines have any other."""
    wrong = "".join(f'{{"prompt": "x", "extra": {{"{chr(0x4E00 + n)}": 1}}}}\n' for n in range(300))
    told = load("jsonl", wrong).check(admit).text("p.jsonl", 300)
    assert (len(told), told[100]) == (102, "p.jsonl: 200 other lines with other problems")


def test_a_column_that_looks_misspelt() -> None:
    """A column whose name is nearly a field's is pointed out; one of a name of its own is not."""
    file = load("csv", "prompt,aspect ratio,numimages,Negative-Prompt,id,Challenge,note,seed\na fox\nx,1,2,3,4,5,6,\n")
    fields = {"aspect ratio": "aspect_ratio", "numimages": "num_images", "Negative-Prompt": "negative_prompt"}
    assert (list(file.check(admit)), dict(file.odd_columns())) == ([], fields)


PLAIN = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufeff\ufffe\uffff")
TEXT = st.builds("a{}".format, st.text(PLAIN, max_size=40))


@given(st.lists(TEXT.filter(str.strip), min_size=1, max_size=8))
@settings(max_examples=40)
def test_prompts_survive_the_way_through_a_file(lines: list[str]) -> None:
    """Any prompts without newlines come out of .jsonl and .csv and, without tabs, .tsv as they went in, but trimmed."""
    spreadsheet = io.StringIO()
    csv.writer(spreadsheet).writerows([("id", "prompt"), *enumerate(lines)])
    files = {"jsonl": "\n".join(map(json.dumps, lines)), "csv": spreadsheet.getvalue()}
    if "\t" not in "".join(lines):
        # As PartiPrompts is: without quoting.
        files["tsv"] = "\n".join(["Prompt\tid", *(f"{line}\t1" for line in lines)])
    expected = [line.strip() for line in lines]
    assert {kind: prompts(load(kind, content)) for kind, content in files.items()} == dict.fromkeys(files, expected)


BEGINNINGS = st.sampled_from([b"", b'prompt,seed,extra\n"', b"prompt\tkey\tseed\n", b'{"prompt": ', b'"'])
TEXTS = st.text('prompt,seed\ta"\n\r {}[]:\\17²٣\u2028-', max_size=60).map(str.encode)
ANYTHING = st.builds(bytes.__add__, BEGINNINGS, st.binary(max_size=60) | TEXTS)


@given(ANYTHING, st.sampled_from([*KINDS, "json"]))
@settings(max_examples=150)
def test_any_bytes_are_prompts_or_a_named_problem(content: bytes, kind: str) -> None:
    """Whatever a file holds, it is requests with keys of their own, or problems with a line, or one of our errors."""
    try:
        file = load(kind, content)
    except ConfigurationError:
        if b"\0" not in content and content[:2] not in (b"\xff\xfe", b"\xfe\xff"):
            with pytest.raises(UnicodeDecodeError):
                content.decode()
        return
    bad = file.check(admit)
    assert all(isinstance(line, BadLine) and line.problem for line in bad)
    assert all(0 <= line.line <= content.count(b"\n") + content.count(b"\r") + 1 for line in bad)
    if not bad:
        requests = list(file)
        assert len(requests) == len(file) > 0
