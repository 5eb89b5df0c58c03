"""The lists beside the pictures: `metadata.jsonl`, a line a picture, `failures.jsonl`, a line a failed request."""

from __future__ import annotations

import errno
import io
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from PIL import Image

from .._core.values import ImageRequest, Result
from ..errors import ConfigurationError, ImagenError, UnknownOutcome
from ._prompt_files import PromptLine

METADATA = "metadata.jsonl"
FAILURES = "failures.jsonl"


class Manifest:
    """The lists of one folder, open for writing. Each line is written whole, and handed to the system at once.

    Raises:
        ConfigurationError: The folder holds an earlier batch.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self._stack = ExitStack()
        for name in (METADATA, FAILURES):
            path = self.folder / name
            if path.exists() and path.stat().st_size:
                message = (
                    f"{folder} holds an earlier batch ({name}). Nothing was sent. Choose another -o, or move it away"
                )
                raise ConfigurationError(f"{message}: pictures would be paid for twice.")

    def __enter__(self) -> Self:
        try:
            # Without a buffer: a line that the disk refuses must not come back when the file is closed.
            self._metadata = self._stack.enter_context(open(self.folder / METADATA, "ab", buffering=0))
            self._failures = self._stack.enter_context(open(self.folder / FAILURES, "ab", buffering=0))
        except OSError as error:
            raise ConfigurationError(f"{error.filename} cannot be written: {error.strerror}.") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def write(self, result: Result) -> None:
        """Add the lines of one result: one a picture, or one for its failure."""
        if result.error is not None:
            _write_line(self._failures, result_record(result))
        for line in _picture_lines(result, self.folder):
            _write_line(self._metadata, line)


def _write_line(file: io.FileIO, record: dict[str, Any]) -> None:
    line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
    if file.write(line) != len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _picture_lines(result: Result, folder: Path) -> Iterator[dict[str, Any]]:
    """`file_name` is relative to the folder, as an ImageFolder wants it; `credits` are the picture's share."""
    for file in result.files:
        width, height = _size(file.path)
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
