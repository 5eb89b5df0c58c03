"""How requests, results and pictures read as JSON: in the lists, on stdout, in a gallery, in an export."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .. import ImageRequest, Result
from ..errors import ImagenError, UnknownOutcome
from .columns import Columns, listed_names
from .library import CONTENT, FIELDS
from .picture_sizes import Sizes, size_of
from .prompt_files import PromptLine

_OBJECTS = frozenset(field.name for field in FIELDS if field.kind in ("object", "files"))


def pictures_json(
    result: Result, folder: Path, sizes: Sizes, columns: Columns | None = None
) -> Iterator[dict[str, Any]]:
    """Each picture of a result as JSON; one whose size is not known is opened for it.

    `file_name` is relative to the folder, as an ImageFolder wants it; `credits` are the picture's share.

    Args:
        result: Whose pictures they are.
        folder: What their names are relative to.
        sizes: Of those that were opened before.
        columns: Those of the whole list, which is to have each under one name and as one type; None: of this one.
    """
    if columns is None:
        columns = columns_of([result.request])
    for file in result.files:
        width, height = sizes.get(file.sha256) or size_of(file.path)
        ours = {
            "file_name": _name_in(folder, file.path),
            **_request_json(result.request),
            "key": result.key,
            "index": result.index,
            "provider": result.provider,
            "task_id": result.task_id,
            "credits": None if result.credits is None else result.credits / max(1, len(result.urls)),
            "latency": result.latency,
            "sha256": file.sha256,
            "width": width,
            "height": height,
            **_seldom(result),
        }
        if "extra" in ours:
            ours["extra"] = columns.value("extra", ours["extra"])
        others = other_columns(result.request)
        yield {**columns.listed(others, ours), **ours} if others else ours


def _seldom(result: Result) -> dict[str, Any]:
    """What there is to say of few results: another model than was asked for, words, fields that were ignored."""
    made_by = {"made_by": result.model} if result.model not in ("", result.request.model) else {}
    text = {"text": result.text} if result.text else {}
    return {**made_by, **text, **({"ignored": list(result.ignored)} if result.ignored else {})}


def _name_in(folder: Path, path: str) -> str:
    """The name of a file as it is told from a folder, in which it mostly lies."""
    inside = f"{folder}{os.sep}"
    return path[len(inside) :] if path.startswith(inside) else os.path.relpath(path, folder)


def columns_of(requests: Iterable[ImageRequest]) -> Columns:
    """The columns of a list of pictures of these requests."""
    columns = Columns()
    for request in requests:
        see(columns, request)
    return columns


def see(columns: Columns, request: ImageRequest) -> bool:
    """See what columns a request has; True where that tells something new."""
    others, extra = other_columns(request), {"extra": request.extra} if request.extra else {}
    # Both, whatever the first one tells.
    return bool(others and columns.add(others)) | bool(extra and columns.add(extra))


def _request_json(request: ImageRequest) -> dict[str, Any]:
    """A request as JSON; an object or a list only where there is anything in it, so that its column has one type."""
    told = {name: value for name in CONTENT if (value := getattr(request, name)) or name not in _OBJECTS}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in told.items()}


def _columns(request: ImageRequest, ours: dict[str, Any]) -> dict[str, Any]:
    """The prompt file's other columns; one whose name is ours is kept as `input_…`."""
    columns = other_columns(request)
    names = listed_names(columns, ours, taken=False)
    return {names[name]: value for name, value in columns.items()}


def other_columns(request: ImageRequest) -> dict[str, Any]:
    """What the prompt file says of a request beside its fields."""
    return request.columns if isinstance(request, PromptLine) else {}


def result_json(result: Result) -> dict[str, Any]:
    """A result as JSON: what `--json` prints and `failures.jsonl` holds."""
    ours = {
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
        **_seldom(result),
    }
    if isinstance(result.request, PromptLine):
        ours["line"] = result.request.line
    return {**_columns(result.request, ours), **ours}


def error_json(error: ImagenError) -> dict[str, Any]:
    """An error as JSON. `credits_at_risk`: what a lost create may have cost, null where nobody knows."""
    ours: dict[str, Any] = {"type": type(error).__name__, "message": error.message, "code": code_text(error.code)}
    # What a provider's support asks for, where it is known.
    origin = {"status": error.status, "request_id": error.request_id, "at": error.at}
    ours |= {name: value for name, value in origin.items() if value is not None}
    return {**ours, "credits_at_risk": error.credits} if isinstance(error, UnknownOutcome) else ours


def code_text(code: int | str | None) -> str | None:
    """A provider's code: a text, for some have words, and what reads a table wants one type a column."""
    return None if code is None else str(code)
