"""Who may ask the service: a TOML file of callers, each with its own key, what it may spend and its share of turns.

[admin]                          # may see the page and the metrics, and ask for anything
key_sha256 = "<64 hex>"

[callers.shop]
key_sha256 = "<64 hex>"          # of its key: the file does not tell that
models = ["imagen4-fast"]        # left out: all
budget_per_day = 500.0           # credits in a UTC day; left out: no bound
budget = 10000.0                 # credits in all; left out: no bound
share = 2.0                      # of the turns; left out: 1.0
callback_secret = "whsec_…"      # signs its callbacks, as Standard Webhooks does; left out: it can have none
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from .._core.suggestion import did_you_mean
from .._record_files import content_of
from .._text import told
from .._watch.log import log
from ..errors import ConfigurationError

ADMIN = "admin"
"""Who has the table of that name; no other caller can be called so."""

LOOK = 1.0
"""Seconds between two looks at the file."""

LONGEST_KEY = 1024
"""Characters of what is looked up; our own keys have 46."""

NAME = re.compile("[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""The name of a caller."""

NAME_RULE = "allowed are up to 64 letters, digits, _, . and -, of which a letter or a digit is the first"

_MOST = 1e12
"""Credits that nobody has."""

_WIDEST = 1e6
"""How many times the usual share one may be, and how many times less."""

SECRET = "whsec_"
"""How the secrets begin that callbacks are signed with."""

_OF_NOTHING = hashlib.sha256(b"").digest()
"""What a variable that is not set hashes to."""


class Caller(msgspec.Struct, frozen=True):
    """Who asks, and what that may. Its secret is in no repr.

    Attributes:
        name: As the file has it; `admin` for the admin, nothing where the service has no file.
        models: Names of those it may ask for; None: all.
        budget_per_day: Credits that it may spend in a day of UTC; None: no bound.
        budget: Credits that it may spend in all; None: no bound.
        share: Of the turns, beside those of the others who wait.
        callback_secret: Signs callbacks to it, `whsec_` and base64; None: it can have none.
        is_admin: True for who may see the page and the metrics.
    """

    name: str
    models: tuple[str, ...] | None = None
    budget_per_day: float | None = None
    budget: float | None = None
    share: float = 1.0
    callback_secret: str | None = None
    is_admin: bool = False

    def __repr__(self) -> str:
        return f"Caller({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """The same for whoever shows it in colours."""
        fields = msgspec.structs.asdict(self)
        return list({**fields, "callback_secret": fields["callback_secret"] and "***"}.items())


ANYBODY = Caller("")
"""The caller of a service that has no file of callers."""


class Callers:
    """Who may ask, by their keys.

    Args:
        entries: Each caller with the SHA-256 of its key.

    Attributes:
        names: Of the callers in the file's order, without the admin.
        has_admin: True where there is one.
    """

    def __init__(self, entries: Iterable[tuple[bytes, Caller]]) -> None:
        self.entries: tuple[tuple[bytes, Caller], ...] = tuple(entries)
        self._by_name = {caller.name: caller for _, caller in self.entries}
        self.names: tuple[str, ...] = tuple(name for name in self._by_name if name != ADMIN)
        self.has_admin: bool = ADMIN in self._by_name

    def by_key(self, key: str) -> Caller | None:
        """Whose key it is, whatever it may be; it takes as long for a good one as for a bad one."""
        given = key if key.isascii() and len(key) <= LONGEST_KEY else ""
        digest, found = hashlib.sha256(given.encode()).digest(), None
        for known, caller in self.entries:
            if hmac.compare_digest(known, digest):
                found = caller
        return found

    def by_name(self, name: str) -> Caller | None:
        """The caller of that name, the admin included."""
        return self._by_name.get(name)


def read_callers(path: str | os.PathLike[str]) -> Callers:
    """The callers of a file; raises ConfigurationError where it cannot be read, or is no such file, or names nobody."""
    callers = callers_in(path, content_of(path))
    if not callers.entries:
        remedy = f"imagen-async serve --callers {path} --new-caller NAME adds a caller"
        raise ConfigurationError(f"{path} names nobody who may ask: {remedy}.")
    return callers


def callers_in(path: str | os.PathLike[str], content: bytes) -> Callers:
    """The callers of a file that was read, who may be none; raises ConfigurationError."""
    try:
        # Editors of some systems put a mark of the encoding in front.
        document = msgspec.toml.decode(content.removeprefix(b"\xef\xbb\xbf"))
        return Callers(_entries(document))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path} is no file of callers: {told(str(error), 300)}.") from None
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error.message}") from None


def table_name(name: str) -> str:
    """The head of a caller's table: a name with a dot is quoted, or it would be a table in a table."""
    return f"[{ADMIN}]" if name == ADMIN else f'[callers."{name}"]' if "." in name else f"[callers.{name}]"


def _entries(document: Any) -> list[tuple[bytes, Caller]]:
    _check_names("The file", document, (ADMIN, "callers"))
    tables = document.get("callers", {})
    if not isinstance(tables, dict):
        raise ConfigurationError("callers is no table: each caller has one, [callers.NAME].")
    entries = []
    if ADMIN in document:
        digest, _ = _fields(ADMIN, document[ADMIN], ("key_sha256",))
        entries.append((digest, Caller(ADMIN, is_admin=True)))
    for name, table in tables.items():
        if name == ADMIN or NAME.fullmatch(name) is None:
            raise ConfigurationError(f"A caller is named {told(name)}: {NAME_RULE}; {ADMIN} has a table of its own.")
        digest, found = _fields(name, table, tuple(_FIELDS))
        entries.append((digest, Caller(name, **found)))
    _check_keys(entries)
    return entries


def _check_names(what: str, given: Mapping[str, object], allowed: Iterable[str]) -> None:
    for name, value in given.items():
        if name not in allowed:
            message = f"{what} has no field {told(name)}: allowed are {', '.join(allowed)}"
            dotted = ' A name with a dot is quoted: [callers."a.b"].' if isinstance(value, dict) else ""
            raise ConfigurationError(f"{message}.{did_you_mean(name, allowed)}{dotted}")


def _fields(name: str, table: object, allowed: tuple[str, ...]) -> tuple[bytes, dict[str, Any]]:
    """The SHA-256 of a caller's key, and its other fields."""
    where = table_name(name)
    if not isinstance(table, dict):
        raise ConfigurationError(f"{where} is no table: it has the fields {', '.join(allowed)}.")
    _check_names(where, table, allowed)
    if "key_sha256" not in table:
        raise ConfigurationError(f"{where} has no key_sha256: it is {_FIELDS['key_sha256'].allowed}.")
    for field, value in table.items():
        if not _FIELDS[field].takes(value):
            # What stands in the place of a secret may be one.
            given = "is none" if field in ("key_sha256", "callback_secret") else f"is {told(value)}"
            raise ConfigurationError(f"{where}: {field} {given}: allowed is {_FIELDS[field].allowed}.")
    rest = {field: _FIELDS[field].made(value) for field, value in table.items()}
    return bytes.fromhex(str(rest.pop("key_sha256"))), rest


def _check_keys(entries: Iterable[tuple[bytes, Caller]]) -> None:
    seen: dict[bytes, str] = {}
    for digest, caller in entries:
        if digest == _OF_NOTHING:
            raise ConfigurationError(f"{table_name(caller.name)}: key_sha256 is that of an empty key.")
        other = seen.setdefault(digest, caller.name)
        if other != caller.name:
            message = f"{table_name(other)} and {table_name(caller.name)} have one key"
            raise ConfigurationError(f"{message}: each needs its own, or nobody could tell who asks.")


class _Field(NamedTuple):
    takes: Callable[[Any], bool]
    made: Callable[[Any], object]
    allowed: str


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-fA-F]{64}", value) is not None


def _are_models(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, str) and each.strip() for each in value)


def _is_number(value: Any, least: float, most: float) -> bool:
    return type(value) in (int, float) and least <= value <= most


def _is_amount(value: object) -> bool:
    return _is_number(value, 0, _MOST)


def _is_share(value: object) -> bool:
    return _is_number(value, 1 / _WIDEST, _WIDEST)


def _is_secret(value: object) -> bool:
    if not isinstance(value, str) or not value.startswith(SECRET):
        return False
    try:
        return 24 <= len(base64.b64decode(value.removeprefix(SECRET), validate=True)) <= 64
    except (ValueError, binascii.Error):
        return False


_AMOUNT = "credits, a number from 0 on; without it there is no bound"
_FIELDS: Mapping[str, _Field] = {
    "key_sha256": _Field(_is_digest, str, "the SHA-256 of the key, 64 hexadecimal digits"),
    "models": _Field(_are_models, tuple, 'names of models, such as ["imagen4-fast"]; without it all may be asked for'),
    "budget_per_day": _Field(_is_amount, float, _AMOUNT),
    "budget": _Field(_is_amount, float, _AMOUNT),
    "share": _Field(_is_share, float, "a number from 0.000001 to 1,000,000, 1 being the usual share"),
    "callback_secret": _Field(_is_secret, str, f"{SECRET} and the base64 of 24 to 64 random bytes"),
}


class WatchedCallers:
    """The callers of a file as it is now: read again when it has changed, and as they were where it has become bad.

    Args:
        path: The file's.
        now: Seconds of a clock that nobody sets.

    Raises:
        ConfigurationError: It cannot be read now, or is no such file.
    """

    def __init__(self, path: str | os.PathLike[str], now: float) -> None:
        self._path = path
        # Looked at before it is read: what is written in between is seen at the next look.
        self._seen = stamp_of(path)
        self._callers = read_callers(path)
        self._looked_at = now
        self._told: tuple[object, str] | None = None

    def present(self, now: float) -> Callers:
        """Those who may ask now; the file is looked at once a second at most, in this thread."""
        if not 0 <= now - self._looked_at < LOOK:
            self._looked_at = now
            self._look()
        return self._callers

    def _look(self) -> None:
        seen = stamp_of(self._path)
        if seen is not None and seen == self._seen:
            self._told = None
            return
        try:
            self._callers = read_callers(self._path)
        except ConfigurationError as error:
            # Looked at until it can be read, which a full table of handles hinders too; told of once.
            if self._told != (seen, error.message):
                self._told = (seen, error.message)
                log(logging.WARNING, "the callers stay as they were: %s", error.message)
            return
        self._seen, self._told = seen, None
        log(logging.INFO, "the callers were read anew: there are %d", len(self._callers.entries))


def stamp_of(path: str | os.PathLike[str]) -> tuple[int, int, int] | None:
    """What a file is known by while it stays as it is; None where there is none, or nobody can tell."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
