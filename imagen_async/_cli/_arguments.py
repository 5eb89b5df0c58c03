"""What may be written on the command line: the whole grammar."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, get_args

from .._core.fields import FIELDS, Kind
from .._core.poll_schedule import FRESHNESS
from .._core.routing import Policy
from ..providers import PROVIDERS
from . import _words as words
from .export import FORMATS
from .export.shards import ShardSize

EPILOG = """exit codes: 0 all done, 1 some failed, 2 wrong usage or configuration, 130 interrupted
Data goes to stdout, progress and messages to stderr. Try it without a key: -p sandbox"""

_READERS: dict[Kind, tuple[Callable[[str], Any], Any]] = {
    "text": (str, None),
    "whole": (int, None),
    "object": (words.json_object, {}),
}
"""What reads the option of a request's field, by its kind, and what stands where it is not given."""


def build_parser() -> argparse.ArgumentParser:
    """Make what parses it."""
    # argparse is there and starts in a millisecond; others cost 94, or bring eleven packages (measured).
    parser = argparse.ArgumentParser(
        prog="imagen-async",
        description="Pictures out of the Imagen 4 APIs of kie.ai, Apikley, LiangXin and API in One, by the thousand.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        # Going on leaves out the words that pay again: no shorter form of them may be taken.
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_generate(commands)
    _add_batch(commands)
    _add_plan(commands)
    _add_status(commands)
    _add_collect(commands)
    _add_gallery(commands)
    _add_export(commands)
    credits = _add(commands, "credits", "ask for the balance of the named accounts, or of all whose key is set")
    _account_options(credits)
    _json_option(credits, "a JSON object on stdout")
    providers = _add(commands, "providers", "list what this version knows: addresses, keys, models, prices, limits")
    _json_option(providers, "a JSON object a provider on stdout")
    _add_sandbox(commands)
    return parser


def _add(commands: Any, name: str, help_text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help_text,
        description=help_text[0].upper() + help_text[1:] + ".",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    return parser


def _add_generate(commands: Any) -> None:
    parser = _add(commands, "generate", "make one picture, or a few of one prompt")
    parser.add_argument("prompt", metavar="PROMPT")
    _account_options(parser)
    _request_options(parser)
    _output_options(parser)


def _add_batch(commands: Any) -> None:
    parser = _add(commands, "batch", "make a picture for every line of a file; the same command again goes on")
    _file_options(parser)
    _account_options(parser)
    _request_options(parser)
    _output_options(parser)
    _budget_option(parser)
    parser.add_argument("--retries", type=int, default=0, metavar="N", help="new tasks for a failed generation (0)")
    parser.add_argument("--ordered", action="store_true", help="print results in the order of the file")
    parser.add_argument("--gallery", action="store_true", help="at the end write index.html, which shows the pictures")
    _callback_options(parser)
    group = parser.add_argument_group("going on", "what the folder's journal does not repeat by itself")
    group.add_argument("--retry-failed", action="store_true", help="make new tasks, paid for, of those that failed")
    group.add_argument(
        "--resubmit-unknown",
        action="store_true",
        help="send those once more whose create's answer was lost: what was made already is paid for twice",
    )
    group.add_argument(
        "--on-exit",
        choices=("detach", "drain"),
        default="detach",
        help="after Ctrl-C or SIGTERM: leave running tasks to the journal (detach), or wait for them (drain)",
    )


def _add_plan(commands: Any) -> None:
    parser = _add(commands, "plan", "check every line of a file, and tell credits and time, before a cent is spent")
    _file_options(parser)
    _account_options(parser)
    _request_options(parser)
    parser.add_argument(
        "-o", "--out", metavar="DIR", help="a batch's folder: leave out what its journal has, learn from it"
    )
    _budget_option(parser)
    _json_option(parser, "a JSON object on stdout")


def _add_collect(commands: Any) -> None:
    parser = _add(commands, "collect", "wait for a task that exists, and fetch its pictures; creates nothing")
    parser.add_argument("task_id", metavar="TASK_ID")
    parser.add_argument("--dir", metavar="DIR", help="a batch's folder, whose journal and lists it belongs in")
    parser.add_argument("--key", help="with --dir: which held request it is, where you found its task at the provider")
    _account_options(parser)
    _output_options(parser)
    # With --dir it is a batch of one, which asks for all that a batch is told.
    parser.set_defaults(**{field.name: _READERS[field.kind][1] for field in FIELDS if field.has_default})
    parser.set_defaults(ordered=False, retries=0, on_exit="detach")
    parser.set_defaults(retry_failed=False, resubmit_unknown=False, max_credits=None)
    parser.set_defaults(callback=None)


def _add_status(commands: Any) -> None:
    parser = _add(commands, "status", "tell how the batch of a folder stands, and what to run next; sends nothing")
    parser.add_argument("dir", metavar="DIR")
    _json_option(parser, "a JSON object on stdout")


def _add_gallery(commands: Any) -> None:
    parser = _add(commands, "gallery", "write one page, index.html, that shows every picture of a batch's folder")
    parser.add_argument("dir", metavar="DIR")


def _add_export(commands: Any) -> None:
    parser = _add(commands, "export", "write the pictures of a batch's folder in a form that training tools load")
    parser.add_argument("dir", metavar="DIR")
    parser.add_argument("--to", required=True, choices=tuple(FORMATS), help="shards of this form")
    parser.add_argument("-o", "--out", metavar="DIR", help="where the shards go (beside the folder: DIR-FORM)")
    parser.add_argument(
        "--shard-size",
        type=words.shard_size,
        default=ShardSize(bytes=500_000_000),
        metavar="SIZE",
        help="of a shard at most: a number of pictures, such as 1000, or of bytes, such as 500MB (the default)",
    )


def _add_sandbox(commands: Any) -> None:
    parser = _add(commands, "sandbox", "serve the sandbox, a local provider that bills nobody, until Ctrl-C")
    parser.add_argument("--port", type=words.port, default=8787, help="on 127.0.0.1 (8787; 0: any)")
    parser.add_argument("--latency", type=float, default=1.0, metavar="SECONDS", help="median of a task (1)")
    parser.add_argument("--faults", type=float, default=0.0, metavar="SHARE", help="of requests that go wrong (0)")
    parser.add_argument("--credits", type=float, metavar="N", help="balance of the account (endless)")
    parser.add_argument("--seed", type=int, default=0, help="makes latencies, faults and task ids repeatable (0)")
    _limit_options(parser, lambda parse: parse)


def _file_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file",
        metavar="FILE",
        help=".txt (a prompt a line), .jsonl, .csv or .tsv (columns named like a request's fields: "
        f"{', '.join(field.name for field in FIELDS)}; others go to the manifest), or - for stdin",
    )
    parser.add_argument("--limit", type=words.positive, metavar="N", help="only the first N requests")
    parser.add_argument(
        "--format", choices=("txt", "jsonl", "csv", "tsv"), help="of FILE, where its name does not tell"
    )


def _account_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("accounts", "what is said with NAME= in front is said of that account alone")
    group.add_argument(
        "-p",
        "--provider",
        action="append",
        metavar="NAME",
        help=f"one of {', '.join(PROVIDERS)}; several times for one pool; a second account of one as MYNAME=NAME, with "
        "its key in MYNAME_API_KEY",
    )
    group.add_argument(
        "--policy",
        choices=get_args(Policy),
        default="spread",
        help="who of several gets a request: who can send soonest (spread), the cheapest, the first named (in_order)",
    )
    _said_of_accounts(group, "--base-url", str, "URL", "of the API, in place of the provider's")
    _said_of_accounts(group, "--price", words.price, "CREDITS", "of a picture, where the provider publishes none")
    _limit_options(group, words.of_account)


def _limit_options(group: Any, scoped: Callable[[Callable[[str], Any]], Callable[[str], Any]]) -> None:
    _said_of_accounts(group, "--rate", words.rate, "N/SECONDS", "creates in any window, such as 20/10", scoped)
    _said_of_accounts(group, "--status-rate", words.rate, "N/SECONDS", "status calls in any window", scoped)
    _said_of_accounts(group, "--running", words.positive, "N", "tasks that may run at once", scoped)


def _callback_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "callbacks",
        "have the end of each task announced to this command; signed with IMAGEN_WEBHOOK_KEY, where it is set",
    )
    group.add_argument("--callback-url", metavar="URL", help="public address of your proxy or tunnel to the port")
    group.add_argument("--callback-port", type=words.port, metavar="PORT", help="where they are taken (8788)")
    group.add_argument("--callback-host", metavar="ADDRESS", help="of this machine, to listen on (127.0.0.1)")


def _budget_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-credits", type=words.credits, metavar="N", help="spend no more, earlier runs of the folder included"
    )


def _request_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("picture", "for requests that do not say it themselves")
    for field in FIELDS:
        if field.has_default:
            names = filter(None, (field.short, f"--{field.name.replace('_', '-')}"))
            read, nothing = _READERS[field.kind]
            group.add_argument(*names, type=read, default=nothing, metavar=field.metavar, help=field.help)


def _output_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument("-o", "--out", metavar="DIR", help="save the pictures here (else their URLs are printed)")
    group.add_argument("--deadline", type=float, default=900, metavar="SECONDS", help="for each request (900)")
    group.add_argument(
        "--freshness",
        type=words.freshness,
        default=FRESHNESS,
        metavar="SECONDS",
        help=f"of waiting that a status call is worth: smaller sees pictures sooner and asks more ({FRESHNESS:g})",
    )
    group.add_argument("-q", "--quiet", action="store_true", help="no progress")
    group.add_argument(
        "-v", "--verbose", action="count", default=0, help="log on stderr what happens to each job; -vv: every exchange"
    )
    _json_option(group, "a JSON object a result on stdout")


def _json_option(group: Any, help_text: str) -> None:
    group.add_argument("--json", action="store_true", help=help_text)


def _said_of_accounts(
    group: Any,
    name: str,
    parse: Callable[[str], Any],
    metavar: str,
    help_text: str,
    scoped: Callable[[Callable[[str], Any]], Callable[[str], Any]] | None = None,
) -> None:
    """An option for every account, or for one; the last word counts."""
    kind = (scoped or words.of_account)(parse)
    group.add_argument(name, action="append", default=[], type=kind, metavar=metavar, help=help_text)
