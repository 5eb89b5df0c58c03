"""The service as an aiohttp application: its paths, and what goes wrong on them in OpenAI's envelope."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from .._core.suggestion import did_you_mean
from .._watch.log import log
from ..errors import ImagenError
from ._callers import Callers
from ._doors import Doors, json_of, response_of
from ._guard import CALLER, guard
from ._later import Later
from ._metrics import CONTENT_TYPE, exposition
from ._page import page_routes
from ._refusals import FAULT, Refusal, Refused, refusal_of, wrong
from ._service import Service
from ._tasks import Tasks


def build(
    service: Service, callers: Callable[[], Callers] | None, public_url: str | None, heartbeat: float
) -> web.Application:
    """The application of a service, which opens and closes with it.

    Args:
        service: What there is behind it.
        callers: Who may ask; None: everybody on this machine.
        public_url: Its address as callers know it, or None.
        heartbeat: Seconds between two signs of life of a stream.
    """
    application = web.Application(middlewares=[refusing, guard(callers, public_url, response_of)])
    doors, later, models = Doors(service, heartbeat), Later(service), _Models(service)

    async def file(request: web.Request) -> web.StreamResponse:
        return await service.files.serve(request)

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(body=exposition(service.sight.look()).encode(), headers={"Content-Type": CONTENT_TYPE})

    routes = (
        ("POST", "/v1/images/generations", doors.generations),
        ("POST", "/v1/images/edits", doors.edits),
        ("GET", "/v1/images/generations/{id}", later.status),
        ("DELETE", "/v1/images/generations/{id}", later.cancel),
        ("GET", "/v1/models", models.list),
        ("GET", "/v1/models/{name:.+}", models.one),
        ("GET", "/healthz", _health),
        ("GET", "/metrics", metrics),
    )
    for method, path, answer in (*routes, *Tasks(service, heartbeat).routes()):
        application.router.add_route(method, path, answer)
    application.router.add_get("/files/{token}", file)
    application.router.add_routes(page_routes(lambda: service.sight.look(), application))
    return _living(application, service)


def _living(application: web.Application, service: Service) -> web.Application:
    """The same application: with it, the service opens, leaves and closes."""

    async def living(_: web.Application) -> AsyncIterator[None]:
        async with service.opened():
            yield

    async def leaving(_: web.Application) -> None:
        await service.leave()

    application.cleanup_ctx.append(living)
    application.on_shutdown.append(leaving)
    return application


@web.middleware
async def refusing(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer what goes wrong in OpenAI's envelope."""
    try:
        return await handler(request)
    except Refused as refused:
        return response_of(refused.refusal)
    except ImagenError as error:
        return response_of(refusal_of(error))
    except web.HTTPException as error:
        if error.status < 400:
            raise
        message = f"{request.method} {request.path}: {error.reason}."
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        return response_of(Refusal(error.status, _CODES.get(error.status, "http_error"), message, headers))
    except ConnectionError:  # whoever asked has left
        return web.Response()
    except Exception:  # of ours
        log(logging.ERROR, "%s %s failed by a fault of the service", request.method, request.path, exc_info=True)
        return response_of(FAULT)


_CODES = {404: "not_found", 405: "method_not_allowed", 413: "too_long"}


async def _health(request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


class _Models:
    """What there is to ask for."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def list(self, request: web.Request) -> web.Response:
        """The models, and the names that stand for some: an aiohttp handler."""
        return json_of({"object": "list", "data": list(self._known(request).values())})

    async def one(self, request: web.Request) -> web.Response:
        """One of them: an aiohttp handler."""
        known, name = self._known(request), request.match_info["name"]
        if name not in known:
            raise wrong(f"There is no model {name!r} here.{did_you_mean(name, known)}", "model", "model_not_found", 404)
        return json_of(known[name])

    def _known(self, request: web.Request) -> dict[str, Any]:
        reader, allowed = self._service.reader, request[CALLER].models
        models = {name: accounts for name, accounts in reader.models.items() if allowed is None or name in allowed}
        known: dict[str, Any] = {name: _told(name, accounts) for name, accounts in models.items()}
        for alias, name in reader.aliases.items():
            if name in models:
                known[alias] = {**_told(alias, models[name]), "stands_for": name}
        return known


def _told(name: str, accounts: list[str]) -> Mapping[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": ", ".join(accounts)}
