"""Ruxa: kie.ai's bodies at paths of its own. Figures: its documentation (ruxa.ai), which has two pages that differ."""

from __future__ import annotations

from .._core.dialects.jobs import JobsDialect
from .._core.provider import Provider
from .._records import GUESSED, Shipped
from .kie import LATENCY

RUXA = Provider(
    name="ruxa",
    title="Ruxa",
    base_url="https://api.ruxa.ai",
    # States as kie.ai's, or generating, completed and fail on the other page: all of these are read anywhere.
    dialect=JobsDialect(
        create_path="/api/v1/tasks/create", status_path="/api/v1/tasks/query/{task_id}", status_word="message"
    ),
    # By the names and fields of kie.ai; what they cost there its pages do not tell.
    models=Shipped("kie", is_priced=False),
    limits=GUESSED,
    latency=LATENCY,
)
