"""The sandbox: kie.ai's API and models, served on this machine, with limits for trying things out."""

from __future__ import annotations

from .._core.latency import LatencyPrior
from .._core.provider import Limits, Provider
from .._core.rate_limit import Rate
from .kie import KIE

SANDBOX = Provider(
    name="sandbox",
    title="the sandbox",
    base_url=None,
    dialect=KIE.dialect,
    models=KIE.models,
    limits=Limits(submit=Rate(50, per=1), status=Rate(200, per=1), running=200),
    # As it is set up when nothing else is said.
    latency=LatencyPrior(median=1, sigma=0.35),
    uploads=KIE.uploads,
    signs_callbacks=True,
    is_local=True,
)
