"""Which accounts can take a request: any request, any pool of the real providers, no parameter dropped."""

from __future__ import annotations

import math
from typing import Any

import inner
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagen_async import Account, ImageRequest
from imagen_async.errors import ConfigurationError, InvalidRequest
from imagen_async.providers import PROVIDERS

MODELS = ("imagen4", "imagen4-fast", "imagen4-ultra")
OFTEN = settings(max_examples=50)

EXTRA = st.dictionaries(
    st.sampled_from(["person_generation", "enhance_prompt", "output_format", "compression_quality", "steps"]),
    st.sampled_from(["allow_adult", True, "png", 80, 101]),
    max_size=2,
)
REQUESTS = st.builds(
    ImageRequest,
    prompt=st.sampled_from(["a red fox", "a red fox", "a cat", "x" * 5001, " ", "a fox \ud800"]),
    model=st.sampled_from([None, *MODELS, *MODELS, inner.raw_model("flux"), "imagen5", "raw:"]),
    aspect_ratio=st.sampled_from([None, None, "1:1", "16:9", "square_1_1", "21:9"]),
    negative_prompt=st.sampled_from([None, None, None, "text", "x" * 5001]),
    num_images=st.sampled_from([None, None, 1, 4, 5, 0]),
    seed=st.sampled_from([None, None, None, 7, 0, -1, 2**63]),
    key=st.sampled_from([None, "mine"]),
    extra=st.just({}) | EXTRA,
)
CREDITS = st.sampled_from([None, None, 0, 2.5, 6, {"imagen4-fast": 3.0}])


@st.composite
def pools(draw: st.DrawFn) -> dict[str, Account]:
    """Accounts of the real providers, in any order, some of them twice, some with prices of their own."""
    real = sorted(name for name, each in PROVIDERS.items() if not each.is_service)
    names = draw(st.lists(st.sampled_from(real), min_size=1, max_size=6))
    return {
        name if name not in names[:place] else f"{name}-{place}": Account(name, credits=draw(CREDITS))
        for place, name in enumerate(names)
    }


def takes(request: ImageRequest, provider: inner.Provider) -> bool:
    """Whether a provider takes a request as it is; its own words on it are the only judge."""
    model = provider.find(request.model or inner.DEFAULT_MODEL)
    if model is None or list(model.problems(request)):
        return False
    return "prompt" not in request.extra and not (model.parameters and set(request.extra) & set(inner.PARAMETERS))


def found(router: inner.Router, request: ImageRequest) -> tuple[ImageRequest, inner.Route] | None:
    """The way of a request, if there is one."""
    try:
        return router.route(request)
    except InvalidRequest:
        return None


def refusal(router: inner.Router, request: ImageRequest) -> tuple[str, str | None]:
    """Why there is none, and which account says so."""
    with pytest.raises(InvalidRequest) as refused:
        router.route(request)
    return refused.value.message, refused.value.provider


@OFTEN
@given(request=REQUESTS, pool=pools(), needs_price=st.booleans())
def test_a_route_has_every_account_that_takes_the_request_as_it_is_sent(
    request: ImageRequest, pool: dict[str, Account], needs_price: bool
) -> None:
    """The first that takes it fills in its default ratio, all that take this are on the way, and nobody else is."""
    providers = {name: inner.provider_of(account) for name, account in pool.items()}
    name = request.model or inner.DEFAULT_MODEL
    expected, offers = None, []
    for account, provider in providers.items():
        model = provider.find(name)
        if takes(expected or request, provider) and model is not None:
            ratio = request.aspect_ratio or model.aspect_ratio
            expected = expected or msgspec.structs.replace(request, model=name, aspect_ratio=ratio)
            # A budget keeps out who has no price, and changes nothing of the picture.
            if model.credits is not None or not needs_price:
                offers.append((account, model))
    way = found(inner.router_of(pool, needs_price=needs_price), request)
    told = way and (way[0], [(offer.account, offer.model) for offer in way[1].offers])
    assert told == ((expected, offers) if offers else None)


@OFTEN
@given(request=REQUESTS, pool=pools())
def test_nothing_of_a_request_is_dropped_on_its_way(request: ImageRequest, pool: dict[str, Account]) -> None:
    """Whoever gets it sends all that was asked for, and filled in it goes the same way again, whatever went before."""
    router = inner.router_of(pool)
    found(router, ImageRequest("another", model=request.model))
    if (way := found(router, request)) is not None:
        sent, route = way
        names = (*inner.PARAMETERS, "prompt")
        asked = {name for name in names if getattr(sent, name) not in (None, ())} | set(sent.extra)
        assert [set(offer.model.input_of(sent)) for offer in route.offers] == [asked] * len(route.offers)
        assert found(router, sent) == found(inner.router_of(pool), request) == way


@OFTEN
@given(request=REQUESTS, pool=pools(), needs_price=st.booleans())
def test_a_request_that_nobody_takes_is_refused_account_by_account(
    request: ImageRequest, pool: dict[str, Account], needs_price: bool
) -> None:
    """The refusal names every account as it is called, and why; a single one's word stands as it is."""
    router = inner.router_of(pool, needs_price=needs_price)
    if found(router, request) is None:
        alone = [refusal(inner.router_of({name: pool[name]}, needs_price=needs_price), request) for name in pool]
        assert [name for _, name in alone] == list(pool)
        told = "; ".join(f"{name}: {why.rstrip('.')}" for why, name in alone)
        together = (f"No account takes this request. {told}.", None)
        assert refusal(router, request) == (together if len(pool) > 1 else alone[0])


@pytest.mark.parametrize(
    ("order", "ratio", "takers"),
    [("apiin kie", "1:1", "apiin kie"), ("kie odd", "16:9", "kie"), ("odd kie", "4:3", "odd kie")],
)
def test_one_default_ratio_for_the_whole_route(order: str, ratio: str, takers: str) -> None:
    """Where defaults differ the first's is sent to all who know it: the picture does not depend on who is free."""
    kie, fast = PROVIDERS["kie"], PROVIDERS["kie"].find("imagen4-fast")
    narrow = {**fast.parameters, "aspect_ratio": inner.Choice(("4:3",), default="4:3")}
    odd = msgspec.structs.replace(kie, models=(inner.Model(fast.name, "odd/fast", narrow),))
    router = inner.Router({name: {**PROVIDERS, "odd": odd}[name] for name in order.split()})
    sent, route = router.route(ImageRequest("a fox", model="imagen4-fast"))
    assert (sent.aspect_ratio, [offer.account for offer in route.offers]) == (ratio, takers.split())


@pytest.mark.parametrize(("policy", "ranks"), [("spread", "0000"), ("cheapest", "2101"), ("in_order", "0123")])
def test_the_policies_rank_as_they_say(policy: inner.Policy, ranks: str) -> None:
    """Spread ranks all alike, cheapest by price, a free one first and unknown ones last."""
    pool = inner.named([Account("apikley"), Account("kie"), Account("apiin", credits=0), Account("sandbox", credits=8)])
    _, route = inner.router_of(pool, policy).route(ImageRequest("a fox"))
    assert [(offer.account, str(offer.rank)) for offer in route.offers] == list(zip(pool, ranks, strict=True))


@pytest.mark.parametrize(("policy", "ranks"), [("spread", [1, 0]), ("in_order", [2, 1])])
def test_a_route_is_narrowed_or_turned(policy: inner.Policy, ranks: list[int]) -> None:
    """`only` leaves one account, `last` puts it behind all others as they were, and each way has a key of its own."""
    _, route = inner.router_of(inner.named(["kie", "apiin"]), policy).route(ImageRequest("a fox"))
    alone, last, (kie, apiin) = route.only("kie"), route.last("kie"), route.offers
    assert (alone, route.only("sandbox")) == (inner.Route((kie,)), None)
    turned = [msgspec.structs.replace(offer, rank=rank) for offer, rank in zip((kie, apiin), ranks, strict=True)]
    assert last == inner.Route(tuple(turned))
    assert len({each.key for each in (route, alone, last) if each}) == 3


def test_an_account_of_unknown_price_takes_nothing_on_a_budget() -> None:
    """Its refusal says what to do about it."""
    why, _ = refusal(inner.router_of(inner.named(["apikley"]), needs_price=True), ImageRequest("a fox"))
    assert "its price is unknown, and a budget needs one: give credits= in its Account" in why


BAD = [-1, -0.1, math.nan, math.inf, True, "8", [8], {"imagen5": 8}, {"raw:": 1}, {5: 8}, {None: 8}]
BAD_OF_ONE = [{"imagen4": price} for price in (-1, math.nan, "8", None, True)]


@pytest.mark.parametrize("credits", [*BAD, *BAD_OF_ONE], ids=repr)
def test_bad_prices_are_refused(credits: Any) -> None:
    """A price that is no number of credits, or that of a model that is not there, is a mistake in the setup."""
    with pytest.raises(ConfigurationError, match="credits="):
        inner.router_of(inner.named([Account("kie", credits=credits)]))


@OFTEN
@given(request=REQUESTS, first=pools(), second=pools())
def test_a_request_is_as_before_whichever_account_had_it(
    request: ImageRequest, first: dict[str, Account], second: dict[str, Account]
) -> None:
    """A request that one pool has sent is not taken for another one when a later pool has it again."""
    if (way := found(inner.router_of(first), request)) is not None:
        assert inner.router_of(second).as_before(way[0], request) == way[0]


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ({}, {"aspect_ratio": "4:3"}, {"aspect_ratio": "4:3"}),
        ({}, {"model": "imagen4-ultra"}, {"model": "imagen4-ultra", "aspect_ratio": "1:1"}),
        ({}, {"seed": 5, "prompt": "b"}, {"seed": 5, "prompt": "b"}),
        ({"aspect_ratio": "4:3"}, {}, {"aspect_ratio": "16:9"}),
    ],
)
def test_what_was_changed_is_told_from_what_was_before(
    before: dict[str, Any], now: dict[str, Any], expected: dict[str, Any]
) -> None:
    """What is given now stays as it is given, and what is left to the default is not what was asked for before."""
    router, plain = inner.router_of(inner.named(["kie", "apiin"])), ImageRequest("a", model="imagen4-fast", seed=4)
    sent, _ = router.route(msgspec.structs.replace(plain, **before))
    again = router.as_before(sent, msgspec.structs.replace(plain, **now))
    assert again == msgspec.structs.replace(sent, **expected)
