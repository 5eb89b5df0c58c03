"""A queue of those who wait to be sent, with accounts, and without a plan around it."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import inner
import msgspec
from builders import make_job, upstream

from imagen_async.providers import PROVIDERS

FAST, PLAIN = "imagen4-fast", "imagen4"
PRICE = {"a": 0.5, "b": 0.3, "c": 1.0, "d": 0.3, "e": 0.5}


class Line(NamedTuple):
    """What those have in common who wait in one line, first come first served."""

    way: str
    model: str = FAST
    purse: int = 0
    images: int = 1
    caller: str = ""


@functools.cache
def route(way: str, model: str, policy: inner.Policy) -> inner.Route:
    """The way to these accounts, all of kie.ai's kind, each at a price of its own."""
    kie = PROVIDERS["kie"]
    providers = {name: msgspec.structs.replace(kie, name=name, prices=PRICE[name]) for name in way}
    return inner.Router(providers, policy).route(inner.ImageRequest("a red fox", model=model))[1]


class Own(inner.Window):
    """A limit of the user's own: nothing tells when it is another one."""


class Queue:
    """Upstreams that have answered long ago, jobs, and those who wait, without a plan around them."""

    def __init__(self, limits: dict[str, inner.Limits], policy: inner.Policy = "spread") -> None:
        self.upstreams = inner.Upstreams(
            upstream(name, each, connections=10_000, submit=Own(each.submit) if name == "e" else None)
            for name, each in limits.items()
        )
        self.jobs: dict[int, inner.Job] = {}
        self.waiting = inner.SubmitQueue(self.upstreams, self.jobs)
        self.policy = policy
        for each in self.upstreams.values():
            each.take_submit(-1e6)
            each.settle_submit(inner.Accepted("t"), FAST, -1e6)

    def add(
        self,
        line: Line,
        owner: int = 1,
        purse: inner.Budget | None = None,
        *,
        at_front: bool = False,
        share: float = 1.0,
    ) -> inner.Job:
        """Have one more wait."""
        request = inner.ImageRequest("a red fox", model=line.model, num_images=line.images)
        terms: dict[str, Any] = {"route": route(line.way, line.model, self.policy), "caller": line.caller}
        number = len(self.jobs) + 1
        job = make_job(number, model=line.model, owner=owner, request=request, share=share, **terms)
        self.jobs[job.id] = job
        self.waiting.add(job, purse, at_front=at_front)
        return job
