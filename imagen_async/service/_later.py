"""Orders that are asked for later, by their id: how they stand, their pictures, and to want no more of them."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from ._answers import body_of, data_of, headers_of
from ._book import OrderRow
from ._doors import json_of
from ._guard import CALLER
from ._orders import Order, OrderState
from ._refusals import refusal_of
from ._service import Service


class Later:
    """The paths of orders by their id."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def status(self, request: web.Request) -> web.Response:
        """How an order stands: an aiohttp handler. Free to repeat."""
        row, order = await self._service.find(request[CALLER], request.match_info["id"])
        return await self._told(request, row, order)

    async def cancel(self, request: web.Request) -> web.Response:
        """Send no more of an order: an aiohttp handler. What runs by then is made, and can be asked for."""
        row, order = await self._service.find(request[CALLER], request.match_info["id"])
        live = self._service.desk.live(row.id)
        if live is not None:
            live.withhold()
            if not any(part.is_on_its_way for part in live.parts):
                await live.over.wait()
            row, order = await self._service.find(request[CALLER], row.id)
        return await self._told(request, row, order)

    async def _told(self, request: web.Request, row: OrderRow, order: Order) -> web.Response:
        state = state_of(row, order)
        told: dict[str, Any] = {
            "id": row.id,
            "object": "image_generation",
            "status": state,
            "created": int(row.begun_at),
        }
        if state == "done":
            pictures = tuple(each for part in order.parts for each in self._service.pictures(part, request))
            data = await self._service.off_loop.run(data_of, order.asked, pictures)
            told |= {name: value for name, value in body_of(order, data).items() if name != "created"}
        elif state == "failed":
            told["error"] = next(refusal_of(part.failure, part.cost).error for part in order.parts if part.failure)
        return json_of(told, headers=headers_of(order))


def state_of(row: OrderRow, order: Order) -> OrderState:
    """Where an order stands, in a word."""
    return "cancelled" if row.is_cancelled else order.state
