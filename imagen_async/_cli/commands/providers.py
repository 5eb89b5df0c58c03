"""`providers`: lists what this version knows."""

from __future__ import annotations

import json
import os
from typing import Any

from ... import providers
from ...providers import Provider
from ..exits import ALL_DONE
from ..grammar import Options, Parser, Work
from ..prices import price_json, price_text
from ..wording import show

MOST_MODELS = 4
"""Of a provider that are listed; `models` lists all."""


class ProvidersOptions(Options, frozen=True):
    """What `providers` is told."""

    json: bool

    @classmethod
    def declare(cls, parser: Parser) -> None:
        """Add what may be written to a parser."""
        parser.add_argument("--json", action="store_true", help="a JSON object a provider on stdout")


def _run(options: ProvidersOptions) -> int:
    for provider in providers.PROVIDERS.values():
        key_is_set = bool(os.environ.get(provider.key_variable))
        if options.json:
            show(json.dumps(provider_json(provider, key_is_set=key_is_set)))
        else:
            show(*provider_text(provider, key_is_set=key_is_set).split("\n"))
    return ALL_DONE


def provider_json(provider: Provider, *, key_is_set: bool) -> dict[str, Any]:
    """A provider as JSON."""
    limits = provider.limits
    return {
        "name": provider.name,
        "title": provider.title,
        "base_url": provider.base_url,
        "key_variable": provider.key_variable,
        "key_is_set": key_is_set,
        "models": {model.name: price_json(provider.named(model.name)) for model in provider.models},
        "submit": [limits.submit.count, limits.submit.per],
        "status": [limits.status.count, limits.status.per],
        "running": limits.running,
    }


def provider_text(provider: Provider, *, key_is_set: bool) -> str:
    """A provider for people."""
    local = provider.is_local
    is_set = "set" if key_is_set else "not set"
    address = provider.base_url or ("on this machine" if local else f"give --base-url or {provider.base_url_variable}")
    key = "needs no key" if local else f"key: {provider.key_variable} ({is_set})"
    names = list(dict.fromkeys(model.name for model in provider.models))
    shown = ", ".join(f"{name} ({price_text(provider.named(name))})" for name in names[:MOST_MODELS])
    others = f" and {len(names) - MOST_MODELS} others: imagen-async models" if len(names) > MOST_MODELS else ""
    rate, status = provider.limits.submit, provider.limits.status
    limits = f"{rate.count} creates per {rate.per:g} s, {status.count} status calls per {status.per:g} s"
    running = f"{provider.limits.running} running"
    told = f"those of its accounts; {running}" if provider.is_service else f"{limits}, {running}"
    return f"{provider.name}: {provider.title}, {address}, {key}\n  models: {shown}{others}\n  limits: {told}"


WORK = Work(ProvidersOptions, _run)
