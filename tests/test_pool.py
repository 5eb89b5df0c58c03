"""A pool of accounts in trouble: who makes what, that nothing is made twice, and how long it all takes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from virtual_network import Network, batch_over, busiest_window, scheduler_over

from imagen_async import (
    Account,
    AccountError,
    AuthenticationError,
    BudgetReached,
    Client,
    ConfigurationError,
    GenerationFailed,
    ImageRequest,
    InsufficientCredits,
    InvalidRequest,
    Limits,
    Rate,
    UnknownOutcome,
)
from imagen_async._core.budget import Budget
from imagen_async._core.routing import Policy
from imagen_async.providers import PROVIDERS
from imagen_async.sandbox import Latency, Sandbox
from imagen_async.testing import VirtualTimeLoop

virtual_time = pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {"loop_factory": VirtualTimeLoop})], ids=["virtual-time"]
)

LATENCY = Latency(median=8, sigma=0.3, minimum=2)
DIES_AT, LIMITED_FROM, LIMITED_UNTIL = 60.0, 30.0, 90.0
CREDIT_FOR = 200
"""Pictures that the second account has credit for."""


def three_accounts() -> tuple[Network, Network, Network]:
    """Accounts with different limits, at different providers: 20, 12 and 15 creates in 10 s."""
    status = Rate(20, per=1)
    dying = Network(PROVIDERS["kie"], limits=Limits(Rate(20, per=10), status, 100), latency=LATENCY)
    poor = Network(
        PROVIDERS["apiin"], limits=Limits(Rate(12, per=10), status, 100), latency=LATENCY, balance=8.0 * CREDIT_FOR
    )
    limited = Network(PROVIDERS["apikley"], limits=Limits(Rate(15, per=10), status, 100), latency=LATENCY)
    return dying, poor, limited


def prompts(count: int) -> list[str]:
    """Prompts that differ."""
    return [f"prompt {i}" for i in range(count)]


async def trouble(dying: Network, limited: Network) -> None:
    """One account takes no creates any more after a minute; one answers 429 to every create for a minute."""
    await anyio.sleep(LIMITED_FROM)
    limited.faults.keep("create", "429")
    await anyio.sleep(DIES_AT - LIMITED_FROM)
    dying.takes_no_creates = True
    await anyio.sleep(LIMITED_UNTIL - DIES_AT)
    limited.faults.keep("create", None)


def bound(count: int) -> float:
    """Seconds that `count` tasks take at least: each account at its limit for as long as it is healthy, then a task."""
    sent, time = 0.0, 0.0
    poor = float(CREDIT_FOR)
    while True:
        # A whole window goes at its very beginning.
        if time < DIES_AT:
            sent += 20
        sent += min(12.0, poor)
        poor -= min(12.0, poor)
        if not LIMITED_FROM <= time < LIMITED_UNTIL:
            sent += 15
        if sent >= count:
            return time + LATENCY.median
        time += 10.0


@virtual_time
async def test_a_thousand_items_survive_the_loss_of_accounts() -> None:
    """One account dies, one runs out of credit, one refuses all for a minute: each item has one billed picture."""
    networks = three_accounts()
    dying, _, limited = networks
    began = asyncio.get_running_loop().time()
    async with scheduler_over(*networks) as scheduler, anyio.create_task_group() as group:
        group.start_soon(trouble, dying, limited)
        async with batch_over(scheduler, networks, prompts(1000), window=2000) as results:
            wording = [result async for result in results]
            progress = results.progress
    took = asyncio.get_running_loop().time() - began
    billed = sum((network.ledger.tasks_by_prompt() for network in networks), Counter())
    assert [result.ok for result in wording] == [True] * 1000
    assert billed == Counter(prompts(1000))
    assert [network.ledger.refused["submit"] for network in networks] == [0, 0, 0]
    assert [account.state for account in progress.accounts] == ["paused", "stopped", "ready"]
    assert took <= 1.15 * bound(1000)
    for network in networks:
        assert busiest_window(network.ledger.create_times, 10.0) <= network.limits.submit.count


@virtual_time
async def test_an_account_that_comes_back_brings_its_pictures() -> None:
    """A server that is down for 5 min loses nothing: others go on, and its tasks are collected when it is back."""
    networks = three_accounts()[:2]
    lost, other = networks
    async with scheduler_over(*networks) as scheduler, anyio.create_task_group() as group:

        async def outage() -> None:
            await anyio.sleep(15.0)
            lost.is_down = True
            await anyio.sleep(300.0)
            lost.is_down = False

        group.start_soon(outage)
        async with batch_over(scheduler, networks, prompts(150), window=2000) as results:
            wording = [result async for result in results]
    billed = lost.ledger.tasks_by_prompt() + other.ledger.tasks_by_prompt()
    assert [result.ok for result in wording] == [True] * 150
    assert set(billed.values()) == {1}
    assert len(billed) == 150
    assert {result.provider for result in wording[-10:]} == {"kie"}, "those of the lost server come last"


@virtual_time
@pytest.mark.parametrize("count", [8, 27])
async def test_an_unknown_limit_is_found(count: int) -> None:
    """Against a strict window of unknown size the rate is within 15 % of it after 10 windows; 429s are below 3 %."""
    status = Rate(100, per=1)
    guess = Limits(Rate(20, per=10, guess=True), status, 1000)
    network = Network(PROVIDERS["apiin"], limits=Limits(Rate(count, per=10), status, 1000), believed=guess)
    async with scheduler_over(network) as scheduler:
        async with batch_over(scheduler, network, prompts(1000), window=2000) as batch:
            assert all([result.ok async for result in batch])
    creates = zip(network.ledger.create_times, network.ledger.creates, strict=True)
    accepted = [time for time, create in creates if create.task_id is not None]
    # A place is away for its window and the round trip that it took, 0.3 s on average.
    windows = (accepted[-1] - 100.0) / 10.3
    rate = sum(time >= 100.0 for time in accepted) / windows
    assert 0.85 * count <= rate <= 1.15 * count
    assert network.ledger.refused["submit"] < 0.03 * len(network.ledger.creates)
    assert busiest_window(accepted, 10.0) <= count


# ------------------------------------------------------------------------------------------- over real connections


class Pool:
    """Sandboxes, each one account's server, and the accounts.

    Attributes:
        sandboxes: By the account's name, which is its provider's.
        accounts: In order.
    """

    def __init__(self, **sandboxes: Sandbox) -> None:
        self.sandboxes = sandboxes
        self.prices: dict[str, float] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Pool:
        for sandbox in self.sandboxes.values():
            await self._stack.enter_async_context(sandbox)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def accounts(self) -> list[Account]:
        """Each account, with the limits of its server."""
        return [
            Account(
                name,
                api_key=sandbox.key,
                base_url=sandbox.url_of(name),
                limits=sandbox.limits,
                credits=self.prices.get(name),
            )
            for name, sandbox in self.sandboxes.items()
        ]

    @property
    def billed(self) -> Counter[str]:
        """How many tasks each prompt has made, anywhere."""
        return sum((sandbox.ledger.tasks_by_prompt() for sandbox in self.sandboxes.values()), Counter())

    @property
    def made_by(self) -> dict[str, int]:
        """Tasks of each account."""
        return {name: len(sandbox.ledger.tasks) for name, sandbox in self.sandboxes.items()}


def server(creates: int = 50, *, balance: float | None = None, latency: float = 0.05) -> Sandbox:
    """A sandbox with quick tasks and so many creates a second."""
    limits = Limits(Rate(creates, per=1), Rate(500, per=1), 200)
    return Sandbox(limits=limits, latency=Latency(latency, minimum=0.01), balance=balance)


@pytest.mark.slow
async def test_a_thousand_items_over_three_real_servers() -> None:
    """One key is revoked, one account runs dry, one refuses all for 2 s: each item has one billed picture."""
    kie, apiin, apikley = server(120), server(60, balance=8.0 * 150), server(100)
    async with Pool(kie=kie, apiin=apiin, apikley=apikley) as pool, anyio.create_task_group() as group:

        async def trouble() -> None:
            await anyio.sleep(1.0)
            apikley.keep("create", "429")
            await anyio.sleep(1.0)
            kie.keep("create", "401")
            await anyio.sleep(1.0)
            apikley.keep("create", None)

        group.start_soon(trouble)
        async with Client(*pool.accounts) as client, client.batch(prompts(1000)) as batch:
            results = [result async for result in batch]
            progress = batch.progress
    assert [result.error for result in results if not result.ok] == []
    assert pool.billed == Counter(prompts(1000))
    assert pool.made_by["apiin"] == 150
    assert [sandbox.ledger.refused["submit"] for sandbox in pool.sandboxes.values()] == [0, 0, 0]
    assert [account.state for account in progress.accounts[:2]] == ["stopped", "stopped"]
    assert [type(account.error) for account in progress.accounts[:2]] == [AuthenticationError, InsufficientCredits]
    assert sum(account.done for account in progress.accounts) == 1000
    assert progress.credits == sum(account.credits for account in progress.accounts) == 8000


@pytest.mark.parametrize(
    ("policy", "makers"),
    [("spread", {"kie", "apiin"}), ("cheapest", {"apiin"}), ("in_order", {"kie"})],
)
async def test_the_policy_says_who_gets_it(policy: Policy, makers: set[str]) -> None:
    """`spread` uses all accounts, `cheapest` the one with the lowest price, `in_order` the first."""
    async with Pool(kie=server(), apiin=server()) as pool:
        pool.prices = {"apiin": 3}
        async with Client(*pool.accounts, policy=policy) as client, client.batch(prompts(60)) as batch:
            assert {result.provider async for result in batch} == makers


async def test_the_next_in_order_has_its_turn_when_the_first_stops() -> None:
    """With `in_order` the items of an account without credit go to the next, and nothing is made twice."""
    async with Pool(kie=server(balance=40), apiin=server()) as pool:
        async with Client(*pool.accounts, policy="in_order") as client, client.batch(prompts(30)) as batch:
            assert all([result.ok async for result in batch])
        assert pool.made_by == {"kie": 5, "apiin": 25}
        assert set(pool.billed.values()) == {1}


async def test_what_only_one_account_takes_goes_there() -> None:
    """A provider's own field, a model that the others lack: each request goes to the account that takes it whole."""
    async with Pool(kie=server(), liangxin=server()) as pool, Client(*pool.accounts) as client:
        requests = [ImageRequest("own field", model="imagen4-fast", extra={"enhance_prompt": True})]
        requests += [ImageRequest("two", model="imagen4-fast", num_images=2), ImageRequest("plain", model="imagen4")]
        async with client.batch(requests) as batch:
            made = {result.request.prompt: result.provider async for result in batch}
        assert made == {"own field": "liangxin", "two": "kie", "plain": "kie"}
        assert pool.sandboxes["liangxin"].ledger.tasks[0].input["enhance_prompt"] is True


async def test_a_request_that_nobody_takes_says_why_for_each() -> None:
    """A request that fits no account is one bad result, which names every account and its reason; nothing is sent."""
    async with Pool(kie=server(), liangxin=server()) as pool, Client(*pool.accounts) as client:
        odd = ImageRequest("x", model="imagen4-fast", num_images=2, extra={"enhance_prompt": True})
        async with client.batch([odd, ImageRequest("fine", model="imagen4-fast")]) as batch:
            results = {result.request.prompt: result async for result in batch}
        error = results["x"].error
        assert isinstance(error, InvalidRequest)
        assert "kie: enhance_prompt=True" in error.message
        assert "liangxin: num_images=2" in error.message
        assert results["fine"].ok
        assert sum(pool.made_by.values()) == 1


@pytest.mark.parametrize("fault", ["402", "433", "401", "403_edge", "no_credit_500", "429", "455"])
async def test_what_an_account_refuses_moves_to_the_next(fault: str) -> None:
    """A create that is known not to exist, for the account's sake, is made by the other, once."""
    async with Pool(kie=server(), apiin=server()) as pool:
        pool.sandboxes["kie"].keep("create", fault)
        async with Client(*pool.accounts) as client, client.batch(prompts(20)) as batch:
            assert all([result.ok async for result in batch])
        assert pool.made_by == {"kie": 0, "apiin": 20}
        assert set(pool.billed.values()) == {1}


@pytest.mark.parametrize("fault", ["reset_after", "http_504_made", "no_task_id", "http_502", "500"])
async def test_what_may_exist_and_what_is_wrong_never_moves(fault: str) -> None:
    """A create whose answer was lost, and one that is wrong, are not sent to another account."""
    async with Pool(kie=server(), apiin=server()) as pool:
        pool.sandboxes["kie"].order("create", fault)
        async with Client(*pool.accounts, policy="in_order") as client, client.batch(prompts(3)) as batch:
            results = [result async for result in batch]
        (bad,) = [result for result in results if not result.ok]
        assert isinstance(bad.error, InvalidRequest if fault == "500" else UnknownOutcome)
        assert bad.provider == "kie"
        assert max(pool.billed.values()) == 1
        assert bad.request.prompt not in pool.sandboxes["apiin"].ledger.tasks_by_prompt()


async def test_a_failed_generation_is_tried_elsewhere_with_leave() -> None:
    """With `retries=1` a task that fails at one account is made anew by the other; without, it fails."""
    for retries in (0, 1):
        async with Pool(kie=server(), apiin=server()) as pool:
            pool.sandboxes["kie"].keep("task", "fail_word")
            async with Client(*pool.accounts) as client, client.batch(prompts(20), retries=retries) as batch:
                results = [result async for result in batch]
            failed = [result for result in results if not result.ok]
            assert all(isinstance(result.error, GenerationFailed) for result in failed)
            assert len(failed) == (0 if retries else pool.made_by["kie"])
            assert {result.provider for result in results if result.ok} == {"apiin"}


async def test_the_batch_ends_when_no_account_is_left() -> None:
    """When all accounts have stopped the batch ends with one error that names each and its reason."""
    async with Pool(kie=server(balance=16), apiin=server()) as pool:
        pool.sandboxes["apiin"].keep("create", "401")
        async with Client(*pool.accounts) as client, client.batch(prompts(50)) as batch:
            done = []
            with pytest.raises(AccountError) as caught:
                async for result in batch:
                    done.append(result)
        assert [result.ok for result in done] == [True, True]
        assert "kie: " in caught.value.message
        assert "apiin: " in caught.value.message


@virtual_time
@pytest.mark.parametrize("ordered", [False, True])
async def test_what_remains_goes_on_when_some_have_no_account_left(*, ordered: bool) -> None:
    """Items whose only account has stopped are told of at the end; the others are made, and hold no place meanwhile."""
    empty, other = Network(PROVIDERS["kie"]), Network(PROVIDERS["liangxin"])
    empty.faults.keep("create", "402")
    mixed = [ImageRequest(f"{i}", model=("imagen4", "imagen4-fast")[i % 2]) for i in range(200)]
    async with scheduler_over(empty, other) as scheduler:
        results = []
        async with batch_over(scheduler, (empty, other), mixed, window=30, ordered=ordered) as batch:
            with pytest.raises(InsufficientCredits):
                async for result in batch:
                    results.append(result)
    assert {result.provider for result in results} == {"liangxin"}
    assert sorted(result.index for result in results) == list(range(1, 200, 2))
    assert not ordered or [result.index for result in results] == list(range(1, 200, 2))


async def test_a_model_that_one_account_lacks_is_made_by_the_other() -> None:
    """A model that is switched off at one account goes to the other; where all lack it the item fails."""
    async with Pool(kie=server(), apiin=server()) as pool, Client(*pool.accounts) as client:
        for sandbox in pool.sandboxes.values():
            sandbox.order("create", None)
        first = await client.generate("x", model="imagen4-fast")
        assert first.ok
        with pytest.raises(InvalidRequest, match="No account takes this request"):
            await client.generate("x", model="imagen9")


async def test_single_pictures_go_through_the_pool_too() -> None:
    """`generate` and `submit` use whichever account takes it; `collect` needs to know whose task it is."""
    async with Pool(kie=server(), apiin=server()) as pool:
        pool.sandboxes["kie"].keep("create", "402")
        async with Client(*pool.accounts, policy="in_order") as client:
            result = await client.generate("a heron")
            job = await client.submit("a fox")
            assert (result.provider, (await job).provider) == ("apiin", "apiin")
            with pytest.raises(ConfigurationError, match="provider="):
                await client.collect(job.task_id)
            assert (await client.collect(job.task_id, provider="apiin")).urls == (await job).urls


async def test_every_account_with_the_endpoint_tells_its_balance() -> None:
    """`credits` asks all accounts at once, or one; None where the API has no such question; a failure names whose."""
    async with Pool(kie=server(balance=72.62), apikley=server(), apiin=server()) as pool:
        async with Client(*pool.accounts) as client:
            assert await client.credits() == {"kie": 72.62, "apikley": 1_000_000.0, "apiin": None}
            assert await client.credits("kie") == {"kie": 72.62}
        accounts = [Account("kie", api_key="wrong-key-of-mine", base_url=pool.sandboxes["kie"].url_of("kie"))]
        async with Client(*accounts, *pool.accounts[1:]) as client:
            with pytest.raises(AuthenticationError) as caught:
                await client.credits()
            assert caught.value.provider == "kie"
            assert await client.credits("apikley") == {"apikley": 1_000_000.0}


# ------------------------------------------------------------------------------------------------------- budgets


@pytest.mark.parametrize("count", [1, 7, 25])
async def test_a_budget_is_used_and_never_overshot(count: int) -> None:
    """As many are sent as the budget pays for, then BudgetReached is raised; the ledgers never bill more."""
    async with Pool(kie=server(), apiin=server()) as pool, Client(*pool.accounts) as client:
        async with client.batch(prompts(100), model="imagen4-fast", max_credits=4 * count + 3) as batch:
            results = []
            with pytest.raises(BudgetReached, match="max_credits"):
                async for result in batch:
                    results.append(result)
        assert len(results) == count
        assert sum(sandbox.ledger.credits for sandbox in pool.sandboxes.values()) == 4 * count


async def test_a_budget_that_is_enough_is_never_felt() -> None:
    """A batch that costs exactly its budget ends like one without."""
    async with Pool(kie=server()) as pool, Client(*pool.accounts) as client:
        async with client.batch(prompts(10), model="imagen4-fast", max_credits=40) as batch:
            assert all([result.ok async for result in batch])


async def test_credits_of_failed_generations_are_free_again() -> None:
    """A task that failed unbilled gives its credits back, so another is made in its place."""
    async with Pool(kie=server()) as pool, Client(*pool.accounts) as client:
        pool.sandboxes["kie"].order("task", "fail_digits", "fail_digits")
        async with client.batch(prompts(20), model="imagen4-fast", max_credits=20) as batch:
            results = []
            with pytest.raises(BudgetReached):
                async for result in batch:
                    results.append(result)
        assert sorted(result.ok for result in results) == [False] * 2 + [True] * 5


async def test_lost_answers_count_against_the_budget() -> None:
    """A create whose answer was lost may have been billed, so its price is not spent again."""
    async with Pool(kie=server()) as pool, Client(*pool.accounts) as client:
        pool.sandboxes["kie"].order("create", None, "reset_after", "reset_before")
        async with client.batch(prompts(20), model="imagen4-fast", max_credits=20) as batch:
            results = []
            with pytest.raises(BudgetReached):
                async for result in batch:
                    results.append(result)
        assert sorted(result.ok for result in results) == [False] * 2 + [True] * 3


async def test_an_account_without_a_price_is_not_used_with_a_budget() -> None:
    """An unknown price is never 0: such an account makes nothing under a budget until it is given one."""
    async with Pool(kie=server(), apikley=server()) as pool:
        async with Client(*pool.accounts) as client, client.batch(prompts(20), max_credits=1000) as batch:
            assert all([result.ok async for result in batch])
        assert pool.made_by == {"kie": 20, "apikley": 0}
        pool.prices = {"apikley": 8}
        async with Client(*pool.accounts) as client, client.batch(prompts(40), max_credits=1000) as batch:
            assert all([result.ok async for result in batch])
        assert pool.made_by["apikley"] > 0
        async with Client(Account("apikley", api_key="k", base_url="https://localhost")) as client:
            with pytest.raises(InvalidRequest, match="credits="):
                client.batch(prompts(1), max_credits=1000)


async def test_a_budget_counts_what_earlier_runs_have_spent(tmp_path: Path) -> None:
    """With a journal the budget is that of the whole batch: the same again sends nothing, a higher one the rest."""
    journal = tmp_path / "run.db"
    async with Pool(kie=server(), apiin=server()) as pool:
        for budget, done in ((40, 10), (40, 10), (60, 15), (80, 20)):
            async with Client(*pool.accounts) as client:
                batch = client.batch(prompts(20), model="imagen4-fast", max_credits=budget, journal=journal)
                results = []
                try:
                    async with batch:
                        async for result in batch:
                            results.append(result)
                except BudgetReached:
                    assert budget < 80
            assert len(results) == done
            assert sum(pool.made_by.values()) == done
        assert set(pool.billed.values()) == {1}


async def test_a_resumed_batch_asks_each_account_for_its_own_tasks(tmp_path: Path) -> None:
    """Tasks that an earlier run left are collected from the accounts that have them, whatever the order is now."""
    journal = tmp_path / "run.db"
    async with Pool(kie=server(latency=1.0), apiin=server(latency=1.0)) as pool:
        async with Client(*pool.accounts) as client, client.batch(prompts(40), journal=journal) as batch:
            while batch.progress.running < 30:
                await anyio.lowlevel.checkpoint()
        assert all(pool.made_by.values())
        async with Client(*reversed(pool.accounts)) as client, client.batch(prompts(40), journal=journal) as batch:
            assert [result.ok async for result in batch] == [True] * 40
        assert pool.billed == Counter(prompts(40))


def test_accounts_of_a_pool_differ() -> None:
    """Two accounts need two names and two keys; settings for one account are not guessed to be for all."""
    with pytest.raises(ConfigurationError, match="name="):
        Client(Account("kie", api_key="a-key"), Account("kie", api_key="another"))
    with pytest.raises(ConfigurationError, match="one account"):
        Client(Account("kie", api_key="a-key"), Account("kie", api_key="a-key", name="kie-2"))
    with pytest.raises(ConfigurationError, match="api_key"):
        Client(Account("kie", api_key="a-key"), Account("apiin", api_key="b-key"), api_key="c-key")
    with pytest.raises(ConfigurationError, match="policy"):
        Client("sandbox", policy="fastest")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="Name an account"):
        Client()
    assert Client(Account("kie", api_key="a-key"), Account("kie", api_key="b", name="kie-2")).accounts == (
        "kie",
        "kie-2",
    )


def test_a_named_account_has_its_own_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of an account named `kie-2` is in KIE_2_API_KEY."""
    monkeypatch.setenv("KIE_API_KEY", "first-key")
    monkeypatch.setenv("KIE_2_API_KEY", "second-key")
    assert Client("kie", Account("kie", name="kie-2")).accounts == ("kie", "kie-2")
    monkeypatch.delenv("KIE_2_API_KEY")
    with pytest.raises(ConfigurationError, match="KIE_2_API_KEY"):
        Client("kie", Account("kie", name="kie-2"))


# --------------------------------------------------------------------------------------------------- hard cases


async def test_a_held_create_is_never_resubmitted_elsewhere(tmp_path: Path) -> None:
    """With leave to resubmit, a create that was lost at an account that is not there, or unfit, stays held."""
    journal = tmp_path / "run.db"
    async with Pool(apikley=server(), kie=server()) as pool:
        pool.sandboxes["apikley"].order("create", "reset_after")
        async with Client(pool.accounts[0]) as client, client.batch(["x"], journal=journal) as batch:
            assert [type(result.error) async for result in batch] == [UnknownOutcome]
        for accounts, max_credits in ((pool.accounts[1:], None), (pool.accounts, 100)):
            async with Client(*accounts) as client:
                again = client.batch(["x"], journal=journal, on_unknown="resubmit", max_credits=max_credits)
                async with again as batch:
                    assert [type(result.error) async for result in batch] == [UnknownOutcome]
        assert pool.made_by == {"apikley": 1, "kie": 0}


async def test_a_taken_up_task_is_reserved_at_the_price_of_its_time(tmp_path: Path) -> None:
    """Tasks that run on count with the price that they were sent at, also where this run knows none."""
    journal = tmp_path / "run.db"
    async with Pool(apikley=server(latency=2), kie=server()) as pool:
        pool.prices = {"apikley": 4}
        batch_of = {"model": "imagen4-fast", "max_credits": 40, "journal": journal}
        async with Client(pool.accounts[0]) as client, client.batch(prompts(20), **batch_of) as batch:  # type: ignore[arg-type]
            while batch.progress.running < 10:
                await anyio.lowlevel.checkpoint()
        pool.prices = {}
        async with Client(*pool.accounts) as client, client.batch(prompts(20), **batch_of) as batch:  # type: ignore[arg-type]
            with pytest.raises(BudgetReached):
                assert all([result.ok async for result in batch])
        assert sum(pool.made_by.values()) == 10


async def test_failures_whose_cost_nobody_tells_use_the_budget_up(tmp_path: Path) -> None:
    """A failed task of a provider that does not say that it was free counts with its price, in later runs too."""
    async with Pool(apiin=server()) as pool:
        pool.sandboxes["apiin"].keep("task", "fail_word")
        for _ in range(4):
            async with Client(*pool.accounts) as client:
                again = client.batch(
                    prompts(3),
                    model="imagen4-fast",
                    max_credits=24,
                    retries=1,
                    retry_failed=True,
                    journal=tmp_path / "run.db",
                )
                with contextlib.suppress(BudgetReached):
                    async with again as batch:
                        assert not any([result.ok async for result in batch])
        assert pool.made_by == {"apiin": 6}


async def test_an_unsaved_picture_of_an_absent_account_is_told(tmp_path: Path) -> None:
    """A picture that is to be saved and lies with an account that is not there is an error, not a success."""
    journal = tmp_path / "run.db"
    async with Pool(kie=server(), apiin=server()) as pool:
        async with Client(pool.accounts[0]) as client, client.batch(["x"], journal=journal) as batch:
            assert [result.ok async for result in batch] == [True]
        async with Client(pool.accounts[1]) as client:
            async with client.batch(["x"], journal=journal, save_to=tmp_path) as batch:
                (result,) = [result async for result in batch]
        assert isinstance(result.error, ConfigurationError)
        assert "kie" in result.error.message
        assert result.urls


async def test_an_input_that_nobody_takes_blocks_nothing() -> None:
    """While requests end one after the other, for their only account has stopped, the rest of the program runs on."""
    async with Pool(kie=server(), liangxin=server()) as pool, Client(*pool.accounts) as client:
        pool.sandboxes["kie"].keep("create", "402")
        async with client.batch(ImageRequest(str(i), model="imagen4") for i in itertools.count()) as batch:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    async for _ in batch:
                        pass


@virtual_time
async def test_a_batch_that_waits_for_its_budget_keeps_nobody_waiting() -> None:
    """While one batch waits for what its task will cost, another on the same client is sent at once."""
    network = Network(PROVIDERS["kie"], latency=Latency(median=300, sigma=0.01))
    async with scheduler_over(network) as scheduler:
        poor = batch_over(scheduler, network, prompts(100), window=200, budget=Budget(8))
        async with poor, batch_over(scheduler, network, prompts(5), window=200) as other:
            await anyio.sleep(5.0)
            assert (other.progress.running, poor.progress.running) == (5, 1)


@virtual_time
async def test_requests_that_others_take_fill_no_queue_of_an_account_that_lacks_their_model() -> None:
    """An account that does not serve a model goes on with the next requests, however many wait for another's limit."""
    lacking = Network(PROVIDERS["kie"])
    slow = Network(PROVIDERS["apiin"], limits=Limits(Rate(1, per=10)))
    lacking.faults.order("create", "model_gone", "model_gone")
    mixed = [ImageRequest(f"a{i}", model="imagen4") for i in range(60)]
    mixed += [ImageRequest(f"b{i}", model="imagen4-fast") for i in range(10)]
    async with scheduler_over(lacking, slow) as scheduler:
        async with batch_over(scheduler, (lacking, slow), mixed, window=200) as batch:
            await anyio.sleep(40.0)
            assert batch.progress.accounts[0].done >= 5


def test_every_key_is_that_of_its_own_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """No account is called like another provider, and the same key at the same address is found however spelled."""
    monkeypatch.setenv("KIE_API_KEY", "a-key")
    with pytest.raises(ConfigurationError, match="another provider"):
        Client(Account("kie", name="apiin"))
    with pytest.raises(ConfigurationError, match="a word"):
        Client(Account("kie", name="2nd=x"))
    again = Account("kie", name="again", api_key="a-key", base_url="https://API.kie.ai:443/")
    with pytest.raises(ConfigurationError, match="one account"):
        Client("kie", again)
