"""README tells the truth: its commands are there, its programs run, its tables name what exists."""

from __future__ import annotations

import ast
import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import COMMAND
from inner import COMMANDS
from readme import README, ROOT, blocks, program_of
from services import service

from imagen_async import Account, ImageRequest, errors
from imagen_async.providers import PROVIDERS
from imagen_async.sandbox import Sandbox


def ran(folder: Path, *words: str, **environment: str) -> str:
    """What a program of ours that ends well has printed, run in a folder with this environment's Python."""
    command = [sys.executable, *words] if words[0].startswith("-") or words[0].endswith(".py") else words
    process = subprocess.run(command, capture_output=True, text=True, cwd=folder, env={**os.environ, **environment})
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def test_the_first_program_runs_as_printed(tmp_path: Path) -> None:
    """The ten-line script, with the sandbox in the place of kie.ai, leaves pictures."""
    ran(tmp_path, "-W", "error", "-c", blocks("python", "From Python")[0].replace('Client("kie")', 'Client("sandbox")'))
    assert len(list((tmp_path / "out").glob("*.png"))) == 3


@pytest.mark.slow
def test_the_users_own_test_passes_as_printed(tmp_path: Path) -> None:
    """The two files of "Your own tests" are a conftest and a test that passes."""
    conftest, test = re.split(r"^# test_mine\.py\n", blocks("python", "Your own tests")[0], flags=re.M)
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_mine.py").write_text(test)
    assert "1 passed" in ran(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path))


def test_the_pool_runs_as_printed(tmp_path: Path, imagen_sandbox: Sandbox) -> None:
    """The program with four accounts, each led to the sandbox, uses up its budget and says so."""
    program = next(block for block in blocks("python") if "kie-2" in block).replace("=500", "=100")
    names = ("KIE", "APIIN", "APIKLEY")
    keys = {"KIE_2_API_KEY": "wrong-key", **{f"{name}_API_KEY": imagen_sandbox.key for name in names}}
    urls = {f"{name}_BASE_URL": imagen_sandbox.url_of(name.lower()) for name in names}
    program = f"{program}\nimport asyncio\nasyncio.run(fast(['a'] * 30))"
    out = ran(tmp_path, "-W", "error", "-c", program, **keys, **urls)
    assert out.splitlines()[-1].startswith("The budget is reached: 100 credits")
    assert len(imagen_sandbox.ledger.tasks) == 25


@pytest.mark.slow
async def test_tasks_of_other_engines_run_as_printed(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """The program for `concurrent.futures`, twice over: four processes, 40 pictures, and each is paid once."""
    program = tmp_path / "program.py"
    program.write_text(next(block for block in blocks("python") if "ProcessPoolExecutor" in block))
    accounts = [Account("sandbox", api_key=imagen_sandbox.key, base_url=imagen_sandbox.url)]
    async with service(imagen_sandbox, tmp_path / "service", accounts=accounts) as asker:
        where = {"SERVED_BASE_URL": asker.url, "SERVED_API_KEY": "any"}
        first, second = [await asyncio.to_thread(ran, tmp_path, str(program), **where) for _ in range(2)]
    assert first.count(".png") == second.count(".png") == 40
    assert set(imagen_sandbox.ledger.tasks_by_prompt().values()) == {4}
    assert len(imagen_sandbox.ledger.tasks) == 40


@pytest.mark.parametrize("program", [*blocks("python"), program_of("watching"), program_of("web")])
def test_every_program_is_python(program: str) -> None:
    """No program of the README has a syntax error; a notebook's may await at its top."""
    compile(program, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


async def test_the_listener_hears_as_printed(imagen_sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    """The program with a listener, led to the sandbox, prints what is done and what has failed, once each."""
    program = program_of("watching")
    at = f'"sandbox", api_key={imagen_sandbox.key!r}, base_url={imagen_sandbox.url!r}'
    names: dict[str, Any] = {}
    exec(program.replace('"sandbox"', at), names)
    imagen_sandbox.order("task", None, "fail_word")
    async with names["client"] as client, client.batch([ImageRequest("x", key="a"), "y"]) as results:
        ended = [result async for result in results]
    done, failed = sorted(capsys.readouterr().out.splitlines(), key=lambda line: "SENSITIVE" in line)
    assert re.fullmatch(r"\w+ 8\.0 \d\.\d+", done)
    assert failed.startswith(next(result.key for result in ended if not result.ok))


def test_the_quick_start_makes_pictures(tmp_path: Path) -> None:
    """The last line of the first block, with this environment's command, leaves a picture for every prompt."""
    line = blocks("sh", "Quick start")[0].strip().splitlines()[-1]
    words = line.replace(".venv/bin/imagen-async", COMMAND).split()
    words[words.index("-o") + 1] = str(tmp_path / "pictures")
    ran(ROOT, *words)
    prompts = (ROOT / "imagen_async" / "sandbox" / "prompts.txt").read_text().splitlines()
    assert len(list((tmp_path / "pictures").glob("*.png"))) == len(prompts)


def test_the_tasks_run_as_printed(tmp_path: Path) -> None:
    """The lines of the command's tasks, one block after the other in one folder, make what the text says."""
    tasks = "\n".join(blocks("sh", "From the command line"))
    ran(tmp_path, "bash", "-euo", "pipefail", "-c", tasks, PATH=f"{Path(COMMAND).parent}:{os.environ['PATH']}")
    made = {folder.name: len(list(folder.glob("*.[pj]*g"))) for folder in tmp_path.iterdir() if folder.is_dir()}
    # In `pictures` three, one more of the second, and all four again by another model.
    singles, others = {"one": 1, "edited": 1, "edits": 1}, {"banana": 3, "either": 3}
    assert made == {"pictures": 8, "fours": 12, "seeds": 12, **singles, **others, "shards": 0}


def test_ci_runs_the_printed_command() -> None:
    """`.ci/run` can be run, and takes its commands from the README, where the tests are the last of them."""
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert blocks("sh", "Tests")[0].strip().endswith("pytest -q")


def test_the_tables_name_what_exists() -> None:
    """Every command, error, provider and variable is in the README."""
    names = [*(command.name for command in COMMANDS), *PROVIDERS, *errors.__all__]
    names += [provider.key_variable for provider in PROVIDERS.values() if not provider.is_local]
    assert [name for name in names if name not in README] == []
