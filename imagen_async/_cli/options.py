"""What several commands are told: each record with its fields, and below them what may be written for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar, cast, get_args

import msgspec

from .. import ImageRequest, Rate
from ..providers import PROVIDERS
from . import words
from .grammar import Options, Parser
from .library import FIELDS, FRESHNESS, FieldKind, InputFile, OnRefused, Parameters, Policy, states_sent_again

T = TypeVar("T")

Said = tuple[tuple[str | None, T], ...]
"""What was said of accounts, in its order: the account that was named, None for all, and the value."""

FileFormat = Literal["txt", "jsonl", "csv", "tsv", "json", "parquet"]

_READERS: dict[FieldKind, tuple[Callable[[str], Any], Any]] = {
    "text": (words.filled, None),
    "whole": (words.whole, None),
    "object": (words.json_object, {}),
    "files": (words.filled, []),
}
"""What reads the option of a request's field, by its kind, and what stands where it is not given."""


_Described = tuple[str, Callable[[str], Any], str, str]
"""An option: its name, what reads its value, what stands for that in `--help`, and its help."""

_SAID_OF_ACCOUNTS: tuple[_Described, ...] = (
    ("--base-url", words.filled, "URL", "of the API, in place of the provider's"),
    ("--price", words.price, "CREDITS", "of a picture, where the provider publishes none"),
)

LIMITS: tuple[_Described, ...] = (
    ("--rate", words.rate, "N/SECONDS", "creates in any window, such as 20/10"),
    ("--status-rate", words.rate, "N/SECONDS", "status calls in any window"),
    ("--running", words.positive, "N", "tasks that may run at once"),
)
"""The options for limits, of accounts and of the sandbox."""


_PROXY_HELP = "for all but this machine, in place of HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY"
_NOT_SHARED_HELP = "have the limits for this process alone, whatever else runs on this machine with the key"
_MODELS_HELP = "records of models, as `models import` and `models refresh` write them"


class FileOptions(Options, frozen=True):
    """Which prompts."""

    file: str
    limit: int | None = None
    format: FileFormat | None = None
    encoding: str | None = None

    @classmethod
    def declare(cls, parser: Parser) -> None:
        """Add what may be written to a parser."""
        parser.add_argument(
            "file",
            metavar="FILE",
            help=".txt (a prompt a line), .jsonl, .json, .csv, .tsv or .parquet (columns named like a request's "
            f"fields: {', '.join(field.name for field in FIELDS if not field.is_made)}; others go to metadata.jsonl), "
            "each also as .gz, or - for stdin",
        )
        parser.add_argument("--limit", type=words.positive, metavar="N", help="only the first N requests")
        parser.add_argument("--format", choices=get_args(FileFormat), help="of FILE, where its name does not tell")
        parser.add_argument("--encoding", metavar="NAME", help="of FILE, where it is no UTF-8: cp1252, gb18030 …")


class AccountOptions(Options, frozen=True):
    """Who makes it."""

    provider: tuple[str, ...] = ()
    policy: Policy = "spread"
    base_url: Said[str] = ()
    price: Said[float] = ()
    rate: Said[Rate] = ()
    status_rate: Said[Rate] = ()
    running: Said[int] = ()
    proxy: str | None = None
    models_file: tuple[str, ...] = ()
    not_shared: bool = False

    @classmethod
    def declare(cls, parser: Parser) -> None:
        """Add what may be written to a parser."""
        group = parser.add_argument_group("accounts", "what is said with NAME= in front is said of that account alone")
        provider_help = (
            f"one of {', '.join(PROVIDERS)}; or FILE.toml, a provider of your own; several times for one pool; a "
            "second account of one as MYNAME=NAME, with its key in MYNAME_API_KEY"
        )
        group.add_argument("-p", "--provider", action="append", default=[], metavar="NAME", help=provider_help)
        group.add_argument(
            "--policy",
            choices=get_args(Policy),
            default="spread",
            help="who of several gets a request: who can send soonest (spread), the cheapest, the first named "
            "(in_order)",
        )
        for name, read, metavar, help_text in (*_SAID_OF_ACCOUNTS, *LIMITS):
            kind = words.of_account(read)
            group.add_argument(name, action="append", default=[], type=kind, metavar=metavar, help=help_text)
        group.add_argument("--proxy", metavar="URL", help=_PROXY_HELP)
        group.add_argument("--not-shared", action="store_true", help=_NOT_SHARED_HELP)
        group.add_argument(
            "--models-file", action="append", default=[], type=words.filled, metavar="FILE", help=_MODELS_HELP
        )


_OF_THE_COMMAND = ("set", "local_files")
"""What is found out of the words, and no parameter of a call."""


class PictureOptions(Options, frozen=True):
    """What a request asks for that does not say it itself: the fields of a request that may have a default."""

    model: str | None = None
    aspect_ratio: str | None = None
    negative_prompt: str | None = None
    num_images: int | None = None
    seed: int | None = None
    extra: dict[str, Any] = {}  # noqa: RUF012 - msgspec copies an empty default
    images: tuple[str, ...] = ()
    set: tuple[tuple[str, str], ...] = ()
    local_files: dict[str, InputFile] = {}  # noqa: RUF012 - msgspec copies an empty default

    @classmethod
    def declare(cls, parser: Parser) -> None:
        """Add what may be written to a parser."""
        group = parser.add_argument_group("picture", "for requests that do not say it themselves")
        for field in FIELDS:
            if field.has_default:
                names = filter(None, (field.short, f"--{(field.option or field.name).replace('_', '-')}"))
                read, nothing = _READERS[field.kind]
                action = "append" if field.kind == "files" else "store"
                told: dict[str, Any] = {"default": nothing, "metavar": field.metavar, "help": field.help}
                group.add_argument(*names, type=read, action=action, dest=field.name, **told)
        group.add_argument(
            "--set",
            action="append",
            default=[],
            type=words.assignment,
            metavar="NAME=VALUE",
            help="a field of the model's own, such as resolution=2K (`imagen-async models show NAME` lists them)",
        )
        parser.set_defaults(local_files={})

    def parameters(self) -> Parameters:
        """As parameters of a call; what `set` says is to be in them by then."""
        said = {name: value for name, value in msgspec.structs.asdict(self).items() if name not in _OF_THE_COMMAND}
        return cast(Parameters, said)

    def request(self, prompt: str) -> ImageRequest:
        """The request for a prompt."""
        parameters = cast(dict[str, Any], self.parameters())
        return ImageRequest(prompt, **parameters, local_files=self.local_files)


class OutputOptions(Options, frozen=True):
    """What becomes of a result, how long it may take, and what is told meanwhile."""

    out: str | None = None
    deadline: float = 900
    freshness: float = FRESHNESS
    no_save: bool = False
    quiet: bool = False
    json: bool = False

    @classmethod
    def declare(cls, parser: Parser) -> None:
        """Add what may be written to a parser."""
        group = parser.add_argument_group("output")
        group.add_argument("-o", "--out", type=words.filled, metavar="DIR", help="save the pictures here")
        group.add_argument(
            "--no-save", action="store_true", help="only print their links, which die soon; nothing remembers them"
        )
        group.add_argument(
            "--deadline", type=words.number, default=900, metavar="SECONDS", help="for each request (900)"
        )
        group.add_argument(
            "--freshness",
            type=words.freshness,
            default=FRESHNESS,
            metavar="SECONDS",
            help=f"of waiting that a status call is worth: smaller sees pictures sooner and asks more ({FRESHNESS:g})",
        )
        group.add_argument("-q", "--quiet", action="store_true", help="no progress")
        group.add_argument(
            "-v",
            "--verbose",
            action="count",
            default=0,
            help="log on stderr what happens to each job; -vv: every exchange",
        )
        group.add_argument("--json", action="store_true", help="a JSON object a result on stdout")


class CallbackOptions(Options, frozen=True):
    """Where the end of a task is announced."""

    callback_url: str | None = None
    callback_port: int | None = None
    callback_host: str | None = None

    @classmethod
    def declare(cls, parser: Parser) -> None:
        """Add what may be written to a parser."""
        group = parser.add_argument_group(
            "callbacks",
            "have the end of each task announced here; signed with IMAGEN_WEBHOOK_KEY, where it is set",
        )
        group.add_argument("--callback-url", metavar="URL", help="public address of your proxy or tunnel to the port")
        group.add_argument("--callback-port", type=words.port, metavar="PORT", help="where they are taken (8788)")
        group.add_argument("--callback-host", metavar="ADDRESS", help="of this machine, to listen on (127.0.0.1)")


class BudgetOptions(Options, frozen=True):
    """What may be spent."""

    max_credits: float | None = None

    @classmethod
    def declare(cls, parser: Parser) -> None:
        """Add what may be written to a parser."""
        parser.add_argument(
            "--max-credits", type=words.credits, metavar="N", help="spend no more, earlier runs of the folder included"
        )


ADD = "with other options for the pictures than before: make these beside the folder's earlier results"
"""What `--add` is for."""


class NextModelOptions(Options, frozen=True):
    """When another model may make what the first of several does not."""

    on_refused: OnRefused = "fail"

    @classmethod
    def declare(cls, parser: Parser) -> None:
        """Add what may be written to a parser."""
        parser.add_argument(
            "--on-refused",
            choices=get_args(OnRefused),
            default="fail",
            help="what follows where a prompt was refused unbilled: it fails, or the next model of -m A,B is asked",
        )


class GoingOnOptions(Options, frozen=True):
    """What a run makes of an earlier one, and what it leaves to the next."""

    retry_failed: bool = False
    resubmit_unknown: bool = False
    add: bool = False
    on_exit: Literal["detach", "drain"] = "detach"

    @property
    def again(self) -> frozenset[str]:
        """The states of an earlier run from which a request is sent once more."""
        return states_sent_again(retry_failed=self.retry_failed, resubmits_unknown=self.resubmit_unknown)

    @classmethod
    def declare(cls, parser: Parser) -> None:
        """Add what may be written to a parser."""
        group = parser.add_argument_group("going on", "what the folder's journal does not repeat by itself")
        group.add_argument("--retry-failed", action="store_true", help="make new tasks, paid for, of those that failed")
        group.add_argument(
            "--resubmit-unknown",
            action="store_true",
            help="send those once more whose create's answer was lost: what was made already is paid for twice",
        )
        group.add_argument("--add", action="store_true", help=ADD)
        group.add_argument(
            "--on-exit",
            choices=("detach", "drain"),
            default="detach",
            help="after Ctrl-C, SIGTERM or SIGHUP: leave what runs to the journal (detach), or wait for it (drain)",
        )


class RunOptions(Options, frozen=True, kw_only=True):
    """What a run over a batch is told. What is not said is as in a batch of one task that exists."""

    accounts: AccountOptions
    output: OutputOptions
    command_line: str
    picture: PictureOptions = PictureOptions()
    budget: BudgetOptions = BudgetOptions()
    callbacks: CallbackOptions = CallbackOptions()
    going_on: GoingOnOptions = GoingOnOptions()
    next_model: NextModelOptions = NextModelOptions()
    retries: int = 0
    ordered: bool = False
