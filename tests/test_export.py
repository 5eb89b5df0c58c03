"""Exports: the real libraries load them back, byte for byte, and the folder itself stays an ImageFolder."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import naming
from hypothesis import given
from hypothesis import strategies as st
from test_command import Call, at, call, clean_environment, lines_of

from imagen_async import ImageFile, ImageRequest
from imagen_async._cli import main
from imagen_async._cli.export import FORMATS
from imagen_async._cli.export.columns import columns_of
from imagen_async._cli.export.folder import MARK
from imagen_async._cli.export.samples import Sample, samples_of
from imagen_async._cli.export.shards import ShardSize, shard_size, shards_of
from imagen_async._core.journal_entry import JournalEntry
from imagen_async._journal import Journal
from imagen_async.sandbox import Latency, Sandbox
from imagen_async.testing import running_sandbox

__all__ = ["call", "clean_environment"]

ROWS = [
    {"prompt": "a red fox", "seed": 7, "category": "Animals", "score": 1, "image": "a.png", "is_new": True},
    {
        "prompt": "two foxes",
        "num_images": 2,
        "model": "imagen4-fast",
        "category": "日本",
        "score": 1.5,
        "is_new": False,
    },
    {"prompt": "training a train.test", "negative_prompt": 'mud, "rain"', "tags": ["x", "y"], "score": None},
    {"prompt": "it fails", "category": 3},
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four pictures of three requests, and one that failed; with a gallery beside them."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    with running_sandbox(Sandbox(latency=Latency(0.01, minimum=0))) as sandbox:
        sandbox.order("task", None, None, None, "fail_word")
        words = (*at(sandbox), "--running", "1", "--freshness", "0.001", "--gallery", "-q")
        assert main(("batch", str(folder / "prompts.jsonl"), *words, "-o", str(folder / "out"))) == 1
    return folder / "out"


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
    assert outcome.code == 0
    assert outcome.err == "4 pictures in 2 shards\n"
    assert [Path(line).name for line in outcome.lines] == ["shard-000000.tar", "shard-000001.tar"]
    assert all(Path(line).parent == Path.cwd() / "out-webdataset" for line in outcome.lines)
    samples = list(webdataset.WebDataset(outcome.lines, shardshuffle=False))
    metadata = {line["file_name"]: line for line in lines_of(out / "metadata.jsonl")}
    assert len(samples) == len(metadata) == 4
    for sample in samples:
        line = json.loads(sample["json"])
        assert line == metadata[line["file_name"]]
        assert hashlib.sha256(sample["png"]).hexdigest() == line["sha256"]
        assert sample["txt"].decode() == line["prompt"]
        assert sample["__key__"].endswith(Path(line["file_name"]).stem)
    for picture, line in webdataset.WebDataset(outcome.lines, shardshuffle=False).decode("pil").to_tuple("png", "json"):
        assert picture.size == (line["width"], line["height"])


def test_datasets_loads_the_parquet_and_the_folder(call: Call, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parquet has an Image column and typed ones beside it; the folder, gallery and all, is an ImageFolder still."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    outcome = call("export", "out", "--to", "parquet", "--shard-size", "3", "-o", "table")
    assert [Path(line).name for line in outcome.lines] == [f"train-0000{n}-of-00002.parquet" for n in range(2)]
    from datasets import Image, Value, load_dataset
    from pyarrow import parquet

    table = load_dataset("parquet", data_files=outcome.lines, split="train", cache_dir="cache")
    assert isinstance(table.features["image"], Image)
    types = {"prompt": "string", "seed": "int64", "score": "float64", "category": "string", "tags": "string"}
    assert {name: table.features[name] for name in types} == {name: Value(kind) for name, kind in types.items()}
    assert table.features["is_new"] == Value("bool")
    metadata = {line["sha256"]: line for line in lines_of(out / "metadata.jsonl")}
    assert {row["sha256"] for row in table} == set(metadata)
    for row in table:
        line = metadata[row["sha256"]]
        assert row["image"].size == (line["width"], line["height"])
        assert [row[name] for name in ("prompt", "key", "credits", "index")] == [
            line[name] for name in ("prompt", "key", "credits", "index")
        ]
        assert row["input_image"] == line.get("image")
        assert row["tags"] == (None if line.get("tags") is None else json.dumps(line["tags"]))
    stored = [image for path in outcome.lines for image in parquet.read_table(path)["image"].to_pylist()]
    assert {hashlib.sha256(image["bytes"]).hexdigest() for image in stored} == set(metadata)
    folder = load_dataset("imagefolder", data_dir="out", split="train", cache_dir="cache")
    assert sorted(row["prompt"] for row in folder) == sorted(line["prompt"] for line in metadata.values())
    assert all(row["image"].size == (row["width"], row["height"]) for row in folder)


def test_the_same_pictures_make_the_same_shards(call: Call, out: Path) -> None:
    """An export is replaced by the next one, byte for byte where nothing changed; no shard of the old one is left."""
    first = call("export", "out", "--to", "webdataset", "--shard-size", "1", "-o", "there")
    before = [Path(line).read_bytes() for line in first.lines]
    again = call("export", "out", "--to", "webdataset", "--shard-size", "1", "-o", "there")
    assert [Path(line).read_bytes() for line in again.lines] == before
    whole = call("export", "out", "--to", "webdataset", "-o", "there")
    assert {path.name for path in Path("there").iterdir()} == {MARK, *(Path(line).name for line in whole.lines)}
    with tarfile.open(whole.lines[0]) as tar:
        assert [(member.mtime, member.uid, member.uname) for member in tar] == [(0, 0, "")] * 12


def test_spoilt_pictures_are_named_and_left_out(call: Call, out: Path) -> None:
    """A picture that has gone, and one that was changed, are said and left out; the others are exported."""
    gone, changed, *_ = sorted(out.glob("*.png"))
    gone.unlink()
    changed.write_bytes(changed.read_bytes()[:-1] + b"x")
    for form in FORMATS:
        outcome = call("export", "out", "--to", form)
        assert outcome.code == 1
        assert outcome.err.count("Left out: ") == 2
        assert str(gone) in outcome.err
        assert str(changed) in outcome.err
        assert "2 pictures in 1 shard" in outcome.err


def test_an_earlier_export_outlives_its_pictures(call: Call, out: Path) -> None:
    """Where pictures have gone, an export that still has them is not replaced, and one of nothing is not made."""
    (shard,) = map(Path, call("export", "out", "--to", "webdataset").lines)
    before = shard.read_bytes()
    gone, *others = out.glob("*.png")
    gone.unlink()
    outcome = call("export", "out", "--to", "webdataset")
    assert (outcome.code, "the earlier export stays" in outcome.err, str(gone) in outcome.err) == (2, True, True)
    for picture in others:
        picture.unlink()
    assert call("export", "out", "--to", "webdataset").code == 2
    assert "nothing is left to export" in call("export", "out", "--to", "webdataset", "-o", "new").err
    assert not Path("new").exists()
    assert shard.read_bytes() == before
    assert {path.name for path in shard.parent.iterdir()} == {MARK, shard.name}


def test_nothing_else_is_replaced(call: Call, out: Path, imagen_sandbox: Sandbox) -> None:
    """A folder with other files, one inside of the pictures' own, and one without a batch are errors; all stays."""
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    Path("file").write_text("mine")
    Path("data").mkdir()
    Path("data/train-00000-of-00001.parquet").write_text("mine: so Hugging Face names them too")
    Path("link").symlink_to("data")
    Path("empty").mkdir()
    for words, why in (
        (("out", "-o", "mine"), "mine holds notes.txt"),
        (("out", "-o", "file"), "file holds file"),
        (("out", "-o", "data"), "data holds train-00000"),
        (("out", "-o", "link"), "data holds train-00000"),
        (("out", "-o", "out/sub"), "lies in out"),
        (("out", "-o", "."), " holds data"),
        (("empty",), "holds no batch"),
        (("out", "--shard-size", "5 MB"), "such as 500MB"),
    ):
        outcome = call("export", *words, "--to", "webdataset")
        assert (outcome.code, why in outcome.err) == (2, True), outcome.err
    assert Path("mine/notes.txt").read_text() == "mine"
    assert Path("data/train-00000-of-00001.parquet").read_text().startswith("mine")
    assert not Path("data/.part").exists()
    imagen_sandbox.order("task", "fail_word")
    Path("one.txt").write_text("a fox")
    assert call("batch", "one.txt", *at(imagen_sandbox), "-o", "failed", "-q").code == 1
    assert "no picture to export" in call("export", "failed", "--to", "parquet").err


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
    shards = list(shards_of(samples, size))
    assert [each for shard in shards for each in shard] == samples
    weights = [sum(each.file.size for each in shard) for shard in shards]
    for number, shard in enumerate(shards):
        assert shard
        assert size.pictures is None or len(shard) <= size.pictures
        assert size.bytes is None or weights[number] <= size.bytes or len(shard) == 1
        if number + 1 < len(shards):
            is_full = len(shard) == size.pictures
            assert is_full or weights[number] + shards[number + 1][0].file.size > (size.bytes or 0)


def kinds() -> Iterator[tuple[list[Any], str]]:
    """Values of a prompt file's column, and the type that holds them all."""
    yield [1, 2, None], "int64"
    yield [1, 2.5], "float64"
    yield [True, None], "bool"
    yield [True, 1], "string"
    yield [1, "x"], "string"
    yield [None, None], "string"
    yield [2**80], "string"
    yield [2**60, 2.5], "string"
    yield [["x"], {"y": 1}], "string"
    yield [float("nan"), 1], "float64"


def test_each_column_has_a_type_that_holds_its_values(tmp_path: Path) -> None:
    """Numbers stay numbers where all are; what is mixed, nested or too large becomes text; Parquet takes each."""
    from pyarrow import parquet

    (tmp_path / "0.png").write_bytes(b"")
    for values, kind in kinds():
        with naming(values):
            samples = [sample(number, 1, mine=value) for number, value in enumerate(values)]
            column = columns_of(samples)[-1]
            assert (column.name, column.kind) == ("mine", kind)
            empty = ImageFile(str(tmp_path / "0.png"), hashlib.sha256(b"").hexdigest(), 0, "image/png", "")
            rows = [Sample(each.name, empty, each.line) for each in samples]
            assert FORMATS["parquet"].write(tmp_path / "x.parquet", rows, columns_of(rows)) == []
            assert len(parquet.read_table(tmp_path / "x.parquet")) == len(values)


def test_no_column_hides_another() -> None:
    """The picture's column keeps its name, and a column of the prompt file that has it gets one that nobody has."""
    columns = columns_of([sample(1, 1, image="a", input_image="b", input_input_image="c")])
    assert len({column.name for column in columns} | {"image"}) == len(columns) + 1
    assert {column.field for column in columns} >= {"image", "input_image", "input_input_image"}


def test_pictures_of_one_stem_have_names_of_their_own(tmp_path: Path) -> None:
    """A PNG and a JPEG of the same prompt and place in the file are two samples, and the same one elsewhere a third."""
    names = (("png", "000001-x.png"), ("jpg", "000001-x.jpg"), ("png", "sub/000001-x.png"))
    files = [ImageFile(str(tmp_path / name), kind * 8, 1, "image/png", "") for kind, name in names]
    with Journal(tmp_path / "j.db") as journal:
        for number, file in enumerate(files):
            entry = JournalEntry(str(number), 1, "submitting", "kie", ImageRequest("x"), attempts=1)
            journal.write([entry])
            journal.write([msgspec.structs.replace(entry, state="done", files=(file,), urls=("https://x.example/",))])
        names_given = [each.name for each in samples_of(journal, tmp_path)]
    assert names_given == ["000001-x", "000001-x-pngpngpn", "000001-x-pngpngpn-pngpngpn"]


def test_sizes_are_read_as_people_write_them() -> None:
    """A plain number counts pictures, one with a unit bytes; anything else is refused."""
    assert shard_size("1000") == ShardSize(pictures=1000)
    assert [shard_size(text) for text in ("5KB", "500MB", "2GB")] == [
        ShardSize(bytes=number) for number in (5_000, 500_000_000, 2_000_000_000)
    ]
    assert [shard_size(text) for text in ("0", "-1", "1.5GB", "MB", "", "10 MB", "1e9")] == [None] * 7
