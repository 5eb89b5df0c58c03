"""Whether pictures are saved, and what it means where they are not and nobody has said that they need not be."""

from __future__ import annotations

from collections.abc import Mapping

from .. import Account
from ..errors import ConfigurationError
from .library import provider_of
from .options import OutputOptions


def price_of_not_saving(output: OutputOptions, pool: Mapping[str, Account]) -> str | None:
    """Say what becomes of pictures that are paid for and not saved; None where that is said, or costs nothing.

    Raises:
        ConfigurationError: The options say both.
    """
    if output.out is not None and output.no_save:
        raise ConfigurationError("-o DIR saves the pictures, and --no-save does not: say one of them.")
    if output.out is not None or output.no_save or all(provider_of(each).is_local for each in pool.values()):
        return None
    return (
        "Without -o DIR nothing is saved: all that there is of a picture is its link on stdout, which dies, at some "
        "providers within minutes, and the same command again pays for all of it again."
    )
