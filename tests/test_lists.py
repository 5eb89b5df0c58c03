"""The lists beside the pictures: right after every run, written anew only from where they differ, let be where not."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from commands import FAILURES, METADATA, Call, at, call, clean_environment, lines_of, prompt_file, rows_of
from conftest import naming
from hypothesis import given
from hypothesis import strategies as st
from inner import Journal, JournalReader
from journals import by_hand, entry, place

from imagen_async._cli.picture_sizes import ListedSizes
from imagen_async._cli.rewriting import Rewriting
from imagen_async.sandbox import Sandbox

__all__ = ["call", "clean_environment", "place"]

LINES = st.lists(st.sampled_from([b"a\n", b"bb\n", b"c\n"]), max_size=6)


@given(old=st.one_of(st.none(), LINES), torn=st.booleans(), new=LINES)
def test_a_list_is_rewritten_where_it_differs(
    tmp_path_factory: pytest.TempPathFactory, old: list[bytes] | None, torn: bool, new: list[bytes]
) -> None:
    """Whatever was there, it says what it is to say; it is another file only where it said something else."""
    path = tmp_path_factory.mktemp("list") / "x.jsonl"
    before = None if old is None else b"".join(old)[: -1 if torn else None]
    if before is not None:
        path.write_bytes(before)
    file = path.stat().st_ino if before is not None else None
    with Rewriting(path) as rewriting:
        for line in new:
            rewriting.put(line)
    assert path.read_bytes() == b"".join(new)
    assert [rewriting.has_changed, path.stat().st_ino != file] == [before != b"".join(new)] * 2
    assert list(path.parent.iterdir()) == [path]


def test_a_look_that_fails_leaves_the_list(tmp_path: Path) -> None:
    """The old list stands until the new one is whole, and nothing else is left."""
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"a\nb\n")
    with pytest.raises(ValueError, match="oh"), Rewriting(path) as rewriting:
        rewriting.put(b"c\n")
        raise ValueError("oh")
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"a\nb\n", [path])


def test_sizes_are_found_in_nearly_their_order(tmp_path: Path) -> None:
    """Each line tells its size once, somewhat out of order too; torn lines, and those without one, tell nothing."""
    path = tmp_path / "x.jsonl"
    told = [{"sha256": f"{number}", "width": number, "height": 2 * number} for number in (*range(300), 7, 7)]
    lines = [
        *map(json.dumps, told[:150]),
        '{"sha256": "x", "width": null, "height": 1}',
        '{"sha',
        *map(json.dumps, told[150:]),
    ]
    path.write_text("\n".join(lines))
    asked = [int(each["sha256"]) for each in told]
    random.Random(7).shuffle(asked)
    with ListedSizes(path) as sizes:
        assert [sizes.get(str(number)) for number in asked] == [(number, 2 * number) for number in asked]
        assert [sizes.get(each) for each in ("7", "x", "none")] == [None] * 3
    with ListedSizes(tmp_path / "none") as sizes:
        assert sizes.get("1") is None


def test_lists_that_are_in_order_are_let_be(call: Call, imagen_sandbox: Sandbox) -> None:
    """The next run neither writes nor replaces them; after anything that may have changed them it sets them right."""

    def run() -> tuple[list[int], bool]:
        call("batch", "prompts.txt", *at(imagen_sandbox), "-q", "-o", "out")
        return [path.stat().st_ino for path in (METADATA, FAILURES)], bool(notes()["lists"])

    def notes() -> dict[str, str]:
        with JournalReader("out/run.db") as journal:
            return journal.notes()

    prompt_file("a fox", "a dog", "a cow")
    imagen_sandbox.order("task", "fail_word")
    first = run()
    right = [path.read_bytes() for path in (METADATA, FAILURES)]
    assert (run(), first[1]) == (first, True)
    picture = next(Path("out").glob("*.png"))
    picture.rename("elsewhere.png")
    assert (run()[1], len(lines_of(METADATA))) == (False, 1)
    Path("elsewhere.png").rename(picture)
    assert (run()[1], sorted(lines_of(METADATA), key=str)) == (
        True,
        sorted(map(json.loads, right[0].splitlines()), key=str),
    )
    by_hand(Path("out/run.db"), "UPDATE jobs SET error = NULL, state = 'queued' WHERE state = 'failed'")
    assert (run()[1], lines_of(FAILURES), len(lines_of(METADATA))) == (True, [], 3)
    for path in (METADATA, FAILURES):
        path.write_bytes(b"{}\n")
    assert (run()[1], lines_of(FAILURES), len(lines_of(METADATA))) == (True, [], 3)


def test_no_line_is_made_twice_or_left_out(call: Call, imagen_sandbox: Sandbox) -> None:
    """However often a prompt comes, and wherever it stands, each run makes as many of it as there were not before."""
    made: list[str] = []
    for letters in ("aab", "abab", "bbaaac", "c", "cabbcaaa"):
        prompt_file(*letters)
        outcome = call("batch", "prompts.txt", *at(imagen_sandbox), "-o", "out")
        new = [letter for letter in set(letters) for _ in range(max(0, letters.count(letter) - made.count(letter)))]
        made += new
        earlier = len(letters) - len(new)
        told = f"{len(letters)} done{f' ({earlier} earlier)' if earlier else ''}, 0 failed"
        with naming(letters):
            assert outcome.code == 0
            assert told in outcome.err
            assert sorted(task.prompt for task in imagen_sandbox.ledger.tasks) == sorted(made)
            assert len({row["key"] for row in rows_of("out")}) == len(lines_of(METADATA)) == len(made)


@given(order=st.permutations(range(40)), writes=st.sets(st.integers(0, 39)))
def test_a_job_is_found_as_it_was_written_last(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], writes: set[int]
) -> None:
    """Rows are read with those behind them; what was written meanwhile is seen."""
    folder = tmp_path_factory.mktemp("journal")
    with Journal(folder / "j.db") as journal:
        journal.write(entry(number) for number in range(40))
        states = dict.fromkeys(range(40), "submitting")
        for step, number in enumerate([*range(40), *order]):
            if step - 40 in writes:
                journal.write([entry(order[step - 41], state="running", task_id="t")])
                states[order[step - 41]] = "running"
            found = journal.find(f"k{number}")
            assert found is not None
            assert (found.key, found.state) == (f"k{number}", states[number])
        assert journal.find("k40") is None
