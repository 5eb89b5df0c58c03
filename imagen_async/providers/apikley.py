"""Apikley: kie.ai's API at another address. Figures: S0, S1."""

from __future__ import annotations

from .._core.dialects.jobs import JobsDialect
from .._core.model import Model
from .._core.parameters import Choice, Schema, Text, Whole
from .._core.provider import Provider
from .._records import GUESSED
from .kie import LATENCY

PROMPT = Text(max_length=5000, required=True)
NEGATIVE_PROMPT = Text(max_length=5000)
RATIOS = ("1:1", "16:9", "9:16", "3:4", "4:3")

STANDARD: Schema = {
    "prompt": PROMPT,
    "negative_prompt": NEGATIVE_PROMPT,
    "aspect_ratio": Choice(RATIOS, default="1:1"),
    "seed": Text(max_length=500),
}
FAST: Schema = {
    "prompt": PROMPT,
    "negative_prompt": NEGATIVE_PROMPT,
    "aspect_ratio": Choice(RATIOS, default="16:9"),
    "num_images": Choice(("1", "2", "3", "4"), default="1"),
    "seed": Whole(),
}

APIKLEY = Provider(
    name="apikley",
    title="Apikley",
    base_url="https://api.apikley.ru",
    # S0 and S1 show `msg` in the answer to a create and `message` in a status answer.
    dialect=JobsDialect(credits_path="/api/v1/chat/credit", status_word="message"),
    models=(
        # S0 and S1 show -ultra and -fast; the plain one is the provider's own third. No page tells a price.
        Model("imagen4", "google/imagen4", STANDARD, task="text to image"),
        Model("imagen4-fast", "google/imagen4-fast", FAST, task="text to image"),
        Model("imagen4-ultra", "google/imagen4-ultra", STANDARD, task="text to image"),
    ),
    # "May differ from upstream", no figure: upstream's, as a guess.
    limits=GUESSED,
    latency=LATENCY,
)
