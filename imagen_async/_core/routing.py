"""Which accounts can take a request, and who goes first. Pure: no account is looked at, only its record."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal

import msgspec

from ..errors import InvalidRequest
from .failure import Failure
from .fields import FIELDS
from .model import Model, needs_prompt
from .parameters import Parameter, file_of
from .provider import Provider, check
from .values import ImageRequest, models_of, several_models

Policy = Literal["spread", "cheapest", "in_order"]
"""Who of those that can take a request gets it: whoever can send soonest; the cheapest, an unknown price being the
dearest; the first in the client's order. The last two go to the next only while the one before is stopped or paused."""

UNKNOWN_PRICE = "its price is unknown, and a budget needs one: give credits= in its Account, or --price"
"""Why an account, or a caller, that has a budget is refused."""


class Offer(msgspec.Struct, frozen=True):
    """An account that can take a request.

    Attributes:
        account: Its name.
        model: Its record of the model.
        rank: The lowest goes first; equals share.
    """

    account: str
    model: Model
    rank: int = 0


class Route(msgspec.Struct, frozen=True):
    """Every account that can take a request, the first in the client's order first.

    Attributes:
        offers: What they offer.
        then: The way where none of them has the model any more: those of another one. None: there is none.
    """

    offers: tuple[Offer, ...]
    then: Route | None = None

    @property
    def all_offers(self) -> tuple[Offer, ...]:
        """Those of other models, too."""
        return self.offers if self.then is None else (*self.offers, *self.then.all_offers)

    def dearest(self, offer: Offer, request: ImageRequest) -> float | None:
        """Credits that a request may cost with one of its offers, or with those of other models; None: nobody knows."""
        others = () if self.then is None else self.then.all_offers
        prices = [each.model.price(request) for each in (offer, *others)]
        known = [price for price in prices if price is not None]
        return max(known) if len(known) == len(prices) else None

    def of(self, model: str | None) -> Route:
        """The part of the way from a model on; the whole where it is on none."""
        route: Route | None = self
        while route is not None and all(offer.model.name != model for offer in route.offers):
            route = route.then
        return route or self

    @property
    def key(self) -> tuple[object, ...]:
        """The same for requests that may go the same ways."""
        return tuple((offer.account, offer.model.wire_name, offer.rank) for offer in self.offers)

    def only(self, account: str, model: str | None = None) -> Route | None:
        """The way to that account alone, for the first model, or for another; None where there is none."""
        model = model or self.offers[0].model.name
        offers = tuple(offer for offer in self.all_offers if (offer.account, offer.model.name) == (account, model))
        return Route(offers) if offers else None

    def last(self, account: str) -> Route:
        """The same accounts, that one after all others."""
        behind = max(offer.rank for offer in self.offers) + 1
        return Route(
            tuple(
                msgspec.structs.replace(offer, rank=behind) if offer.account == account else offer
                for offer in self.offers
            ),
            self.then,
        )


class Router:
    """Finds the route of each request.

    Args:
        providers: The record of each account, by its name, in the client's order.
        policy: Who goes first.
        others: Providers that may be named as taking what these do not.
        needs_price: True where a budget is set: an account whose price is unknown cannot take a request then.
    """

    def __init__(
        self,
        providers: Mapping[str, Provider],
        policy: Policy = "spread",
        others: Iterable[Provider] = (),
        *,
        needs_price: bool = False,
    ) -> None:
        self.providers: dict[str, Provider] = dict(providers)
        self._policy = policy
        self._others = tuple(others)
        self._needs_price = needs_price
        self._ratios: dict[str, list[str | None]] = {}
        self._names: dict[str, str] = {}
        self._fields: dict[str, Mapping[str, Parameter]] = {}
        self._routes: dict[tuple[object, ...], Route] = {}

    def route(self, request: ImageRequest) -> tuple[ImageRequest, Route]:
        """Find who can take a request; returns it as it is sent, the same whoever gets it, and the way.

        What it leaves to the model's default is the default of the first account that takes all of it. Of several
        models the first is meant; where no account has that, the next stands for it.

        Raises:
            InvalidRequest: Nobody can, and why, account by account.
        """
        given, names = request, models_of(request.model)
        self._check_names(names)
        known = self._served(names)
        request, takers, problems = self._takers(request, known[0])
        if not takers:
            raise _nobody(problems).exception()
        if len(names) == 1:
            return request, self._ranked(takers, request)
        if known[0] != names[0]:
            request = msgspec.structs.replace(request, model=names[0])
        then = None
        for name in reversed(known[1:]):
            # As it is sent to the first: what another model cannot express has only that one. But a default that was
            # filled in nobody has asked for: it may be that model's own.
            _, others, _ = self._takers(request, name, fills=False)
            if not others and given.aspect_ratio is None:
                _, others, _ = self._takers(given, name)
            then = self._ranked(others, request, then) if others else then
        return request, self._ranked(takers, request, then)

    def of_prices(self) -> Router:
        """The same for a budget: without accounts whose price is unknown."""
        return Router(self.providers, self._policy, self._others, needs_price=True)

    def check_defaults(self, defaults: ImageRequest) -> None:
        """Refuse what a batch says for all its requests, where that fits no account; raises InvalidRequest.

        What is missing in it, such as a picture that goes in, each request may have.
        """
        names = models_of(defaults.model)
        self._check_names(names)
        name = self._served(names)[0]
        for provider in self.providers.values():
            for model in provider.named(name) if isinstance(name, str) and isinstance(defaults.extra, dict) else ():
                has_price = not self._needs_price or model.credits is not None
                if has_price and model.fits(defaults):
                    return
        self.route(defaults)

    def as_before(self, before: ImageRequest, request: ImageRequest, made_by: str | None = None) -> ImageRequest:
        """A request, whose key stood for another one before, as it would have been sent then.

        What it leaves to a default is as it was, where that is any provider's default: another account may have had it,
        or another model (`made_by`), where several were named.
        """
        name, ratio = models_of(request.model)[0], request.aspect_ratio
        names = dict.fromkeys((name, made_by or name))
        if ratio is None and (defaults := [each for one in names for each in self._default_ratios(one)]):
            ratio = before.aspect_ratio if before.aspect_ratio in defaults else defaults[0]
        return msgspec.structs.replace(request, model=self._our_name(name), aspect_ratio=ratio)

    def other_names(self, request: ImageRequest) -> list[str]:
        """Other names of a request's model: ours, or the provider's own."""
        name = models_of(request.model)[0]
        ours = self._our_name(name)
        models = [model for each in self.providers.values() for model in each.named(ours)]
        return [each for each in dict.fromkeys([ours, *(model.wire_name for model in models)]) if each != name]

    def ratios(self, request: ImageRequest) -> list[str | None]:
        """Other ways to say a request's aspect ratio: by naming what is a default, or by leaving that out."""
        defaults = self._default_ratios(models_of(request.model)[0])
        if request.aspect_ratio is None:
            return list(dict.fromkeys(each for each in defaults if each is not None))
        return [None] if request.aspect_ratio in defaults else []

    def own_fields(self, name: str | None) -> Mapping[str, Parameter]:
        """The fields that a model has of its own, at any of the accounts: not those that are ImageRequest's."""
        name = self._served(models_of(name))[0]
        if name not in self._fields:
            models = [model for each in self.providers.values() for model in each.named(name)]
            schemas = [model.parameters or {} for model in reversed(models)]
            ours = {field.name for field in FIELDS}
            self._fields[name] = {own: each for schema in schemas for own, each in schema.items() if own not in ours}
        return self._fields[name]

    def needs_prompt(self, name: str | None) -> bool:
        """True where every account wants a prompt for a model."""
        name = self._served(models_of(name))[0]
        models = [model for each in self.providers.values() for model in each.named(name)]
        return all(map(needs_prompt, models))

    def file_fields(self, name: str | None) -> Collection[str]:
        """The fields of a model's own that take files, at any of the accounts."""
        own = self.own_fields(name) if name is None or isinstance(name, str) else {}
        return [field for field, parameter in own.items() if file_of(parameter) is not None]

    def _our_name(self, name: Any) -> Any:
        """The name that a model has here, also where it is said by the provider's own."""
        # Asked of every line of a folder that is gone on with.
        if name not in self._names:
            providers = (*self.providers.values(), *self._others)
            self._names[name] = next((model.name for each in providers for model in each.named(name)), name)
        return self._names[name]

    def _has(self, name: Any) -> bool:
        return any(each.find(name) is not None for each in self.providers.values())

    def _served(self, names: tuple[Any, ...]) -> tuple[Any, ...]:
        """Those of a request's models that the accounts have, in their order; the first if none."""
        return names if len(names) == 1 else tuple(filter(self._has, names)) or names[:1]

    def _check_names(self, names: tuple[str, ...]) -> None:
        """Refuse several models of which another than the first is none of these accounts', or the first nobody's.

        Before another is paid for in the place of the first, a slip is to be seen; raises InvalidRequest. One alone is
        told of by whoever is asked for it.
        """
        if len(names) > 1:
            several_models(names)
        for place, name in enumerate(names if len(names) > 1 else ()):
            if not self._has(name) and (place or not any(each.find(name) is not None for each in self._others)):
                _, _, problems = self._takers(ImageRequest("-"), name)
                raise _nobody(problems).exception()

    def _takers(
        self, request: ImageRequest, name: Any, *, fills: bool = True
    ) -> tuple[ImageRequest, list[tuple[str, Model]], dict[str, Failure]]:
        """Who takes a request of a model, and why the others do not; beside it the request as it is sent to them."""
        takers: list[tuple[str, Model]] = []
        problems: dict[str, Failure] = {}
        # Hundreds of accounts may have one provider's record, which says the same of each.
        said: dict[int, Model | Failure] = {}
        for account, provider in self.providers.items():
            found = said.get(id(provider))
            if found is None:
                try:
                    found = check(request, name, provider, self._others)
                    # Also where its price keeps it out: a budget must not change what a picture looks like.
                    request = filled(request, found) if fills else request
                    self._check_price(found, request)
                except InvalidRequest as error:
                    # Kept for the case that nobody takes it: then each account's reason is told.
                    found = Failure.of(error)
                said[id(provider)] = found
            if isinstance(found, Failure):
                problems[account] = found.about(account=account)
            else:
                takers.append((account, found))
        return request, takers, problems

    def _default_ratios(self, name: str) -> list[str | None]:
        if name not in self._ratios:
            providers = (*self.providers.values(), *self._others)
            self._ratios[name] = [model.aspect_ratio for each in providers for model in each.named(name)]
        return self._ratios[name]

    def _check_price(self, model: Model, request: ImageRequest) -> None:
        if self._needs_price and model.price(request) is None:
            raise InvalidRequest(f"model={model.name!r}: {UNKNOWN_PRICE}.")

    def _ranked(self, takers: list[tuple[str, Model]], request: ImageRequest, then: Route | None = None) -> Route:
        prices = [model.price(request) for _, model in takers] if self._policy == "cheapest" else []
        # What follows is kept here, too: no other one has its identity.
        key = (*prices, *(part for account, model in takers for part in (account, model.wire_name)), id(then))
        route = self._routes.get(key)
        if route is None:
            offers = [Offer(account, model) for account, model in takers]
            route = self._routes[key] = Route(tuple(_rank(offers, self._policy, prices)), then)
        return route


def filled(request: ImageRequest, model: Model) -> ImageRequest:
    """The request as it is sent: the model named, its default aspect ratio written out."""
    aspect_ratio = request.aspect_ratio or model.aspect_ratio
    return msgspec.structs.replace(request, model=model.name, aspect_ratio=aspect_ratio)


def _rank(offers: list[Offer], policy: Policy, prices: list[float | None]) -> Iterable[Offer]:
    if policy == "spread":
        return offers
    costs = [math.inf if price is None else price for price in prices] or [float(place) for place in range(len(offers))]
    order = sorted(set(costs))
    return [msgspec.structs.replace(offer, rank=order.index(cost)) for offer, cost in zip(offers, costs, strict=True)]


def _nobody(problems: Mapping[str, Failure]) -> Failure:
    """The one account's own word, or every account's."""
    if len(problems) == 1:
        return next(iter(problems.values()))
    told = "; ".join(f"{account}: {failure.message.rstrip('.')}" for account, failure in problems.items())
    return Failure(InvalidRequest, f"No account takes this request. {told}.")
