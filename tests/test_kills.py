"""The proof of what a journal is for: batches that are killed at random instants pay once and lose no picture."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest
from kills import Trial, attempt

from imagen_async import Rate


@pytest.mark.parametrize(
    "trial",
    [
        Trial(prompts=50, kills=3, rate=Rate(20, per=1)),
        Trial(prompts=40, kills=3, rate=Rate(8, per=0.4), faults=0.05),
        Trial(prompts=40, kills=3, rate=Rate(20, per=1), callbacks=True),
    ],
    ids=["limit", "faults", "callbacks"],
)
@pytest.mark.slow
def test_kills_cost_nothing(trial: Trial, tmp_path: Path) -> None:
    """However often kill -9 ends a batch: nothing is paid for twice, every picture comes, no limit is exceeded."""
    seed = random.randrange(1_000_000)
    outcome = attempt(msgspec.structs.replace(trial, seed=seed), tmp_path)
    assert outcome.problems == [], f"{outcome.text()}\n{outcome.kills}"
    assert outcome.kills, "it was over before it was killed"
