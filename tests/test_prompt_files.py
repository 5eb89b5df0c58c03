"""Prompt files: what each kind says, what is refused and by which line number, and keys that stay."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import naming
from hypothesis import given, settings
from hypothesis import strategies as st

from imagen_async import ImageRequest
from imagen_async._cli._prompt_files import BadLine, PromptFile, PromptLine
from imagen_async._core.routing import Router
from imagen_async._job_factory import with_defaults
from imagen_async.errors import ConfigurationError
from imagen_async.providers import PROVIDERS

KINDS = ("txt", "jsonl", "csv", "tsv")

ROUTER = Router({"sandbox": PROVIDERS["sandbox"]})

Load = Callable[..., PromptFile]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Write a prompt file and open it."""

    def write(name: str, content: str | bytes, limit: int | None = None) -> PromptFile:
        path = tmp_path / name
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


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.txt", "a fox\na dog\n"),
        ("p.TXT", "a fox\na dog"),
        ("p.jsonl", '{"prompt": "a fox"}\n{"prompt": "a dog"}\n'),
        ("p.jsonl", '"a fox"\n"a dog"\n'),
        ("p.csv", "prompt\na fox\na dog\n"),
        ("p.csv", 'prompt\n"a fox"\n"a dog"'),
        ("p.tsv", "id\tprompt\n1\ta fox\n2\ta dog\n"),
        ("p.txt", "\ufeffa fox\na dog\n"),
        ("p.csv", "\ufeffprompt\na fox\na dog\n"),
        ("p.jsonl", '\ufeff"a fox"\n"a dog"'),
        ("p.tsv", "\ufeffprompt\tid\na fox\t1\na dog\t2"),
        ("p.txt", "a fox\r\na dog\r\n"),
        ("p.jsonl", '"a fox"\r\n"a dog"\r\n'),
        ("p.csv", "prompt,id\r\na fox,1\r\na dog,2\r\n"),
        ("p.tsv", "id\tprompt\r\n1\ta fox\r\n2\ta dog\r\n"),
        ("p.txt", "\n  a fox  \n\n \t \na dog\n\n"),
        ("p.jsonl", '\n"a fox"\n \n"  a dog"\n\n'),
        ("p.csv", "\nprompt\n\na fox\n , \na dog\n\n".replace(" , ", "  ")),
        ("p.tsv", "\nprompt\tid\n\na fox\t1\n \t \na dog\t2\n\n"),
    ],
)
def test_each_kind_gives_its_prompts(load: Load, name: str, content: str) -> None:
    """Every kind gives its prompts in order, with or without a BOM, CRLF, blank lines or a last newline."""
    assert prompts(load(name, content)) == ["a fox", "a dog"]


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_stdin_is_a_file_too(monkeypatch: pytest.MonkeyPatch, kind: str | None) -> None:
    """`-` reads stdin, as lines of text unless another kind is named."""
    text = {"jsonl": '"a fox"\n', "csv": "seed,prompt\n7,a fox\n", "tsv": "prompt\tseed\na fox\t7\n"}.get(
        kind or "txt", "a fox\n"
    )
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    file = PromptFile("-", kind)
    assert file.name == "stdin"
    assert prompts(file) == ["a fox"]


def test_a_line_that_starts_with_a_hash_is_a_prompt(load: Load) -> None:
    """Comments are no feature."""
    assert prompts(load("p.txt", "# a heading\n#2\n")) == ["# a heading", "#2"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.csv", "PROMPT,Model,Aspect_Ratio,SEED,Num_Images,KEY\na fox,imagen4-fast,16:9,7,2,k1\n"),
        ("p.tsv", "PROMPT\tModel\tAspect_Ratio\tSEED\tNum_Images\tKEY\na fox\timagen4-fast\t16:9\t7\t2\tk1\n"),
        (
            "p.jsonl",
            '{"PROMPT": "a fox", "Model": "imagen4-fast", "Aspect_Ratio": "16:9", "SEED": 7, "Num_Images": 2,'
            ' "KEY": "k1"}',
        ),
    ],
)
def test_columns_are_named_in_any_case(load: Load, name: str, content: str) -> None:
    """A column named like a field of ImageRequest is that field, whatever its case, and a number in it is one."""
    (request,) = good(load(name, content))
    assert (request.prompt, request.model, request.aspect_ratio) == ("a fox", "imagen4-fast", "16:9")
    assert (request.seed, request.num_images, request.key) == (7, 2, "k1")
    assert request.columns == {}


def test_extra_of_a_table_is_json(load: Load) -> None:
    """A provider's own fields stand in a cell as a JSON object."""
    (request,) = good(load("p.csv", 'prompt,model,extra\na fox,raw:any/model,"{""steps"": 4}"\n'))
    assert request.extra == {"steps": 4}


def test_other_columns_pass_through(load: Load) -> None:
    """A column that is no field is kept as it stands: its name's case, its value's spaces and, in JSON, its type."""
    (request,) = good(load("p.csv", "prompt,Category,note\na fox,Animals, wild \n"))
    assert request.columns == {"Category": "Animals", "note": " wild "}
    (request,) = good(load("p.jsonl", '{"prompt": "a fox", "Category": ["a", 1], "note": null}'))
    assert request.columns == {"Category": ["a", 1], "note": None}


def test_an_empty_cell_is_nothing(load: Load) -> None:
    """Empty and missing cells leave a field to the defaults."""
    first, second = good(load("p.csv", "prompt,model,seed,extra,key,note\na fox,,,,,\na dog\n"))
    for request in (first, second):
        assert (request.model, request.seed, request.extra) == (None, None, {})
    assert first.key != second.key


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("p.txt", b"a fox\na caf\xe9\n", 2),
        ("p.csv", b"prompt\nx\ny\n\xff\n", 4),
        ("p.jsonl", b'"x"\r\n"\xe9"\r\n', 2),
        ("p.tsv", b"\xc3", 1),
    ],
)
def test_bad_utf8_is_named_by_its_line(load: Load, name: str, content: bytes, line: int) -> None:
    """A byte that is no UTF-8 is an error that names file, line and remedy."""
    with pytest.raises(ConfigurationError, match=rf"{name}:{line}: .*save the file as UTF-8"):
        load(name, content)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_is_told_by_its_mark(load: Load, encoding: str) -> None:
    """A UTF-16 file, as some spreadsheets write, is refused by that name."""
    with pytest.raises(ConfigurationError, match=r"is UTF-16; save it as UTF-8"):
        load("p.csv", "\ufeffprompt\na fox\n".encode(encoding))


@pytest.mark.parametrize("name", [f"p.{kind}" for kind in KINDS])
@pytest.mark.parametrize("content", ["", "\ufeff", "\n\n \r\n"])
def test_an_empty_file_is_wrong(load: Load, name: str, content: str) -> None:
    """A file without a single prompt is refused, not run as a batch of nothing."""
    assert wrong(load(name, content)) == [(0, "there is no prompt in it")]


def test_a_header_alone_is_an_empty_file(load: Load) -> None:
    """A table of a header alone holds no prompt."""
    assert wrong(load("p.csv", "prompt,seed\n")) == [(0, "there is no prompt in it")]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """A missing file is an error that names it and the system's reason."""
    with pytest.raises(ConfigurationError, match=r"none\.txt cannot be read: No such file"):
        PromptFile(str(tmp_path / "none.txt"))


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    """A folder in the file's place is an error that names it."""
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(ConfigurationError, match=r"folder\.txt cannot be read: Is a directory"):
        PromptFile(str(tmp_path / "folder.txt"))


@pytest.mark.parametrize("name", ["prompts", "prompts.xlsx"])
def test_an_unknown_kind_names_the_known_ones(tmp_path: Path, name: str) -> None:
    """A name that tells no kind is an error that lists the kinds and the option."""
    (tmp_path / name).write_text("a fox")
    with pytest.raises(ConfigurationError, match=rf"{name}: .*\.txt, \.jsonl, \.csv, \.tsv.*--format"):
        PromptFile(str(tmp_path / name))


def test_the_kind_may_be_named(tmp_path: Path) -> None:
    """A named kind wins over the file's name."""
    path = tmp_path / "prompts.txt"
    path.write_text("prompt,seed\na fox,7\n")
    assert [request.seed for request in good(PromptFile(str(path), "csv"))] == [7]


@pytest.mark.parametrize(("name", "header"), [("p.csv", "Promt,Category"), ("p.tsv", "Promt\tCategory")])
def test_a_table_without_prompts_names_its_columns(load: Load, name: str, header: str) -> None:
    """A table without a prompt column is wrong at its header, with the columns that it has."""
    ((line, problem),) = wrong(load(name, f"\n{header}\nx\n"))
    assert line == 2
    assert problem == "there is no column named prompt, only Promt, Category"


@pytest.mark.parametrize(("name", "gap"), [("p.csv", ","), ("p.tsv", "\t")])
def test_two_columns_of_one_name(load: Load, name: str, gap: str) -> None:
    """Two columns of one name, case aside, are wrong: nobody knows which is meant."""
    assert wrong(load(name, f"prompt{gap}Seed{gap}SEED\nx{gap}1{gap}2\n")) == [(1, "two columns are named 'seed'")]


@pytest.mark.parametrize(("name", "gap"), [("p.csv", ","), ("p.tsv", "\t")])
def test_too_many_fields(load: Load, name: str, gap: str) -> None:
    """A line of more fields than columns, as an unquoted comma makes, is wrong; the lines after it are read."""
    found = wrong(load(name, f"prompt{gap}seed\na fox{gap}1\na dog{gap} wet{gap}2\nan owl{gap}three\n"))
    assert [line for line, _ in found] == [3, 4]
    assert found[0][1] == "there are 3 fields under 2 columns"


def test_every_bad_line_of_a_file_is_named(load: Load) -> None:
    """One look finds all that is wrong, each with its line number, and leaves the good lines alone."""
    lines = [
        '{"prompt": "fine"}',
        '{"prompt": "no end',
        '["a list"]',
        '{"prompt": "two", "model": "imagen4-fast", "num_images": "two"}',
        "",
        '{"seed": 7}',
        '{"prompt": 5}',
        '{"prompt": "  "}',
        '{"prompt": "x", "seed": 1.5}',
        '{"prompt": "x", "seed": true}',
        '{"prompt": "x", "model": 4}',
        '{"prompt": "x", "model": "imagen5"}',
        '{"prompt": "x", "aspect_ratio": "2:1"}',
        '{"prompt": "x", "extra": "steps"}',
        '{"prompt": "x", "extra": {"steps": 4}}',
        '{"prompt": "x", "num_images": 2}',
        "null",
        '{"prompt": "fine too", "aspect_ratio": "9:16"}',
    ]
    found = dict(wrong(load("p.jsonl", "\n".join(lines))))
    words = {
        2: "not JSON",
        3: "must be a JSON object",
        4: "num_images='two': allowed is a whole number from 1 to 4",
        6: "there is no prompt",
        7: "prompt=5: allowed is a non-empty string",
        8: "prompt='': allowed is a non-empty string",
        9: "seed=1.5: allowed is a whole number",
        10: "seed=True: allowed is a whole number",
        11: "model=4",
        12: "imagen4-fast",
        13: "aspect_ratio='2:1': allowed is one of 1:1, 16:9, 9:16, 3:4, 4:3",
        14: "extra='steps'",
        15: "steps=4: imagen4 has no such parameter",
        16: "imagen4-fast",
        17: "must be a JSON object",
    }
    assert list(found) == list(words)
    assert {line: word for line, word in words.items() if word not in found[line]} == {}


@pytest.mark.parametrize(("name", "gap"), [("p.csv", ","), ("p.tsv", "\t")])
def test_a_word_in_the_place_of_a_number(load: Load, name: str, gap: str) -> None:
    """A cell that should be a number and is none is wrong, and shown as it stands."""
    header = gap.join(("prompt", "model", "num_images", "seed"))
    row = gap.join(("a fox", "imagen4-fast", "two", "7.0"))
    ((line, problem),) = wrong(load(name, f"{header}\n{row}\n"))
    assert line == 2
    assert "num_images='two': allowed is a whole number from 1 to 4" in problem
    assert "seed='7.0': allowed is a whole number" in problem


@pytest.mark.parametrize("depth", [100_000])
def test_json_too_deep_is_a_bad_line(load: Load, depth: int) -> None:
    """JSON nested beyond reason is a bad line, not a crash."""
    ((line, problem),) = wrong(load("p.jsonl", '"fine"\n' + "[" * depth))
    assert line == 2
    assert "not JSON" in problem


def test_a_number_of_too_many_digits_is_a_bad_line(load: Load) -> None:
    """A cell of thousands of digits is a bad line, not a crash."""
    ((line, problem),) = wrong(load("p.csv", f"prompt,seed\na fox,{'1' * 5000}\n"))
    assert line == 2
    assert "seed" in problem


def test_extra_of_a_wrong_type_under_extra_defaults(load: Load) -> None:
    """A line whose `extra` is no object is a bad line, also when `--extra` gives the others one."""
    defaults = ImageRequest("-", model="raw:any/model", extra={"steps": 4})
    file = load("p.jsonl", '{"prompt": "a fox", "extra": "steps"}')
    (bad,) = file.check(lambda request: ROUTER.route(with_defaults(request, defaults)))
    assert bad.line == 1
    assert "extra='steps'" in bad.problem


@pytest.mark.parametrize(
    "line",
    [
        r'{"prompt": "a \ud800"}',
        r'{"prompt": "a \ud800", "model": "raw:any/model"}',
        r'{"prompt": "a fox", "key": "\ud800"}',
        r'{"prompt": "a fox", "note": "\ud800"}',
    ],
)
def test_half_a_character_is_a_bad_line(load: Load, line: str) -> None:
    """Half a surrogate pair, which no UTF-8 file can hold, is found before a cent is spent, wherever it stands."""
    assert [number for number, _ in wrong(load("p.jsonl", f'"fine"\n{line}\n'))] == [2]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.jsonl", '{"prompt": "x", "key": "k"}\n"y"\n{"prompt": "z", "key": "k"}\n'),
        ("p.csv", "prompt,key\nx,k\n\nz,k\n".replace("\n\n", "\ny,\n")),
        ("p.tsv", "prompt\tkey\nx\tk\ny\t\nz\tk\n"),
    ],
)
def test_two_lines_of_one_key(load: Load, name: str, content: str) -> None:
    """A key that is taken is wrong, and the message names both lines."""
    first = 1 if name == "p.jsonl" else 2
    assert wrong(load(name, content)) == [(first + 2, f"key 'k' is taken by line {first}; keys must differ")]


def test_a_number_is_a_key_as_text(load: Load) -> None:
    """A number as a key is the same key as its digits, so that JSON and CSV agree."""
    assert [line for line, _ in wrong(load("p.jsonl", '{"prompt": "x", "key": 1}\n{"prompt": "y", "key": "1"}'))] == [2]
    assert [request.key for request in good(load("q.jsonl", '{"prompt": "x", "key": 12}'))] == ["12"]


SEPARATORS = ["\u2028", "\u2029", "\x0b", "\x0c", "\x85", "\x1c", "\x1e"]


@pytest.mark.parametrize("kind", KINDS)
def test_only_newlines_end_a_line(load: Load, kind: str) -> None:
    """Unicode's other line separators are part of a prompt, and do not shift the numbers of the lines after it."""
    for separator in SEPARATORS:
        with naming(separator):
            prompt = f"a fox{separator}at night"
            header, line = {
                "txt": ("", prompt),
                "jsonl": ("", json.dumps(prompt, ensure_ascii=False) if separator > "\x1f" else json.dumps(prompt)),
                "csv": ("prompt\n", prompt),
                "tsv": ("prompt\n", prompt),
            }[kind]
            first, second = good(load(f"p.{kind}", f"{header}{line}\n{line.replace('fox', 'dog')}\n"))
            assert (first.prompt, second.prompt) == (prompt, prompt.replace("fox", "dog"))
            assert second.line == first.line + 1 == 2 + bool(header)


def test_quotation_marks_in_tsv_are_part_of_the_prompt(load: Load) -> None:
    """Tab-separated text has no quoting: one mark, two marks or a pair are all the prompt's own."""
    lines = ['"a fox" says', 'the word "START"', '"', '"quoted"', 'a ""b""']
    assert prompts(load("p.tsv", "Prompt\tn\n" + "".join(f"{line}\t1\n" for line in lines))) == lines


def test_quoted_fields_of_csv_may_hold_lines(load: Load) -> None:
    """A quoted field may hold commas, quotes and newlines, and the lines after it keep their numbers."""
    text = 'prompt,seed\n"a fox,\n""red"",\nat night",7\na dog,two\n"an\nowl",three\n'
    file = load("p.csv", text)
    assert file.check(lambda request: None) == []
    first, *rest = file
    assert (first.prompt, first.seed) == ('a fox,\n"red",\nat night', 7)
    numbers = [line for line, _ in wrong(load("p.csv", text))]
    assert numbers[0] == 5
    assert numbers[1] in (6, 7), "a record of two lines is named by one of them"
    assert len(rest) == len(numbers) == 2


@pytest.mark.parametrize(("broken", "first"), [('"a fox\nand no end', 2), ('a fox\n"a dog" x\n', 3)])
def test_broken_quotes_of_csv(load: Load, broken: str, first: int) -> None:
    """Quotes that do not close, or close too early, are a bad line and not a prompt of half the file."""
    ((line, problem),) = wrong(load("p.csv", f"prompt\n{broken}"))
    assert line == first
    assert "not CSV" in problem


def test_a_limit_takes_the_first_requests(load: Load) -> None:
    """A limit counts requests, not lines, and does not look behind the last of them."""
    assert prompts(load("p.txt", "a\n\n\nb\nc\n", limit=2)) == ["a", "b"]
    assert prompts(load("p.csv", "prompt,seed\n\na,1\nb,two\n", limit=1)) == ["a"]
    assert wrong(load("p.csv", "prompt,seed\n\na,1\nb,two\n", limit=2))[0][0] == 4
    assert prompts(load("p.txt", "a\nb\n", limit=9)) == ["a", "b"]


def test_the_second_of_two_like_lines_has_a_key_of_its_own(load: Load) -> None:
    """Lines that say the same have the same key, numbered from the second on."""
    first, other, second, third = (request.key for request in good(load("p.txt", "a fox\na dog\na fox\na fox\n")))
    assert first != other
    assert (second, third) == (f"{first}-2", f"{first}-3")


def test_a_key_is_made_of_what_is_asked_for(load: Load) -> None:
    """A key does not depend on the file's kind or on its other columns; it does on every field of the request."""
    plain = good(load("p.txt", "a fox\n"))[0].key
    assert good(load("p.csv", "id,prompt\n77,a fox\n"))[0].key == plain
    assert good(load("p.jsonl", '{"note": "x", "prompt": " a fox "}'))[0].key == plain
    changes = ['"seed": 1', '"seed": 2', '"aspect_ratio": "16:9"', '"model": "imagen4-fast"', '"negative_prompt": "x"']
    changed = good(load("q.jsonl", "\n".join(f'{{"prompt": "a fox", {change}}}' for change in changes)))
    assert len({plain, *(request.key for request in changed)}) == 6


@given(st.data(), st.lists(st.sampled_from(["a fox", "a dog", "an owl", "# 1"]), min_size=1, max_size=12))
@settings(deadline=None, max_examples=50)
def test_reordering_a_file_changes_no_key(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, lines: list[str]
) -> None:
    """The same lines in another order have the same keys, each prompt its own."""
    path = tmp_path_factory.getbasetemp() / "reordered.txt"

    def pairs(order: list[str]) -> set[tuple[str, str | None]]:
        path.write_text("\n".join(order))
        return {(request.prompt, request.key) for request in good(PromptFile(str(path)))}

    found = pairs(lines)
    assert len(found) == len(lines)
    assert pairs(data.draw(st.permutations(lines))) == found


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("prompt,aspect ratio", [("aspect ratio", "aspect_ratio")]),
        ("prompt,Negative-Prompt,numimages", [("Negative-Prompt", "negative_prompt"), ("numimages", "num_images")]),
        ("prompt,category,id,Challenge,note", []),
        ("prompt,seed,model", []),
    ],
)
def test_a_column_that_looks_misspelt(load: Load, header: str, expected: list[tuple[str, str]]) -> None:
    """A column whose name is nearly a field's is pointed out; one of a name of its own is not."""
    file = load("p.csv", f"{header}\na fox{',' * header.count(',')}\n")
    assert prompts(file) == ["a fox"]
    assert file.odd_columns() == expected


def test_a_misspelt_column_above_a_short_line(load: Load) -> None:
    """A column that looks misspelt is pointed out also when the first line has no cell for it."""
    file = load("p.csv", "prompt,aspect ratio\na fox\na dog,16:9\n")
    assert file.odd_columns() == [("aspect ratio", "aspect_ratio")]


PROMPT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), min_size=1, max_size=40).filter(
    str.strip
)


def in_jsonl(lines: list[str]) -> str:
    """As a program that knows JSON writes it."""
    return "".join(json.dumps({"prompt": line}, ensure_ascii=False) + "\n" for line in lines)


def in_csv(lines: list[str]) -> str:
    """As a spreadsheet writes it."""
    out = io.StringIO()
    csv.writer(out).writerows([["id", "prompt"], *([number, line] for number, line in enumerate(lines))])
    return out.getvalue()


def in_tsv(lines: list[str]) -> str:
    """As PartiPrompts is written: no quoting."""
    return "".join(f"{line}\n" for line in ["Prompt\tid", *(f"{line}\t1" for line in lines)])


@given(st.lists(PROMPT, min_size=1, max_size=8))
@settings(deadline=None, max_examples=60)
def test_prompts_survive_the_way_through_a_file(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    """Any prompts without newlines come out of .jsonl and .csv and, without tabs, .tsv as they went in, but trimmed."""
    wanted = [line.strip() for line in lines]
    ways = [("jsonl", in_jsonl), ("csv", in_csv)]
    if not any("\t" in line for line in lines):
        ways.append(("tsv", in_tsv))
    for kind, written in ways:
        path = tmp_path_factory.getbasetemp() / f"round.{kind}"
        path.write_bytes(written(lines).encode())
        assert prompts(PromptFile(str(path))) == wanted, kind


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
@settings(deadline=None, max_examples=200)
def test_any_bytes_are_prompts_or_a_named_problem(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, kind: str
) -> None:
    """Whatever a file holds, it is requests with keys of their own, or problems with a line, or one of our errors."""
    path = tmp_path_factory.getbasetemp() / f"anything.{kind}"
    path.write_bytes(content)
    try:
        file = PromptFile(str(path))
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
