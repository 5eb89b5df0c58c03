"""Several coordinators for one job, where one has too much to do: each has accounts of its own, and keys of its own."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from .._accounts import Account
from .._core.cells import is_empty, key_text
from ..errors import ConfigurationError, JournalError


def account_groups(accounts: Sequence[Account], count: int) -> list[list[Account]]:
    """The accounts, dealt out in turns; raises ConfigurationError where there are fewer than groups."""
    if not 1 <= count <= len(accounts):
        message = f"coordinators={count}: allowed is a number from 1 to that of the accounts, which is {len(accounts)}"
        raise ConfigurationError(f"{message}. An account has one coordinator, or its limit would be spent twice.")
    return [list(accounts[place::count]) for place in range(count)]


def journals_of(journal: str | None, count: int) -> list[str | None]:
    """The path of each coordinator's journal: `run.db`, or `run.1of4.db` and so on."""
    if journal is None or count == 1:
        return [journal] * count
    stem, suffix = os.path.splitext(journal)
    return [f"{stem}.{number}of{count}{suffix}" for number in range(1, count + 1)]


def check_alone(journal: str) -> None:
    """Make sure that no journal of another number of coordinators lies beside this one; raises JournalError.

    With another number a key may be another coordinator's, whose journal knows none of it.
    """
    stem, suffix = os.path.splitext(journal)
    plain, count = _read(stem)
    beside = glob.glob(f"{glob.escape(plain)}*{glob.escape(suffix)}")
    read = {path: _read(path.removesuffix(suffix)) for path in beside}
    others = [path for path, (of, number) in read.items() if of == plain and number != count]
    if others:
        message = f"{journal}: beside it lies {min(others)}, of a job with another number of coordinators"
        raise JournalError(f"{message}. Nothing was sent, for it would be paid anew. Go on with that number.")


def group_of(cells: Mapping[str, Any], count: int) -> int:
    """Whose a row is: by its key, or else by its prompt, so that equal rows are one coordinator's, however written."""
    if count == 1:
        return 0
    key = cells.get("key")
    text = str(cells.get("prompt")) if is_empty(key) else key_text(key)
    return int.from_bytes(hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest()) % count


def _read(stem: str) -> tuple[str, str]:
    """The name that a journal was given, and of how many coordinators it is one's, by its own name."""
    found = re.fullmatch(r"(.*)\.\d+of(\d+)", stem)
    return (found[1], found[2]) if found else (stem, "1")
