"""The lists beside the pictures: `metadata.jsonl`, a line a picture, `failures.jsonl`, a line a failed request."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from PIL import Image

from .._core.resuming import earlier_result
from .._core.values import ImageRequest, Result
from .._folders import PART_SUFFIX
from .._journal import JournalReader
from ..errors import ConfigurationError, ImagenError, JournalError, UnknownOutcome
from ._prompt_files import PromptLine

METADATA = "metadata.jsonl"
FAILURES = "failures.jsonl"


class Manifest:
    """The lists of one folder, open for adding to. They follow its journal: entering writes them anew from it.

    So whatever a crash tore, doubled or kept out is right again. A line is written whole, and handed to the system at
    once.

    Args:
        folder: Where they lie.
        journal: What they follow.

    Raises:
        ConfigurationError: The folder holds lists that no journal wrote, or they cannot be written.
    """

    def __init__(self, folder: str, journal: JournalReader) -> None:
        self.folder = Path(folder)
        self._journal = journal
        self._listed_failures: set[str] = set()
        self._is_stale = False

    def __enter__(self) -> Self:
        try:
            self._rebuild()
            self._open()
        except OSError as error:
            raise ConfigurationError(f"{error.filename} cannot be written: {error.strerror}.") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        if self._is_stale:
            with contextlib.suppress(OSError, JournalError):  # the next run sets it right
                self._replace(FAILURES, self._failures_now())

    def write(self, result: Result) -> None:
        """Add the lines of one result: one a picture, or one for its failure."""
        self._is_stale |= result.key in self._listed_failures
        if result.error is not None:
            self._listed_failures.add(result.key)
            _write_line(self._failures, result_record(result))
        for line in _picture_lines(result, self.folder, {}):
            _write_line(self._metadata, line)

    def _open(self) -> None:
        with ExitStack() as stack:
            # Without a buffer: a line that the disk refuses must not come back when the file is closed.
            self._metadata = stack.enter_context(open(self.folder / METADATA, "ab", buffering=0))
            self._failures = stack.enter_context(open(self.folder / FAILURES, "ab", buffering=0))
            self._stack = stack.pop_all()

    def _rebuild(self) -> None:
        sizes = _sizes(self.folder / METADATA)
        results = map(earlier_result, self._journal.records())
        self._replace(METADATA, (line for result in results for line in _picture_lines(result, self.folder, sizes)))
        self._replace(FAILURES, self._failures_now())

    def _failures_now(self) -> Iterator[dict[str, Any]]:
        for record in self._journal.records():
            if record.error is not None and record.state != "queued":
                self._listed_failures.add(record.key)
                yield result_record(earlier_result(record))

    def _replace(self, name: str, lines: Iterable[dict[str, Any]]) -> None:
        """Write a list anew: the old one stands until the new one is whole."""
        path = self.folder / name
        part = path.with_name(f".{name}{PART_SUFFIX}")
        with open(part, "wb") as file:
            file.writelines(_encoded(line) for line in lines)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)


def refuse_foreign_lists(folder: str, journal: str) -> None:
    """Raise ConfigurationError for a folder with lists and without a journal: they would be written over."""
    for name in (METADATA, FAILURES):
        path = Path(folder, name)
        if not os.path.exists(journal) and path.exists() and path.stat().st_size:
            message = f"{folder} holds {name} and no journal ({os.path.basename(journal)}) that it could follow"
            raise ConfigurationError(f"{message}. Nothing was sent. Choose another -o, or move {name} away.")


def _sizes(path: Path) -> dict[str, tuple[Any, Any]]:
    """Width and height of the pictures that an older list names, so that these need not be opened again."""
    sizes: dict[str, tuple[Any, Any]] = {}
    if path.exists():
        with open(path, "rb") as file:
            for line in file:
                with contextlib.suppress(ValueError, LookupError, TypeError):
                    values = json.loads(line)
                    sizes[values["sha256"]] = values["width"], values["height"]
    return sizes


def _encoded(record: dict[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"


def _write_line(file: io.FileIO, record: dict[str, Any]) -> None:
    line = _encoded(record)
    if file.write(line) != len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _picture_lines(result: Result, folder: Path, sizes: Mapping[str, tuple[Any, Any]]) -> Iterator[dict[str, Any]]:
    """`file_name` is relative to the folder, as an ImageFolder wants it; `credits` are the picture's share."""
    for file in result.files:
        width, height = sizes.get(file.sha256) or _size(file.path)
        ours = {
            "file_name": os.path.relpath(file.path, folder),
            **_request_record(result.request),
            "key": result.key,
            "index": result.index,
            "provider": result.provider,
            "task_id": result.task_id,
            "credits": None if result.credits is None else result.credits / len(result.urls),
            "latency": result.latency,
            "sha256": file.sha256,
            "width": width,
            "height": height,
        }
        yield {**_columns(result.request, ours), **ours}


def _size(path: str) -> tuple[int | None, int | None]:
    """Width and height in pixels; None for a picture that is one by its first bytes only."""
    try:
        with Image.open(path) as picture:
            return picture.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None, None


def _request_record(request: ImageRequest) -> dict[str, Any]:
    """A request as JSON; `extra` only where there is any, so that its column has one type."""
    record = {
        "prompt": request.prompt,
        "model": request.model,
        "aspect_ratio": request.aspect_ratio,
        "negative_prompt": request.negative_prompt,
        "num_images": request.num_images,
        "seed": request.seed,
    }
    return {**record, "extra": request.extra} if request.extra else record


def _columns(request: ImageRequest, ours: dict[str, Any]) -> dict[str, Any]:
    """The prompt file's other columns; one whose name is ours is kept as `input_…`."""
    columns = request.columns if isinstance(request, PromptLine) else {}
    return {f"input_{name}" if name in ours else name: value for name, value in columns.items()}


def result_record(result: Result) -> dict[str, Any]:
    """A result as JSON: what `--json` prints and `failures.jsonl` holds."""
    record = {
        "ok": result.ok,
        "key": result.key,
        "index": result.index,
        **_request_record(result.request),
        "provider": result.provider,
        "task_id": result.task_id,
        "credits": result.credits,
        "latency": result.latency,
        "urls": list(result.urls),
        "files": [file.path for file in result.files],
        "error": None if result.error is None else error_record(result.error),
    }
    if isinstance(result.request, PromptLine):
        record["line"] = result.request.line
    return {**_columns(result.request, record), **record}


def error_record(error: ImagenError) -> dict[str, Any]:
    """An error as JSON. `credits_at_risk`: what a lost create may have cost, null where nobody knows."""
    record = {"type": type(error).__name__, "message": error.message, "code": error.code}
    return {**record, "credits_at_risk": error.credits} if isinstance(error, UnknownOutcome) else record
