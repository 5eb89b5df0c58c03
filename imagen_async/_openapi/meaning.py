"""What a model's own fields mean to a request: which of them stand for ImageRequest's, and what kind of task it is."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .._core.own_fields import Translation
from .._core.parameters import Choice, Items, Parameter, Schema, Text, file_of

PRESETS = {
    "1:1": "square_hd",
    "4:3": "landscape_4_3",
    "3:4": "portrait_4_3",
    "16:9": "landscape_16_9",
    "9:16": "portrait_16_9",
    "3:2": "landscape_3_2",
    "2:3": "portrait_3_2",
    "21:9": "landscape_21_9",
}
"""Shapes as several models name them, by the ratio of their sides."""

_RATIO = re.compile(r"\d+:\d+")
_SHAPES = ("aspect_ratio", "image_size", "size", "ratio")
_COUNTS = ("num_images", "n", "max_images", "image_count", "count")
_PICTURES = (
    *("image_urls", "input_urls", "image_input", "images", "image_url", "image", "input_image"),
    *("input_image_urls", "input_image_url", "files_url", "file_url", "reference_image_urls", "reference_images"),
)
"""Fields that take the pictures that a request is about, the likeliest first."""

_TASKS = (
    ("background removal", re.compile(r"remove[-_ ]?background|background[-_ ]?remov")),
    ("upscale", re.compile(r"upscale|super[-_ ]?resolution")),
    ("video", re.compile(r"video|t2v|i2v|r2v|lip[-_ ]?sync|animate")),
    ("audio", re.compile(r"audio|speech|music|tts|sound|voice|dialogue|song|lyrics")),
    ("edit", re.compile(r"edit|remix|reframe|inpaint|layer")),
    ("image to image", re.compile(r"image[-_ ]to[-_ ]image|i2i")),
    ("text to image", re.compile(r"text[-_ ]to[-_ ]image|t2i")),
)


def translations_of(schema: Schema) -> dict[str, Translation]:
    """How ImageRequest's fields are called there, of those that are called otherwise, or written in other words."""
    found: dict[str, Translation] = {}
    shape = next((name for name in _SHAPES if _is_shape(schema.get(name))), None)
    if shape is not None:
        found["aspect_ratio"] = Translation(shape, _words_of(schema[shape]))
    counts = [name for name in _COUNTS if name in schema and not isinstance(schema[name], Text | Items)]
    if counts:
        found["num_images"] = Translation(counts[0])
    pictures = [name for name in _PICTURES if _takes_pictures(schema.get(name))]
    if pictures:
        # Without which nothing is made is what it is about.
        found["images"] = Translation(min(pictures, key=lambda name: not schema[name].required))
    return {name: each for name, each in found.items() if each != Translation(name)}


def task_of(name: str, schema: Schema) -> str | None:
    """What a model makes of what, by its name, or else by what goes in."""
    named = next((task for task, pattern in _TASKS if pattern.search(name.lower())), None)
    if named is not None or not schema:
        return named
    files = {name: each for name, each in schema.items() if file_of(each) is not None}
    if "duration" in schema or not all(map(_takes_pictures, files.values())):
        return "video" if "prompt" in schema else None
    if any(each.required for each in files.values()):
        return "image to image"
    return "text to image" if "prompt" in schema else None


def _is_shape(parameter: Parameter | None) -> bool:
    values = parameter.values if isinstance(parameter, Choice) else ()
    return any(isinstance(each, str) and (_RATIO.fullmatch(each) or each in PRESETS.values()) for each in values)


def _words_of(parameter: Parameter) -> Mapping[str, str]:
    """Our ratios, and what they are there, where it has words of its own for them."""
    values = parameter.values if isinstance(parameter, Choice) else ()
    return {ours: theirs for ours, theirs in PRESETS.items() if theirs in values and ours not in values}


def _takes_pictures(parameter: Parameter | None) -> bool:
    file = file_of(parameter)
    return file is not None and file.media in ("image", None)
