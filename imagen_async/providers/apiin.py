"""API in One. Figures: S4."""

from __future__ import annotations

from .._core.dialects.tasks import TasksDialect
from .._core.latency import LatencyPrior
from .._core.model import Model
from .._core.parameters import Choice, Schema, Text, Whole
from .._core.provider import Provider
from .._records import GUESSED

INPUT: Schema = {
    "prompt": Text(required=True),
    "aspect_ratio": Choice(("1:1", "4:3", "3:4", "16:9", "9:16"), default="1:1"),
    "negative_prompt": Text(),
    # No upper bound is documented; each image is billed.
    "num_images": Whole(minimum=1),
    "seed": Whole(),
}

APIIN = Provider(
    name="apiin",
    title="API in One",
    base_url="https://apiin.one",
    # Ids as in its examples: n47xxxx_imagen4.
    dialect=TasksDialect(task_id_form="n{hex:.12}_{model}"),
    models=(
        # One row of S4 says "imagen-4"; its examples and its list of sub-models say imagen4.
        Model("imagen4", "imagen4", INPUT, credits=8, task="text to image"),
        Model("imagen4-fast", "imagen4-fast", INPUT, credits=4, task="text to image"),
        Model("imagen4-ultra", "imagen4-ultra", INPUT, credits=12, task="text to image"),
    ),
    # None published: kie.ai's, as a guess.
    limits=GUESSED,
    # It claims 3-8 s a picture.
    latency=LatencyPrior(median=5, sigma=0.5),
)
