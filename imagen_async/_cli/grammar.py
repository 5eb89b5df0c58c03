"""The grammar: reads a command line into a frozen record, the command's own. Nobody else sees what argparse makes."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Callable, Collection, Iterable, Sequence
from importlib import import_module
from itertools import takewhile
from typing import Any, Generic, NoReturn, TypeVar, cast

import msgspec

from .. import __version__
from .._text import one_line

EPILOG = """exit codes: 0 all done, 1 some failed, 2 wrong usage or configuration, 130 interrupted
Data goes to stdout, progress and messages to stderr. Neither can end a batch: a stdout that
cannot be written, such as on a full disk, makes 1 of 0; one whose reader has left, as `| head`
does, changes nothing. Where nothing is saved, no more is made then, and stderr has what stdout
lacks. Try it without a key: -p sandbox"""

PROGRAM = "imagen-async"

_BEHIND = ". Options stand behind the command."


class Parser(argparse.ArgumentParser):
    """argparse's, whose refusals are two lines and name what may have been meant."""

    def error(self, message: str) -> NoReturn:
        """Say what cannot be meant, and where all is told that can; ends the process with exit code 2."""
        self.exit(2, f"{one_line(f'{self.prog}: {message}')}\nTry `{self.prog} --help`.\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Read the words; one that looks like an option and is none is told before anything that is missing."""
        # Of the whole line: words behind a command are that command's own parser's.
        mine = takewhile(lambda word: self._subparsers is None or word.startswith("-"), args)
        known = self._option_string_actions
        # Before the command each of them is strange: what follows `-p` there would be taken for the command.
        shape, place = (r"(--[^=\s]+)(=\S*)?", "") if self._subparsers is None else (r"(-[^=\s]+)(=\S*)?", _BEHIND)
        for word in takewhile(lambda word: word != "--", mine):
            option = re.fullmatch(shape, word)
            if option is not None and option[1] not in known:
                self.error(f"unrecognized arguments: {word}{_meant(option[1], known) or place}")
        given, strange = super().parse_known_args(args, namespace)
        if strange:
            self.error(f"unrecognized arguments: {' '.join(strange)}")
        return given, []

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            error.message += _meant(value, action.choices or ())
            raise


def _meant(word: str, known: Iterable[str]) -> str:
    from .library import did_you_mean  # only here: all of the library stands behind it

    question = did_you_mean(word, known)
    return f".{question}" if question else ""


class Options(msgspec.Struct, frozen=True):
    """Words of a command line that were read: a field for each, by the name of its option.

    A field whose type is another such record holds the words of that one. `command_line` is the line itself.
    """

    @classmethod
    def declare(cls, parser: Parser) -> None:
        """Add what may be written to a parser."""


T = TypeVar("T", bound=Options)


class Work(msgspec.Struct, Generic[T], frozen=True):
    """What a command does: `WORK` of its module.

    Attributes:
        options: What it is told.
        run: Does it; returns the exit code.
    """

    options: type[T]
    run: Callable[[T], int]


class Command(msgspec.Struct, frozen=True):
    """What may stand behind `imagen-async`. Its module is loaded once it is asked for: the list of all costs nothing.

    Attributes:
        name: The word, and the name of its module.
        help: What `--help` says of it; a sentence without its first capital and its full stop.
    """

    name: str
    help: str

    @property
    def options(self) -> type[Options]:
        """What it is told."""
        return self._work.options

    def run(self, options: Options) -> int:
        """Do it; returns the exit code."""
        return self._work.run(options)

    @property
    def _work(self) -> Work[Any]:
        return cast("Work[Any]", import_module(f".commands.{self.name}", __package__).WORK)


class Asked(msgspec.Struct, frozen=True):
    """A command line that was understood: the command, what it is told, and how much of its log is to be shown."""

    command: Command
    options: Options
    verbosity: int

    def run(self) -> int:
        """Do it; returns the exit code."""
        return self.command.run(self.options)


def read(arguments: Sequence[str], commands: Iterable[Command]) -> Asked:
    """Understand the words behind `imagen-async`; ends the process with exit code 2 where they cannot be meant."""
    by_name = {command.name: command for command in commands}
    # No option in front of the command takes a value: the first other word is the command.
    asked = next((word for word in arguments if not word.startswith("-")), None)
    parser = parser_of(by_name.values(), declared=[name for name in by_name if name == asked])
    given = parser.parse_args(arguments, argparse.Namespace(verbose=0))
    given.command_line = shlex.join([PROGRAM, *arguments])
    command = by_name[given.command]
    return Asked(command, _record_of(command.options, given), given.verbose)


def parser_of(commands: Iterable[Command], declared: Collection[str]) -> Parser:
    """The parser of a whole line; only of the commands in `declared` does it know the options."""
    # argparse is there and starts in a millisecond; others cost 94, or bring eleven packages (measured).
    parser = Parser(
        prog=PROGRAM,
        description="Pictures out of kie.ai, Apikley, LiangXin, API in One and others of their kind, by the thousand.",
        epilog=EPILOG,
        formatter_class=_Help,
        # Going on leaves out the words that pay again: no shorter form of them may be taken.
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}", help="print it, and exit")
    added = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in commands:
        own = added.add_parser(
            command.name,
            help=command.help,
            description=command.help[0].upper() + command.help[1:] + ".",
            epilog=EPILOG,
            formatter_class=_Help,
            allow_abbrev=False,
        )
        if command.name in declared:
            command.options.declare(own)
    return parser


class _Help(argparse.RawDescriptionHelpFormatter):
    """At most 100 columns wide, however wide the terminal."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog)
        self._width = min(self._width, 98)


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
