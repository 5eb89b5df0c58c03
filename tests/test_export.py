"""Exports: the real libraries load them back, byte for byte, and the folder itself stays an ImageFolder."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from commands import Call, at, call, clean_environment, data, lines_of, prompt_file
from conftest import naming
from hypothesis import given
from hypothesis import strategies as st
from inner import Dealer, Journal, JournalReader, ShardSize, main, shards_of

from imagen_async import ConfigurationError, ImageFile, ImageRequest
from imagen_async._cli.export import FORMATS, folder
from imagen_async._cli.export.columns import columns_of
from imagen_async._cli.export.samples import Sample, Samples
from imagen_async.ports import JournalEntry
from imagen_async.sandbox import Latency, Sandbox
from imagen_async.testing import running_sandbox

__all__ = ["call", "clean_environment"]

ROWS = """\
{"prompt": "a red fox", "seed": 7, "category": "Animals", "score": 1, "image": "a.png", "is_new": true}
{"prompt": "two foxes", "num_images": 2, "model": "seedream-4", "category": "日本", "score": 1.5, "is_new": false}
{"prompt": "training a train.test", "negative_prompt": "mud, \\"rain\\"", "tags": ["x", "日"], "score": null}
{"prompt": "it fails", "category": 3}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four pictures of three requests, and one that failed; with a gallery beside them."""
    place = tmp_path_factory.mktemp("made")
    (place / "prompts.jsonl").write_text(ROWS)
    with running_sandbox(Sandbox(latency=Latency(0.01, minimum=0))) as sandbox:
        sandbox.order("task", None, None, None, "fail_word")
        words = (*at(sandbox), "--running", "1", "--freshness", "0.001", "--gallery", "-q", "-o", str(place / "out"))
        assert main(("batch", str(place / "prompts.jsonl"), *words)) == 1
    return place / "out"


@pytest.fixture
def out(made: Path, clean_environment: None) -> Path:
    """A copy of it in the working folder."""
    return Path(shutil.copytree(made, "out"))


# webdataset closes its files when they are collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_webdataset_loads_the_shards(call: Call, out: Path) -> None:
    """Every picture is a sample with its bytes, its prompt and its line, in shards of the size that was asked for."""
    import webdataset

    outcome = call("export", "out", "--to", "webdataset", "--shard-size", "3")
    paths = [str(Path.cwd() / "out-webdataset" / f"shard-00000{number}.tar") for number in range(2)]
    assert (outcome.code, outcome.err, outcome.lines) == (0, "4 pictures in 2 shards\n", paths)
    metadata = {line["sha256"]: line for line in lines_of(out / "metadata.jsonl")}
    samples = {
        hashlib.sha256(each["png"]).hexdigest(): each for each in webdataset.WebDataset(paths, shardshuffle=False)
    }
    assert (samples.keys(), len(samples)) == (metadata.keys(), 4)
    for picture, line in metadata.items():
        assert (json.loads(samples[picture]["json"]), samples[picture]["txt"].decode()) == (line, line["prompt"])
        assert samples[picture]["__key__"].endswith(Path(line["file_name"]).stem)


@pytest.mark.slow
def test_datasets_loads_the_parquet_and_the_folder(call: Call, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parquet has an Image column and typed ones beside it; the folder, gallery and all, is an ImageFolder still."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shards = call("export", "out", "--to", "parquet", "--shard-size", "3", "-o", "table").lines
    assert [Path(line).name for line in shards] == [f"train-0000{n}-of-00002.parquet" for n in range(2)]
    from datasets import Image, Value, load_dataset
    from pyarrow import parquet

    table = load_dataset("parquet", data_files=shards, split="train", cache_dir="cache")
    types = {"prompt": "string", "seed": "int64", "score": "float64", "category": "string", "tags": "string"}
    expected = {name: Value(kind) for name, kind in {**types, "is_new": "bool"}.items()}
    assert {name: table.features[name] for name in expected} == expected
    assert isinstance(table.features["image"], Image)
    metadata = {line["sha256"]: line for line in lines_of(out / "metadata.jsonl")}
    assert {row["sha256"] for row in table} == set(metadata)
    for row in table:
        line = metadata[row["sha256"]]
        tags = None if line.get("tags") is None else json.dumps(line["tags"], ensure_ascii=False)
        same = {name: line[name] for name in ("prompt", "key", "credits", "index")}
        assert {**row, **same, "input_image": line.get("input_image"), "tags": tags} == row
        assert row["image"].size == (line["width"], line["height"])
    stored = [image for path in shards for image in parquet.read_table(path)["image"].to_pylist()]
    assert {hashlib.sha256(image["bytes"]).hexdigest() for image in stored} == set(metadata)
    pictures = load_dataset("imagefolder", data_dir="out", split="train", cache_dir="cache")
    assert sorted(row["prompt"] for row in pictures) == sorted(line["prompt"] for line in metadata.values())
    assert all(row["image"].size == (row["width"], row["height"]) for row in pictures)


COLUMNS: dict[str, tuple[list[Any], str, list[Any]]] = {
    "file_name": (["a.png", "b.png"], "input_file_name_", ["a.png", "b.png"]),
    "file_names": ([["a.png"], ["b.png"]], "file_names_", [["a.png"], ["b.png"]]),
    "thumb_file_name": (["a.png", None], "thumb_file_name_", ["a.png", None]),
    "thumb_file_name_": (["a", "b"], "thumb_file_name_", ["a", "b"]),
    "_file_names": ([[], ["b.png"]], "_file_names_", [[], ["b.png"]]),
    "image": (["a.png", 1], "input_image", ["a.png", "1"]),
    "input_image": ([1, 2], "input_image", [1, 2]),
    "sha256": (["x", "y"], "input_sha256", ["x", "y"]),
    "": (["0", "1"], "", ["0", "1"]),
    "_type": (["Image", "Value"], "_type", ["Image", "Value"]),
    "tag": ([1, "one"], "tag", ["1", "one"]),
    "flag": ([True, 1], "flag", ["true", "1"]),
    "tags": ([["a"], "a"], "tags", ['["a"]', "a"]),
    "mixed": ([["a", 1], ["a"]], "mixed", ['["a", 1]', '["a"]']),
    "gaps": ([[None], [None, "a"]], "gaps", ["[null]", '[null, "a"]']),
    "objects": ([{"a": 1}, {"b": [1]}], "objects", ['{"a": 1}', '{"b": [1]}']),
    "alike": ([{"a": 1, "b": None}, {"a": 2, "b": "x"}], "alike", [{"a": 1, "b": None}, {"a": 2, "b": "x"}]),
    "empty": ([{}, None], "empty", ["{}", None]),
    "inner": ([{"file_name": "a.png"}] * 2, "inner", ['{"file_name": "a.png"}'] * 2),
    "large": ([2**64 - 1, 1], "large", [str(2**64 - 1), "1"]),
    "float": ([1, 1.5], "float", [1.0, 1.5]),
    "float of a large": ([2**60, 1.5], "float of a large", [str(2**60), "1.5"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("clashing", [set(), {"thumb_file_name_", "input_image"}], ids=["alone", "beside such a name"])
def test_whatever_columns_come_the_folder_loads(
    call: Call, imagen_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, clashing: set[str]
) -> None:
    """A column that `datasets` would take for pictures has another name, one of several types is text: it all loads."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from datasets import load_dataset

    given = COLUMNS.keys() - ({"thumb_file_name_", "input_image"} - clashing)
    rows = [{"prompt": f"fox {number}", **{name: COLUMNS[name][0][number] for name in given}} for number in (0, 1)]
    Path("p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert call("batch", "p.jsonl", *at(imagen_sandbox), "-q", "-o", "out").code == 0
    table = load_dataset("imagefolder", data_dir="out", split="train", cache_dir="cache")
    pictures = sorted(table, key=lambda row: row["prompt"])
    assert [row["prompt"] for row in pictures] == ["fox 0", "fox 1"]
    assert all(row["image"].size == (row["width"], row["height"]) for row in pictures)
    for name in given:
        listed = COLUMNS[name][1] + "_" * (bool(clashing) and name in ("thumb_file_name", "image"))
        assert [row[listed] for row in pictures] == COLUMNS[name][2], name


@pytest.mark.slow
def test_a_long_list_begins_with_what_tells_its_types(
    call: Call, imagen_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`datasets` looks at its first 10 MB: what a column has but further on is not lost, and no reason not to load."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from datasets import load_dataset

    first = {"prompt": "fox 0", "pad": "x" * (11 << 20), "tags": [], "when": "2026-01-01"}
    rows = [first, {"prompt": "fox 1", "seed": 7, "tags": ["a"], "when": "soon"}]
    Path("p.jsonl").write_text("\n".join(map(json.dumps, [*rows, {"prompt": "fox 2", "late": {"a": None}}])))
    for limit in (1, 2, 3):
        assert call("batch", "p.jsonl", *at(imagen_sandbox), "-q", "-o", "out", f"--limit={limit}").code == 0
    listed = lines_of(Path("out/metadata.jsonl"))
    assert sorted(line["prompt"] for line in listed) == ["fox 0", "fox 1", "fox 2"]
    table = load_dataset("imagefolder", data_dir="out", split="train", cache_dir="cache")
    names = ("seed", "tags", "late", "when")
    found = {row["prompt"][-1]: [row[name] for name in names] for row in table.remove_columns(["pad", "image"])}
    late = {"a": None}
    assert found == {"0": [None, [], None, "2026-01-01"], "1": [7, ["a"], None, "soon"], "2": [None, None, late, None]}


def test_the_lists_follow_the_file_as_it_is_now(call: Call, imagen_sandbox: Sandbox) -> None:
    """An edited column, and a line's new place, are in the lists after the next run, also of earlier results."""
    words = ("batch", "p.csv", *at(imagen_sandbox), "-q", "-o", "out")
    imagen_sandbox.order("task", None, "fail_word")
    for content in ("prompt,n\na fox,1\na dog,1\n", "prompt,n,new\na cow,one,x\na dog,2,\na fox,1,y\n"):
        Path("p.csv").write_text(content)
        call(*words)
    assert len(imagen_sandbox.ledger.tasks) == 3
    lists = [lines_of(Path("out", name)) for name in ("metadata.jsonl", "failures.jsonl")]
    told = {line["prompt"]: (line["n"], line["new"], line.get("line")) for lines in lists for line in lines}
    failed = "a dog" if "a dog" in [line["prompt"] for line in lists[1]] else "a fox"
    expected = {"a cow": ("one", "x", 2), "a dog": ("2", None, 3), "a fox": ("1", "y", 4)}
    assert told == {name: each if name == failed else (*each[:2], None) for name, each in expected.items()}


def test_the_same_pictures_make_the_same_shards(call: Call, out: Path) -> None:
    """An export is replaced by the next one, byte for byte where nothing changed; no shard of the old one is left."""
    words = ("export", "out", "--to", "webdataset", "-o", "there")
    first, again = ([Path(line).read_bytes() for line in call(*words, "--shard-size", "1").lines] for _ in range(2))
    assert again == first
    (whole,) = call(*words).lines
    assert set(os.listdir("there")) == {folder.MARK, Path(whole).name}
    with tarfile.open(whole) as tar:
        assert [(member.mtime, member.uid, member.uname) for member in tar] == [(0, 0, "")] * 12


def test_spoilt_pictures_are_left_out_and_what_has_them_stays(call: Call, out: Path) -> None:
    """Changed pictures are named, removed ones counted, both left out; an export that has them is not replaced."""
    words = ("export", "out", "--to", "webdataset", "-o")
    (whole,) = map(Path, call(*words, "whole").lines)
    before = whole.read_bytes()
    gone, changed, *others = sorted(out.glob("*.png"))
    gone.unlink()
    changed.write_bytes(changed.read_bytes()[:-1] + b"x")
    spoilt = f"Left out: {changed} is missing, or is not as it was saved"
    for form in FORMATS:
        outcome = call("export", "out", "--to", form)
        told = [spoilt, "1 picture was removed from the folder", "2 pictures in 1 shard"]
        assert (outcome.code, sorted(outcome.err.splitlines())) == (1, sorted(told))
    outcome = call(*words, "whole")
    told = (
        f"{changed} is missing, or not as saved, and 1 picture was removed from the folder; the earlier export stays."
    )
    assert (outcome.code, outcome.err) == (2, f"imagen-async: {told} Choose another -o, or mend it.\n")
    for picture in others:
        picture.unlink()
    outcome = call(*words, "new")
    assert (outcome.code, "nothing is left to export" in outcome.err, Path("new").exists()) == (2, True, False)
    assert (whole.read_bytes(), sorted(os.listdir("whole"))) == (before, [folder.MARK, whole.name])


@pytest.mark.parametrize(("words", "told"), data("refused_lines.json")["export"].items())
def test_nothing_else_is_replaced(call: Call, out: Path, words: str, told: str) -> None:
    """A folder with other files, one inside of the pictures' own, and one without a batch are errors; all stays."""
    mine, table = Path("mine/notes.txt"), Path("data/train-00000-of-00001.parquet")
    for file in (mine, table):
        file.parent.mkdir()
        file.write_text("mine, also where Hugging Face names them so")
    Path("link").symlink_to("data")
    before = sorted(Path.cwd().rglob("*"))
    outcome = call("export", *words.split(), "--to", "webdataset")
    assert (outcome.code, outcome.out, told in outcome.err) == (2, "", True), outcome.err
    assert (sorted(Path.cwd().rglob("*")), mine.read_text()) == (before, table.read_text())


def test_what_is_missing_makes_no_export(call: Call, imagen_sandbox: Sandbox) -> None:
    """Where every request failed, or a library is missing, there is nothing to export, or nothing to do it with."""
    imagen_sandbox.order("task", "fail_word")
    assert call("batch", prompt_file("a fox"), *at(imagen_sandbox), "-o", "failed", "-q").code == 1
    outcome = call("export", "failed", "--to", "parquet")
    assert (outcome.code, "failed has no picture to export." in outcome.err) == (2, True)
    form = msgspec.structs.replace(FORMATS["parquet"], needs="no_such_library")
    needed = r"--to parquet needs an extra: pip install 'imagen-async\[export\]'"
    with JournalReader("failed/run.db") as journal, pytest.raises(ConfigurationError, match=needed):
        folder.export("failed", journal, form, "there", ShardSize())


def sample(number: int, size: int, **columns: Any) -> Sample:
    """A picture of so many bytes."""
    file = ImageFile(f"{number}.png", "", size, "image/png", "")
    return Sample(str(number), file, {"file_name": f"{number}.png", "prompt": "x", **columns})


@given(
    sizes=st.lists(st.integers(1, 50), max_size=30),
    size=st.one_of(st.builds(ShardSize, pictures=st.integers(1, 9)), st.builds(ShardSize, bytes=st.integers(1, 99))),
)
def test_shards_keep_the_order_and_the_size(sizes: list[int], size: ShardSize) -> None:
    """No sample is lost or moved, no shard is empty or too large but for a single picture, and none could be longer."""
    samples = [sample(number, weight) for number, weight in enumerate(sizes)]
    shards = [list(shard) for shard in shards_of(samples, Dealer(size))]
    assert [each for shard in shards for each in shard] == samples
    most, largest = size.pictures or len(sizes), size.bytes or sum(sizes)
    for shard, later in itertools.zip_longest(shards, shards[1:]):
        weight = sum(each.file.size for each in shard)
        assert 1 <= len(shard) <= most
        assert len(shard) == 1 or weight <= largest
        assert later is None or len(shard) == most or weight + later[0].file.size > largest


KINDS: dict[str, list[list[Any]]] = {
    "int64": [[1, 2, None], [2**63 - 1, -(2**63)]],
    "float64": [[1, 2.5], [2**53, 2.5], [float("nan"), 1]],
    "bool": [[True, None]],
    "string": [[True, 1], [1, "x"], [None, None], [2**63], [2**53 + 1, 2.5], [["x"], {"y": 1}]],
}
"""Values of a prompt file's column, by the type that holds them all."""


def test_each_column_has_a_type_that_holds_its_values(tmp_path: Path) -> None:
    """Numbers stay numbers where all are; what is mixed, nested or too large becomes text; Parquet takes each."""
    from pyarrow import parquet

    (tmp_path / "0.png").write_bytes(b"")
    empty = ImageFile(str(tmp_path / "0.png"), hashlib.sha256(b"").hexdigest(), 0, "image/png", "")
    for kind, examples in KINDS.items():
        for values in examples:
            with naming(values):
                rows = [Sample("x", empty, sample(0, 1, mine=value).line) for value in values]
                columns = columns_of(rows)
                assert (columns[-1].name, columns[-1].kind) == ("mine", kind)
                assert FORMATS["parquet"].write(tmp_path / "x.parquet", rows, columns) == []
                assert len(parquet.read_table(tmp_path / "x.parquet")) == len(values)


def test_pictures_of_one_stem_have_names_of_their_own(tmp_path: Path) -> None:
    """A PNG and a JPEG of the same prompt and place in the file are two samples, and the same one elsewhere a third."""
    names = (("png", "000001-x.png"), ("jpg", "000001-x.jpg"), ("png", "sub/000001-x.png"))
    files = [ImageFile(str(tmp_path / name), kind * 8, 1, "image/png", "") for kind, name in names]
    (tmp_path / "sub").mkdir()
    with Journal(tmp_path / "j.db") as journal:
        for number, file in enumerate(files):
            Path(file).write_bytes(b"x")
            entry = JournalEntry(str(number), 1, "submitting", "kie", ImageRequest("x"), attempts=1)
            journal.write([entry])
            journal.write([msgspec.structs.replace(entry, state="done", files=(file,), urls=("https://x.example/",))])
        names_given = [each.name for each in Samples(journal, tmp_path)]
    assert names_given == ["000001-x", "000001-x-pngpngpn", "000001-x-pngpngpn-pngpngpn"]


def test_lines_that_ask_for_the_same_change_their_places(call: Call, imagen_sandbox: Sandbox) -> None:
    """What was made for each of them stands, with its other columns, where that line stands now; none is made anew."""
    for numbers in ("1x2", "2x1", "2x21"):
        Path("p.csv").write_text("\n".join(["prompt,n", *(f"a {'dog' if n == 'x' else 'fox'},{n}" for n in numbers)]))
        call("batch", "p.csv", *at(imagen_sandbox), "-q", "-o", "out")
    places = sorted((line["index"], line["n"]) for line in lines_of(Path("out", "metadata.jsonl")))
    assert (places, len(imagen_sandbox.ledger.tasks)) == ([(0, "2"), (1, "x"), (2, "2"), (3, "1")], 4)
