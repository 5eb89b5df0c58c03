"""One server for three protocols: fal's queue, replicate's predictions and createTask. A job takes as long in each."""

from __future__ import annotations

import argparse
import asyncio
import re
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager

from aiohttp import web

from benchmarks.peer_clients import FAL_APP, FAL_ENDPOINT, REPLICATE_MODEL
from benchmarks.server import PREFIX, record_answer, serve, served
from benchmarks.shapes import Lognormal, draws, steady

NUMBER = re.compile(rb"number (\d+)")
"""Where a prompt tells which job it is, whatever else the protocol puts around it."""

CREATED = "2026-04-22T08:52:02.264Z"


class PeerServer:
    """Ends the job of each number after the latency of that number, which the task's id tells too."""

    def __init__(self, latencies: Sequence[float]) -> None:
        self._latencies = latencies
        self._ends_at: dict[int, float] = {}
        self._polls = 0

    def routes(self) -> list[web.RouteDef]:
        """What it answers."""
        return [
            web.post(f"{PREFIX}/createTask", self.create),
            web.get(f"{PREFIX}/recordInfo", self.status),
            web.post(f"/{FAL_ENDPOINT}", self.fal_submit),
            web.get(f"/{FAL_APP}/requests/{{id}}/status", self.fal_status),
            web.get(f"/{FAL_APP}/requests/{{id}}", self.fal_result),
            web.post(f"/v1/models/{REPLICATE_MODEL}/predictions", self.replicate_create),
            web.get("/v1/predictions/{id}", self.replicate_get),
            web.get("/figures", self.figures),
        ]

    async def create(self, request: web.Request) -> web.Response:
        """Take a createTask."""
        return web.json_response({"code": 200, "msg": "success", "data": {"taskId": await self._begin(request)}})

    async def status(self, request: web.Request) -> web.Response:
        """Answer a recordInfo."""
        task_id = request.query["taskId"]
        answer = record_answer(task_id, self._latency(task_id) if self._polled(task_id) else None)
        return web.Response(body=answer, content_type="application/json")

    async def fal_submit(self, request: web.Request) -> web.Response:
        """Take a request into fal's queue."""
        return web.json_response(_fal_request(request, await self._begin(request), "IN_QUEUE") | {"queue_position": 0})

    async def fal_status(self, request: web.Request) -> web.Response:
        """Answer about a request in fal's queue: 202 until it is completed."""
        task_id = request.match_info["id"]
        if not self._polled(task_id):
            return web.json_response(_fal_request(request, task_id, "IN_PROGRESS") | {"logs": None}, status=202)
        more = {"logs": None, "metrics": {"inference_time": self._latency(task_id)}}
        return web.json_response(_fal_request(request, task_id, "COMPLETED") | more)

    async def fal_result(self, request: web.Request) -> web.Response:
        """The result of a completed request, for which fal has a call of its own."""
        name = f"{request.match_info['id']}.png"
        image = {"url": f"https://files.example/{name}", "content_type": "image/png", "file_name": name}
        return web.json_response({"images": [image | {"file_size": 1_870_000}], "seed": 42})

    async def replicate_create(self, request: web.Request) -> web.Response:
        """Take a prediction."""
        return web.json_response(_prediction(request, await self._begin(request), None), status=201)

    async def replicate_get(self, request: web.Request) -> web.Response:
        """Answer about a prediction, with its output once it has succeeded."""
        task_id = request.match_info["id"]
        return web.json_response(
            _prediction(request, task_id, self._latency(task_id) if self._polled(task_id) else None)
        )

    async def figures(self, request: web.Request) -> web.Response:
        """Tell how many status calls there were, and when each job ended, by `time.monotonic()`."""
        return web.json_response({"polls": self._polls, "ended": self._ends_at})

    async def _begin(self, request: web.Request) -> str:
        """Start the job whose number the prompt tells; gives its task id."""
        found = NUMBER.search(await request.read())
        assert found is not None
        number = int(found[1])
        self._ends_at[number] = time.monotonic() + self._latencies[number]
        # From 1 on: an id that is all zeros names no task.
        return f"{number + 1:032x}"

    def _polled(self, task_id: str) -> bool:
        """Count a status call; True when the task is done."""
        self._polls += 1
        return time.monotonic() >= self._ends_at[_number_of(task_id)]

    def _latency(self, task_id: str) -> float:
        """Seconds that the task takes in all."""
        return self._latencies[_number_of(task_id)]


def _number_of(task_id: str) -> int:
    return int(task_id, 16) - 1


def _fal_request(request: web.Request, task_id: str, status: str) -> dict[str, object]:
    """What every answer of the queue has, with the addresses that the client is to go on with."""
    url = f"{request.url.origin()}/{FAL_APP}/requests/{task_id}"
    urls = {"response_url": url, "status_url": f"{url}/status", "cancel_url": f"{url}/cancel"}
    return {"status": status, "request_id": task_id, **urls}


def _prediction(request: web.Request, task_id: str, latency: float | None) -> dict[str, object]:
    """A prediction; one whose latency is None has not finished."""
    done = latency is not None
    url = f"{request.url.origin()}/v1/predictions/{task_id}"
    return {
        "id": task_id,
        "model": REPLICATE_MODEL,
        "version": "hidden",
        "input": {"prompt": "x" * 60, "aspect_ratio": "1:1"},
        "logs": "",
        "output": f"https://files.example/{task_id}.png" if done else None,
        "data_removed": False,
        "error": None,
        "status": "succeeded" if done else "processing",
        "created_at": CREATED,
        "started_at": CREATED,
        "completed_at": CREATED if done else None,
        "urls": {"get": url, "cancel": f"{url}/cancel"},
        "metrics": {"predict_time": latency} if done else {},
    }


def peer_server_process(law: Lognormal, count: int) -> AbstractContextManager[str]:
    """Run this server in a process of its own, for jobs that take as long as the law says; its base URL comes out."""
    return served("benchmarks.peer_server", law.median, law.sigma, law.minimum, count)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("median", "sigma", "minimum"):
        parser.add_argument(name, type=float)
    parser.add_argument("count", type=int)
    options = parser.parse_args()
    given = Lognormal(options.median, options.sigma, options.minimum)
    asyncio.run(serve(PeerServer(draws(steady(given), options.count)).routes()))
