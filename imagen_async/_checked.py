"""What users set, checked: each returns what was given, or raises what says which values can be."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, TypeVar, get_args

from .errors import ConfigurationError, InvalidRequest

T = TypeVar("T")


def checked_choice(name: str, word: T, allowed: Any) -> T:
    """One word of a Literal."""
    if word not in get_args(allowed):
        raise ConfigurationError(f"{name}={word!r}: allowed is {' or '.join(map(repr, get_args(allowed)))}.")
    return word


def checked_seconds(name: str, seconds: float) -> float:
    """Seconds that a connection may take."""
    if not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise ConfigurationError(f"{name}={seconds!r}: it must be a number of seconds above 0.")
    return seconds


def checked_listener(listener: Callable[..., object] | None) -> None:
    """What hears events: nothing, or a function that does not wait."""
    if listener is not None and (not callable(listener) or inspect.iscoroutinefunction(listener)):
        raise ConfigurationError(f"on_event={listener!r}: it must be a plain function of one argument, not async.")


def checked_retries(retries: int) -> int:
    """New tasks after failed generations."""
    if not isinstance(retries, int) or retries < 0:
        raise InvalidRequest(f"retries={retries!r}: allowed is a whole number of at least 0.")
    return retries


def checked_credits(credits: float) -> float:
    """What may be spent."""
    if isinstance(credits, bool) or not isinstance(credits, int | float) or not 0 < credits < 1e12:
        raise InvalidRequest(f"max_credits={credits!r}: allowed is a number of credits above 0.")
    return float(credits)


def checked_deadline(deadline: float) -> float:
    """Seconds for a request."""
    if isinstance(deadline, bool) or not isinstance(deadline, int | float) or not 0 < deadline < math.inf:
        raise InvalidRequest(f"deadline={deadline!r}: allowed is a number of seconds above 0.")
    return float(deadline)
