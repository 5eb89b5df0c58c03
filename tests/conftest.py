"""What the tests share: the sandbox fixture, the event loop, recorded answers."""

from __future__ import annotations

import atexit
import gc
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings

from imagen_async.testing import imagen_sandbox

__all__ = ["imagen_sandbox"]

# A shell starts a command in the background with Ctrl-C ignored, and its children inherit that; the tests that press
# Ctrl-C on a child need it back.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Machines are shared: how long an example takes says nothing.
settings.register_profile("anywhere", deadline=None)
settings.load_profile("anywhere")

# For tests.mutants: the same on every run, and whatever fails ends the test at once.
settings.register_profile("mutants", derandomize=True, database=None, phases=[Phase.explicit, Phase.generate])

# Clients of real providers share their limits by files: those of the tests, and of what they start, lie in one folder.
STATE = tempfile.mkdtemp(prefix="imagen-async-state-")
os.environ["IMAGEN_ASYNC_STATE"] = STATE
atexit.register(shutil.rmtree, STATE, ignore_errors=True)

RECORDED = Path(__file__).parent / "data" / "recorded"


def pytest_xdist_auto_num_workers() -> int:
    """Most tests wait for a server or a clock, so more run at a time than there are processors to work."""
    return min(6, 2 * (os.cpu_count() or 1) + 1)


def pytest_collection_finish() -> None:
    """Two thousand tests and what they import live to the end: the collector need not look at them time and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run on asyncio, in real time: they talk to real servers."""
    return "asyncio"


@contextmanager
def naming(*combination: object) -> Iterator[None]:
    """Whatever fails inside of a loop over many combinations says which one it was."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"with {', '.join(map(repr, combination))}")
        raise


def recorded(name: str) -> dict[str, Any]:
    """One recorded exchange with kie.ai: `create` and `statuses`, as they went over the wire."""
    exchange: dict[str, Any] = json.loads((RECORDED / f"{name}.json").read_text())
    return exchange
