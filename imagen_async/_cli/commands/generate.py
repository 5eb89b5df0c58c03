"""`generate`: makes one picture, or a few of one prompt."""

from __future__ import annotations

from ..accounts import pool_of
from ..grammar import Options, Parser, Work
from ..library import router_of
from ..options import AccountOptions, NextModelOptions, OutputOptions, PictureOptions
from ..own_columns import resolved
from ..saving import price_of_not_saving
from ..single import one
from ..wording import say


class GenerateOptions(Options, frozen=True):
    """What `generate` is told."""

    prompt: str
    accounts: AccountOptions
    picture: PictureOptions
    next_model: NextModelOptions
    output: OutputOptions

    @classmethod
    def declare(cls, parser: Parser) -> None:
        """Add what may be written to a parser."""
        parser.add_argument(
            "prompt", metavar="PROMPT", nargs="?", default="", help="what it shows; some models take none"
        )
        AccountOptions.declare(parser)
        PictureOptions.declare(parser)
        NextModelOptions.declare(parser)
        OutputOptions.declare(parser)


def _run(options: GenerateOptions) -> int:
    pool = pool_of(options.accounts)
    warning = price_of_not_saving(options.output, pool)
    if warning is not None:
        say(f"Warning: {warning} --no-save says that this is meant.")
    request = resolved(options.picture, router_of(pool)).request(options.prompt)
    deadline, on_refused = options.output.deadline, options.next_model.on_refused
    return one(
        options.accounts,
        options.output,
        lambda client: client.generate(request, deadline=deadline, on_refused=on_refused),
    )


WORK = Work(GenerateOptions, _run)
