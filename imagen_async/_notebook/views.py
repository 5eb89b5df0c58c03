"""What a notebook shows: thumbnails of files, a batch's progress while it runs, a contact sheet once it is over."""

from __future__ import annotations

import base64
import logging
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import anyio

from .._core.values import ImageFile, Result
from .._decoding import made_small
from .._off_loop import OffLoop
from .._progress import AccountProgress, Progress
from .._watch.log import log
from .markup import contact_sheet, escaped, figure

REFRESH = 0.5
"""Seconds between two looks at a batch that runs."""

_SIDE = 512
"""Pixels of a thumbnail's longer side: twice what it takes on the page, for dense screens."""

_MOST_BYTES = 1 << 20
"""Of a file that is shown as it is, where Pillow is not installed: a notebook keeps every byte of it."""


def thumbnail(file: ImageFile) -> str | None:
    """A picture on disk as a data URI, so that a notebook shows it wherever it is opened; None where that fails."""
    if not file.media_type.startswith("image/"):
        return None  # a video or a sound: its path says where it is
    try:
        return _small(Path(file.path).read_bytes(), file.media_type)
    except OSError:
        return None


def _small(data: bytes, media_type: str) -> str | None:
    try:
        small = made_small(media_type, data, _SIDE)
    except ImportError:
        return _data_uri(data, media_type) if len(data) <= _MOST_BYTES else None
    return None if small is None else _data_uri(small, "image/jpeg")


def _pictures(result: Result) -> list[str]:
    """Of the files, where there are any; else where the provider has them, for as long as it has."""
    if result.files:
        return [src for src in map(thumbnail, result.files) if src is not None]
    return [src for url in result.urls if (src := _linked(result, url)) is not None]


def _linked(result: Result, url: str) -> str | None:
    # Those of the client's own sandbox are made here: its links end with the client, often before the page is shown.
    data = None if result._painter is None else result._painter(url)
    if data is not None:
        return _small(data, "image/png")
    # Whatever else a provider calls a URL is not put into a page.
    return url if url.startswith(("https://", "http://")) else None


def result_html(result: Result) -> str:
    """A result, with its pictures made small."""
    return figure(result, _pictures)


def _data_uri(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def batch_html(progress: Progress, *, is_over: bool) -> str:
    """A batch: how far it is, and once it is over its last pictures."""
    finished = progress.done + progress.failed
    total = max(finished, progress.total or 0)
    bar = f'<progress value="{finished}" max="{max(total, 1)}" style="width:20em"></progress>'
    lines = [f"{bar} {finished:,} of {total:,}" if progress.total is not None or is_over else f"{finished:,} finished"]
    lines += [" · ".join(_counts(progress)), " · ".join(_figures(progress, is_over=is_over))]
    if not is_over:
        lines += map(_account, progress.accounts)
    html = "".join(f"<div>{line}</div>" for line in lines)
    if is_over:
        html += contact_sheet(progress.recent, _pictures, finished - len(progress.recent))
    return f"<div>{html}</div>"


def batch_text(progress: Progress) -> str:
    """The same in a line, for where HTML is not shown."""
    of_all = "" if progress.total is None else f" of {progress.total:,}"
    return f"<Batch: {progress.done + progress.failed:,}{of_all} finished, {progress.credits:g} credits>"


def _counts(progress: Progress) -> list[str]:
    counts = {
        "queued": progress.queued,
        "submitting": progress.submitting,
        "running": progress.running,
        "done": progress.done,
        "failed": progress.failed,
        "held": progress.held + progress.unknown,
    }
    return [f"<b>{count:,}</b> {name}" for name, count in counts.items() if count or name in ("done", "failed")]


def _figures(progress: Progress, *, is_over: bool) -> list[str]:
    figures = [f"{progress.elapsed:.0f} s"]
    if progress.eta is not None and not is_over:
        figures.append(f"ETA {progress.eta:.0f} s")
    elif progress.is_paused and not is_over:
        figures.append("paused")
    if progress.latency is not None and progress.latency_p95 is not None:
        figures.append(f"latency {progress.latency:.1f} s, p95 {progress.latency_p95:.1f} s")
    figures.append(f"{progress.credits:g} credits")
    if progress.projected is not None and not is_over:
        figures.append(f"{progress.projected:g} projected")
    return figures


def _account(account: AccountProgress) -> str:
    rate = f"{account.rate:.1f}/s of {account.limit.count} per {account.limit.per:g} s"
    why = "" if account.error is None else f": {escaped(account.error.message)}"
    return f"{escaped(account.name)}: {account.state}, {rate}, {account.running:,} running{why}"


class LiveView:
    """A batch on a notebook's page, which can be written anew."""

    def __init__(self, html: str, text: str) -> None:
        from IPython.display import DisplayHandle  # only here: whoever shows a batch in a notebook has IPython

        self._handle: Any = DisplayHandle()  # type: ignore[no-untyped-call]
        self._handle.display(_bundle(html, text), raw=True)  # type: ignore[no-untyped-call]

    def update(self, html: str, text: str) -> None:
        """Show how it stands now; a page that takes nothing more is left alone."""
        if self._handle is None:
            return
        try:
            self._handle.update(_bundle(html, text), raw=True)
        except Exception:
            log(logging.DEBUG, "a notebook's view of a batch could not be updated", exc_info=True)
            self._handle = None


class Shown(Protocol):
    """A batch, as far as it is shown."""

    @property
    def progress(self) -> Progress: ...

    def _repr_html_(self) -> str: ...


class LiveViews:
    """The places on a notebook's page where a batch is shown, kept up to date while it runs."""

    def __init__(self, batch: Shown, off_loop: OffLoop) -> None:
        self._batch = batch
        self._off_loop = off_loop
        self._views: list[LiveView] = []
        self._is_over = False

    def add(self, *, is_kept: bool) -> None:
        """Show it once more; where that is no page raises NotImplementedError, so that IPython shows it as anything."""
        if not is_live():
            raise NotImplementedError
        view = LiveView(self._batch._repr_html_(), repr(self._batch))
        if is_kept:
            self._views.append(view)

    def keep_up_to_date(self, start: Callable[[Callable[[], Coroutine[Any, Any, None]]], None]) -> None:
        """Bring what is shown up to date now and then, in a task that `start` begins."""
        if is_live():
            start(self._keep)

    async def _keep(self) -> None:
        while not self._is_over:
            for view in self._views:
                view.update(self._batch._repr_html_(), repr(self._batch))
            await anyio.sleep(REFRESH)

    async def show_last(self) -> None:
        """Leave the last pictures on the page; making them small takes a while."""
        self._is_over = True
        if self._views:
            html = await self._off_loop.run(partial(batch_html, self._batch.progress, is_over=True))
            for view in self._views:
                view.update(html, repr(self._batch))


def _bundle(html: str, text: str) -> dict[str, str]:
    return {"text/html": html, "text/plain": text}


def is_live() -> bool:
    """True where what was displayed can be written anew: in a notebook, and not in IPython's own terminal."""
    # Whoever is in a notebook has it loaded: nobody else is to pay for its import.
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None
