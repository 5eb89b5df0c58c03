"""What the numbers and the paths of a record can be, whoever has written it: in Python, TOML or JSON."""

from __future__ import annotations

from .._text import told
from ..errors import ConfigurationError

DEAREST = 1e12
"""Credits for a picture: no price, and a larger int may be none that a float can be."""


def is_price(credits: object) -> bool:
    """True for what a picture can cost, which may be nothing."""
    return _is_number(credits, 0, DEAREST) and credits != DEAREST


def check_price(name: str, credits: object) -> None:
    """Raise ConfigurationError, by the name of the field, for what is no price."""
    if not is_price(credits):
        raise ConfigurationError(f"{name}={told(credits)}: it must be a number of credits from 0 to below 1e12.")


def check_number(name: str, value: object, least: float, most: float) -> None:
    """Raise ConfigurationError, by the name of the field, for what is no number, or not between these two."""
    if not _is_number(value, least, most):
        raise ConfigurationError(f"{name}={told(value)}: it must be a number from {least:,g} to {most:,.0f}.")


def check_count(name: str, value: object, least: int) -> None:
    """Raise ConfigurationError, by the name of the field, for what is no whole number of at least so many."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigurationError(f"{name}={told(value)}: it must be a whole number of at least {least}.")


def check_path(name: str, path: object) -> None:
    """Raise ConfigurationError, by the name of the field, for what is no path below a base URL.

    Without its slash it would go on with the host or the port, to which the key is sent.
    """
    is_text = isinstance(path, str) and path.isascii() and path.isprintable() and not set(path) & set(" #\\")
    if not is_text or not str(path).startswith("/") or str(path).startswith("//"):
        raise ConfigurationError(f"{name}={told(path)}: it must be a path that begins with one /, such as /api/v1/x.")


def _is_number(value: object, least: float, most: float) -> bool:
    # No comparison holds for what is not a number, which is a float all the same.
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most
