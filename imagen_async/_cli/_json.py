"""How requests, results and pictures read as JSON: in the lists, on stdout, in a gallery, in an export."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from .._core.values import ImageRequest, Result
from ..errors import ImagenError, UnknownOutcome
from ._prompt_files import PromptLine

Sizes = Mapping[str, tuple[Any, Any]]
"""Width and height in pixels of pictures, by their sha256."""


def sizes_in(path: Path) -> Sizes:
    """Width and height of the pictures that an older list names, so that these need not be opened again."""
    sizes: dict[str, tuple[Any, Any]] = {}
    if path.exists():
        with open(path, "rb") as file:
            for line in file:
                with contextlib.suppress(ValueError, LookupError, TypeError):
                    values = json.loads(line)
                    sizes[values["sha256"]] = values["width"], values["height"]
    return sizes


def pictures_json(result: Result, folder: Path, sizes: Sizes) -> Iterator[dict[str, Any]]:
    """`file_name` is relative to the folder, as an ImageFolder wants it; `credits` are the picture's share."""
    for file in result.files:
        width, height = sizes.get(file.sha256) or _size(file.path)
        ours = {
            "file_name": os.path.relpath(file.path, folder),
            **_request_json(result.request),
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


def _request_json(request: ImageRequest) -> dict[str, Any]:
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
    columns = other_columns(request)
    return {f"input_{name}" if name in ours else name: value for name, value in columns.items()}


def other_columns(request: ImageRequest) -> dict[str, Any]:
    """What the prompt file says of a request beside its fields."""
    return request.columns if isinstance(request, PromptLine) else {}


def result_json(result: Result) -> dict[str, Any]:
    """A result as JSON: what `--json` prints and `failures.jsonl` holds."""
    record = {
        "ok": result.ok,
        "key": result.key,
        "index": result.index,
        **_request_json(result.request),
        "provider": result.provider,
        "task_id": result.task_id,
        "credits": result.credits,
        "latency": result.latency,
        "urls": list(result.urls),
        "files": [file.path for file in result.files],
        "error": None if result.error is None else error_json(result.error),
    }
    if isinstance(result.request, PromptLine):
        record["line"] = result.request.line
    return {**_columns(result.request, record), **record}


def error_json(error: ImagenError) -> dict[str, Any]:
    """An error as JSON. `credits_at_risk`: what a lost create may have cost, null where nobody knows."""
    record = {"type": type(error).__name__, "message": error.message, "code": error.code}
    return {**record, "credits_at_risk": error.credits} if isinstance(error, UnknownOutcome) else record
