"""The command `imagen-async`. Needs the `cli` extra; says so where it is missing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

_NEEDED = ("rich", "PIL", "jinja2", "shtab")
_ALWAYS = ("--version", "--help", "-h", "help")
"""What runs without the extra."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0 all done, 1 some failed, 2 wrong usage, 130 interrupted."""
    words = sys.argv[1:] if arguments is None else arguments
    # Looked for, not imported: each command loads what it needs alone.
    if words[:1] and words[0] not in _ALWAYS and any(find_spec(name) is None for name in _NEEDED):
        print("imagen-async needs its command line extra: pip install 'imagen-async[cli]'", file=sys.stderr)
        return 2
    from .run import run  # only here: who imports this package needs none of it

    return run(words)
