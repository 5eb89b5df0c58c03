"""How a word of the command line is read; what cannot be read so is refused by the grammar."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from typing import Any, NoReturn

from .. import Rate
from ..errors import ConfigurationError
from .export import shards
from .library import checked_freshness


def of_account(parse: Callable[[str], Any]) -> Callable[[str], tuple[str | None, Any]]:
    """Read `NAME=VALUE` or `VALUE`."""

    def read(text: str) -> tuple[str | None, Any]:
        match = re.fullmatch(r"([A-Za-z][\w.-]*)=(.+)", text)
        return (match[1], parse(match[2])) if match else (None, parse(text))

    return read


def filled(text: str) -> str:
    """Read what is not empty: a variable of the shell that is not set would mean a default, which may be paid for."""
    return text if text.strip() else _refuse(text, "a value: give it one, or leave the option out")


def assignment(text: str) -> tuple[str, str]:
    """Read `NAME=VALUE`."""
    name, mark, value = text.partition("=")
    return (name.strip(), value) if mark and name.strip() else _refuse(text, "NAME=VALUE, such as resolution=2K")


def whole(text: str) -> int:
    """Read a whole number; its bounds are for whoever takes it."""
    return int(text) if re.fullmatch(r"[+-]?[0-9]{1,30}", text) else _refuse(text, "a whole number")


def number(text: str) -> float:
    """Read a number; its bounds are for whoever takes it."""
    try:
        return float(text)
    except ValueError:
        _refuse(text, "a number")


def seconds(text: str) -> float:
    """Read how long something takes."""
    return value if 0 < (value := number(text)) < 1e9 else _refuse(text, "a number of seconds above 0")


def share(text: str) -> float:
    """Read a part of a whole."""
    return value if 0 <= (value := number(text)) <= 1 else _refuse(text, "a share from 0 to 1, such as 0.05")


def price(text: str) -> float:
    """Read `8` or `0.5`: a price may be nothing."""
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else _refuse(text, "a number of credits")


def credits(text: str) -> float:
    """Read a budget."""
    number = price(text)
    return number if 0 < number < 1e12 else _refuse(text, "a number of credits above 0")


def rate(text: str) -> Rate:
    """Read `20/10`: 20 in any 10 seconds."""
    match = re.fullmatch(r"(\d+)/(\d+(?:\.\d+)?)", text)
    try:
        return Rate(int(match[1]), per=float(match[2])) if match else _refuse(text, "N/SECONDS, such as 20/10")
    except ConfigurationError as error:
        raise argparse.ArgumentTypeError(error.message) from None


def positive(text: str) -> int:
    """Read a count."""
    return int(text) if text.isdecimal() and int(text) > 0 else _refuse(text, "a whole number above 0")


def shard_size(text: str) -> shards.ShardSize:
    """Read how large a shard may get."""
    return shards.shard_size(text) or _refuse(text, "a number of pictures, such as 1000, or of bytes, such as 500MB")


def freshness(text: str) -> float:
    """Read what a status call is worth."""
    try:
        return checked_freshness(float(text))
    except (ValueError, ConfigurationError):
        _refuse(text, "a number of seconds above 0, at most a day")


def port(text: str) -> int:
    """Read a port, 0 for any."""
    return int(text) if text.isdecimal() and int(text) < 65536 else _refuse(text, "a port from 0 to 65535")


def json_object(text: str) -> dict[str, Any]:
    """Read `{…}`."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else _refuse(text, "a JSON object")


def _refuse(text: str, wanted: str) -> NoReturn:
    raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
