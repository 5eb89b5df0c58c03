"""A command line: what it is read as, what is refused and in which words, and the accounts that it names."""

from __future__ import annotations

from typing import Any, get_type_hints

import pytest
from commands import clean_environment

from imagen_async import Account, ConfigurationError, ImageRequest, Limits, Rate
from imagen_async._cli import options
from imagen_async._cli.accounts import open_pool_of, pool_of, words_of
from imagen_async._cli.commands import COMMANDS
from imagen_async._cli.commands.batch import BatchOptions
from imagen_async._cli.commands.generate import GenerateOptions
from imagen_async._cli.export.shards import ShardSize
from imagen_async._cli.grammar import read
from imagen_async._cli.options import AccountOptions, CallbackOptions, OutputOptions, PictureOptions
from imagen_async._cli.receiving import callback_of
from imagen_async.providers import PROVIDERS

__all__ = ["clean_environment"]

NAMES = [command.name for command in COMMANDS]
SHORTEST = (
    "generate x",
    "batch x",
    "plan x",
    "status x",
    "collect x",
    "gallery x",
    "export x --to parquet",
    *NAMES[7:],
)
"""Each command with what it cannot do without."""


def told(line: str) -> Any:
    """What a command is told by a line without quotes."""
    return read(line.split(), COMMANDS).options


@pytest.mark.parametrize("arguments", [[], *([name] for name in NAMES)], ids=["", *NAMES])
def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    """`--help` exits 0, on stdout alone, and names the exit codes and the commands."""
    with pytest.raises(SystemExit) as ended:
        read([*arguments, "--help"], COMMANDS)
    out, err = capsys.readouterr()
    assert (ended.value.code, err) == (0, "")
    assert out.startswith(f"usage: {' '.join(['imagen-async', *arguments])} ")
    assert "0 all done, 1 some failed, 2 wrong usage or configuration, 130 interrupted" in out
    assert arguments or [name for name in NAMES if f"\n    {name}" not in out] == []


def test_every_word_has_its_place() -> None:
    """A line is read into one record that nothing changes: of accounts, of the picture, of what becomes of it."""
    line = (
        "-p kie -p mine=apiin --policy cheapest --base-url u1 --base-url mine=u2 --price kie=0.5 --rate 20/10"
        " --status-rate mine=5/1.5 --running 7 -m imagen4-fast --aspect-ratio 9:16 --negative-prompt blur"
        ' --num-images 2 --seed 7 --extra {"steps":4} -o out --deadline 5 --freshness 0.5 -q --json'
    )
    accounts = AccountOptions(
        provider=("kie", "mine=apiin"),
        policy="cheapest",
        base_url=((None, "u1"), ("mine", "u2")),
        price=(("kie", 0.5),),
        rate=((None, Rate(20, per=10)),),
        status_rate=(("mine", Rate(5, per=1.5)),),
        running=((None, 7),),
    )
    picture = PictureOptions("imagen4-fast", "9:16", "blur", 2, 7, {"steps": 4})
    output = OutputOptions("out", deadline=5, freshness=0.5, quiet=True, json=True)
    found = told(f"generate fox {line}")
    assert found == GenerateOptions("fox", accounts, picture, output)
    with pytest.raises(AttributeError):
        found.prompt = "dog"
    own = "--limit 5 --format csv --max-credits 30 --retries 2 --ordered --gallery"
    callbacks, going_on = "--callback-url u --callback-port 0 --callback-host h", "--retry-failed --resubmit-unknown"
    line = f"batch p.txt {own} {callbacks} {going_on} --on-exit drain {line}"
    assert told(line) == BatchOptions(
        file=options.FileOptions("p.txt", 5, "csv"),
        gallery=True,
        accounts=accounts,
        picture=picture,
        output=output,
        budget=options.BudgetOptions(30),
        callbacks=CallbackOptions("u", 0, "h"),
        going_on=options.GoingOnOptions(retry_failed=True, resubmit_unknown=True, on_exit="drain"),
        retries=2,
        ordered=True,
        command_line=told(line).command_line,
    )


@pytest.mark.parametrize("line", SHORTEST)
def test_what_is_not_said_has_its_default(line: str) -> None:
    """What a command cannot do without is enough for its records to be whole, each with its own defaults."""
    asked = read(line.split(), COMMANDS)
    assert (asked.command.name, type(asked.options), asked.verbosity) == (line.split()[0], asked.command.options, 0)
    parts = [getattr(asked.options, name) for name in type(asked.options).__struct_fields__]
    for part in parts:
        assert not isinstance(part, AccountOptions | PictureOptions | OutputOptions) or part == type(part)()


def test_some_words_may_be_said_again() -> None:
    """The last word counts; `-v` counts how often; the line itself is kept as it can be run again."""
    assert told("sandbox --rate 1/2 --rate 3/4").rate == Rate(3, per=4)
    assert [read(f"batch x {words}".split(), COMMANDS).verbosity for words in ("-v", "-vv", "-v -q -v")] == [1, 2, 2]
    assert read(["batch", "my file"], COMMANDS).options.command_line == "imagen-async batch 'my file'"  # type: ignore


def test_what_is_said_of_a_picture_are_its_parameters() -> None:
    """The picture's options are the fields of a request that may have a default, and make the request."""
    hints = get_type_hints(ImageRequest)
    assert get_type_hints(PictureOptions) == {name: hints[name] for name in hints if name not in ("prompt", "key")}
    picture = PictureOptions("imagen4", "1:1", "blur", 2, 7, {"steps": 4})
    assert picture.request("a fox") == ImageRequest("a fox", **picture.parameters())
    assert picture.parameters()["extra"] == {"steps": 4}


WRONG_WORDS = {
    "": "the following arguments are required: COMMAND",
    "paint": "invalid choice: 'paint'",
    "generate": "the following arguments are required: PROMPT",
    "generate x --colour": "unrecognized arguments: --colour",
    "batch x --retry": "unrecognized arguments: --retry",
    "generate x --rate 20": "--rate: '20' is not N/SECONDS, such as 20/10",
    "generate x --rate 0/10": "--rate: A rate's count of 0: it must be a whole number of at least 1.",
    "generate x --rate 20/0": "--rate: A window of 0.0 seconds: it must be a number above 0.",
    "batch x --status-rate fast": "--status-rate: 'fast' is not N/SECONDS",
    "plan x --running 0": "--running: '0' is not a whole number above 0",
    "plan x --limit ²": "--limit: '²' is not a whole number above 0",
    "batch x --format xml": "--format: invalid choice: 'xml'",
    "generate x --policy dearest": "--policy: invalid choice: 'dearest'",
    "generate x --price kie=-1": "--price: '-1' is not a number of credits",
    "batch x --max-credits 0": "--max-credits: '0' is not a number of credits above 0",
    "batch x --max-credits 1000000000000": "is not a number of credits above 0",
    "generate x --extra [1]": "--extra: '[1]' is not a JSON object",
    "generate x --extra {": "--extra: '{' is not a JSON object",
    "generate x --seed x": "--seed: invalid int value: 'x'",
    "batch x --freshness 0": "--freshness: '0' is not a number of seconds above 0, at most a day",
    "generate x --freshness nan": "--freshness: 'nan' is not a number of seconds",
    "collect x --freshness soon": "--freshness: 'soon' is not a number of seconds",
    "sandbox --port 65536": "--port: '65536' is not a port from 0 to 65535",
    "batch x --callback-port -1": "--callback-port: '-1' is not a port from 0 to 65535",
    "batch x --on-exit stay": "--on-exit: invalid choice: 'stay'",
    "export x": "the following arguments are required: --to",
    "export x --to zip": "--to: invalid choice: 'zip'",
    **{
        f"export x --to parquet --shard-size={size}": f"{size!r} is not a number of pictures, such as 1000, or of bytes"
        for size in ("0", "-1", "1.5GB", "MB", "", "5GiB", "1e9")
    },
}


@pytest.mark.parametrize(("line", "words"), WRONG_WORDS.items(), ids=WRONG_WORDS)
def test_a_word_that_cannot_be_meant_is_named(capsys: pytest.CaptureFixture[str], line: str, words: str) -> None:
    """The grammar says which word it was, what was given and what is allowed, on stderr alone and with exit code 2."""
    with pytest.raises(SystemExit) as refused:
        told(line)
    out, err = capsys.readouterr()
    assert (refused.value.code, out, err[:19]) == (2, "", "usage: imagen-async")
    assert words in err


def test_sizes_are_read_as_people_write_them() -> None:
    """A plain number counts pictures, one with a unit bytes."""
    sizes = [told(f"export x --to parquet --shard-size {size}").shard_size for size in ("1000", "5KB", "500MB", "2GB")]
    assert sizes == [ShardSize(pictures=1000), *(ShardSize(bytes=size) for size in (5_000, 500_000_000, 2_000_000_000))]


# Accounts


def test_what_is_said_of_one_account_is_its_own() -> None:
    """With `NAME=` an option is that account's, without all accounts'; of several the last one counts."""
    line = "generate x -p kie -p b=apiin --rate 9/1 --rate b=5/1 --rate b=6/2 --running kie=3 --price b=0"
    assert pool_of(told(f"{line} --price kie=4 --base-url b=https://x.example --status-rate 8/1").accounts) == {
        "kie": Account("kie", limits=Limits(Rate(9, per=1), Rate(8, per=1), 3), credits=4.0),
        "b": Account(
            "apiin",
            base_url="https://x.example",
            limits=Limits(Rate(6, per=2), Rate(8, per=1), PROVIDERS["apiin"].limits.running),
            credits=0.0,
            name="b",
        ),
    }
    assert pool_of(AccountOptions(("kie",))) == {"kie": Account("kie", limits=PROVIDERS["kie"].limits)}


WRONG_ACCOUNTS = {
    "-p openai": f"There is no provider 'openai'; this version knows: {', '.join(PROVIDERS)}.",
    "-p mine=kei": "There is no provider 'kei'; this version knows: ",
    "-p kie -p kie": "Two accounts have the name 'kie': give one another, Account('kie', name=…) or -p NAME=kie",
    "-p sandbox --rate kie=5/10": "--rate kie=…: there is no such account, only sandbox.",
    "-p sandbox --status-rate kie=5/10": "--status-rate kie=…: there is no such account, only sandbox.",
    "-p kie -p b=kie --running c=1": "--running c=…: there is no such account, only kie, b.",
    "-p kie -p b=kie --base-url u": "--base-url: with several accounts say whose it is, as in --base-url liangxin=",
    "-p kie -p b=kie --price 4": "--price: with several accounts say whose it is, as in --price apikley=4",
    "": "-p is missing: name kie, apikley, liangxin, apiin, or sandbox, which needs no key.",
    "-p kie": "kie.ai needs a key: set the environment variable KIE_API_KEY.",
    "-p mine=apiin": "API in One needs a key: set the environment variable MINE_API_KEY.",
    "-p liangxin": "give it as base URL (--base-url) or in the environment variable LIANGXIN_BASE_URL",
    "-p sandbox --base-url kie.ai": "give it as base URL (--base-url) or in the environment variable SANDBOX_BASE",
}


@pytest.mark.parametrize(("line", "words"), WRONG_ACCOUNTS.items(), ids=WRONG_ACCOUNTS)
def test_accounts_that_cannot_be_meant(line: str, words: str) -> None:
    """Whatever is wrong with the accounts is said with what there is, and with what the command takes for a remedy."""
    with pytest.raises(ConfigurationError) as error:
        open_pool_of(told(f"generate x {line}").accounts)
    assert words in error.value.message


def test_the_only_key_of_the_environment_names_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `-p`, the provider is the one whose key is set; of two the command asks which."""
    monkeypatch.setenv("APIIN_API_KEY", "k")
    assert list(open_pool_of(AccountOptions())) == ["apiin"]
    monkeypatch.setenv("KIE_API_KEY", "k")
    with pytest.raises(ConfigurationError, match="-p is missing: keys are set for kie, apiin: name one, or several"):
        pool_of(AccountOptions())


def test_the_words_that_lead_back() -> None:
    """The accounts of a line, or one of them, can be named again in the same words."""
    accounts = AccountOptions(("kie", "b=apiin"), base_url=((None, "u"), ("b", "v")))
    assert " ".join(words_of(accounts)) == "-p kie -p b=apiin --base-url u --base-url b=v"
    assert " ".join(words_of(accounts, "kie")) == "-p kie --base-url u"
    assert " ".join(words_of(accounts, "b")) == "-p b=apiin --base-url u --base-url v"


@pytest.mark.parametrize(
    ("url", "port", "host", "words"),
    [
        (None, 8788, None, "--callback-url is missing"),
        (None, None, "::", "--callback-url is missing"),
        ("http://example.com/hook", None, None, "use https://"),
        ("example.com", None, None, "is no address"),
    ],
)
def test_a_place_that_cannot_be_called_back(url: str | None, port: int | None, host: str | None, words: str) -> None:
    """An address that no provider may be given, or a port without one, is refused; without all of it none is called."""
    with pytest.raises(ConfigurationError, match=words):
        callback_of(CallbackOptions(url, port, host))
    assert callback_of(CallbackOptions()) is None
