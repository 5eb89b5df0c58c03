"""Apikley: kie.ai's API at another address. Figures: S0, S1."""

from __future__ import annotations

from .._core.dialects.jobs import JobsDialect
from .._core.model import Model
from .._core.provider import Provider
from .kie import FAST, GUESSED_LIMITS, LATENCY, STANDARD

APIKLEY = Provider(
    name="apikley",
    title="Apikley",
    base_url="https://api.apikley.ru",
    # S0 and S1 show `msg` in the answer to a create and `message` in a status answer.
    dialect=JobsDialect(credits_path="/api/v1/chat/credit", status_word="message"),
    models=(
        # S0 and S1 show -ultra and -fast; the plain one is the provider's own third. No page tells a price.
        Model("imagen4", "google/imagen4", STANDARD, aspect_ratio="1:1"),
        Model("imagen4-fast", "google/imagen4-fast", FAST, aspect_ratio="16:9"),
        Model("imagen4-ultra", "google/imagen4-ultra", STANDARD, aspect_ratio="1:1"),
    ),
    # "May differ from upstream", no figure: upstream's, as a guess.
    limits=GUESSED_LIMITS,
    latency=LATENCY,
)
