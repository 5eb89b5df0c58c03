"""Rows are read together where their neighbours are asked for, and one by one where that would be for nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing

import pytest

from imagen_async._journal.ahead import ReadAhead

COUNT = 2_000


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    """A table of rows, by keys."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE rows (key TEXT PRIMARY KEY, value INTEGER)")
        connection.executemany("INSERT INTO rows VALUES (?, ?)", ((f"k{each}", each) for each in range(COUNT)))
        yield connection


def statements(connection: sqlite3.Connection, places: Iterable[int]) -> int:
    """How many statements it takes to find these rows, each of which is the right one."""
    ahead, said = ReadAhead(), list[str]()
    ahead.open(connection, "SELECT key, value FROM rows")
    connection.set_trace_callback(said.append)
    for place in places:
        assert ahead.row(f"k{place}") == (f"k{place}", place)
    connection.set_trace_callback(None)
    return len(said)


def test_neighbours_are_read_together(connection: sqlite3.Connection) -> None:
    """In order 2,000 are found by reading 16 more, 32, 64 and so on to 500 each time; also where 99 lie between."""
    assert statements(connection, range(COUNT)) == 2 * 8
    assert statements(connection, [300, 400, 410]) == 1 + 2


@pytest.mark.parametrize("places", [range(300, COUNT, 101), range(COUNT - 1, 0, -1), [500] * 20], ids=str)
def test_what_is_no_neighbour_is_read_by_itself(connection: sqlite3.Connection, places: list[int]) -> None:
    """Far apart, backwards, the same again: nothing is read that nobody asks for."""
    assert statements(connection, places) == len(places)


def test_what_was_read_before_a_writing_is_not_told_after_it(connection: sqlite3.Connection) -> None:
    """What lies ready is as old as its reading; what is nowhere is None."""
    ahead = ReadAhead()
    ahead.open(connection, "SELECT key, value FROM rows")
    assert (ahead.row("k0"), ahead.row("k1"), ahead.row("none")) == (("k0", 0), ("k1", 1), None)
    connection.execute("UPDATE rows SET value = 7")
    assert ahead.row("k1") == ("k1", 1), "until it is told"
    ahead.forget()
    assert ahead.row("k1") == ("k1", 7)
