"""`limits`: tells who has and waits for what of a key's limits, which all processes of the machine share."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator

import msgspec

from ...errors import ConfigurationError
from ..accounts import keys_in_environment, pool_of
from ..exits import ALL_DONE
from ..grammar import Options, Parser, Work
from ..library import KeyUse, SharedAccount, open_account, use_of
from ..options import AccountOptions
from ..wording import amount, show


class LimitsOptions(Options, frozen=True):
    """What `limits` is told."""

    accounts: AccountOptions
    forget: bool
    json: bool

    @classmethod
    def declare(cls, parser: Parser) -> None:
        """Add what may be written to a parser."""
        AccountOptions.declare(parser)
        parser.add_argument(
            "--forget", action="store_true", help="forget what was learned of them: they are as they were set then"
        )
        parser.add_argument("--json", action="store_true", help="a JSON object an account on stdout")


def _run(options: LimitsOptions) -> int:
    named = options.accounts.provider or keys_in_environment()
    for name, account in pool_of(msgspec.structs.replace(options.accounts, provider=named)).items():
        opened = open_account(account, os.environ)
        use = None
        if opened.endpoint is not None:
            shared = SharedAccount(opened.endpoint.api_key, opened.endpoint.base_url, opened.limits, True)
            use = _use_of(name, shared, forgets=options.forget)
        if options.json:
            print(msgspec.json.encode({"account": name, "use": use}).decode())
        else:
            for line in _lines(name, use):
                show(line)
    return ALL_DONE


def _use_of(name: str, account: SharedAccount, *, forgets: bool) -> KeyUse | None:
    try:
        return use_of(account, os.environ, forgets=forgets)
    except (OSError, sqlite3.Error) as error:
        raise ConfigurationError(f"What is shared of {name} cannot be read: {error}.") from error


def _lines(name: str, use: KeyUse | None) -> Iterator[str]:
    if use is None:
        yield f"{name}: no process has shared its limits on this machine yet"
        return
    for kind, limit in use.limits.items():
        what = "creates" if kind == "submit" else "status calls"
        line = f"{name}: {limit.taken} of {limit.limit} {what} in {amount(limit.rate.per)} s are taken"
        if limit.limit != limit.rate.count:
            line += f"; {limit.rate.count} were set, {limit.limit} were learned"
        if limit.blocked_for:
            line += f"; nothing is sent for {limit.blocked_for:.1f} s"
        yield line
    for each in use.processes:
        taken, waiting = each.taken, each.waiting
        yield (
            f"  process {each.pid}: tasks {each.running}, creates {taken['submit']}, status calls {taken['status']}; "
            f"waiting: creates {waiting['submit']}, status calls {waiting['status']}"
        )
    if not use.processes:
        yield "  no process uses it now"


WORK = Work(LimitsOptions, _run)
