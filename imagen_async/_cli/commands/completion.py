"""`completion`: prints a shell's script that completes the command's words."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Literal, get_args

from ..exits import ALL_DONE
from ..grammar import Options, Parser, Work, parser_of

Shell = Literal["bash", "zsh", "fish"]

_WHERE = """bash: imagen-async completion bash > ~/.local/share/bash-completion/completions/imagen-async
zsh:  imagen-async completion zsh > a file _imagen-async in a folder of your $fpath
fish: imagen-async completion fish > ~/.config/fish/completions/imagen-async.fish"""


class CompletionOptions(Options, frozen=True):
    """What `completion` is told."""

    shell: Shell

    @classmethod
    def declare(cls, parser: Parser) -> None:
        """Add what may be written to a parser."""
        parser.add_argument("shell", metavar="SHELL", choices=get_args(Shell), help="one of bash, zsh, fish")
        parser.epilog = f"{_WHERE}\n\n{parser.epilog}"


def _run(options: CompletionOptions) -> int:
    import shtab  # only here: nothing else needs it

    from . import COMMANDS

    parser = parser_of(COMMANDS, declared={command.name for command in COMMANDS})
    _complete_paths(parser, {"FILE": shtab.FILE, "DIR": shtab.DIR})
    print(shtab.complete(parser, options.shell))
    return ALL_DONE


def _complete_paths(parser: argparse.ArgumentParser, kinds: Mapping[str, object]) -> None:
    """Have what `--help` calls a file or a folder completed as one, also in the commands' parsers."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for own in action.choices.values():
                _complete_paths(own, kinds)
        elif isinstance(action.metavar, str) and action.metavar in kinds:
            action.complete = kinds[action.metavar]  # type: ignore[attr-defined] # shtab's


WORK = Work(CompletionOptions, _run)
