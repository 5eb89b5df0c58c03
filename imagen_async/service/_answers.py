"""What a caller is handed: pictures as OpenAI's clients read them, and what we know beside that."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from ._book import OrderRow
from ._orders import Order, OrderState, Part
from ._reading import Asked
from ._refusals import LEAVING, Refused


class Picture(msgspec.Struct, frozen=True):
    """One picture of an order: where it lies here, and where it can be fetched."""

    path: str
    media_type: str
    url: str


Pictures = Callable[[Part], tuple[Picture, ...]]
"""The pictures of a task."""


def headers_of(order: Order) -> dict[str, str]:
    """What an answer about an order says besides: its id, and what was dropped of what was asked for."""
    told = {"x-request-id": order.id, "Cache-Control": "no-store"}
    return told | ({"x-imagen-ignored": ", ".join(order.asked.ignored)} if order.asked.ignored else {})


def prefix_of(request: web.BaseRequest) -> str:
    """What the application is mounted at, as a request to one of its `/v1/` paths has it."""
    return request.path.partition("/v1/")[0]


def data_of(asked: Asked, pictures: tuple[Picture, ...]) -> list[dict[str, Any]]:
    """Pictures as `data` has them. Looks at the disk: not for the loop. Raises OSError where one is gone."""
    return [dict(_shown(asked, picture)) for picture in pictures]


def _shown(asked: Asked, picture: Picture) -> Iterator[tuple[str, str]]:
    if "url" in asked.shows:
        Path(picture.path).stat()
        yield "url", picture.url
    if "b64_json" in asked.shows:
        yield "b64_json", base64.b64encode(Path(picture.path).read_bytes()).decode()


def completed_of(asked: Asked, picture: Picture) -> dict[str, Any]:
    """The event that has a picture, for who asked for a stream. Reads it from the disk."""
    kind = "image_edit" if asked.way == "edits" else "image_generation"
    tokens = {"image_tokens": 0, "text_tokens": 0}
    usage = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0, "input_tokens_details": tokens}
    both = msgspec.structs.replace(asked, shows=("url", "b64_json"))
    return {
        "type": f"{kind}.completed",
        **dict(_shown(both, picture)),
        "created_at": int(time.time()),
        "output_format": picture.media_type.partition("/")[2],
        "background": "auto",
        "quality": "auto",
        "size": "auto",
        "usage": usage,
    }


def body_of(order: Order, data: list[dict[str, Any]]) -> dict[str, Any]:
    """The whole answer to an order of which at least one picture was made."""
    results = [part.result for part in order.parts if part.result is not None and part.result.ok]
    dropped = dict.fromkeys([*order.asked.ignored, *(name for result in results for name in result.ignored)])
    credits = [result.credits for result in results if result.credits is not None]
    failed = [refusal.error for refusal in order.refusals]
    told = {
        "id": order.id,
        "model": results[0].model if results else None,
        "credits": sum(credits) if credits else None,
        "ignored": list(dropped) or None,
        "failed": failed or None,
    }
    known = {name: value for name, value in told.items() if value is not None}
    return {"created": int(time.time()), "data": data, **known}


def state_of(row: OrderRow, order: Order) -> OrderState:
    """Where an order stands, in a word."""
    is_unsent = row.ended_at is not None and order.cost == 0 and not order.is_final
    return "cancelled" if row.is_called_off and is_unsent else order.state


def status_of(row: OrderRow, order: Order, state: OrderState, data: list[dict[str, Any]]) -> dict[str, Any]:
    """How an order stands, for who asks for it by its id, or is called back; with its pictures, where it is done."""
    told: dict[str, Any] = {"id": row.id, "object": "image_generation", "status": state, "created": int(row.begun_at)}
    if state == "done":
        return {**body_of(order, data), **told}
    if state == "failed":
        # As it was told when it ended: of what was never sent the journal knows nothing.
        noted = None if row.error is None else msgspec.json.decode(row.error)
        return {**told, "error": noted or order.refusals[0].error}
    return told


def check_made(order: Order, *, is_leaving: bool) -> None:
    """Make sure that something was made; raises Refused with what its caller is told instead."""
    if order.refusal is not None:
        raise Refused(order.refusal)
    if is_leaving and not order.is_final:
        raise Refused(LEAVING)
    refusals = order.refusals
    if len(refusals) < len(order.parts):
        return
    # The first of those after which nobody may ask again, if there is one.
    refusal = min(refusals, key=lambda each: each.status in (429, 503))
    more, headers = {**refusal.more, "id": order.id}, headers_of(order)
    raise Refused(msgspec.structs.replace(refusal, more=more, headers=headers))
