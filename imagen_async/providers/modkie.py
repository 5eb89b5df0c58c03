"""ModKie: "Kie-compatible", at paths of its own. Figures: its documentation (modkie.com/docs/api-platform)."""

from __future__ import annotations

from .._core.dialects.jobs import JobsDialect
from .._core.provider import Provider
from .._records import GUESSED, Shipped
from .kie import LATENCY

MODKIE = Provider(
    name="modkie",
    title="ModKie",
    base_url="https://modkie.com/api/v1",
    dialect=JobsDialect(
        create_path="/jobs/createTask",
        status_path="/jobs/recordInfo?taskId={task_id}",
        credits_path="/chat/credit",
        models_path="/models",
        # A 402 is a real one there.
        refuses_by_status=True,
        # Its pages tell no code of a wrong request: a server that fails would have one of 500.
        wrong_code=400,
        state_words=("pending", "processing"),
        result_is_text=False,
    ),
    # By the names and fields of kie.ai; what they cost there its pages do not tell.
    models=Shipped("kie", is_priced=False),
    limits=GUESSED,
    latency=LATENCY,
)
