"""The first five minutes: the version, the pages of the manual, what a shell completes, and how soon it is there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from commands import COMMAND, Call, call, clean_environment, finish, start
from inner import COMMANDS

import imagen_async
from imagen_async._cli.commands.help import _PAGES as PAGES

__all__ = ["call", "clean_environment"]

TOPICS = sorted(page.name.removesuffix(".txt") for page in PAGES.iterdir())
QUICK = ("--version", "--help", "help", "help journal")


def python(*words: str) -> str:
    """What a Python that ends well has printed."""
    return subprocess.run([sys.executable, *words], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("line", QUICK)
def test_what_only_tells_loads_no_network(line: str) -> None:
    """The version, the list of commands and the manual come without aiohttp, in a process of their own."""
    code = "import atexit, runpy, sys; atexit.register(lambda: print(*sys.modules, sep='\\n'))"
    code += f"; sys.argv[1:] = {line.split()!r}; runpy.run_module('imagen_async', run_name='__main__')"
    assert "aiohttp" not in python("-c", code).splitlines()


def test_the_version_is_told_alike() -> None:
    """By the package, by the command, and by the package run as a module."""
    told = f"imagen-async {imagen_async.__version__}\n"
    assert (finish(start("--version")).out, python("-m", "imagen_async", "--version")) == (told, told)


@pytest.mark.parametrize("topic", TOPICS)
def test_a_page_can_be_read(call: Call, topic: str) -> None:
    """Every page comes plain, fits a terminal, and is found by its title."""
    page = call("help", topic).out.rstrip("\n").splitlines()
    assert len(page) <= 80
    assert [line for line in page if len(line) > 100] == []
    assert f"{topic:<10} {page[0]}" in call("help").out


def test_help_knows_the_commands_too(call: Call) -> None:
    """`help batch` is `batch --help`, and no page has the name of a command."""
    assert call("help", "batch") == call("batch", "--help")
    assert {command.name for command in COMMANDS}.isdisjoint(TOPICS)


@pytest.mark.parametrize("name", [command.name for command in COMMANDS])
def test_every_help_fits(call: Call, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """However wide the terminal is, no line of `--help` is longer than a hundred columns."""
    monkeypatch.setenv("COLUMNS", "300")
    assert [line for line in call(name, "--help").out.splitlines() if len(line) > 100] == []


COMPLETED = {
    "bat": "batch",
    "batch --retry-f": "--retry-failed",
    "batch --policy che": "cheapest",
    "batch prom": "prompts.txt",
    "status fol": "folder",
    "help jour": "journal",
}


@pytest.mark.parametrize(("line", "word"), COMPLETED.items())
def test_bash_completes_a_word(tmp_path: Path, line: str, word: str) -> None:
    """The script that `completion bash` prints gives commands, options, choices, files and folders."""
    (tmp_path / "prompts.txt").touch()
    (tmp_path / "folder").mkdir()
    words = ["imagen-async", *line.split()]
    asked = f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; COMP_LINE='{' '.join(words)}'"
    ask = f"{asked}; COMP_POINT=${{#COMP_LINE}}; _shtab_imagen_async; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    script = f"source <({COMMAND} completion bash); {ask}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert [found.strip() for found in done.stdout.splitlines()] == [word], done.stderr


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_scripts_too(call: Call, shell: str) -> None:
    """For zsh and fish, with the commands in them."""
    out = call("completion", shell)
    assert out.code == 0
    assert all(command.name in out.out for command in COMMANDS)


def test_every_public_name_is_there_before_it_is_loaded() -> None:
    """`dir` and `import *` give what `__all__` has, in a fresh interpreter; another name is refused as any module's."""
    code = "import imagen_async as i; assert set(i.__all__) <= set(dir(i)); from imagen_async import *; print(Client)"
    assert "imagen_async._client.Client" in python("-c", code)
    with pytest.raises(AttributeError, match=r"module 'imagen_async' has no attribute 'Cleint'"):
        imagen_async.Cleint  # type: ignore[attr-defined]  # noqa: B018
