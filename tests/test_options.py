"""A command line: what it is read as, what is refused and in which words, and the accounts that it names."""

from __future__ import annotations

import re
from typing import Any, get_type_hints

import inner
import pytest
from commands import clean_environment, data

from imagen_async import Account, ConfigurationError, ImageRequest, Limits, Rate
from imagen_async._cli.commands.batch import BatchOptions
from imagen_async._cli.commands.generate import GenerateOptions
from imagen_async._cli.receiving import callback_of
from imagen_async.providers import PROVIDERS

__all__ = ["clean_environment"]

NAMES = [command.name for command in inner.COMMANDS]
NEEDS = {**dict.fromkeys(NAMES[:7], " x"), "export": " x --to parquet", "completion": " bash"}
"""What a command cannot do without."""


def told(line: str) -> Any:
    """What a command is told by a line without quotes."""
    return inner.read(line.split(), inner.COMMANDS).options


@pytest.mark.parametrize("arguments", [[], *([name] for name in NAMES)], ids=["", *NAMES])
def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    """`--help` exits 0, on stdout alone, and names the exit codes and the commands."""
    with pytest.raises(SystemExit) as ended:
        inner.read([*arguments, "--help"], inner.COMMANDS)
    out, err = capsys.readouterr()
    assert (ended.value.code, err) == (0, "")
    assert out.startswith(f"usage: {' '.join(['imagen-async', *arguments])} ")
    assert "0 all done, 1 some failed, 2 wrong usage or configuration, 130 interrupted" in out
    assert arguments or [name for name in NAMES if f"\n    {name}" not in out] == []


def test_every_word_has_its_place() -> None:
    """A line is read into one record: of accounts, of the picture, of what becomes of it."""
    line = (
        "-p kie -p mine=apiin --policy cheapest --base-url u1 --base-url mine=u2 --price kie=0.5 --rate 20/10"
        " --status-rate mine=5/1.5 --running 7 -m imagen4-fast --aspect-ratio 9:16 --negative-prompt blur"
        ' --num-images 2 --seed 7 --extra {"steps":4} --on-refused next -o out --deadline 5 --freshness 0.5 -q --json'
    )
    urls, price, rate = ((None, "u1"), ("mine", "u2")), (("kie", 0.5),), ((None, Rate(20, per=10)),)
    status_rate, running = (("mine", Rate(5, per=1.5)),), ((None, 7),)
    accounts = inner.AccountOptions(("kie", "mine=apiin"), "cheapest", urls, price, rate, status_rate, running)
    picture = inner.PictureOptions("imagen4-fast", "9:16", "blur", 2, 7, {"steps": 4})
    output = inner.OutputOptions("out", deadline=5, freshness=0.5, quiet=True, json=True)
    next_model = inner.NextModelOptions("next")
    assert told(f"generate fox {line}") == GenerateOptions("fox", accounts, picture, next_model, output)
    own = "--limit 5 --format csv --max-credits 30 --retries 2 --ordered --gallery"
    callbacks, going_on = "--callback-url u --callback-port 0 --callback-host h", "--retry-failed --resubmit-unknown"
    line = f"batch p.txt {own} {callbacks} {going_on} --on-exit drain {line}"
    shared = {"accounts": accounts, "picture": picture, "output": output, "command_line": told(line).command_line}
    shared |= {
        "next_model": next_model,
        "budget": inner.BudgetOptions(30),
        "callbacks": inner.CallbackOptions("u", 0, "h"),
    }
    shared["going_on"] = inner.GoingOnOptions(retry_failed=True, resubmit_unknown=True, on_exit="drain")
    file = inner.FileOptions("p.txt", 5, "csv")
    assert told(line) == BatchOptions(file=file, gallery=True, retries=2, ordered=True, **shared)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_said_has_its_default(name: str) -> None:
    """What a command cannot do without is enough for its records to be whole, each with its own defaults."""
    asked = inner.read(f"{name}{NEEDS.get(name, '')}".split(), inner.COMMANDS)
    assert (asked.command.name, type(asked.options), asked.verbosity) == (name, asked.command.options, 0)
    parts = [getattr(asked.options, name) for name in type(asked.options).__struct_fields__]
    for part in parts:
        assert (
            not isinstance(part, inner.AccountOptions | inner.PictureOptions | inner.OutputOptions)
            or part == type(part)()
        )


def test_some_words_may_be_said_again() -> None:
    """The last word counts; `-v` counts how often; the line itself is kept as it can be run again."""
    assert told("sandbox --rate 1/2 --rate 3/4").rate == Rate(3, per=4)
    verbosity = {"-v": 1, "-vv": 2, "-v -q -v": 2}
    assert {words: inner.read(f"batch x {words}".split(), inner.COMMANDS).verbosity for words in verbosity} == verbosity
    assert inner.read(["batch", "my file"], inner.COMMANDS).options.command_line == "imagen-async batch 'my file'"  # type: ignore


def test_what_is_said_of_a_picture_are_its_parameters() -> None:
    """The picture's options are the fields of a request that may have a default, and make the request."""
    hints = get_type_hints(ImageRequest)
    own = {
        name: hint for name, hint in get_type_hints(inner.PictureOptions).items() if name not in ("set", "local_files")
    }
    said = {name: hints[name] for name in hints if name not in ("prompt", "key", "local_files")}
    assert own == {**said, "images": tuple[str, ...]}
    picture = inner.PictureOptions("imagen4", "1:1", "blur", 2, 7, {"steps": 4})
    assert (picture.request("x"), picture.extra) == (ImageRequest("x", **picture.parameters()), {"steps": 4})


@pytest.mark.parametrize(("line", "words"), data("refused_lines.json")["grammar"].items())
def test_a_word_that_cannot_be_meant_is_named(capsys: pytest.CaptureFixture[str], line: str, words: str) -> None:
    """The grammar says which word it was, what was given and what is allowed, on stderr alone and with exit code 2."""
    with pytest.raises(SystemExit) as refused:
        told(line)
    out, err = capsys.readouterr()
    assert (refused.value.code, out) == (2, "")
    said, remedy = err.splitlines()
    assert said.startswith("imagen-async")
    assert words in said
    assert re.fullmatch(r"Try `imagen-async( \w+)? --help`\.", remedy)
    with pytest.raises(SystemExit):
        inner.read(["generate", "x", f"--{line}\n\x1b[2J\u202e"], inner.COMMANDS)
    assert all(map(str.isprintable, capsys.readouterr().err.splitlines()))


def test_sizes_are_read_as_people_write_them() -> None:
    """A plain number counts pictures, one with a unit bytes."""
    sizes = [told(f"export x --to parquet --shard-size {size}").shard_size for size in ("1000", "5KB", "500MB", "2GB")]
    assert sizes == [
        inner.ShardSize(pictures=1000),
        *(inner.ShardSize(bytes=size) for size in (5_000, 500_000_000, 2_000_000_000)),
    ]


# Accounts


def test_what_is_said_of_one_account_is_its_own() -> None:
    """With `NAME=` an option is that account's, without all accounts'; of several the last one counts."""
    limits_of_b = Limits(Rate(6, per=2), Rate(8, per=1), PROVIDERS["apiin"].limits.running)
    line = "generate x -p kie -p b=apiin --rate 9/1 --rate b=5/1 --rate b=6/2 --running kie=3 --price b=0"
    assert inner.pool_of(told(f"{line} --price kie=4 --base-url b=https://x.example --status-rate 8/1").accounts) == {
        "kie": Account("kie", limits=Limits(Rate(9, per=1), Rate(8, per=1), 3), credits=4.0),
        "b": Account("apiin", base_url="https://x.example", limits=limits_of_b, credits=0.0, name="b"),
    }
    assert inner.pool_of(inner.AccountOptions(("kie",))) == {"kie": Account("kie", limits=PROVIDERS["kie"].limits)}


@pytest.mark.parametrize(("line", "words"), data("refused_lines.json")["accounts"].items())
def test_accounts_that_cannot_be_meant(line: str, words: str) -> None:
    """Whatever is wrong with the accounts is said with what there is, and with what the command takes for a remedy."""
    with pytest.raises(ConfigurationError) as error:
        inner.open_pool_of(told(f"generate x {line}").accounts)
    assert words in error.value.message


def test_the_only_key_of_the_environment_names_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `-p`, the provider is the one whose key is set; of two the command asks which."""
    monkeypatch.setenv("APIIN_API_KEY", "k")
    assert list(inner.open_pool_of(inner.AccountOptions())) == ["apiin"]
    monkeypatch.setenv("KIE_API_KEY", "k")
    with pytest.raises(ConfigurationError, match="-p is missing: keys are set for kie, apiin: name one, or several"):
        inner.pool_of(inner.AccountOptions())


def test_the_words_that_lead_back() -> None:
    """The accounts of a line, or one of them, can be named again in the same words."""
    accounts = inner.AccountOptions(("kie", "b=apiin"), base_url=((None, "u"), ("b", "v")))
    assert " ".join(inner.words_of(accounts)) == "-p kie -p b=apiin --base-url u --base-url b=v"
    assert " ".join(inner.words_of(accounts, "kie")) == "-p kie --base-url u"
    assert " ".join(inner.words_of(accounts, "b")) == "-p b=apiin --base-url u --base-url v"
    proxied = inner.AccountOptions(("kie",), proxy="http://me:secret@p:1")
    assert " ".join(inner.words_of(proxied)) == "-p kie --proxy http://***@p:1"


@pytest.mark.parametrize(("line", "words"), data("refused_lines.json")["callbacks"].items())
def test_a_place_that_cannot_be_called_back(line: str, words: str) -> None:
    """An address that no provider may be given, or a port without one, is refused; without all of it none is called."""
    with pytest.raises(ConfigurationError, match=words):
        callback_of(told(f"batch x {line}").callbacks)
    assert callback_of(inner.CallbackOptions()) is None
