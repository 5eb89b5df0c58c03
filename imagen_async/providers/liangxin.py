"""LiangXin: createTask with names and fields of its own, at an address that only its users know. Figures: S2."""

from __future__ import annotations

from .._core.dialects.jobs import JobsDialect
from .._core.model import Model
from .._core.own_fields import Translation
from .._core.parameters import Choice, Flag, Schema, Text, Whole
from .._core.provider import Provider
from .._records import GUESSED
from .kie import LATENCY

RATIOS = {
    "1:1": "square_1_1",
    "9:16": "social_story_9_16",
    "16:9": "widescreen_16_9",
    "3:4": "traditional_3_4",
    "4:3": "classic_4_3",
}
# The page takes both, and has the long ones first.
WORDS = {"aspect_ratio": Translation("aspect_ratio", RATIOS)}

INPUT: Schema = {
    "prompt": Text(required=True),
    "aspect_ratio": Choice((*RATIOS.values(), *RATIOS), default="square_1_1"),
    "seed": Whole(minimum=1),
    "person_generation": Choice(("dont_allow", "allow_adult", "allow_all")),
    "safety_settings": Choice(("block_low_and_above", "block_medium_and_above", "block_only_high", "block_none")),
    "enhance_prompt": Flag(),
    "language": Choice(("auto", "en", "zh", "zh-CN", "hi", "ja", "ko", "pt", "es")),
    "output_format": Choice(("png", "jpeg", "jpg", "image/png", "image/jpeg")),
    "compression_quality": Whole(minimum=1, maximum=100),
}

_UNREAD = "its fields are not known, so that nothing but the prompt is checked"
LISTED = tuple(
    Model(name, name, None, notes=(_UNREAD,))
    for name in (
        "nano-banana-pro",
        "nano-banana-pro-flash",
        "seedream-4.5",
        "seedream-5-lite",
        "flux-2-pro",
        "z-image",
    )
)

LIANGXIN = Provider(
    name="liangxin",
    title="LiangXin",
    # Published nowhere: its users have it from their account there.
    base_url=None,
    dialect=JobsDialect(
        # 403 is "insufficient quota or access denied".
        no_credit=frozenset({402, 403}),
        refuses_by_status=True,
        wrong_code=400,
        # Its platform's layer looks at the key and the quota before the tasks' layer sees the request.
        gateway_codes=frozenset({401, 403}),
        # As in S2: task_imagen4-ultra_1777600000000.
        task_id_form="task_{model}_{number}",
    ),
    models=(
        # S2 shows the table for -ultra; -fast is taken to have the same. No page tells a price.
        Model("imagen4-fast", "imagen4-fast", INPUT, translations=WORDS, task="text to image"),
        Model("imagen4-ultra", "imagen4-ultra", INPUT, translations=WORDS, task="text to image"),
        # In its list (docs.liangxin.ai, 2026) by these names; their fields are on no page that is at hand.
        *LISTED,
    ),
    # 429 is "group saturated", no figure: kie.ai's, as a guess.
    limits=GUESSED,
    # No word on how long its tasks take: kie.ai's, as a guess.
    latency=LATENCY,
)
