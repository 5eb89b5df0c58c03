"""Another model, by leave only: for one that is gone, or that refused a prompt; never beside a lost create."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import inner
import msgspec
import pytest
from commands import METADATA, Call, at, call, clean_environment, lines_of
from samples import EVENTS, NOW, job_in

from imagen_async import Account, Client, ImageRequest, Limits, Rate, errors
from imagen_async.providers import PROVIDERS
from imagen_async.sandbox import Latency, Sandbox
from imagen_async.testing import running_sandbox

__all__ = ["call", "clean_environment"]

BOTH = ("imagen4-ultra", "nano-banana-pro")


def router_of(*names: str, **terms: Any) -> inner.Router:
    """A router of these providers."""
    return inner.router_of({name: Account(name) for name in names}, **terms)


def models_in(route: inner.Route) -> list[list[tuple[str, str]]]:
    """Who is asked for what, one model after another."""
    offers = [(offer.account, offer.model.name) for offer in route.offers]
    return [offers] if route.then is None else [offers, *models_in(route.then)]


def routed(request: ImageRequest, *names: str, **terms: Any) -> tuple[ImageRequest, list[list[tuple[str, str]]]]:
    """A request as it is sent, and who may get it."""
    sent, route = router_of(*names, **terms).route(inner.overridden(request, {}))
    return sent, models_in(route)


@pytest.mark.parametrize("written", [BOTH, list(BOTH), ",".join(BOTH), "imagen4-ultra, nano-banana-pro,"])
def test_the_first_is_the_request(written: Any) -> None:
    """However they are written, the request is known by the first, and as it is to be for the first."""
    request = inner.overridden("a red fox", {"model": written})
    sent, ways = routed(ImageRequest("a red fox", model=written), "kie", "apikley")
    alone, _ = router_of("kie", "apikley").route(ImageRequest("a red fox", model=BOTH[0]))
    assert sent == alone
    assert ways == [[("kie", BOTH[0]), ("apikley", BOTH[0])], [("kie", BOTH[1])]]
    assert inner.stable_key(request) == inner.stable_key(ImageRequest("a red fox", model=BOTH[0]))


def test_what_the_next_cannot_express_has_only_the_first() -> None:
    """It is found before a cent: that one is not among the ways."""
    names = "imagen4-ultra,nano-banana-pro,qwen3"
    for negative_prompt, expected in ((None, names), ("text", "imagen4-ultra,qwen3")):
        _, ways = routed(ImageRequest("a red fox", model=names, negative_prompt=negative_prompt), "kie")
        assert [model for ((_, model),) in ways] == expected.split(",")
    with pytest.raises(errors.InvalidRequest, match="steps"):
        routed(ImageRequest("a red fox", model=names, extra={"steps": 3}), "kie")


def test_a_default_that_was_filled_in_binds_no_other_model() -> None:
    """Nobody has asked for that ratio: the next model has its own, and what was asked for binds it."""
    names = "nano-banana-2,flux-2-pro"
    sent, route = router_of("kie").route(ImageRequest("a red fox", model=names))
    assert route.then is not None
    model = route.then.offers[0].model
    assert (sent.aspect_ratio, model.name, model.input_of(sent)["aspect_ratio"]) == ("auto", "flux-2-pro", "1:1")
    asked = ImageRequest("a red fox", model=names, aspect_ratio="auto")
    assert models_in(router_of("kie").route(asked)[1]) == [[("kie", "nano-banana-2")]]


def test_a_first_that_no_account_has_is_not_missed() -> None:
    """The next stands for it where somebody has it; the request is still the first's."""
    sent, ways = routed(ImageRequest("a red fox", model="nano-banana-pro,imagen4-ultra"), "apikley")
    assert (sent.model, ways) == ("nano-banana-pro", [[("apikley", "imagen4-ultra")]])


async def test_a_folder_is_gone_on_with_by_any_name(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """By the provider's own name or ours; and where another one stands for the first, whose default is another."""
    terms: dict[str, Any] = {"journal": tmp_path / "run.db"}
    account = Account("apikley", imagen_sandbox.key, imagen_sandbox.url_of("apikley"))
    kie = Account("kie", imagen_sandbox.key, imagen_sandbox.url_of("kie"))
    ways = [
        (kie, "google/nano-banana", "nano-banana"),
        (kie, "nano-banana", "google/nano-banana"),
        (account, "nano-banana-2,imagen4-fast", "nano-banana-2,imagen4-fast"),
    ]
    for number, (pool, first, then) in enumerate(ways):
        terms["journal"] = tmp_path / f"{number}.db"
        requests = ["a", ImageRequest("b", key="b")]
        for name in (first, first, then):
            async with Client(pool) as client, client.batch(requests, model=name, **terms) as results:
                assert [each.error async for each in results] == [None, None], name
        assert len(imagen_sandbox.ledger.tasks) == 2 * (number + 1)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ("imagen4-ultra,nano-banan-pro", "nano-banan-pro.*nano-banana-pro"),
        ("imagen4-ulta,nano-banana-pro", "imagen4-ulta.*imagen4-ultra"),
        ("imagen4-ultra,raw:any/thing", "a raw model stands alone"),
    ],
)
def test_a_slip_is_seen_before_anything_is_paid(names: str, told: str) -> None:
    """In any of the names; nothing is made in the place of a word that nobody knows."""
    for look in (router_of("kie").route, router_of("kie").check_defaults):
        with pytest.raises(errors.InvalidRequest, match=told):
            look(ImageRequest("a red fox", model=names))
    with pytest.raises(errors.InvalidRequest, match="model=7"):
        inner.overridden("a red fox", {"model": ("imagen4", 7)})  # type: ignore[typeddict-item]


def with_next(state: str, **terms: Any) -> inner.Job:
    """A job in a state that may be made by another model."""
    _, route = router_of("kie").route(ImageRequest("a red fox", model="imagen4-ultra,nano-banana-pro"))
    job = job_in(state, route=route, account="kie", **terms)
    return msgspec.structs.replace(job, model=route.offers[0].model)


def told(message: str, **terms: Any) -> inner.Failure:
    """Why a task came to nothing."""
    return inner.Failure(errors.GenerationFailed, message, **terms)


REFUSALS = [
    (told("The prompt was flagged as sensitive.", code="SENSITIVE_WORD_ERROR"), 0.0, True),
    (told("Your request was blocked by the content policy"), 0.0, True),
    (told("NSFW content detected", code="422"), 0.0, True),
    # Billed, or nobody knows; and what says nothing of the prompt.
    (told("The prompt was flagged as sensitive."), 12.0, False),
    (told("The prompt was flagged as sensitive."), None, False),
    (told("Internal Error, Please try again later.", code="500"), 0.0, False),
    *(
        (told(message), 0.0, True)
        for message in (
            "Prompt blocked: contains forbidden words",
            "rejected by our content review",
            "This goes against our guidelines",
            "filtered by Google's Responsible AI practices",
            "its state is moderated",
            "内容违规",
        )
    ),
    # Of a value, whatever its field is called: to pay for another model mends nothing.
    *(
        (told(message), 0.0, False)
        for message in (
            "This enable_safety_checker is not within the range of allowed options",
            "This moderation is not within the range of allowed options",
            "safety_tolerance is invalid",
            "prompt violates maximum length",
        )
    ),
]


@pytest.mark.parametrize(("failure", "credits", "goes_on"), REFUSALS)
def test_only_a_prompt_refused_unbilled_goes_to_the_next(
    failure: inner.Failure, credits: float | None, goes_on: bool
) -> None:
    """And only where the caller has said so, and no create of it was lost; then it waits for the next model."""
    event = inner.TaskFailed(failure, credits, b"")
    after = inner.advance(with_next("Running", next_if_refused=True), event, NOW)
    assert (type(after.state), after.model.name) == (
        (inner.Queued, "nano-banana-pro") if goes_on else (inner.Failed, "imagen4-ultra")
    )
    for terms in ({"next_if_refused": False}, {"next_if_refused": True, "lost": 1, "lost_creates": (1,)}):
        ended = inner.advance(with_next("Running", **terms), event, NOW)
        assert (type(ended.state), ended.model.name) == (inner.Failed, "imagen4-ultra")


def test_only_a_model_that_is_gone_everywhere_gives_way() -> None:
    """An account that is empty may be filled: another model is no cheaper way out of that. A lost create stays."""
    gone, empty = EVENTS["NobodyTakes it anywhere"], EVENTS["NobodyTakes"]
    instead = inner.advance(with_next("Queued"), gone, NOW)
    assert (type(instead.state), instead.model.name, instead.route and instead.route.then) == (
        inner.Queued,
        "nano-banana-pro",
        None,
    )
    assert isinstance(inner.advance(instead, gone, NOW).state, inner.Failed)
    assert isinstance(inner.advance(with_next("Queued"), empty, NOW).state, inner.NotAdmitted)
    lost = with_next("Queued", lost=1, lost_creates=(1,))
    assert isinstance(inner.advance(lost, gone, NOW).state, inner.Failed)


async def test_in_the_place_of_one_that_is_gone(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """The result says who made it, in this run and in the next, under the key of the first."""
    imagen_sandbox.faults.order("create", "model_gone")
    results = []
    for models in (BOTH, BOTH, BOTH[0]):
        async with Client("sandbox", api_key=imagen_sandbox.key, base_url=imagen_sandbox.url) as client:
            async with client.batch(["a red fox"], model=models, journal=tmp_path / "run.db") as batch:
                results += [result async for result in batch]
    assert [(each.ok, each.model, each.request.model, each.earlier) for each in results] == [
        (True, "nano-banana-pro", "imagen4-ultra", False),
        *[(True, "nano-banana-pro", "imagen4-ultra", True)] * 2,
    ]
    assert len(imagen_sandbox.ledger.tasks) == 1
    async with Client("sandbox", api_key=imagen_sandbox.key, base_url=imagen_sandbox.url) as client:
        imagen_sandbox.faults.order("create", "model_gone")
        single = await client.generate("a red fox", model=BOTH)
        with pytest.raises(errors.ModelUnavailable):
            await client.generate("a red fox", model=BOTH[0])
    assert (single.model, single.request.model) == ("nano-banana-pro", "imagen4-ultra")


async def test_a_task_of_the_next_is_collected_by_the_next_run(tmp_path: Path) -> None:
    """What was left running is known for what it is, at its own price, and is paid once."""
    with running_sandbox(Sandbox(latency=Latency(0.6, minimum=0.5))) as sandbox:
        terms: dict[str, Any] = {"api_key": sandbox.key, "base_url": sandbox.url}
        sandbox.faults.order("create", "model_gone")
        async with Client("sandbox", **terms) as client:
            async with client.batch(["a red fox"], model=BOTH, journal=tmp_path / "run.db") as batch:
                while not sandbox.ledger.tasks:
                    await anyio.sleep(0.01)
        assert [each.model for each in batch.leftover] == ["nano-banana-pro"]
        async with Client("sandbox", **terms) as client:
            async with client.batch(["a red fox"], model=BOTH, journal=tmp_path / "run.db") as batch:
                (result,) = [each async for each in batch]
        (create,) = [each for each in sandbox.ledger.creates if each.task_id]
    assert (result.ok, result.model, result.credits, len(sandbox.ledger.tasks)) == (
        True,
        "nano-banana-pro",
        create.credits,
        1,
    )


@pytest.mark.parametrize("on_refused", ["fail", "next"])
async def test_a_prompt_that_was_refused(imagen_sandbox: Sandbox, on_refused: Any) -> None:
    """By default it fails; with leave the next model makes it."""
    imagen_sandbox.faults.order("task", "fail_word")
    async with Client("sandbox", api_key=imagen_sandbox.key, base_url=imagen_sandbox.url) as client:
        if on_refused == "next":
            result = await client.generate("a red fox", model=BOTH, on_refused=on_refused)
            assert (result.model, len(imagen_sandbox.ledger.tasks)) == ("nano-banana-pro", 2)
        else:
            with pytest.raises(errors.GenerationFailed):
                await client.generate("a red fox", model=BOTH, on_refused=on_refused)
            assert len(imagen_sandbox.ledger.tasks) == 1
        with pytest.raises(errors.ConfigurationError, match="on_refused='maybe': allowed is"):
            await client.generate("a red fox", model=BOTH, on_refused="maybe")  # type: ignore[arg-type]


async def test_what_waits_for_the_next_is_sent_by_the_next_run(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """Left before the next model had its turn: nothing was billed, and nothing has failed."""
    imagen_sandbox.faults.order("task", "fail_word", "fail_word")
    options: dict[str, Any] = {"model": BOTH, "journal": tmp_path / "run.db", "on_refused": "next"}
    slowly = Account("sandbox", imagen_sandbox.key, imagen_sandbox.url, limits=Limits(submit=Rate(1, per=60)))
    async with Client(slowly) as client, client.batch(["a red fox"], **options) as batch:
        while not batch.progress.queued or not imagen_sandbox.ledger.polls:
            await anyio.sleep(0.01)
    assert [each.model for each in imagen_sandbox.ledger.tasks] == ["google/imagen4-ultra"]
    async with Client("sandbox", api_key=imagen_sandbox.key, base_url=imagen_sandbox.url) as client:
        async with client.batch(["a red fox"], **options) as batch:
            results = [each async for each in batch]
    assert [(each.ok, each.model, each.earlier) for each in results] == [(True, "nano-banana-pro", False)]


async def test_a_task_that_was_taken_up_has_the_leave_of_this_run(tmp_path: Path) -> None:
    """Refused unbilled in a later run than the one that has begun it, it goes to the next model there."""
    with running_sandbox(Sandbox(latency=Latency(0.6, minimum=0.5))) as sandbox:
        sandbox.faults.order("task", "fail_word")
        options: dict[str, Any] = {"model": BOTH, "journal": tmp_path / "run.db", "on_refused": "next"}
        terms = {"api_key": sandbox.key, "base_url": sandbox.url}
        async with Client("sandbox", **terms) as client, client.batch(["a red fox"], **options):
            while not sandbox.ledger.tasks:
                await anyio.sleep(0.01)
        async with Client("sandbox", **terms) as client, client.batch(["a red fox"], **options) as batch:
            results = [each async for each in batch]
    assert [(each.ok, each.model) for each in results] == [(True, "nano-banana-pro")]


@pytest.mark.parametrize(("models", "made"), [(BOTH, 2), (BOTH[0], 1)])
async def test_what_was_lost_is_sent_again_as_what_it_was(
    imagen_sandbox: Sandbox, tmp_path: Path, models: Any, made: int
) -> None:
    """A lost create of the next model is one of that again, or is held: of two models nobody could tell two for one."""
    imagen_sandbox.faults.order("create", "model_gone", "reset_after")
    for names, on_unknown in ((BOTH, "hold"), (models, "resubmit")):
        async with Client("sandbox", api_key=imagen_sandbox.key, base_url=imagen_sandbox.url) as client:
            terms: dict[str, Any] = {"model": names, "journal": tmp_path / "run.db", "on_unknown": on_unknown}
            async with client.batch(["a red fox"], **terms) as batch:
                (result,) = [each async for each in batch]
    assert [each.model for each in imagen_sandbox.ledger.tasks] == ["nano-banana-pro"] * made
    assert result.ok == (made == 2)


def test_a_raw_model_stands_alone() -> None:
    """Its name is the provider's own, commas and all, and its requests keep the keys of before."""
    raw = ImageRequest("a", model="raw:x,y", extra={"p": 1})
    assert inner.stable_key(raw) == "aa7646c1a13cff79"
    assert routed(raw, "kie")[0].model == "raw:x,y"
    with pytest.raises(errors.InvalidRequest, match="a raw model stands alone"):
        inner.overridden("a", {"model": ("raw:x", "nano-banana-pro")})


async def test_never_after_a_lost_create(imagen_sandbox: Sandbox) -> None:
    """Its task may exist, and be paid for: nothing is made in its place."""
    imagen_sandbox.faults.order("create", "reset_after", "model_gone")
    async with Client("sandbox", api_key=imagen_sandbox.key, base_url=imagen_sandbox.url) as client:
        terms: dict[str, Any] = {"model": BOTH, "on_refused": "next", "on_unknown": "resubmit"}
        async with client.batch(["a red fox"], **terms) as batch:
            (result,) = [each async for each in batch]
    assert isinstance(result.error, errors.UnknownOutcome)
    assert {each.model for each in imagen_sandbox.ledger.creates} == {"google/imagen4-ultra"}


async def test_each_account_counts_what_it_has(imagen_sandbox: Sandbox) -> None:
    """A task that was refused is one less where it was, whoever has the next model: nobody runs more than it may."""
    other = Sandbox(latency=Latency(median=0.1, minimum=0.05))
    limits = Limits(Rate(200, per=0.5), Rate(500, per=0.5), running=3)
    with running_sandbox(other):
        both = (imagen_sandbox, other)
        accounts = [
            Account("sandbox", name=f"sandbox-{at}", api_key=each.key, base_url=each.url, limits=limits)
            for at, each in enumerate(both)
        ]
        for each in both:
            each.faults.keep("task", "fail_word")
        async with Client(*accounts) as client:
            terms: dict[str, Any] = {"model": BOTH, "on_refused": "next"}
            async with client.batch([f"fox {number}" for number in range(20)], **terms) as batch:
                results = [each async for each in batch]
                assert [each.running for each in batch.progress.accounts] == [0, 0]
    assert {type(result.error) for result in results} == {errors.GenerationFailed}
    assert sum(map(len, (imagen_sandbox.ledger.tasks, other.ledger.tasks))) == 40


def price_of(name: str) -> float:
    """What a picture of a model costs at the sandbox."""
    model = PROVIDERS["sandbox"].find(name)
    assert model is not None
    return model.price(ImageRequest("a red fox")) or 0.0


async def test_the_budget_reckons_with_the_dearest(imagen_sandbox: Sandbox) -> None:
    """Nothing is begun that could not be paid for if the dear one had to make it."""
    assert price_of(BOTH[0]) < price_of(BOTH[1])
    async with Client("sandbox", api_key=imagen_sandbox.key, base_url=imagen_sandbox.url) as client:
        async with client.batch(["a red fox"], model=BOTH, max_credits=price_of(BOTH[1]) - 1) as batch:
            with pytest.raises(errors.BudgetReached):
                await anext(batch)
        assert imagen_sandbox.ledger.creates == []
        async with client.batch(["a red fox"], model=BOTH, max_credits=price_of(BOTH[1])) as batch:
            assert [each.credits async for each in batch] == [price_of(BOTH[0])]


def test_the_plan_reckons_with_the_dearest(call: Call) -> None:
    """It says what it would be if the dear one had to make them all."""
    Path("prompts.txt").write_text("a red fox\na cat\n")
    for models, price in ((BOTH[0], price_of(BOTH[0])), (",".join(BOTH), price_of(BOTH[1]))):
        plan = call("plan", "prompts.txt", "-p", "sandbox", "-m", models, "--json")
        assert json.loads(plan.out)["credits"] == 2 * price, plan.err


def test_the_command_and_its_lists(call: Call, imagen_sandbox: Sandbox) -> None:
    """`-m A,B`, `--on-refused next`, or a column `model` with several; the lists say which one made it."""
    imagen_sandbox.faults.order("task", "fail_word")
    Path("prompts.jsonl").write_text(json.dumps({"prompt": "a red fox", "model": "imagen4-ultra, nano-banana-pro"}))
    words = ("batch", "prompts.jsonl", *at(imagen_sandbox), "--on-refused", "next", "-o", "out", "-q")
    outcome = call(*words)
    assert outcome.code == 0, outcome.err
    (row,) = lines_of(METADATA)
    assert (row["model"], row["made_by"]) == ("imagen4-ultra", "nano-banana-pro")
    assert call(*words).code == 0
    assert len(imagen_sandbox.ledger.tasks) == 2
    wrong = call("generate", "a red fox", *at(imagen_sandbox), "-m", "imagen4-ultra,nano-banan-pro")
    assert (wrong.code, "nano-banana-pro" in wrong.err) == (2, True)
