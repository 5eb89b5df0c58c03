"""What users set, checked: each returns what was given, or raises what says which values can be."""

from __future__ import annotations

import inspect
import re
import ssl
from collections.abc import Callable
from concurrent import futures
from pathlib import PurePath
from typing import Any, TypeVar, get_args

from ._callbacks import Callback
from ._core.plain_values import plain_or_same
from ._folders import prepare_folder
from ._job_factory import JobOptions, OnRefused, OnUnknown
from ._text import told, well_formed
from .errors import ConfigurationError, InvalidRequest

T = TypeVar("T")
Listener = TypeVar("Listener", bound=Callable[..., object] | None)

_HUGE = 1e12
"""Seconds that no clock here runs, credits that nobody has. A larger int may be none that a float can be."""


def checked_task_id(task_id: str) -> str:
    """A task's id, as its provider gave it."""
    task_id = plain_or_same(task_id)
    if type(task_id) is not str or not task_id.strip() or well_formed(task_id) != task_id:
        raise InvalidRequest(f"task_id={told(task_id)}: allowed is the id that the provider gave.")
    return task_id


def checked_choice(name: str, word: T, allowed: Any) -> T:
    """One word of a Literal."""
    word = plain_or_same(word)
    if type(word) is not str or word not in get_args(allowed):
        raise ConfigurationError(f"{name}={told(word)}: allowed is {' or '.join(map(repr, get_args(allowed)))}.")
    return word


def checked_seconds(name: str, seconds: float) -> float:
    """Seconds that a connection may take."""
    seconds = plain_or_same(seconds)
    if not _is_above_0(seconds):
        raise ConfigurationError(f"{name}={told(seconds)}: it must be a number of seconds above 0.")
    return seconds


def checked_connections(connections: int) -> int:
    """Connections that may be open at once."""
    connections = plain_or_same(connections)
    if not _is_whole(connections, 1):
        raise ConfigurationError(f"connections={told(connections)}: it must be a whole number of at least 1.")
    return connections


def checked_ssl(setting: ssl.SSLContext | bool) -> ssl.SSLContext | bool:
    """Whom TLS trusts."""
    if setting is not True and not issubclass(type(setting), ssl.SSLContext):
        message = "TLS stays on; give True, or an ssl.SSLContext that trusts your own CA"
        raise ConfigurationError(f"ssl={told(setting)}: {message}.")
    return setting


def checked_flags(**flags: bool) -> list[bool]:
    """Yes or no, each; the word "false" is a yes to Python, and to some of these a yes costs money."""
    plain = {name: plain_or_same(flag) for name, flag in flags.items()}
    for name, flag in plain.items():
        if type(flag) is not bool:
            raise ConfigurationError(f"{name}={told(flag)}: allowed is True or False.")
    return list(plain.values())


def checked_listener(listener: Listener) -> Listener:
    """What hears events: nothing, or a function that does not wait."""
    if listener is not None and (not callable(listener) or inspect.iscoroutinefunction(listener)):
        raise ConfigurationError(f"on_event={told(listener)}: it must be a plain function of one argument, not async.")
    return listener


def checked_callback(callback: Callback | None) -> Callback | None:
    """Where the ends of tasks are announced: nowhere, or as a Callback says."""
    if callback is not None and not issubclass(type(callback), Callback):
        raise ConfigurationError(f"callback={told(callback)}: allowed is Callback(…), with an address in it.")
    return callback


def checked_limiter(limiter: T) -> T:
    """What makes limits: the package, or a function."""
    if limiter is not None and not callable(limiter):
        raise ConfigurationError(f"limiter={told(limiter)}: it must be a function that makes an account's limit.")
    return limiter


def checked_executor(executor: futures.Executor | None) -> futures.Executor | None:
    """Where files are worked on: nothing, or threads."""
    if executor is None:
        return None
    # Processes are asked for last: to name them loads them.
    kind = type(executor)
    if not issubclass(kind, futures.Executor) or issubclass(kind, futures.ProcessPoolExecutor):
        message = f"executor={told(executor)}: it must be a concurrent.futures.Executor that works in threads."
        raise ConfigurationError(message)
    return executor


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def checked_kept(kept: str | float | None, name: str = "keep_journal") -> float | None:
    """Seconds for which something is kept; None: for ever."""
    kept = plain_or_same(kept)
    found = re.fullmatch(r"\s*(\d{1,6}(?:\.\d{1,6})?)\s*([smhd])\s*", kept) if type(kept) is str else None
    seconds = kept if found is None else float(found[1]) * _UNITS[found[2]]
    if seconds is not None and not _is_above_0(seconds):
        allowed = "a time such as '90d', '12h', '30m', or a number of seconds above 0"
        raise ConfigurationError(f"{name}={told(kept)}: allowed is {allowed}.")
    return None if seconds is None else float(seconds)


def checked_retries(retries: int) -> int:
    """New tasks after failed generations."""
    retries = plain_or_same(retries)
    if not _is_whole(retries, 0):
        raise InvalidRequest(f"retries={told(retries)}: allowed is a whole number of at least 0.")
    return retries


def checked_credits(credits: float) -> float:
    """What may be spent."""
    credits = plain_or_same(credits)
    if not _is_above_0(credits):
        raise InvalidRequest(f"max_credits={told(credits)}: allowed is a number of credits above 0.")
    return float(credits)


def checked_deadline(deadline: float) -> float:
    """Seconds for a request."""
    deadline = plain_or_same(deadline)
    if not _is_above_0(deadline):
        raise InvalidRequest(f"deadline={told(deadline)}: allowed is a number of seconds above 0.")
    return float(deadline)


def _is_above_0(number: Any) -> bool:
    return type(number) in (int, float) and 0 < number < _HUGE


def _is_whole(number: Any, least: int) -> bool:
    return type(number) is int and least <= number < 2**31


def checked_options(
    deadline: float, retries: int, on_unknown: OnUnknown, on_refused: OnRefused, save_to: str | PurePath | None
) -> JobOptions:
    """What all jobs of a batch have in common, and the folder is made."""
    return JobOptions(
        deadline=checked_deadline(deadline),
        retries=checked_retries(retries),
        # Once: what is lost a second time is held.
        resubmits=int(on_unknown == "resubmit"),
        next_if_refused=checked_choice("on_refused", on_refused, OnRefused) == "next",
        save_to=None if save_to is None else prepare_folder(save_to),
    )
