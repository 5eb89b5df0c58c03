"""What the command says, word for word: figures, estimates, endings, standings, errors, and what to run next."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from commands import DATA, clean_environment, fare, standing
from inner import (
    COMMANDS,
    AccountOptions,
    BadLine,
    Budget,
    Mistakes,
    Parser,
    PollSchedule,
    PromptLine,
    pool_of,
    provider_of,
    router_of,
    wording,
)

from imagen_async import ImageFile, ImageRequest, Rate, Result, errors
from imagen_async._cli import as_json, exits, next_commands, summary
from imagen_async._cli.counts import ResultCounts
from imagen_async._cli.estimate import Estimate, Estimator
from imagen_async._cli.standing import Status
from imagen_async.ports import EntryError, JournalEntry
from imagen_async.providers.served import UNBOUNDED

__all__ = ["clean_environment"]


def test_figures_for_people() -> None:
    """Times are told as people say them, credits with two decimals where they have any, things with their number."""
    times = {-1: "0 s", 59.4: "59 s", 59.6: "1 min 0 s", 725: "12 min 5 s", 3599: "59 min 59 s", 3600: "1 h 0 min"}
    times |= {12_000: "3 h 20 min", 3600 * 1234: "1,234 h 0 min"}
    credits = {0: "0", 6528.0: "6,528", 72.62: "72.62", 0.5: "0.50"}
    things = {0: "0 shards", 1: "1 shard", 1632: "1,632 shards"}
    assert {seconds: wording.duration(seconds) for seconds in times} == times
    assert {each: wording.amount(each) for each in credits} == credits
    assert {number: wording.counted(number, "shard") for number in things} == things


def test_what_an_error_comes_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong usage and configuration exit with 2, all else with 1; a refused key is named by its variable."""
    monkeypatch.setenv("KIE_API_KEY", "wrong")
    kie = ["imagen-async: no [provider kie]", "The key is that of KIE_API_KEY."]
    served = ["imagen-async: no [provider served]", "The key is that of SERVED_API_KEY, which is not set."]
    ends = {
        errors.ConfigurationError("no such thing"): (2, ["imagen-async: no such thing"]),
        errors.JournalError("no journal"): (2, ["imagen-async: no journal"]),
        errors.GenerationFailed("too dark"): (1, ["imagen-async: too dark"]),
        errors.AuthenticationError("no", provider="mine"): (2, ["imagen-async: no [provider mine]"]),
        errors.AuthenticationError("no", provider="kie"): (2, kie),
        errors.AuthenticationError("no", provider="served"): (2, served),
    }
    assert {error: (exits.code_of(error), exits.lines_of(error)) for error in ends} == ends


def test_bad_lines_are_named_by_their_numbers() -> None:
    """Each is named with its file, and their number is told with that of all requests."""
    bad = Mistakes()
    bad.add(BadLine(2, "no"))
    assert bad.text("p.txt", 7) == ["p.txt:2: no", "1 problem of 7 requests; nothing was sent."]
    bad.add(BadLine(0, "empty"))
    told = ["p.txt:2: no", "p.txt: empty", "2 problems; nothing was sent."]
    assert (bad.text("p.txt", 0), [each.line for each in bad]) == (told, [0, 2])


NOTES = {"command": "imagen-async batch p.txt -o out", "account": "-p kie", "working_folder": "/here"}
HELD = "imagen-async collect TASK_ID --dir 'my out' --key KEY -p kie  # found at the provider"
NEXT = next_commands.NextRun(("imagen-async", "batch", "p.txt", "-o", "out"))


def test_what_goes_on_pays_for_nothing_twice() -> None:
    """The command that goes on lacks what is said for one run; a budget that is used up gives way to another."""
    command = "imagen-async batch 'my file' --retry-failed -o out --resubmit-unknown --ordered"
    assert next_commands.going_on(command) == "imagen-async batch 'my file' -o out --ordered"
    assert next_commands.with_budget("x --max-credits 30 -o 'a b'", 80) == "x --max-credits 80 -o 'a b'"
    assert next_commands.with_budget("x --max-credits=30", 80) == "x --max-credits=80"
    assert next_commands.with_budget("x -o out", 80) == "x -o out"


@pytest.mark.parametrize(
    ("counts", "lines"),
    [
        ({"done": 5}, []),
        *(({state: 1}, [""]) for state in ("running", "ready", "queued", "not sent", "gone", "unanswered")),
        *(({state: 1}, [" --retry-failed"]) for state in ("failed", "never sent")),
        ({"queued": 1, "failed": 2}, ["", " --retry-failed"]),
        ({"unknown": 1}, [HELD, " --resubmit-unknown  # not found there"]),
    ],
)
def test_a_folder_tells_what_to_run_next(counts: dict[str, int], lines: list[str]) -> None:
    """What is unfinished is gone on with, failed ones are paid for again, held ones settled."""
    expected = [line if line == HELD else f"{NOTES['command']}{line}" for line in lines]
    assert next_commands.settling(NEXT, "my out", "-p kie", Counter(counts)) == expected


SPELLED = {
    "f -o out": "F -o 'O P'",
    "-p kie -oout f": "-p kie '-oO P' F",
    "--out=out -q --add -vv f": "'--out=O P' -q --add -vv F",
    "-m imagen4 -qvo out --seed=1 f -pkie": "-m imagen4 -qvo 'O P' --seed=1 F -pkie",
    "-o first -vo=out -- -f": "-o 'O P' '-vo=O P' -- F",
    "--negative-prompt f -o out f": "--negative-prompt f -o 'O P' F",
    "- -o out": "- -o 'O P'  # with the same prompts on stdin",
}


@pytest.mark.parametrize(("words", "now"), SPELLED.items(), ids=SPELLED)
def test_a_command_names_its_folder_and_its_file_where_they_are(words: str, now: str) -> None:
    """However the words of the command spell them, and whatever else they say, which stays as it is."""
    typed = ["imagen-async", "batch", *words.split()]
    assert next_commands.folder_of(typed) == "out"
    found = next_commands.NextRun(next_commands.placed(typed, "F", "O P"))
    assert found.line() == f"imagen-async batch {now}"


def test_all_options_without_a_value_are_known() -> None:
    """What stands behind any other one is its value, and not the file."""
    parser = Parser()
    next(command for command in COMMANDS if command.name == "batch").options.declare(parser)
    flags = {name for action in parser._actions if action.nargs == 0 for name in action.option_strings}
    assert {name for name in flags if name.startswith("--")} == next_commands.FLAGS
    shorts = {name for action in parser._actions for name in action.option_strings if len(name) == 2}
    assert shorts == {"-h", "-q", "-v", "-o", "-m", "-p"}


def a_result(key: str, error: errors.ImagenError | None = None, **fields: Any) -> Result:
    """What came of a request."""
    return Result(key, 0, ImageRequest("a fox"), "kie", "imagen4", error=error, **fields)


WELL, BAD = a_result("a"), a_result("b", errors.GenerationFailed("x"))
LOST = a_result("c", errors.UnknownOutcome("lost", credits=12))
EARLIER = [msgspec.structs.replace(each, key="e", earlier=True) for each in (WELL, BAD)]
HELD_BACK = "with the create's answer lost: maybe billed, not sent again"
ENDINGS: dict[str, tuple[list[Result], int, int, int, bool]] = {
    "1 done, 0 failed": ([WELL], 0, 0, 0, True),
    "2 done (1 earlier), 0 failed": ([WELL, EARLIER[0]], 1, 0, -1, True),
    "0 done, 1 failed": ([EARLIER[1]], 1, 0, 0, True),
    f"0 done, 2 failed (1 {HELD_BACK}), 1 not sent": ([BAD, LOST], 0, 0, 1, True),
    "0 done, 1 failed, 2 left running and paid for": ([BAD, BAD, BAD], 0, 2, 0, True),
    "1 done, 0 failed, 3 not sent": ([LOST, a_result("c")], 0, 0, 3, True),
    f"1 done, 1 failed (1 {HELD_BACK})": ([LOST, a_result("c")], 0, 0, 0, False),
}
"""By results, how many there are of earlier, were left running, and are not sent, and whether all keys differ."""


@pytest.mark.parametrize("text", ENDINGS)
def test_an_ending_in_a_line(text: str) -> None:
    """What is done, failed, lost, left and not sent is told apart, each request once; credits and time come last.

    Where two requests may have one key, a second result of a key takes nobody's place.
    """
    results, earlier, left, unsent, keys_differ = ENDINGS[text]
    counts = ResultCounts(keys_differ=keys_differ)
    for result in results:
        counts.add(result)
    progress = standing(earlier=earlier, credits=1600.0, elapsed=725)
    line = summary.ending_text(progress, counts, left, unsent)
    assert line == f"{text}; 1,600 credits in 12 min 5 s"


def test_accounts_at_the_end() -> None:
    """Who did what is told where there are several, and of one that stopped after it had done something."""
    stopped = fare("mine", state="stopped", error=errors.InsufficientCredits("no credit left"))
    kie = "  kie: ready, 2.0/s of 20 per 10 s, 9 running, 1,200 done, 9,624 credits"
    mine = "  mine: stopped, 2.0/s of 20 per 10 s, 9 running, 1,200 done, 9,624 credits; no credit left"
    ends = [[fare("kie"), stopped], [stopped], [fare("kie")], [msgspec.structs.replace(stopped, done=0)]]
    assert [list(summary.account_lines(each)) for each in ends] == [[kie, mine], [mine], [], []]
    collect = "Collect each of b, by its task id above, with: imagen-async collect TASK_ID -p b=kie --base-url 'x y'"
    assert summary.how_to_collect("b", ["-p", "b=kie", "--base-url", "x y"]) == collect


def entry(number: int, state: Any, account: str = "kie", **fields: Any) -> JournalEntry:
    """One request as a journal has it."""
    asked = ImageRequest(f"prompt {number}", "imagen4", key=str(number))
    return JournalEntry(str(number), number, state, account, asked, price=8, attempts=1, **fields)


ENTRIES = (
    entry(1, "done", credits=8.0),
    *(entry(n, "failed", error=EntryError("GenerationFailed", f"task {n}: 'too dark'", 500)) for n in (2, 3)),
    entry(4, "unknown", error=EntryError("UnknownOutcome", "lost"), lost=1, lost_creates=(1,)),
    entry(5, "submitting"),
    entry(6, "running", "mine", task_id="t6"),
)


def test_how_a_folder_stands() -> None:
    """Counts, credits, accounts, reasons of one kind as one, held requests and what is next, for people in whole.

    While a batch is at work creates are on their way, and nothing is to be run; many held ones are cut short.
    """
    notes = {**NOTES, "total": "8"}
    assert Status("my out", ENTRIES, notes, next_run=NEXT).text() + "\n" == (DATA / "status.txt").read_text()
    untouched = msgspec.structs.replace(ENTRIES[1], attempts=0)
    assert "1 never sent  (failed before anything left, and cost nothing" in Status("out", [untouched], notes).text()
    at_work = Status("out", ENTRIES[4:], notes, is_at_work=True, next_run=NEXT)
    first, *_, kie, mine = at_work.text().splitlines()
    assert (first, at_work.to_json()["next"]) == ("out: 8 requests, a batch is at work on it", [])
    assert at_work.to_json()["accounts"]["mine"] == {"counts": {"running": 1}, "credits": 0}
    assert (kie, mine) == ("  kie: 1 submitting, 0 credits", "  mine: 1 running, 0 credits")
    held = Status("out", [msgspec.structs.replace(ENTRIES[3], price=None)] * 12, {})
    assert held.text().splitlines()[-2:] == ["  4    an unknown price  'prompt 4'", "  … and 2 more (--json)"]
    assert (len(held.to_json()["unknown"]), held.counts["not sent"]) == (12, 0)
    services = Status("out", ENTRIES, {**notes, "services": "kie mine"}, next_run=NEXT)
    assert (services.counts["unanswered"], services.counts["unknown"], services.unknown) == (2, 0, [])
    assert "2 unanswered  (by a service, which may have them" in services.text()
    gone = Status("out", ENTRIES, {**notes, "gone_accounts": "kie mine"}, next_run=NEXT, removed=2)
    told = ["gone  (with the sandbox that ran inside of the command, unpaid: the next run makes them anew)", "2 failed"]
    assert [words for words in told if words not in gone.text()] == []
    assert (gone.counts["gone"], gone.counts["unknown"], gone.counts["running"]) == (3, 0, 0)
    is_told = "\n2 pictures were removed from the folder\n" in gone.text()
    assert (gone.to_json()["pictures_removed"], is_told) == (2, True)


def test_a_picture_by_its_first_bytes_only_has_no_size(tmp_path: Path) -> None:
    """A file that Pillow cannot read, or that has gone, is listed without its size in pixels, and ends nothing."""
    (tmp_path / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"junk")
    for name in ("1.png", "2.png"):
        file = ImageFile(str(tmp_path / name), "0" * 64, 12, "image/png", "https://x.example/1.png")
        (line,) = as_json.pictures_json(msgspec.structs.replace(WELL, urls=(file.url,), files=(file,)), tmp_path, {})
        assert (line["file_name"], line["width"], line["height"]) == (name, None, None)


def estimate_of(line: AccountOptions, requests: list[ImageRequest], **told: Any) -> Estimate:
    """What requests cost with these accounts."""
    pool = pool_of(line)
    schedules = {name: PollSchedule(provider_of(account).latency) for name, account in pool.items()}
    estimator = Estimator(pool, router_of(pool, line.policy), schedules, told.pop("budget", None))
    return estimator.estimate(requests, ImageRequest("-", "imagen4-fast"), **{"balances": {}, **told})


KIE = AccountOptions(("kie",))
DOG, OWL = ImageRequest("a dog", "seedream-4", num_images=3), ImageRequest("an owl", "imagen4-ultra")
MIXED = [*[ImageRequest("a fox")] * 40, DOG, OWL]


def test_an_estimate_in_words() -> None:
    """Requests by model, pictures, credits, balance, time by limits and latency, and what the budget pays for."""
    told = estimate_of(KIE, MIXED, budget=Budget(100, 60), balances={"kie": 30.0})
    counts = "40 × imagen4-fast, 1 × seedream-4, 1 × imagen4-ultra"
    sending = "sent in 20 s at 20 creates per 10 s, 100 tasks at once of some 1 min 14 s each"
    assert told.text().splitlines() == [
        f"42 requests ({counts}), 44 pictures, 187 credits; 30 credits on the account, too few",
        f"about {wording.duration(told.seconds)}: {sending}",
        "the budget of 100 credits, of which 60 are spent or may have been, pays for 10 requests of it",
    ]
    figures = told.to_json()
    assert 20 + 74 < figures["seconds"] < 600
    models = {"imagen4-fast": 40, "imagen4-ultra": 1, "seedream-4": 1}
    credits = {"imagen4-fast": 160, "imagen4-ultra": 12, "seedream-4": 15}
    kie = {"models": models, "credits": credits, "seconds": figures["seconds"], "balance": 30}
    whole = {"requests": 42, "images": 44, "credits": 187, "models": models, "accounts": {"kie": kie}}
    assert figures | whole | {"seconds_at_least": 20, "in_journal": 0, "affordable": 10} == figures


def test_an_estimate_of_what_is_left() -> None:
    """What the journal has is counted and not paid for; with nothing left there is nothing to be told."""
    settled, whole, time, budget = estimate_of(KIE, MIXED[-2:], known=40, budget=Budget(500, 0)).text().splitlines()
    assert settled == "40 requests of the file in the journal already; to be sent:"
    assert whole == "2 requests (1 × seedream-4, 1 × imagen4-ultra), 4 pictures, 27 credits"
    assert ": all sent at once at 20 creates" in time
    assert budget == "the budget of 500 credits pays for all of it"
    enough = estimate_of(KIE, MIXED[:1], balances={"kie": 4.0}).text().splitlines()[0]
    assert enough.endswith(", 4 credits; 4 credits on the account")
    one_by_one = estimate_of(AccountOptions(("kie",), running=((None, 1),)), MIXED[:21]).to_json()
    assert (one_by_one["seconds_at_least"], one_by_one["seconds"] > 20 * one_by_one["latency"]) == (10, True)
    nothing = estimate_of(KIE, [], known=1)
    assert nothing.text() == "1 request of the file in the journal already; to be sent:\nnothing"
    assert (nothing.credits, nothing.seconds, nothing.to_json()["latency"]) == (0, 0, 0)


def test_an_estimate_for_several_accounts() -> None:
    """Each account's share stands below the whole, with what it costs there, and with why a balance is not known."""
    balances = {"kie": errors.RateLimited("slow down"), "apikley": None}
    several = estimate_of(AccountOptions(("kie", "apikley"), "in_order"), MIXED[:1], balances=balances)
    whole, about, kie, times, apikley = several.text().splitlines()
    assert whole == "1 request (1 × imagen4-fast), 1 picture, 4 credits"
    assert kie == "  kie: 1 × imagen4-fast (4 credits); balance unknown: slow down"
    assert (times[:10], about[:6], apikley) == ("    about ", "about ", "  apikley: nothing")
    unknown = estimate_of(AccountOptions(("apikley",)), MIXED[:2], budget=Budget(9, 0), balances={"apikley": 5.0})
    told = "2 requests (2 × imagen4-fast), 2 pictures, an unknown price; 5 credits on the account"
    assert (unknown.text().splitlines()[0], unknown.credits, unknown.affordable) == (told, None, 0)
    priced = estimate_of(AccountOptions(("apikley",), price=((None, 5.0),)), MIXED[:2], budget=Budget(9, 0))
    assert (priced.credits, priced.affordable) == (10, 1)


def test_a_service_has_no_rate() -> None:
    """What it takes when is its accounts' matter, and no figure of a limit is made up."""
    estimate = estimate_of(AccountOptions(("served",)), MIXED[:2])
    assert "sent when the service's accounts may take them, then some " in estimate.text()
    assert [wording.rate_text(rate) for rate in (UNBOUNDED, Rate(20, per=10))] == ["without a limit", "of 20 per 10 s"]


def test_a_result_as_json() -> None:
    """A result is told with its request, its other columns, its line, and with what a lost create may have cost."""
    asked = PromptLine("a fox", "imagen4", key="k", line=3, columns={"n": 1, "line": "x", "key": "mine"})
    file = ImageFile("out/1.png", "0" * 64, 12, "image/png", "https://x.example/1.png")
    done = Result("k", 2, asked, "kie", "imagen4", (file.url,), (file,), task_id="t", credits=8.0, latency=3.5)
    told = as_json.result_json(done)
    ours = {"ok": True, "key": "k", "index": 2, "prompt": "a fox", "task_id": "t", "credits": 8.0, "error": None}
    theirs = {"seed": None, "line": 3, "n": 1, "input_line": "x", "input_key": "mine"}
    assert told | ours | theirs | {"files": ["out/1.png"], "urls": [file.url]} == told
    assert "extra" not in told, "only where there is anything in it"
    lost, bad = (as_json.result_json(result)["error"] for result in (LOST, BAD))
    assert lost == {"type": "UnknownOutcome", "message": "lost", "code": None, "credits_at_risk": 12}
    assert "credits_at_risk" not in bad
    unsaved = msgspec.structs.replace(done, files=())
    assert [wording.places(done), wording.places(unsaved)] == [["out/1.png"], [file.url]]
