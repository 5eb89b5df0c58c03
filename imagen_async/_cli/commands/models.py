"""`models`: lists what each provider has, shows a model's fields, makes records of pages, fetches a provider's own."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, get_args

import msgspec

from ...errors import ConfigurationError
from ...models import from_openapi
from ...providers import PROVIDERS, Model, Provider
from .. import words
from ..accounts import open_pool_of, pool_of
from ..exits import ALL_DONE, SOME_FAILED
from ..grammar import Options, Parser, Work
from ..library import (
    ModelFile,
    completed,
    did_you_mean,
    open_pool,
    provider_of,
    proxies_of,
    refresh,
    session_settings,
    written,
)
from ..loop import run_in_loop
from ..options import AccountOptions
from ..prices import price_json, price_text
from ..prompt_files.reading import read
from ..wording import counted, say, show

Action = Literal["list", "show", "import", "refresh"]


class ModelsOptions(Options, frozen=True):
    """What `models` is told."""

    accounts: AccountOptions
    action: Action
    names: tuple[str, ...]
    out: str | None
    json: bool

    @classmethod
    def declare(cls, parser: Parser) -> None:
        """Add what may be written to a parser."""
        parser.add_argument(
            "action",
            nargs="?",
            default="list",
            choices=get_args(Action),
            help="list (the default); show NAME…: its fields; import PAGE… -o FILE: records of pages; refresh "
            "[NAME…] -p PROVIDER -o FILE: the provider's own list and schemas, one question a second",
        )
        parser.add_argument(
            "names", nargs="*", metavar="NAME", help="models, or for import files of pages (- is stdin)"
        )
        parser.add_argument("-o", "--out", type=words.filled, metavar="FILE", help="where records are written")
        parser.add_argument("--json", action="store_true", help="a JSON object a model on stdout")
        AccountOptions.declare(parser)


def _run(options: ModelsOptions) -> int:
    return {"list": _list, "show": _show, "import": _import, "refresh": _refresh}[options.action](options)


def _providers(options: ModelsOptions) -> list[Provider]:
    """The providers that are named, or all real ones, with the models of the user's own."""
    if options.accounts.provider:
        return [provider_of(account) for account in pool_of(options.accounts).values()]
    real = [name for name, each in PROVIDERS.items() if not (each.is_local or each.is_service)]
    every = msgspec.structs.replace(options.accounts, provider=tuple(real))
    return [provider_of(account) for account in pool_of(every).values()]


def _list(options: ModelsOptions) -> int:
    if options.names:
        raise ConfigurationError(f"list takes no names: imagen-async models show {' '.join(options.names)}.")
    for provider in _providers(options):
        names = list(dict.fromkeys(model.name for model in provider.models))
        if not options.json:
            show(f"{provider.name}: {provider.title}, {counted(len(names), 'model')}")
        for name in names:
            models = provider.named(name)
            if options.json:
                show(*(json.dumps(model_json(provider, model)) for model in models))
            else:
                show(f"  {name:<28} {price_text(models):<20} {_tasks(models)}")
    return ALL_DONE


def _tasks(models: Iterable[Model]) -> str:
    """What is made of what, and which fields take files."""
    files = dict.fromkeys(name for model in models for name in model.files)
    tasks = ", ".join(dict.fromkeys(model.task or "unknown" for model in models))
    return f"{tasks}; takes {', '.join(files)}" if files else tasks


def _show(options: ModelsOptions) -> int:
    if not options.names:
        raise ConfigurationError("Say which model to show: imagen-async models show nano-banana-2.")
    providers = _providers(options)
    for name in options.names:
        found = [(provider, model) for provider in providers for model in provider.named(name)]
        if not found:
            known = [model.name for provider in providers for model in provider.models]
            raise ConfigurationError(f"No provider here has a model {name!r}.{did_you_mean(name, known)}")
        shown: list[tuple[Provider, Model]] = []
        for provider, model in found:
            same = next((other.name for other, own in shown if _fields(own) == _fields(model)), None)
            shown.append((provider, model))
            show(*([json.dumps(model_json(provider, model))] if options.json else _text(provider, model, same)))
    return ALL_DONE


def _fields(model: Model) -> tuple[object, ...]:
    """What a model takes, whoever has it at whatever price."""
    return model.wire_name, model.parameters, model.translations, model.branches, model.notes


def model_json(provider: Provider, model: Model) -> dict[str, object]:
    """A model as JSON: its record as a file of models has it, and whose it is."""
    return {"provider": provider.name, **msgspec.to_builtins(model), "price": price_json([model])}


def _text(provider: Provider, model: Model, same: str | None) -> Iterable[str]:
    """What a model takes at a provider, in full where it is not the `same` as at another one."""
    yield f"{model.name} at {provider.name}: {model.wire_name}, {model.task or 'unknown'}, {price_text([model])}"
    if same is not None:
        yield f"  the same fields as at {same}"
        return
    if model.parameters is None:
        yield "  its fields are not known: the prompt, and whatever --set or `extra` says"
    ours = {each.field: name for name, each in model.translations.items()}
    for name, parameter in (model.parameters or {}).items():
        default = "" if parameter.default is None else f"; default {json.dumps(parameter.default, ensure_ascii=False)}"
        known_as = f" (as {ours[name]})" if name in ours else ""
        yield f"  {name}{known_as}: {parameter.allowed}{default}{'; required' if parameter.required else ''}"
    for branch in model.branches:
        yield f"  one way: {', '.join(branch.required)}"
    yield from (f"  note: {note}" for note in model.notes)


def _import(options: ModelsOptions) -> int:
    if not options.names or options.out is None:
        raise ConfigurationError("Say which pages, and where their records go: models import PAGE… -o FILE.")
    provider = _one_provider(options)
    known = {model.wire_name: model for model in (provider or PROVIDERS["kie"]).models}
    found: list[Model] = []
    for path in options.names:
        try:
            model = from_openapi(read(path))
            found.append(completed(model, known.get(model.wire_name), is_priced=provider is not None))
        except ConfigurationError as error:
            say(f"{path}: {error.message}")
    if found:
        _write(options.out, ModelFile(tuple(found), None if provider is None else provider.name, "pages"))
        notes = [f"{model.wire_name}: {note}" for model in found for note in model.notes]
        say(*notes, f"{counted(len(found), 'model')} written to {options.out}; use it as --models-file {options.out}.")
    return ALL_DONE if len(found) == len(options.names) else SOME_FAILED


def _one_provider(options: ModelsOptions) -> Provider | None:
    if len(options.accounts.provider) > 1:
        raise ConfigurationError("Say of one provider at most whose pages these are.")
    return _providers(options)[0] if options.accounts.provider else None


def _refresh(options: ModelsOptions) -> int:
    if len(options.accounts.provider) != 1 or options.out is None:
        raise ConfigurationError("Say whose models, and where they go: models refresh -p kie -o FILE.")
    opened = open_pool(open_pool_of(options.accounts), os.environ)
    ((name, account),) = opened.items()
    proxies = proxies_of(opened, options.accounts.proxy, trust_env=True)
    settings = session_settings(4, 10.0, 60.0, proxies, False, True)
    file = run_in_loop(refresh(name, account, settings, options.names, say))
    if not file.models:
        say("No record could be made; nothing was written.")
        return SOME_FAILED
    _write(options.out, file)
    say(f"{counted(len(file.models), 'model')} written to {options.out}; use it as --models-file {options.out}.")
    return ALL_DONE


def _write(path: str, file: ModelFile) -> None:
    part = Path(f"{path}.part")
    try:
        part.write_bytes(written(file))
        part.replace(path)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}.") from error


WORK = Work(ModelsOptions, _run)
