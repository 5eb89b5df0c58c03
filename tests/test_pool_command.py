"""The command with several accounts and with a budget: what it says, how it goes on, what it shows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_command import Call, call, clean_environment, finish, start

from imagen_async import AccountProgress, InsufficientCredits, Limits, Rate
from imagen_async._cli._progress import account_text
from imagen_async.sandbox import Latency, Sandbox
from imagen_async.testing import running_sandbox

__all__ = ["call", "clean_environment"]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A sandbox with 60 credits for each account, and an environment that leads three of them there."""
    limits = Limits(Rate(200, per=1), Rate(500, per=1), 200)
    with running_sandbox(Sandbox(limits=limits, latency=Latency(0.05, minimum=0.01), balance=60)) as sandbox:
        for name in ("kie", "apiin", "apikley"):
            monkeypatch.setenv(f"{name.upper()}_API_KEY", sandbox.key)
            monkeypatch.setenv(f"{name.upper()}_BASE_URL", sandbox.url_of(name))
        yield sandbox


def prompt_file(count: int) -> str:
    """A file of so many prompts in the working folder."""
    Path("p.txt").write_text("".join(f"prompt {number}\n" for number in range(count)))
    return "p.txt"


POOL = ("-p", "kie", "-p", "apiin", "-m", "imagen4-fast", "--rate", "200/1")


def test_a_pool_makes_a_file_and_says_who_did_what(call: Call, server: Sandbox) -> None:
    """Two accounts with credit for 15 pictures each make 25 together; the end tells of each, and so does `status`."""
    outcome = call("batch", prompt_file(25), *POOL, "-o", "out", "-q")
    assert outcome.code == 0
    assert len(outcome.lines) == 25
    assert "  kie: " in outcome.err
    assert "  apiin: " in outcome.err
    (status,) = call("status", "out", "--json").records
    made = {name: account["counts"]["done"] for name, account in status["accounts"].items()}
    assert sum(made.values()) == 25
    assert sum(account["credits"] for account in status["accounts"].values()) == 100
    assert f"  kie: {made['kie']} done, {made['kie'] * 4} credits" in call("status", "out").out
    assert set(server.ledger.tasks_by_prompt().values()) == {1}


def test_a_pool_without_credit_keeps_what_is_left(call: Call, server: Sandbox) -> None:
    """When all accounts are empty the command exits with 1, names each, and the same command goes on."""
    outcome = call("batch", prompt_file(40), *POOL, "-o", "out", "-q")
    assert (outcome.code, len(outcome.lines)) == (1, 30)
    assert "No account is left. kie: " in outcome.err
    assert "; apiin: " in outcome.err
    assert "go on with: imagen-async batch p.txt" in outcome.err
    assert "  kie: stopped" in outcome.err
    assert len(server.ledger.tasks) == 30


def test_a_budget_ends_the_command_and_the_words_it_prints_go_on(call: Call, server: Sandbox) -> None:
    """A budget that is used up exits with 1; the command that it names makes the rest, once each."""
    file = prompt_file(20)
    first = call("batch", file, *POOL, "-o", "out", "-q", "--max-credits", "30")
    assert (first.code, len(first.lines), server.ledger.credits) == (1, 7, 28)
    assert "The budget is reached: 30 credits, of which 28" in first.err
    again = call("batch", file, *POOL, "-o", "out", "-q", "--max-credits=30")
    assert (again.code, again.lines, server.ledger.credits) == (1, [], 28)
    assert "--max-credits=80" in again.err
    words = first.err.split("go on with: imagen-async ")[1].splitlines()[0].split()
    assert words[-2:] == ["--max-credits", "80"]
    assert (call("status", "out", "--json").records[0]["next"])[0].endswith("--max-credits=80")
    rest = call(*words)
    assert (rest.code, len(rest.lines), server.ledger.credits) == (0, 13, 80)
    assert set(server.ledger.tasks_by_prompt().values()) == {1}


def test_plan_tells_accounts_balances_and_what_the_budget_pays(call: Call, server: Sandbox) -> None:
    """`plan` deals the file out as `batch` would, asks for balances, and creates nothing."""
    file = prompt_file(20)
    (record,) = call("plan", file, *POOL, "--max-credits", "30", "--json").records
    assert (record["requests"], record["credits"], record["affordable"]) == (20, 80, 7)
    accounts = record["accounts"]
    assert [accounts["kie"]["balance"], accounts["apiin"]["balance"]] == [60, None]
    assert sum(account["models"]["imagen4-fast"] for account in accounts.values()) == 20
    assert sum(account["credits"]["imagen4-fast"] for account in accounts.values()) == 80
    text = call("plan", file, *POOL, "--policy", "in_order", "--max-credits", "30").out
    assert "kie: 20 × imagen4-fast (80 credits); 60 credits on the account, too few" in text
    assert "apiin: nothing" in text
    assert "the budget of 30 credits pays for 7 requests of it" in text
    assert server.ledger.creates == []


def test_plan_goes_without_a_balance_that_cannot_be_had(
    call: Call, server: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a key, or with a wrong one, `plan` tells everything but the balance."""
    monkeypatch.setenv("KIE_API_KEY", "a-wrong-key")
    monkeypatch.delenv("APIKLEY_API_KEY")
    outcome = call("plan", prompt_file(4), "-p", "kie", "-p", "apikley")
    assert outcome.code == 0
    assert "balance unknown: The provider refuses the key" in outcome.out
    assert "balance unknown: Apikley needs a key" in outcome.out
    assert "4 requests" in outcome.out


def test_plan_needs_a_price_for_a_budget(call: Call, server: Sandbox) -> None:
    """An account whose price is unknown is not used with a budget; `--price` makes it fit."""
    file = prompt_file(4)
    refused = call("plan", file, "-p", "apikley", "--max-credits", "30")
    assert refused.code == 2
    assert "--price" in refused.err
    (record,) = call("plan", file, "-p", "apikley", "--max-credits", "30", "--price", "apikley=10", "--json").records
    assert (record["credits"], record["affordable"]) == (40, 3)


def test_credits_of_every_account_whose_key_is_set(
    call: Call, server: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`credits` asks all of them; one that fails is told of beside the others and sets the exit code."""
    outcome = call("credits")
    assert outcome.code == 0
    assert outcome.lines == ["kie 60", "apikley 60", "apiin: the API of API in One does not tell a balance"]
    monkeypatch.setenv("KIE_API_KEY", "a-wrong-key")
    outcome = call("credits", "-p", "kie", "-p", "apikley", "--json")
    assert outcome.code == 2
    assert outcome.records == [{"provider": "apikley", "credits": 60}]
    assert "provider kie" in outcome.err


def test_the_sandbox_of_ones_own_tells_its_balance(call: Call) -> None:
    """`credits -p sandbox` needs no key and no address; `plan` does not show a balance that nobody has."""
    assert call("credits", "-p", "sandbox").lines == ["sandbox 1,000,000"]
    assert "on the account" not in call("plan", prompt_file(2), "-p", "sandbox").out


def test_a_second_account_of_one_provider_has_a_name(
    call: Call, server: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`-p mine=kie` is an account of kie.ai with its key in MINE_API_KEY; without a key of its own it is refused."""
    with running_sandbox(Sandbox(latency=Latency(0.05))) as second:
        monkeypatch.setenv("MINE_API_KEY", second.key)
        monkeypatch.setenv("MINE_BASE_URL", second.url_of("kie"))
        outcome = call("batch", prompt_file(20), "-p", "kie", "-p", "mine=kie", "--json", "-q")
        assert outcome.code == 0
        assert {record["provider"] for record in outcome.records} == {"kie", "mine"}
    monkeypatch.delenv("MINE_API_KEY")
    monkeypatch.delenv("MINE_BASE_URL")
    outcome = call("batch", "p.txt", "-p", "kie", "-p", "mine=kie")
    assert outcome.code == 2
    assert "MINE_API_KEY" in outcome.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("-p", "kie", "-p", "kie"), "-p NAME=kie"),
        (("-p", "kie", "-p", "apiin", "--base-url", "https://x.example"), "--base-url liangxin=https://"),
        (("-p", "kie", "--rate", "nobody=3/1"), "no such account, only kie"),
        (("-p", "kei"), "There is no provider 'kei'"),
        (("-p", "mine=kei"), "There is no provider 'kei'"),
        ((), "keys are set for kie, apikley, apiin: name one, or several"),
        (("-p", "kie", "--max-credits", "0"), "is not a number of credits above 0"),
        (("-p", "kie", "--price", "kie=cheap"), "is not a number of credits"),
        (("-p", "kie", "--policy", "fast"), "invalid choice"),
    ],
)
def test_misuse_is_told(call: Call, server: Sandbox, words: tuple[str, ...], told: str) -> None:
    """Each mistake exits with 2, says what is wrong, and sends nothing."""
    outcome = call("batch", prompt_file(2), *words)
    assert outcome.code == 2
    assert told in outcome.err
    assert server.ledger.creates == []


def test_a_bad_line_says_why_for_each_account(call: Call, server: Sandbox) -> None:
    """A line that no account takes is named with its number and every account's reason; nothing is sent."""
    lines = [{"prompt": "fine"}, {"prompt": "odd", "aspect_ratio": "5:4"}]
    Path("p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    outcome = call("batch", "p.jsonl", "-p", "kie", "-p", "apiin")
    assert outcome.code == 2
    assert "p.jsonl:2: No account takes this request. kie: aspect_ratio='5:4'" in outcome.err
    assert "; apiin: aspect_ratio='5:4'" in outcome.err
    assert server.ledger.creates == []


def test_a_task_of_a_pool_is_collected_from_its_own_account(call: Call, server: Sandbox) -> None:
    """`collect` takes one account; with `--dir` it is the one that has the request."""
    call("batch", prompt_file(6), *POOL, "-o", "out", "-q")
    metadata = [json.loads(line) for line in Path("out/metadata.jsonl").read_text().splitlines()]
    record = next(line for line in metadata if line["provider"] == "apiin")
    outcome = call("collect", record["task_id"], "--dir", "out")
    assert (outcome.code, len(outcome.lines)) == (0, 1)
    outcome = call("collect", record["task_id"], "-p", "kie", "-p", "apiin")
    assert outcome.code == 2
    assert "a task is one account's" in outcome.err


def test_an_account_is_shown_with_its_state() -> None:
    """A line of the progress has the account's state, rate, limit, counts, credits and why it is not ready."""
    account = AccountProgress(
        "kie", "stopped", Rate(7, per=10), 0.7, 12, InsufficientCredits("no credit left"), done=340, credits=1360.0
    )
    assert account_text(account) == (
        "kie: stopped, 0.7/s of 7 per 10 s, 12 running, 340 done, 1,360 credits; no credit left"
    )


@pytest.mark.slow
def test_kills_pay_nothing_twice_and_no_more_than_the_budget(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed six times in the midst, a pool makes each picture at most once, and all runs together keep the budget."""
    limits = Limits(Rate(40, per=1), Rate(500, per=1), 200)
    with running_sandbox(Sandbox(limits=limits, latency=Latency(0.3, minimum=0.05))) as server:
        for name in ("kie", "apiin"):
            monkeypatch.setenv(f"{name.upper()}_API_KEY", server.key)
            monkeypatch.setenv(f"{name.upper()}_BASE_URL", server.url_of(name))
        words = ("batch", prompt_file(120), *POOL[:-2], "--rate", "40/1", "-o", "out", "-q", "--max-credits", "400")
        for number in range(6):
            process = start(*words)
            assert process.stdout is not None
            for _ in range(3 + 5 * number):
                if not process.stdout.readline():
                    break
            process.kill()
            process.communicate()
        outcome = finish(start(*words))
        (status,) = call("status", "out", "--json").records
        billed = server.ledger.tasks_by_prompt()
    assert outcome.code == 1
    assert "The budget is reached" in outcome.err
    assert set(billed.values()) == {1}
    assert server.ledger.credits <= status["credits_spent"] + status["credits_at_risk"] <= 400
    assert status["credits_spent"] + status["credits_at_risk"] > 396
    assert len(list(Path("out").glob("*.png"))) == status["counts"]["done"]
