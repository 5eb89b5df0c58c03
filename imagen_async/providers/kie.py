"""kie.ai. Figures: its documentation (S3 and its common pages) and recorded exchanges of April 2026.

Its models are in kie.json, with their source and date: all of its createTask API that make pictures.
"""

from __future__ import annotations

from .._core.dialects.jobs import JobsDialect
from .._core.latency import LatencyPrior
from .._core.provider import Limits, Provider, Uploads
from .._core.rate_limit import Rate
from .._records import Shipped

# Observed with image models of the same API: 13, 13, 29, 46, 48, 55, 66, 112 and 274 s; none of them is Imagen 4.
LATENCY = LatencyPrior(median=47, sigma=0.95)

KIE = Provider(
    name="kie",
    title="kie.ai",
    base_url="https://api.kie.ai",
    # 501 is what its page on callbacks has for a task that failed.
    dialect=JobsDialect(
        credits_path="/api/v1/chat/credit",
        renewal_path="/api/v1/common/download-url",
        models_path="/api/v1/models",
        schema_path="/api/v1/models/{model}/schema",
        failure_code=501,
    ),
    models=Shipped("kie"),
    # Published: 20 creates per 10 s and account, "100 and more" tasks running. 10 status calls a second are counted by
    # task, say two texts of autumn 2026, and by key, said an older page: nobody has measured it.
    limits=Limits(submit=Rate(20, per=10), status=Rate(10, per=1, guess=True), running=100),
    latency=LATENCY,
    # Its page says 24 hours, and in another line 3 days.
    uploads=Uploads(
        "/api/file-stream-upload",
        base_url="https://kieai.redpandaai.co",
        fields={"uploadPath": "images/imagen-async"},
        base64_path="/api/file-base64-upload",
        url_path="/api/file-url-upload",
        lifetime=86400,
    ),
    signs_callbacks=True,
)
