"""`help`: shows a page of the manual, the files of `_cli/manual`."""

from __future__ import annotations

import pydoc
from importlib.resources import files

from ..exits import ALL_DONE
from ..grammar import Options, Parser, Work, read
from . import COMMANDS

_PAGES = files("imagen_async._cli") / "manual"


class HelpOptions(Options, frozen=True):
    """What `help` is told."""

    topic: str | None

    @classmethod
    def declare(cls, parser: Parser) -> None:
        """Add what may be written to a parser."""
        topics, commands = list(_titles()), [command.name for command in COMMANDS]
        what = f"one of {', '.join(topics)}; or a command, for its --help"
        parser.add_argument("topic", metavar="TOPIC", nargs="?", choices=[*topics, *commands], help=what)


def _run(options: HelpOptions) -> int:
    if options.topic in _titles():
        text = (_PAGES / f"{options.topic}.txt").read_text(encoding="utf-8")
    elif options.topic is not None:
        return read([options.topic, "--help"], COMMANDS).run()  # it ends the process by itself
    else:
        lines = [f"  {name:<10} {title}" for name, title in _titles().items()]
        text = "\n".join(["`imagen-async help TOPIC` shows a page of the manual:", "", *lines, "", _MORE, ""])
    pydoc.pager(text)  # on a terminal page by page, elsewhere plain
    return ALL_DONE


def _titles() -> dict[str, str]:
    """The pages by name, each with its title, which is its first line."""
    pages = sorted(_PAGES.iterdir(), key=lambda page: page.name)
    return {page.name.removesuffix(".txt"): page.read_text(encoding="utf-8").split("\n")[0] for page in pages}


_MORE = "`imagen-async help COMMAND` is `imagen-async COMMAND --help`."

WORK = Work(HelpOptions, _run)
