"""Notebooks: a real one, executed by a real kernel against the sandbox, and the HTML that it shows."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image
from test_client import client_of
from test_panel import standing
from test_readme import blocks

from imagen_async import GenerationFailed, ImageFile, ImageRequest, InsufficientCredits, Result
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
    """
async with client:
    result = await client.generate("a red fox", seed=7)
result
""",
    next(block for block in blocks("python") if "display(results)" in block).split("\n", 1)[1],
    """
from IPython.display import HTML
HTML(midst[0])
""",
    "results",
)


class Watching(NotebookClient):
    """Executes a notebook, and counts how often what it shows is written anew."""

    updates = 0

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        """See what the kernel sends."""
        self.updates += msg["msg_type"] == "update_display_data"
        return super().process_message(msg, cell, cell_index)


def html_of(notebook: Any, number: int) -> str:
    """What a cell shows, as HTML."""
    return "".join(output.get("data", {}).get("text/html", "") for output in notebook.cells[number].outputs)


# The client of notebooks opens loops, sockets and files that it leaves to be collected.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_real_notebook_shows_what_it_makes(tmp_path: Path) -> None:
    """Top-level await and async for work over several cells; a result, a live batch and its contact sheet are shown."""
    with running_sandbox(Sandbox(latency=Latency(0.5, minimum=0.3))) as sandbox:
        sandbox.order("task", None, None, "fail_word")
        cells = [cell.strip().format(key=sandbox.key, url=sandbox.url) for cell in CELLS]
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        settings = {"timeout": 60, "kernel_name": "python3", "resources": {"metadata": {"path": str(tmp_path)}}}
        running = Watching(notebook, **settings)
        running.execute()
    shown = html_of(notebook, 1)
    assert '<img src="http://127.0.0.1' in shown
    assert all(word in shown for word in ("a red fox", "imagen4", "seed 7", "8 credits", " s<"))
    batch = html_of(notebook, 2)
    assert running.updates >= 2, "while it runs, and at its end"
    assert "60 of 60" in batch
    assert "<b>59</b> done · <b>1</b> failed" in batch
    assert batch.count('<img src="data:image/jpeg;base64,') in (47, 48), "the last 48, of which one may have failed"
    assert "and 12 before these" in batch
    midst = html_of(notebook, 3)
    assert all(re.search(word, midst) for word in ("1[01] of 60", "ETA", "projected"))
    assert "sandbox: ready" in midst
    assert html_of(notebook, 4) == batch


def test_a_result_shows_its_picture_or_its_reason(tmp_path: Path) -> None:
    """Whatever it holds is escaped; a file is embedded, a URL is shown only where it is one, an error is worded."""
    Image.new("RGB", (1024, 768), "teal").save(tmp_path / "x.png")
    file = ImageFile(str(tmp_path / "x.png"), "", 1, "image/png", "https://x.example/x.png")
    request = ImageRequest(NASTY, seed=3)
    saved = Result("k", 0, request, NASTY, NASTY, urls=(file.url,), files=(file,), credits=8)
    html = result_html(saved)
    assert "<script" not in html
    assert html.count("<img ") == 1
    encoded = html.partition("base64,")[2].partition('"')[0]
    assert Image.open(io.BytesIO(base64.b64decode(encoded))).size == (512, 384)
    failed = Result("k", 0, request, "kie", "imagen4", error=GenerationFailed(NASTY))
    assert "GenerationFailed: &lt;img" in result_html(failed)
    assert "<img" not in result_html(failed).replace("&lt;img", "")
    urls = ("javascript:alert(1)", 'https://x.example/"><script>', "data:text/html,x")
    odd = Result("k", 0, ImageRequest("x"), "kie", "imagen4", urls=urls)
    assert result_html(odd).count("<img ") == 1
    assert "<script" not in result_html(odd)


def test_a_thumbnail_of_what_is_no_picture_is_none(tmp_path: Path) -> None:
    """A file that has gone or is no picture is left out of the page, which stands as it is."""
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n no picture")
    for name in ("x.png", "gone.png"):
        file = ImageFile(str(tmp_path / name), "", 1, "image/png", "")
        assert thumbnail(file) is None
        result = Result("k", 0, ImageRequest("a fox"), "kie", "imagen4", files=(file,))
        assert "<img" not in result_html(result)
        assert "a fox" in result_html(result)


def test_a_batch_shows_its_accounts_trouble() -> None:
    """While it runs each account is there with its state, and its error is escaped; without a length no bar is."""
    account = standing().accounts[0]
    trouble = type(account)(
        account.name, "stopped", account.limit, 0.0, 0, InsufficientCredits(NASTY), account.done, account.credits
    )
    html = batch_html(standing(accounts=(account, trouble), total=None), is_over=False)
    assert "kie: ready, 2.0/s of 20 per 10 s, 9 running" in html
    assert "kie: stopped, 0.0/s of 20 per 10 s, 0 running: &lt;img" in html
    assert "<script" not in html
    assert "<progress" not in html


async def test_a_batch_reads_well_at_any_time(imagen_sandbox: Sandbox) -> None:
    """Before, in and after its block a batch has a repr and HTML; after it, time stands still."""
    async with client_of(imagen_sandbox) as client:
        batch = client.batch(["x", "y"])
        assert (repr(batch), batch._repr_html_()) == ("<Batch: not begun>", "")
        async with batch as results:
            await anext(results)
            assert repr(batch) in ("<Batch: 1 of 2 finished, 8 credits>", "<Batch: 2 of 2 finished, 16 credits>")
            assert "ETA" in batch._repr_html_()
            await anext(results)
    assert repr(batch) == "<Batch: 2 of 2 finished, 16 credits>"
    before = batch.progress
    assert batch.progress == before
    assert "2 of 2" in batch._repr_html_()
