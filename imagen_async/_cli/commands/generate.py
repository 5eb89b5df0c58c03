"""`generate`: makes one picture, or a few of one prompt."""

from __future__ import annotations

from ..grammar import Command, Options, Parser
from ..options import AccountOptions, OutputOptions, PictureOptions
from ..single import one


class GenerateOptions(Options, frozen=True):
    """What `generate` is told."""

    prompt: str
    accounts: AccountOptions
    picture: PictureOptions
    output: OutputOptions

    @classmethod
    def declare(cls, parser: Parser) -> None:
        """Add what may be written to a parser."""
        parser.add_argument("prompt", metavar="PROMPT")
        AccountOptions.declare(parser)
        PictureOptions.declare(parser)
        OutputOptions.declare(parser)


def _run(options: GenerateOptions) -> int:
    request, deadline = options.picture.request(options.prompt), options.output.deadline
    return one(options.accounts, options.output, lambda client: client.generate(request, deadline=deadline))


GENERATE = Command("generate", "make one picture, or a few of one prompt", GenerateOptions, _run)
