"""`credits`: asks accounts for their balance."""

from __future__ import annotations

import json

import msgspec

from ...errors import ImagenError
from ..accounts import keys_in_environment, pool_of
from ..balances import balances_of
from ..exits import ALL_DONE, tell
from ..grammar import Options, Parser, Work
from ..library import provider_of
from ..options import AccountOptions
from ..wording import amount, show


class CreditsOptions(Options, frozen=True):
    """What `credits` is told."""

    accounts: AccountOptions
    json: bool

    @classmethod
    def declare(cls, parser: Parser) -> None:
        """Add what may be written to a parser."""
        AccountOptions.declare(parser)
        parser.add_argument("--json", action="store_true", help="a JSON object on stdout")


def _run(options: CreditsOptions) -> int:
    named = options.accounts.provider or keys_in_environment()
    pool = pool_of(msgspec.structs.replace(options.accounts, provider=named))
    codes = [ALL_DONE]
    for name, balance in balances_of(pool, proxy=options.accounts.proxy).items():
        if isinstance(balance, ImagenError):
            codes.append(tell(balance))
        elif options.json:
            print(json.dumps({"provider": name, "credits": balance}))
        else:
            show(balance_text(name, provider_of(pool[name]).title, balance))
    return max(codes)


def balance_text(account: str, title: str, balance: float | None) -> str:
    """What an account has left, for people; `title` is its provider's."""
    return (
        f"{account}: the API of {title} does not tell a balance" if balance is None else f"{account} {amount(balance)}"
    )


WORK = Work(CreditsOptions, _run)
