"""A pool of accounts on virtual time: who makes what, in trouble too, that nothing is made twice, and at what cost."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import anyio
import pytest
from clients import Heard, run, until_error
from dict_store import DictStore
from virtual_network import VIRTUAL_TIME, Network, VirtualClient, batch_over, billed, prompts, scheduler_over

from imagen_async import ImageRequest, Limits, Rate, errors
from imagen_async.providers import PROVIDERS
from imagen_async.sandbox import Latency

pytestmark = pytest.mark.parametrize("anyio_backend", [VIRTUAL_TIME], ids=["virtual-time"])
ROOMY = Limits(Rate(50, per=1), Rate(500, per=1), 200)


def server(name: str = "kie", limits: Limits = ROOMY, **settings: Any) -> Network:
    """A provider that takes fifty creates in a second."""
    return Network(PROVIDERS[name], limits=limits, latency=Latency(median=8, sigma=0.3, minimum=2), **settings)


def made_by(*networks: Network) -> list[int]:
    """Tasks that each of them has made."""
    return [len(network.ledger.tasks) for network in networks]


async def test_hundreds_of_items_survive_the_loss_of_accounts() -> None:
    """One account dies, one runs out of credit, one refuses all for a minute: each item has one billed picture."""
    dying = server("kie", Limits(Rate(20, per=10), Rate(20, per=1), 100))
    poor = server("apiin", Limits(Rate(12, per=10), Rate(20, per=1), 100), balance=800.0)
    limited = server("apikley", Limits(Rate(15, per=10), Rate(20, per=1), 100))
    networks = (dying, poor, limited)
    random.seed(1)

    async def trouble() -> None:
        await anyio.sleep(30)
        limited.faults.keep("create", "429")
        await anyio.sleep(30)
        dying.takes_no_creates = True
        await anyio.sleep(30)
        limited.faults.keep("create", None)

    async with VirtualClient(*networks) as client, anyio.create_task_group() as group:
        group.start_soon(trouble)
        async with client.batch(prompts(500)) as batch:
            results = [result async for result in batch]
            progress = batch.progress
    assert [result.ok for result in results] == [True] * 500
    assert billed(*networks) == dict.fromkeys(prompts(500), 1)
    assert [account.state for account in progress.accounts] == ["paused", "stopped", "ready"]
    assert [account.done for account in progress.accounts] == made_by(*networks)
    assert [account.credits for account in progress.accounts[:2]] == [8.0 * made_by(dying)[0], 800.0]
    # Each at its limit for as long as it is healthy needs 248 s; where many are refused at once it is to be found anew.
    assert progress.elapsed <= 1.35 * 248
    assert [network.ledger.refused["submit"] for network in networks] == [0, 0, 0]


async def test_a_request_goes_to_the_account_that_takes_it_whole() -> None:
    """A field, a model or a number of pictures that others lack; what fits nobody is one bad result that says why."""
    own: dict[str, Any] = {"extra": {"enhance_prompt": True}}
    fields = {"own": own, "two": {"num_images": 2}, "odd": {**own, "num_images": 2}}
    requests = [ImageRequest("x", "imagen4-fast", key=key, **each) for key, each in fields.items()]
    async with VirtualClient(server("apikley"), server("liangxin")) as client:
        results = {result.key: result for result in await run(client, requests)}
        with pytest.raises(errors.ConfigurationError, match="provider="):
            await client.collect("t1")
    assert {key: result.provider for key, result in results.items()} == {"own": "liangxin", "two": "apikley", "odd": ""}
    with pytest.raises(errors.InvalidRequest, match=r"apikley: enhance_prompt=True(.|\n)*liangxin: num_images=2"):
        raise results["odd"].error


@pytest.mark.parametrize("fault", ["402", "433", "401", "403_edge", "no_credit_500", "429", "455", "model_gone"])
async def test_what_an_account_refuses_moves_to_the_next(fault: str) -> None:
    """A create that is known not to exist, for the account's sake, is made by the other, once."""
    kie, apiin = server("kie"), server("apiin")
    kie.faults.keep("create", fault)
    assert all(result.ok for result in await run(VirtualClient(kie, apiin), prompts(20)))
    assert (made_by(kie), billed(apiin)) == ([0], dict.fromkeys(prompts(20), 1))


@pytest.mark.parametrize("fault", ["reset_after", "http_504_made", "no_task_id", "http_502", "500"])
async def test_what_may_exist_and_what_is_wrong_never_moves(fault: str) -> None:
    """A create whose answer was lost, and one that is wrong, are not sent to another account."""
    kie, apiin = server("kie"), server("apiin")
    kie.faults.order("create", fault)
    results = await run(VirtualClient(kie, apiin, policy="in_order"), prompts(3))
    (bad,) = [result for result in results if not result.ok]
    kind = errors.InvalidRequest if fault == "500" else errors.UnknownOutcome
    assert (type(bad.error), bad.provider, billed(apiin)[bad.request.prompt]) == (kind, "kie", 0)
    assert max(billed(kie, apiin).values()) == 1


@pytest.mark.parametrize("ordered", [False, True])
async def test_what_remains_goes_on_when_some_have_no_account_left(*, ordered: bool) -> None:
    """Items whose only account has stopped are told of at the end; the others are made, and hold no place meanwhile."""
    empty, other = networks = server("kie"), server("liangxin", Limits(Rate(20, per=10)))
    empty.faults.keep("create", "402")
    mixed = [ImageRequest(f"{i}", model=("imagen4", "imagen4-fast")[i % 2]) for i in range(100)]
    async with scheduler_over(empty, other) as scheduler:
        async with batch_over(scheduler, networks, mixed, window=30, ordered=ordered) as batch:
            results = await until_error(batch, errors.InsufficientCredits)
    indices = [result.index for result in results]
    assert (indices if ordered else sorted(indices)) == list(range(1, 100, 2))


@pytest.mark.parametrize("count", [1, 7, 25])
async def test_a_budget_is_used_and_never_overshot(count: int) -> None:
    """As many are sent as the budget pays for, then BudgetReached is raised; one that is just enough ends in peace."""
    networks = (server("kie"), server("apiin"))
    async with VirtualClient(*networks) as client:
        async with client.batch(prompts(100), model="imagen4-fast", max_credits=4 * count + 3) as batch:
            results = await until_error(batch, errors.BudgetReached, "max_credits")
        assert [result.ok for result in results] == [True] * count
        assert sum(network.ledger.credits for network in networks) == 4 * count
        assert len(await run(client, prompts(10), model="imagen4-fast", max_credits=40)) == 10


async def test_an_account_without_a_price_is_not_used_with_a_budget() -> None:
    """An unknown price is never 0: such an account makes nothing under a budget until it is given one."""
    for price, makers in ((None, {"kie"}), (8, {"kie", "apikley"})):
        results = await run(VirtualClient(server("kie"), server("apikley", price=price)), prompts(40), max_credits=1000)
        assert {result.provider for result in results if result.ok} == makers


async def test_a_resumed_batch_asks_each_account_for_its_own_tasks() -> None:
    """Tasks that an earlier run left are collected from the accounts that have them, whatever the order is now."""
    kie, apikley, heard, kept = server("kie"), server("apikley"), Heard(), {}
    async with VirtualClient(kie, apikley, on_event=heard) as client:
        async with client.batch(prompts(40), journal=DictStore(kept)):
            await heard.job("running", 30)
    assert all(made_by(kie, apikley))
    apikley.price = 8.0
    async with VirtualClient(apikley, kie) as client:
        async with client.batch(prompts(40), journal=DictStore(kept), ordered=True) as batch:
            assert batch.progress.reserved == 8.0 * batch.progress.running > 0, "at today's price, where none was known"
            results = [result async for result in batch]
    assert [(result.index, result.ok) for result in results] == [(number, True) for number in range(40)]
    assert billed(kie, apikley) == Counter(prompts(40))


async def test_a_held_create_is_never_resubmitted_elsewhere() -> None:
    """With leave to resubmit, a create that was lost at an account that is not there, or unfit, stays held."""
    apikley, kie, kept = server("apikley"), server("kie"), {}
    apikley.faults.order("create", "reset_after")
    again: dict[str, Any] = {"on_unknown": "resubmit"}
    for networks, terms in (([apikley], {}), ([kie], again), ([apikley, kie], {**again, "max_credits": 100})):
        (result,) = await run(VirtualClient(*networks), ["x"], journal=DictStore(kept), **terms)
        assert isinstance(result.error, errors.UnknownOutcome)
    assert made_by(apikley, kie) == [1, 0]
