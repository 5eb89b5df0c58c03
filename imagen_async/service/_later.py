"""Orders that are asked for later, by their id: how they stand, their pictures, and to want no more of them."""

from __future__ import annotations

from aiohttp import web

from ._answers import headers_of, state_of, status_of
from ._book import OrderRow
from ._doors import json_of
from ._guard import CALLER
from ._orders import Order
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
        if row.is_async and not row.is_final:
            await self._service.desk.call_off(row)
        if live is not None:
            live.withhold()
            if not any(part.is_on_its_way for part in live.parts):
                await live.over.wait()
            row, order = await self._service.find(request[CALLER], row.id)
        return await self._told(request, row, order)

    async def _told(self, request: web.Request, row: OrderRow, order: Order) -> web.Response:
        # Once, and first: while its pictures are read it may come to its end.
        state = state_of(row, order)
        data = await self._service.files.data(order, self._service.address(request)) if state == "done" else []
        return json_of(status_of(row, order, state, data), headers=headers_of(order))
