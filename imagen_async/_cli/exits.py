"""What an error comes to: words on stderr, and an exit code."""

from __future__ import annotations

import os

from ..errors import AuthenticationError, ConfigurationError, ImagenError, InvalidRequest, JournalError
from ..providers import PROVIDERS
from .wording import say

ALL_DONE, SOME_FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130

_WRONG_USE = (ConfigurationError, InvalidRequest, AuthenticationError, JournalError)


def tell(error: ImagenError) -> int:
    """Say what went wrong; returns the exit code."""
    say(*lines_of(error))
    return code_of(error)


def code_of(error: ImagenError) -> int:
    """The exit code of a command that ends with an error."""
    return WRONG_USE if isinstance(error, _WRONG_USE) else SOME_FAILED


def lines_of(error: ImagenError) -> list[str]:
    """An error for people."""
    lines = [f"imagen-async: {error}"]
    if isinstance(error, AuthenticationError) and error.provider in PROVIDERS:
        variable = PROVIDERS[error.provider].key_variable
        lines.append(f"The key is that of {variable}{'' if os.environ.get(variable) else ', which is not set'}.")
    return lines
