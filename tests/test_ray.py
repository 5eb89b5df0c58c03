"""Jobs on a real cluster of Ray, each scene in a process, a network and a home folder of its own.

In an environment that has the extra `ray`: `.ci/run` makes one, and README says how to make one by hand.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from readme import README

pytestmark = [pytest.mark.ray, pytest.mark.slow]

if importlib.util.find_spec("ray") is None:
    pytest.skip("the extra `ray` is not installed", allow_module_level=True)

SCENES = Path(__file__).parent / "ray_scenes.py"
PATIENCE = 240.0
"""Seconds after which a scene that has not ended is a failure."""

OWN_NETWORK = 'ip link set lo up 2>/dev/null || ifconfig lo up; exec "$@"'


def scene(name: str, folder: Path, *words: str) -> dict[str, Any]:
    """What a scene tells."""
    unshare = ["unshare", "-n" if os.geteuid() == 0 else "-rn", "bash", "-c", OWN_NETWORK, "--"]
    home = folder / "home"
    home.mkdir()
    own = {"HOME": str(home), "IMAGEN_ASYNC_STATE": str(home), "RAY_USAGE_STATS_ENABLED": "0"}
    command = [*unshare, sys.executable, str(SCENES), name, str(folder), *words]
    ran = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **own}, timeout=PATIENCE)
    assert ran.returncode == 0, ran.stderr[-6000:]
    told: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return told


def check_paid_once(told: dict[str, Any]) -> None:
    """Nothing was paid for twice, and no window at the server had more creates than its limit."""
    assert told["doubled"] == []
    assert told["worst"] <= told["limit"]
    assert told["refused"] == {}


def test_whatever_is_killed_each_row_comes_out_and_is_paid_once(tmp_path: Path) -> None:
    """Coordinator, workers and a node are killed: rows are unknown only where their creates were on the way."""
    told = scene("killed", tmp_path, "100")
    check_paid_once(told)
    assert told["tasks"] <= 100
    first = told["first"]
    assert first["rows"] == first["different"] == 100
    unknown = first["errors"].pop("UnknownOutcome", 0)
    assert first["errors"] == {}
    assert unknown <= sum(told["on the way"])
    assert first["pictures"] == 100 - unknown
    # All of it once more costs nothing, and says the same.
    assert told["again"]["pictures"] == first["pictures"]
    assert told["leaks"] == []


def test_rows_keys_errors_and_budget(tmp_path: Path) -> None:
    """Equal rows share a picture, keys tell them apart, errors are rows, and a budget holds over all jobs."""
    told = scene("rows", tmp_path)
    assert len({row["sha256"] for row in told["equal"]}) == told["tasks of equal"] == 1
    assert [row["sku"] for row in told["equal"]] == list(range(6))
    assert len({row["sha256"] for row in told["keyed"][:3]}) == told["tasks of keyed"] == 3
    assert told["keyed"][3]["error"].startswith("InvalidRequest: The key '1' stood for another request")
    kinds = [row["error"].split(":")[0] for row in told["failed"]]
    assert kinds == ["GenerationFailed", "InvalidRequest", "InvalidRequest"]
    assert told["tasks of failed"] == 1
    assert told["retried"][0]["error"] is None
    assert [row["picture"] for row in told["several"]] == [1, 2, 1]
    assert [Path(row["path"]).name for row in told["saved"]] == told["files"]
    assert told["saved"][0]["sha256"] == told["equal"][0]["sha256"]
    reached = [row for row in told["budget"] if (row["error"] or "").startswith("BudgetReached")]
    assert told["spent"] == 8
    assert len(reached) == 8
    assert [rows[0]["model"] for rows in told["two"]] == ["imagen4", "imagen4-fast"]
    assert "no such column" in told["refused column"]
    assert "imagen9" in told["refused model"]
    assert "another number of coordinators" in told["refused groups"]
    found = {"rows": 20, "different": 20, "errors": {}, "pictures": 20, "tasks": 20, "journals": 2}
    assert told["groups"] == found
    assert "AuthenticationError" in told["refused key"]
    assert told["right key"][0]["error"] is None


def test_ctrl_c_stops_creates_and_the_next_job_goes_on(tmp_path: Path) -> None:
    """Nothing is created once it was pressed, nothing is lost or unknown, and the same program makes the rest."""
    told = scene("interrupted", tmp_path)
    check_paid_once(told)
    assert told["code"] != 0
    assert told["created for"] < 1
    assert told["left at"] < told["tasks"] == 40
    assert told["second"] == {"rows": 40, "different": 40, "errors": {}, "pictures": 40}


def test_rows_that_nobody_wants_are_not_created(tmp_path: Path) -> None:
    """A loop that is left in a program that goes on; later the same rows, whose first links have died, cost no more."""
    told = scene("left", tmp_path)
    check_paid_once(told)
    assert told["created for"] < 3
    assert told["left at"] < told["tasks"] == 60
    assert told["second"] == {"rows": 60, "different": 60, "errors": {}, "pictures": 60}


def test_a_service_may_be_the_owner(tmp_path: Path) -> None:
    """Without a journal in the cluster: a coordinator that dies with creates on the way leaves nothing unknown."""
    told = scene("served", tmp_path)
    check_paid_once(told)
    assert told["tasks"] == 40
    assert told["first"] == {"rows": 41, "different": 41, "errors": {}, "pictures": 41}
    assert told["leaks"] == []


def test_readmes_program_runs_as_printed(tmp_path: Path) -> None:
    """A column of prompts becomes a folder of Parquet with the columns that it names."""
    told = scene("readme", tmp_path)
    assert told["first"] == {"rows": 8, "different": 8, "errors": {}, "pictures": 8}
    assert told["tasks"] == 8
    printed = README.split('rows.write_parquet("out")  # ')[1].splitlines()[0].removesuffix(", its own columns")
    assert set(printed.split(", ")) <= set(told["columns"])
    assert told["metrics"]["ended"] == 8
    assert told["metrics"]["live"] == 0
    assert told["metrics"]["credits"] > 0
