"""Which accounts can take a request: any request, any pool of the real providers, no parameter dropped."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagen_async._accounts import Account, named, provider_of, router_of
from imagen_async._core.fields import PARAMETERS
from imagen_async._core.model import Model
from imagen_async._core.parameters import Choice
from imagen_async._core.provider import Provider
from imagen_async._core.routing import Offer, Policy, Route, Router, filled
from imagen_async._core.values import DEFAULT_MODEL, ImageRequest, raw_model
from imagen_async.errors import ConfigurationError, InvalidRequest
from imagen_async.providers import PROVIDERS

MODELS = ("imagen4", "imagen4-fast", "imagen4-ultra")
POLICIES: tuple[Policy, ...] = ("spread", "cheapest", "in_order")
OFTEN = settings(deadline=None, max_examples=70)

EXTRA = st.dictionaries(
    st.sampled_from(["person_generation", "enhance_prompt", "output_format", "compression_quality", "steps"]),
    st.sampled_from(["allow_adult", True, "png", 80, 101]),
    max_size=2,
)
REQUESTS = st.builds(
    ImageRequest,
    prompt=st.sampled_from(["a red fox", "x" * 5001, " ", "a fox \ud800"]) | st.just("a red fox") | st.just("a cat"),
    model=st.sampled_from([None, *MODELS, *MODELS, raw_model("flux"), "imagen5", "raw:"]),
    aspect_ratio=st.sampled_from([None, None, "1:1", "16:9", "square_1_1", "21:9"]),
    negative_prompt=st.sampled_from([None, None, None, "text", "x" * 5001]),
    num_images=st.sampled_from([None, None, 1, 4, 5, 0]),
    seed=st.sampled_from([None, None, None, 7, 0, -1, 2**63]),
    key=st.sampled_from([None, "mine"]),
    extra=st.just({}) | EXTRA,
)
CREDITS = st.sampled_from([None, None, 0, 2.5, 6, {"imagen4": 3.0}, {"imagen4-ultra": 8, "imagen4-fast": 1.5}])
ACCOUNTS = st.lists(st.sampled_from(sorted(PROVIDERS)), min_size=1, max_size=6)


@st.composite
def pools(draw: st.DrawFn) -> dict[str, Account]:
    """Accounts of the real providers, in any order, some of them twice, some with prices of their own."""
    pool: dict[str, Account] = {}
    for name in draw(ACCOUNTS):
        credits = draw(CREDITS)
        if isinstance(credits, dict) and any(PROVIDERS[name].find(model) is None for model in credits):
            credits = None
        pool[name if name not in pool else f"{name}-{len(pool)}"] = Account(name, credits=credits)
    return pool


def set_fields(request: ImageRequest) -> dict[str, Any]:
    """What the user asked for in so many words."""
    given = {name: getattr(request, name) for name in (*PARAMETERS, "prompt", "key")}
    return {**{name: value for name, value in given.items() if value is not None}, "extra": request.extra}


def takes(request: ImageRequest, provider: Provider) -> bool:
    """Whether a provider takes a request as it is; its own words on it are the only judge."""
    model = provider.find(request.model or DEFAULT_MODEL)
    if model is None or list(model.problems(request)):
        return False
    return "prompt" not in request.extra and not (model.parameters and set(request.extra) & set(PARAMETERS))


def found(router: Router, request: ImageRequest) -> tuple[ImageRequest, Route] | None:
    try:
        return router.route(request)
    except InvalidRequest:
        return None


def refusal(router: Router, request: ImageRequest) -> str:
    with pytest.raises(InvalidRequest) as refused:
        router.route(request)
    return refused.value.message


# ------------------------------------------------------------------------------------------- nothing is dropped


@OFTEN
@given(request=REQUESTS, pool=pools(), policy=st.sampled_from(POLICIES), needs_price=st.booleans())
def test_every_account_of_a_route_takes_every_parameter(
    request: ImageRequest, pool: dict[str, Account], policy: Policy, needs_price: bool
) -> None:
    """Each account of a route takes the whole request, which is the same whoever gets it, with nothing changed."""
    way = found(router_of(pool, policy, needs_price=needs_price), request)
    if way is None:
        return
    sent, route = way
    assert set_fields(request).items() <= set_fields(sent).items()
    assert sent.model == (request.model or DEFAULT_MODEL)
    for offer in route.offers:
        assert offer.model == provider_of(pool[offer.account]).find(sent.model)
        assert not list(offer.model.problems(sent))
        assert filled(sent, offer.model) == sent
        wire = offer.model.input_of(sent)
        asked = {name for name in (*PARAMETERS, "prompt") if getattr(sent, name) is not None} | set(sent.extra)
        assert set(wire) == asked


@OFTEN
@given(request=REQUESTS, pool=pools(), policy=st.sampled_from(POLICIES))
def test_a_route_has_every_account_that_takes_the_request(
    request: ImageRequest, pool: dict[str, Account], policy: Policy
) -> None:
    """No account that could take a request as it is sent is left out, and they are in the client's order."""
    way = found(router_of(pool, policy), request)
    able = [name for name, account in pool.items() if takes(request, provider_of(account))]
    assert (way is None) == (not able)
    if way is not None:
        sent, route = way
        chosen = [offer.account for offer in route.offers]
        assert chosen == [name for name in able if takes(sent, provider_of(pool[name]))]
        assert chosen[0] == able[0]


@OFTEN
@given(request=REQUESTS, pool=pools(), needs_price=st.booleans())
def test_a_request_that_nobody_takes_is_refused_account_by_account(
    request: ImageRequest, pool: dict[str, Account], needs_price: bool
) -> None:
    """The refusal names every account and what it does not take; a single account's word stands as it is."""
    router = router_of(pool, needs_price=needs_price)
    if found(router, request) is not None:
        return
    message = refusal(router, request)
    alone = {name: refusal(router_of({name: pool[name]}, needs_price=needs_price), request) for name in pool}
    if len(pool) == 1:
        assert [message] == list(alone.values())
    else:
        assert message.startswith("No account takes this request.")
        assert all(f"{name}: {told.rstrip('.')}" in message for name, told in alone.items())


@OFTEN
@given(request=REQUESTS, pool=pools())
def test_the_default_aspect_ratio_is_that_of_the_first_account_that_takes_it(
    request: ImageRequest, pool: dict[str, Account]
) -> None:
    """A ratio that nobody asked for is written out once, and is the same for all accounts of the route."""
    way = found(router_of(pool), request)
    if way is None:
        return
    sent, route = way
    assert sent.aspect_ratio == (request.aspect_ratio or route.offers[0].model.aspect_ratio)
    for offer in route.offers:
        assert sent.model is not None
        if not sent.model.startswith("raw:"):
            assert offer.model.input_of(sent)["aspect_ratio"]


@OFTEN
@given(request=REQUESTS, pool=pools(), policy=st.sampled_from(POLICIES))
def test_routing_what_was_routed_changes_nothing(
    request: ImageRequest, pool: dict[str, Account], policy: Policy
) -> None:
    """A request that was filled in goes the same way again, also through a router that has seen others before."""
    router = router_of(pool, policy)
    found(router, ImageRequest("another"))
    way = found(router, request)
    if way is not None:
        assert router.route(way[0]) == way
        assert router_of(pool, policy).route(request) == way
        assert way[1].key == router.route(way[0])[1].key


@pytest.mark.parametrize(
    ("request_", "takers"),
    [
        (ImageRequest("a fox"), ["kie", "apikley", "apiin", "sandbox"]),
        (ImageRequest("a fox", model="imagen4-ultra"), ["kie", "apikley", "liangxin", "apiin", "sandbox"]),
        (ImageRequest("a fox", num_images=2), ["apiin"]),
        (ImageRequest("a fox", num_images=5, model="imagen4-fast"), ["apiin"]),
        (ImageRequest("a fox", negative_prompt="text", model="imagen4-ultra"), ["kie", "apikley", "apiin", "sandbox"]),
        (ImageRequest("x" * 5001, model="imagen4-ultra"), ["liangxin", "apiin"]),
        (ImageRequest("a fox", model="imagen4-fast", extra={"enhance_prompt": True}), ["liangxin"]),
        (ImageRequest("a fox", aspect_ratio="square_1_1", model="imagen4-fast"), ["liangxin"]),
        (ImageRequest("a fox", seed=0, model="imagen4-fast"), ["kie", "apikley", "apiin", "sandbox"]),
        (ImageRequest("a fox", model="raw:flux", extra={"steps": 4}), ["kie", "apikley", "liangxin", "sandbox"]),
    ],
)
def test_who_takes_what(request_: ImageRequest, takers: list[str]) -> None:
    """Each of these goes to the accounts that document the parameter, and to no other."""
    known = ("kie", "apikley", "liangxin", "apiin", "sandbox")
    _, route = Router({name: PROVIDERS[name] for name in known}).route(request_)
    assert [offer.account for offer in route.offers] == takers


@pytest.mark.parametrize(
    ("order", "ratio"),
    [(["kie", "apiin"], "16:9"), (["apiin", "kie"], "1:1"), (["liangxin", "kie"], "1:1"), (["apikley"], "16:9")],
)
def test_one_default_ratio_for_the_whole_route(order: list[str], ratio: str) -> None:
    """Where providers' defaults differ the first one's is sent to all: the picture does not depend on who is free."""
    sent, route = Router({name: PROVIDERS[name] for name in order}).route(ImageRequest("a fox", model="imagen4-fast"))
    assert sent.aspect_ratio == ratio
    assert len(route.offers) == len(order)


def test_the_default_ratio_is_not_that_of_an_account_that_does_not_take_the_request() -> None:
    """An account that comes first and cannot take a request has no say in it."""
    router = Router({name: PROVIDERS[name] for name in ("kie", "apiin")})
    sent, route = router.route(ImageRequest("a fox", model="imagen4-fast", num_images=5))
    assert (sent.aspect_ratio, [offer.account for offer in route.offers]) == ("1:1", ["apiin"])


def test_an_account_that_does_not_know_the_ratio_is_left_out() -> None:
    """The ratio that the first account's default stands for is sent, so who does not know it gets nothing."""
    narrow = {**(PROVIDERS["kie"].models[0].parameters or {}), "aspect_ratio": Choice({"4:3": "4:3"})}
    odd = msgspec.structs.replace(
        PROVIDERS["kie"], name="odd", models=(Model("imagen4", "odd/imagen4", narrow, aspect_ratio="4:3"),)
    )
    providers = {"kie": PROVIDERS["kie"], "odd": odd}
    for ratio, takers in ((None, ["kie"]), ("4:3", ["kie", "odd"]), ("1:1", ["kie"])):
        _, route = Router(providers).route(ImageRequest("a fox", aspect_ratio=ratio))
        assert [offer.account for offer in route.offers] == takers
    sent, route = Router({"odd": odd, "kie": PROVIDERS["kie"]}).route(ImageRequest("a fox"))
    assert (sent.aspect_ratio, len(route.offers)) == ("4:3", 2)


@pytest.mark.parametrize("field", ["negative_prompt", "seed", "aspect_ratio", "num_images"])
def test_a_raw_model_takes_its_parameters_from_extra_alone(field: str) -> None:
    """A raw model has no default filled in, and a parameter that would go nowhere is refused."""
    sent, route = Router({"kie": PROVIDERS["kie"]}).route(ImageRequest("a fox", model="raw:x", extra={"seed": 1}))
    assert sent.aspect_ratio is None
    assert route.offers[0].model.input_of(sent) == {"prompt": "a fox", "seed": 1}
    with pytest.raises(InvalidRequest, match=field):
        Router(PROVIDERS).route(ImageRequest("a fox", model="raw:x", **{field: 1}))  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------- policies


def price_of(offer: Offer) -> float:
    return math.inf if offer.model.credits is None else offer.model.credits


@OFTEN
@given(request=REQUESTS, pool=pools())
def test_the_policies_rank_as_they_say(request: ImageRequest, pool: dict[str, Account]) -> None:
    """Spread ranks all alike, cheapest by price unknown ones last, and in_order one after the other."""
    ways = {policy: found(router_of(pool, policy), request) for policy in POLICIES}
    if any(way is None for way in ways.values()):
        assert set(ways.values()) == {None}
        return
    offers = {policy: way[1].offers for policy, way in ways.items() if way is not None}
    assert {offer.rank for offer in offers["spread"]} == {0}
    assert [offer.rank for offer in offers["in_order"]] == list(range(len(offers["in_order"])))
    for one in offers["cheapest"]:
        for other in offers["cheapest"]:
            assert (one.rank < other.rank) == (price_of(one) < price_of(other))
    assert min(offer.rank for offer in offers["cheapest"]) == 0
    ways_alone = [[(offer.account, offer.model) for offer in each] for each in offers.values()]
    assert ways_alone == ways_alone[:1] * len(POLICIES)


def test_a_price_of_nothing_is_the_cheapest() -> None:
    """A free account goes first, and one whose price nobody knows goes last."""
    pool = named([Account("apikley"), Account("kie"), Account("apiin", credits=0), Account("sandbox", credits=8)])
    _, route = router_of(pool, "cheapest").route(ImageRequest("a fox"))
    assert {offer.account: offer.rank for offer in route.offers} == {"apikley": 2, "kie": 1, "apiin": 0, "sandbox": 1}


@OFTEN
@given(request=REQUESTS, pool=pools(), policy=st.sampled_from(POLICIES), data=st.data())
def test_a_route_that_is_narrowed_or_turned(
    request: ImageRequest, pool: dict[str, Account], policy: Policy, data: st.DataObject
) -> None:
    """`only` leaves one account, `last` puts it behind all others and leaves those as they were."""
    way = found(router_of(pool, policy), request)
    if way is None:
        return
    route = way[1]
    account = data.draw(st.sampled_from([offer.account for offer in route.offers]))
    assert route.only(account).offers == tuple(offer for offer in route.offers if offer.account == account)
    turned = route.last(account)
    assert [(o.account, o.model) for o in turned.offers] == [(o.account, o.model) for o in route.offers]
    before = {offer.account: offer.rank for offer in route.offers}
    after = {offer.account: offer.rank for offer in turned.offers}
    assert {name: rank for name, rank in after.items() if name != account}.items() <= before.items()
    assert all(rank < after[account] for name, rank in after.items() if name != account)
    assert (turned.key == route.key) == (turned == route)


def test_routes_of_one_model_are_told_apart_by_their_accounts() -> None:
    """A request that fewer accounts take never gets the way that an earlier one of its model had, nor the reverse."""
    router = Router(PROVIDERS, "cheapest")
    wide = router.route(ImageRequest("a fox", model="imagen4-ultra"))[1]
    narrow = router.route(ImageRequest("a fox", model="imagen4-ultra", negative_prompt="text"))[1]
    assert len(wide.offers) == len(narrow.offers) + 1
    assert wide.key != narrow.key
    assert router.route(ImageRequest("a cat", model="imagen4-ultra"))[1] == wide


# ------------------------------------------------------------------------------------------------------- prices


@OFTEN
@given(request=REQUESTS, pool=pools(), policy=st.sampled_from(POLICIES))
def test_with_a_budget_each_account_of_a_route_has_a_price(
    request: ImageRequest, pool: dict[str, Account], policy: Policy
) -> None:
    """With a budget the same request is sent, and its route is that of the accounts whose price is known."""
    way, anyhow = (found(router_of(pool, policy, needs_price=needs), request) for needs in (True, False))
    priced = [] if anyhow is None else [o.account for o in anyhow[1].offers if o.model.credits is not None]
    assert (way is None) == (not priced)
    if way is not None and anyhow is not None:
        assert way[0] == anyhow[0]
        assert [offer.account for offer in way[1].offers] == priced


@pytest.mark.parametrize("credits", [3, 0, {"imagen4": 3.5}, {"imagen4": 1, "imagen4-fast": 2}])
def test_a_price_in_the_account_makes_it_fit_for_a_budget(credits: Any) -> None:
    """An account of unknown price is refused with a word on what to do; with `credits` it takes the request."""
    with pytest.raises(InvalidRequest, match="its price is unknown, and a budget needs one: give credits= in its Acc"):
        router_of(named(["apikley"]), needs_price=True).route(ImageRequest("a fox"))
    _, route = router_of(named([Account("apikley", credits=credits)]), needs_price=True).route(ImageRequest("a fox"))
    expected = credits["imagen4"] if isinstance(credits, dict) else credits
    assert route.offers[0].model.credits == expected


def test_a_price_for_one_model_leaves_the_others_as_they_were() -> None:
    """A price by model replaces that model's alone; a single number is that of every model, raw ones too."""
    one = provider_of(Account("kie", credits={"imagen4": 1.5}))
    every = provider_of(Account("kie", credits=1.5))
    names = (*MODELS, "raw:flux")
    assert [model and model.credits for model in map(one.find, names)] == [1.5, 4, 12, None]
    assert [model and model.credits for model in map(every.find, names)] == [1.5] * 4
    raw = provider_of(Account("kie", credits={"raw:flux": 5})).find("raw:flux")
    assert raw is not None
    assert raw.credits == 5
    assert PROVIDERS["kie"].prices is None


BAD = [-1, -0.1, math.nan, math.inf, True, "8", [8], {"imagen5": 8}, {"raw:": 1}]
BAD_OF_ONE = [{"imagen4": price} for price in (-1, math.nan, "8", None, True)]


@pytest.mark.parametrize("credits", [*BAD, *BAD_OF_ONE], ids=repr)
def test_bad_prices_are_refused(credits: Any) -> None:
    """A price that is no number of credits, or that of a model that is not there, is a mistake in the setup."""
    with pytest.raises(ConfigurationError, match="credits="):
        router_of(named([Account("kie", credits=credits)]))


@pytest.mark.parametrize("credits", [{5: 8}, {None: 8}], ids=repr)
def test_prices_of_what_is_no_name_are_refused(credits: Any) -> None:
    """A price by model whose key is no model's name is a mistake in the setup too, and is not ignored."""
    with pytest.raises(ConfigurationError, match="credits="):
        router_of(named([Account("kie", credits=credits)]))


# -------------------------------------------------------------------------------------------------- as it was before


@OFTEN
@given(request=REQUESTS, first=pools(), second=pools())
def test_a_request_is_as_before_whichever_account_had_it(
    request: ImageRequest, first: dict[str, Account], second: dict[str, Account]
) -> None:
    """A request that one pool has sent is not taken for another one when a later pool has it again."""
    way = found(router_of(first), request)
    if way is not None:
        before = way[0]
        again = router_of(second).as_before(before, request)
        assert again == before


@pytest.mark.parametrize("field", [{"aspect_ratio": "4:3"}, {"model": "imagen4-ultra"}, {"seed": 5}, {"prompt": "b"}])
def test_what_was_changed_is_told_from_what_was_before(field: dict[str, Any]) -> None:
    """A field that is given now and was another before stays as it is given."""
    router = router_of(named(["kie", "apiin"]))
    before, _ = router.route(ImageRequest("a", model="imagen4-fast", seed=4))
    request = msgspec.structs.replace(ImageRequest("a", model="imagen4-fast", seed=4), **field)
    again = router.as_before(before, request)
    assert again != before
    assert all(getattr(again, name) == value for name, value in field.items())


def test_a_ratio_that_is_nobodys_default_was_asked_for() -> None:
    """A request that leaves now to the default what was asked for before is another one."""
    router = router_of(named(["kie"]))
    before, _ = router.route(ImageRequest("a", model="imagen4-fast", aspect_ratio="4:3"))
    assert router.as_before(before, ImageRequest("a", model="imagen4-fast")).aspect_ratio == "16:9"
