"""Notebooks: a real one, executed by a real kernel against the sandbox, and the HTML that it shows."""

from __future__ import annotations

import asyncio
import base64
import io
import re
import warnings
from pathlib import Path
from typing import Any

import nbformat
import pytest
from commands import fare, standing
from nbclient import NotebookClient
from PIL import Image, TiffImagePlugin
from readme import blocks

from imagen_async import Client, ImageFile, ImageRequest, JournalError, Result, errors
from imagen_async._notebook.views import batch_html, result_html, thumbnail
from imagen_async.sandbox import Latency, Sandbox
from imagen_async.testing import running_sandbox

NASTY = "<img src=x onerror=alert(1)> & </div><script>alert(1)</script>"

CELLS = (
    """
from imagen_async import Client

prompts = [f"fox {{number}}" for number in range(60)]
results, midst = None, []

def look(event):
    if results is not None and getattr(event, "state", "") == "done" and results.progress.done == 10:
        midst.append(results._repr_html_())

client = Client("sandbox", api_key="{key}", base_url="{url}", on_event=look)
""",
    'async with client:\n    result = await client.generate("a red fox", seed=7)\nresult',
    next(block for block in blocks("python") if "display(results)" in block).split("\n", 1)[1],
    "from IPython.display import HTML\nHTML(midst[0])",
    "results",
)


class Watching(NotebookClient):
    """Executes a notebook, and counts how often what it shows is written anew."""

    updates = 0

    def process_message(self, msg: dict[str, Any], *cell: Any) -> Any:
        """See what the kernel sends."""
        self.updates += msg["msg_type"] == "update_display_data"
        return super().process_message(msg, *cell)


# The client of notebooks opens loops, sockets and files that it leaves to be collected.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_real_notebook_shows_what_it_makes(tmp_path: Path) -> None:
    """Top-level await and async for work over several cells; a result, a live batch and its contact sheet are shown."""
    with running_sandbox(Sandbox(latency=Latency(0.5, minimum=0.3))) as sandbox:
        sandbox.order("task", None, None, "fail_word")
        cells = [cell.strip().format(key=sandbox.key, url=sandbox.url) for cell in CELLS]
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        running = Watching(notebook, timeout=60, resources={"metadata": {"path": str(tmp_path)}})
        running.execute()
    _, result, batch, midst, after = (
        "".join(output.get("data", {}).get("text/html", "") for output in cell.outputs) for cell in notebook.cells
    )
    told = ('<img src="http://127.0.0.1', "a red fox", "imagen4", "seed 7", "8 credits", " s<")
    assert [word for word in told if word not in result] == []
    assert running.updates >= 2, "while it runs, and at its end"
    told = ("60 of 60", "<b>59</b> done · <b>1</b> failed", "and 12 before these")
    assert [word for word in told if word not in batch] == []
    assert batch.count('<img src="data:image/jpeg;base64,') in (47, 48), "the last 48, of which one may have failed"
    assert [word for word in ("1[01] of 60", "ETA", "projected", "sandbox: ready") if not re.search(word, midst)] == []
    assert after == batch


def shown(request: ImageRequest, **fields: Any) -> str:
    """The HTML of what came of a request."""
    return result_html(Result("k", 0, request, NASTY, NASTY, **fields))


def test_a_result_shows_its_picture_or_its_reason(tmp_path: Path) -> None:
    """Whatever it holds is escaped; a file is embedded, a URL is shown only where it is one, an error is worded.

    A file that has gone or is no picture is left out.
    """
    Image.new("RGB", (1024, 768), "teal").save(tmp_path / "x.png")
    file = ImageFile(str(tmp_path / "x.png"), "", 1, "image/png", "https://x.example/x.png")
    request = ImageRequest(NASTY, seed=3)
    saved = shown(request, urls=(file.url,), files=(file,), credits=8)
    encoded = saved.partition("base64,")[2].partition('"')[0]
    assert Image.open(io.BytesIO(base64.b64decode(encoded))).size == (512, 384)
    failed = shown(request, error=errors.GenerationFailed(NASTY))
    assert "GenerationFailed: &lt;img" in failed
    odd = shown(request, urls=("javascript:alert(1)", 'https://x.example/"><script>', "data:text/html,x"))
    pictures = [(html.count("<img "), "<script" in html) for html in (saved, failed, odd)]
    assert pictures == [(1, False), (0, False), (1, False)]
    assert "<img" not in shown(request, files=(ImageFile(file.path, "", 1, "video/mp4", ""),))
    head = (tmp_path / "x.png").read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for side in (5700, 14000):  # pixels that would take as much memory as the program has; the head is looked at
            Path(file.path).write_bytes(head[:16] + side.to_bytes(4, "big") * 2 + head[24:])
            assert thumbnail(file) is None
    # What a JPEG in passes adds to is kept; so is something for each line; a tile may be larger than its picture.
    Image.new("L", (4000, 4000)).save(tmp_path / "x.jpeg", progressive=True)
    Image.new("L", (1, 1 << 23)).save(tmp_path / "y.png")
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in {256: 9, 257: 9, 258: 8, 259: 8, 262: 1, 322: 24_000, 323: 24_000, 324: 8, 325: 9}.items():
        tags[tag] = value
    (tmp_path / "x.tiff").write_bytes(b"II*\0\x08\0\0\0" + tags.tobytes(8))
    for name in ("x.jpeg", "y.png", "x.tiff"):
        assert thumbnail(ImageFile(str(tmp_path / name), "", 1, f"image/{name[2:]}", "")) is None, name
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n no picture")
    for name in ("x.png", "gone.png"):
        spoilt = ImageFile(str(tmp_path / name), "", 1, "image/png", "")
        assert (thumbnail(spoilt), "<img" in shown(request, files=(spoilt,))) == (None, False), name


def test_a_batch_shows_its_accounts_trouble() -> None:
    """While it runs each account is there with its state, and its error is escaped; without a length no bar is."""
    trouble = fare("mine", state="stopped", error=errors.InsufficientCredits(NASTY))
    html = batch_html(standing(accounts=(fare("kie"), trouble), total=None), is_over=False)
    assert "kie: ready, 2.0/s of 20 per 10 s, 9 running" in html
    assert "mine: stopped, 2.0/s of 20 per 10 s, 9 running: &lt;img" in html
    assert ("<script" in html, "<progress" in html) == (False, False)


async def test_a_batch_reads_well_at_any_time(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """Before, in and after its block a batch has a repr and HTML; after it, time stands still.

    One that could not begin can be looked at, loop or no loop.
    """
    async with Client("sandbox", api_key=imagen_sandbox.key, base_url=imagen_sandbox.url) as client:
        batch = client.batch(["x", "y"])
        assert (repr(batch), batch._repr_html_()) == ("<Batch: not begun>", "")
        async with batch as results:
            await anext(results)
            assert repr(batch) in ("<Batch: 1 of 2 finished, 8 credits>", "<Batch: 2 of 2 finished, 16 credits>")
            assert "ETA" in batch._repr_html_()
            await anext(results)
    before = batch.progress
    assert (repr(batch), batch.progress) == ("<Batch: 2 of 2 finished, 16 credits>", before)
    assert "2 of 2" in batch._repr_html_()
    (tmp_path / "j.db").write_text("no journal " * 200)
    async with Client("sandbox") as client:
        batch = client.batch(["x"], journal=tmp_path / "j.db")
        with pytest.raises(JournalError):
            await batch.__aenter__()
    assert await asyncio.to_thread(repr, batch) == "<Batch: 0 of 1 finished, 0 credits>"
