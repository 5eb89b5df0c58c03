"""The grammar: reads a command line into a frozen record, the command's own. Nobody else sees what argparse makes."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

import msgspec

EPILOG = """exit codes: 0 all done, 1 some failed, 2 wrong usage or configuration, 130 interrupted
Data goes to stdout, progress and messages to stderr. Try it without a key: -p sandbox"""

Parser = argparse.ArgumentParser


class Options(msgspec.Struct, frozen=True):
    """Words of a command line that were read: a field for each, by the name of its option.

    A field whose type is another such record holds the words of that one. `command_line` is the line itself.
    """

    @classmethod
    def declare(cls, parser: Parser) -> None:
        """Add what may be written to a parser."""


T = TypeVar("T", bound=Options)


class Command(msgspec.Struct, Generic[T], frozen=True):
    """What may stand behind `imagen-async`.

    Attributes:
        name: The word.
        help: What `--help` says of it; a sentence without its first capital and its full stop.
        options: What it is told.
        run: Does it; returns the exit code.
    """

    name: str
    help: str
    options: type[T]
    run: Callable[[T], int]


class Asked(msgspec.Struct, frozen=True):
    """A command line that was understood: the command, what it is told, and how much of its log is to be shown."""

    command: Command[Any]
    options: Options
    verbosity: int

    def run(self) -> int:
        """Do it; returns the exit code."""
        return self.command.run(self.options)


def read(arguments: Sequence[str], commands: Iterable[Command[Any]]) -> Asked:
    """Understand the words behind `imagen-async`; ends the process with exit code 2 where they cannot be meant."""
    by_name = {command.name: command for command in commands}
    given = _parser_of(by_name.values()).parse_args(arguments, argparse.Namespace(verbose=0))
    given.command_line = shlex.join(["imagen-async", *arguments])
    command = by_name[given.command]
    return Asked(command, _record_of(command.options, given), given.verbose)


def _parser_of(commands: Iterable[Command[Any]]) -> Parser:
    # argparse is there and starts in a millisecond; others cost 94, or bring eleven packages (measured).
    parser = Parser(
        prog="imagen-async",
        description="Pictures out of the Imagen 4 APIs of kie.ai, Apikley, LiangXin and API in One, by the thousand.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        # Going on leaves out the words that pay again: no shorter form of them may be taken.
        allow_abbrev=False,
    )
    added = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in commands:
        own = added.add_parser(
            command.name,
            help=command.help,
            description=command.help[0].upper() + command.help[1:] + ".",
            epilog=EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.options.declare(own)
    return parser


def _record_of(kind: type[T], given: argparse.Namespace) -> T:
    """The record of a kind, with the records in it; what could be said several times is a tuple."""
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        if isinstance(field.type, type) and issubclass(field.type, Options):
            values[field.name] = _record_of(field.type, given)
        else:
            value = getattr(given, field.name)
            values[field.name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)
