"""What may be written on the command line, and what it becomes."""

from __future__ import annotations

import argparse
import json
import os
import re
from typing import Any

from .._accounts import Account, open_account
from .._core.poll_schedule import FRESHNESS, checked_freshness
from .._core.provider import Limits, Provider
from .._core.rate_limit import Rate
from .._core.values import PARAMETERS, ImageRequest
from ..errors import ConfigurationError
from ..providers import PROVIDERS

EPILOG = """exit codes: 0 all done, 1 some failed, 2 wrong usage or configuration, 130 interrupted
Data goes to stdout, progress and messages to stderr. Try it without a key: -p sandbox"""


def build_parser() -> argparse.ArgumentParser:
    """The whole grammar."""
    parser = argparse.ArgumentParser(
        prog="imagen-async",
        description="Pictures out of the Imagen 4 APIs of kie.ai, Apikley, LiangXin and API in One, by the thousand.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_generate(commands)
    _add_batch(commands)
    _add_plan(commands)
    _add_status(commands)
    _add_collect(commands)
    credits = _add(commands, "credits", "ask for the account's balance")
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
    parser.add_argument("--retries", type=int, default=0, metavar="N", help="new tasks for a failed generation (0)")
    parser.add_argument("--ordered", action="store_true", help="print results in the order of the file")
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
    _json_option(parser, "a JSON object on stdout")


def _add_collect(commands: Any) -> None:
    parser = _add(commands, "collect", "wait for a task that exists, and fetch its pictures; creates nothing")
    parser.add_argument("task_id", metavar="TASK_ID")
    parser.add_argument("--dir", metavar="DIR", help="a batch's folder, whose journal and lists it belongs in")
    parser.add_argument("--key", help="with --dir: which held request it is, where you found its task at the provider")
    _account_options(parser)
    _output_options(parser)
    nothing = dict.fromkeys(("model", *PARAMETERS))
    parser.set_defaults(**nothing, extra={}, ordered=False, retries=0, on_exit="detach")
    parser.set_defaults(retry_failed=False, resubmit_unknown=False)


def _add_status(commands: Any) -> None:
    parser = _add(commands, "status", "tell how the batch of a folder stands, and what to run next; sends nothing")
    parser.add_argument("dir", metavar="DIR")
    _json_option(parser, "a JSON object on stdout")


def _add_sandbox(commands: Any) -> None:
    parser = _add(commands, "sandbox", "serve the sandbox, a local provider that bills nobody, until Ctrl-C")
    parser.add_argument("--port", type=_port, default=8787, help="on 127.0.0.1 (8787; 0: any)")
    parser.add_argument("--latency", type=float, default=1.0, metavar="SECONDS", help="median of a task (1)")
    parser.add_argument("--faults", type=float, default=0.0, metavar="SHARE", help="of requests that go wrong (0)")
    parser.add_argument("--credits", type=float, metavar="N", help="balance of the account (endless)")
    parser.add_argument("--seed", type=int, default=0, help="makes latencies, faults and task ids repeatable (0)")
    _limit_options(parser)


def _file_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file",
        metavar="FILE",
        help=".txt (a prompt a line), .jsonl, .csv or .tsv (columns named like a request's fields: prompt, model, "
        "aspect_ratio, negative_prompt, num_images, seed, key, extra; others go to the manifest), or - for stdin",
    )
    parser.add_argument("--limit", type=_positive, metavar="N", help="only the first N requests")
    parser.add_argument(
        "--format", choices=("txt", "jsonl", "csv", "tsv"), help="of FILE, where its name does not tell"
    )


def _account_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("account")
    group.add_argument("-p", "--provider", action="append", metavar="NAME", help=f"one of {', '.join(PROVIDERS)}")
    group.add_argument("--base-url", metavar="URL", help="of the API, in place of the provider's")
    _limit_options(group)


def _limit_options(group: Any) -> None:
    group.add_argument("--rate", type=_rate, metavar="N/SECONDS", help="creates in any window, such as 20/10")
    group.add_argument("--status-rate", type=_rate, metavar="N/SECONDS", help="status calls in any window")
    group.add_argument("--running", type=_positive, metavar="N", help="tasks that may run at once")


def _request_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("picture", "for requests that do not say it themselves")
    group.add_argument("-m", "--model", help="imagen4 (default), imagen4-fast, imagen4-ultra, or raw:NAME")
    group.add_argument("--aspect-ratio", metavar="W:H", help="1:1, 16:9, 9:16, 3:4 or 4:3")
    group.add_argument("--negative-prompt", metavar="TEXT", help="what to leave out")
    group.add_argument("--num-images", type=int, metavar="N", help="pictures a request, each billed")
    group.add_argument("--seed", type=int, metavar="N")
    group.add_argument("--extra", type=_extra, default={}, metavar="JSON", help="the provider's own fields")


def _output_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument("-o", "--out", metavar="DIR", help="save the pictures here (else their URLs are printed)")
    group.add_argument("--deadline", type=float, default=900, metavar="SECONDS", help="for each request (900)")
    group.add_argument(
        "--freshness",
        type=_freshness,
        default=FRESHNESS,
        metavar="SECONDS",
        help=f"of waiting that a status call is worth: smaller sees pictures sooner and asks more ({FRESHNESS:g})",
    )
    group.add_argument("-q", "--quiet", action="store_true", help="no progress")
    _json_option(group, "a JSON object a result on stdout")


def _json_option(group: Any, help_text: str) -> None:
    group.add_argument("--json", action="store_true", help=help_text)


def _rate(text: str) -> Rate:
    match = re.fullmatch(r"(\d+)/(\d+(?:\.\d+)?)", text)
    try:
        return Rate(int(match[1]), per=float(match[2])) if match else _refuse(text, "N/SECONDS, such as 20/10")
    except ConfigurationError as error:
        raise argparse.ArgumentTypeError(error.message) from None


def _positive(text: str) -> int:
    return int(text) if text.isdecimal() and int(text) > 0 else _refuse(text, "a whole number above 0")


def _freshness(text: str) -> float:
    try:
        return checked_freshness(float(text))
    except (ValueError, ConfigurationError):
        return float(_refuse(text, "a number of seconds above 0, at most a day"))


def _port(text: str) -> int:
    return int(text) if text.isdecimal() and int(text) < 65536 else _refuse(text, "a port from 0 to 65535")


def _extra(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else _refuse(text, "a JSON object")


def _refuse(text: str, wanted: str) -> Any:
    raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")


def limits_of(options: argparse.Namespace, default: Limits) -> Limits:
    """The limits that the options ask for, the default's where they say nothing."""
    return Limits(
        submit=options.rate or default.submit,
        status=options.status_rate or default.status,
        running=options.running or default.running,
    )


def request_of(options: argparse.Namespace, prompt: str) -> ImageRequest:
    """The request that the options ask for."""
    return ImageRequest(
        prompt,
        model=options.model,
        aspect_ratio=options.aspect_ratio,
        negative_prompt=options.negative_prompt,
        num_images=options.num_images,
        seed=options.seed,
        extra=options.extra,
    )


def provider_of(options: argparse.Namespace) -> Provider:
    """The provider that was named, or the only one whose key is in the environment."""
    names = options.provider or [name for name, each in PROVIDERS.items() if os.environ.get(each.key_variable)]
    if len(names) != 1:
        several = f"-p was given {len(names)} times and" if options.provider else "-p is missing, and"
        named = f"{', '.join(name for name in PROVIDERS if name != 'sandbox')}, or sandbox, which needs no key"
        raise ConfigurationError(f"{several} this version takes one provider: {named}.")
    if names[0] not in PROVIDERS:
        raise ConfigurationError(f"There is no provider {names[0]!r}; this version knows: {', '.join(PROVIDERS)}.")
    return PROVIDERS[names[0]]


def account_of(options: argparse.Namespace) -> Account:
    """The account that the options name; its key and address are looked for at once, before a file is read."""
    provider = provider_of(options)
    account = Account(provider.name, base_url=options.base_url, limits=limits_of(options, provider.limits))
    open_account(account, os.environ)
    return account
