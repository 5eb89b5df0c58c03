"""What a provider drops of a request it drops silently, and bills: where it tells what it understood, that is seen."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from commands import METADATA, Call, at, call, clean_environment, lines_of
from inner import ignored_in

from imagen_async import Client, ImageRequest, raw_model
from imagen_async.sandbox import Sandbox

__all__ = ["call", "clean_environment"]

SENT = {"prompt": "a red fox", "aspect_ratio": "16:9", "seed": 7, "image_urls": ["https://a.example/1.png"]}

ANSWERS: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    # kie.ai's: the request as it came, and since the autumn of 2026 what was read of it.
    ({"param": json.dumps({"model": "m", "input": SENT})}, ()),
    ({"param": json.dumps({"model": "m", "input": json.dumps(SENT)})}, ()),
    (
        {"param": json.dumps({"input": SENT}), "paramJson": json.dumps({"prompt": "a red fox", "seed": "7"})},
        ("aspect_ratio", "image_urls"),
    ),
    ({"paramJson": {**SENT, "aspect_ratio": "1:1"}}, ("aspect_ratio",)),
    ({"paramJson": {**SENT, "seed": "7"}}, ()),
    # A file's address may be the provider's own by then.
    ({"paramJson": {**SENT, "image_urls": ["https://own.example/x.png"]}}, ()),
    ({"paramJson": {**SENT, "image_urls": ["https://a.example/1.png", "https://a.example/2.png"]}}, ("image_urls",)),
    ({"paramJson": {**SENT, "image_urls": []}}, ("image_urls",)),
    # Nothing is told: another thing, or none.
    ({"paramJson": {"other": 1}}, ()),
    ({"paramJson": "no JSON"}, ()),
    ({"paramJson": None, "param": ""}, ()),
    ({}, ()),
]


@pytest.mark.parametrize(("record", "ignored"), ANSWERS)
def test_what_was_understood_is_compared(record: dict[str, Any], ignored: tuple[str, ...]) -> None:
    """In whatever form it is told; where nothing is told nothing is said."""
    raw = json.dumps({"code": 200, "data": {"taskId": "t1", "state": "success", **record}}).encode()
    assert ignored_in(raw, SENT, ["image_urls"]) == ignored
    assert ignored_in(b"\xff no JSON", SENT) == ()


async def test_it_is_on_the_result(imagen_sandbox: Sandbox, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of this run and of the next, with one warning a model; what was understood is no news."""
    caplog.set_level(logging.WARNING, "imagen_async")
    request = ImageRequest("a red fox", raw_model("google/imagen4-fast"), extra={"num_images": 2, "seed": 7})
    runs = []
    for _ in range(2):
        async with Client("sandbox", api_key=imagen_sandbox.key, base_url=imagen_sandbox.url) as client:
            async with client.batch([request, "a cat"], journal=tmp_path / "run.db") as results:
                runs.append(sorted([(each.index, each.ignored) async for each in results]))
            known = await client.generate("a fox", model="imagen4-fast")
    assert runs == [[(0, ("num_images",)), (1, ())]] * 2
    assert known.ignored == ()
    (told,) = [each.getMessage() for each in caplog.records if "ignored" in each.getMessage()]
    assert "sandbox: raw:google/imagen4-fast has dropped or changed what it was sent: num_images" in told


def test_it_is_counted(call: Call, imagen_sandbox: Sandbox) -> None:
    """`status` says of how many pictures, and which fields; each picture's own are in the list."""
    rows = [{"prompt": f"fox {number}", "extra": {"num_images": 2}} for number in range(3)]
    Path("prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert call("batch", "prompts.jsonl", *at(imagen_sandbox), "-m", "raw:google/imagen4-fast", "-o", "out").code == 0
    assert [row["ignored"] for row in lines_of(METADATA)] == [["num_images"]] * 3
    assert json.loads(call("status", "out", "--json").out)["ignored"] == {"num_images": 3}
    assert "num_images (3)" in call("status", "out").out
