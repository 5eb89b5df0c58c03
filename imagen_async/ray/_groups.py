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
    found = re.fullmatch(r"(.*)\.\d+of(\d+)", stem)
    plain, count = (found[1], found[2]) if found else (stem, "1")
    others = [
        path for path in glob.glob(f"{glob.escape(plain)}.*of*{suffix}") if not _is_of(path, plain, suffix, count)
    ]
    if count != "1" and os.path.exists(plain + suffix):
        others.append(plain + suffix)
    if others:
        message = f"{journal}: beside it lies {sorted(others)[0]}, of a job with another number of coordinators"
        raise JournalError(f"{message}. Nothing was sent, for it would be paid anew. Go on with that number.")


def group_of(cells: Mapping[str, Any], count: int) -> int:
    """Whose a row is: by its key, or else by its prompt, so that equal rows are one coordinator's, however written."""
    if count == 1:
        return 0
    key = cells.get("key")
    text = str(cells.get("prompt")) if is_empty(key) else key_text(key)
    return int.from_bytes(hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest()) % count


def _is_of(path: str, plain: str, suffix: str, count: str) -> bool:
    """True for a journal of the same number; also for what is named otherwise."""
    found = re.fullmatch(re.escape(plain) + r"\.(\d+)of(\d+)" + re.escape(suffix), path)
    return found is None or found[2] == count
