"""Whether a picture decodes to its end, where Pillow is there to say so: some damage no structure tells."""

from __future__ import annotations

import importlib
import io
import logging

from ._watch.log import log

_MOST_PIXELS = 32_000_000
"""Of a picture that is decoded, four bytes each: eight times Imagen 4's largest. A larger one is taken for whole."""

_CLASSES = {
    "image/png": ("PngImagePlugin", "PngImageFile"),
    "image/jpeg": ("JpegImagePlugin", "JpegImageFile"),
    "image/webp": ("WebPImagePlugin", "WebPImageFile"),
    "image/gif": ("GifImagePlugin", "GifImageFile"),
    "image/avif": ("AvifImagePlugin", "AvifImageFile"),
    "image/tiff": ("TiffImagePlugin", "TiffImageFile"),
}
"""What reads a kind. Not `Image.open`: that lets every decoder try, and warns of large pictures."""

_RUN_OUT = ("truncated", "incomplete", "broken data stream", "premature", "unexpected end")
"""How Pillow and its libraries say that data run out; whatever else they do not like is a picture all the same."""


def runs_out(media_type: str, data: bytes) -> bool:
    """True where Pillow decodes this kind and finds its data to end too early. Takes time: call it in a thread."""
    module, name = _CLASSES.get(media_type, ("", ""))
    try:
        read = getattr(importlib.import_module(f"PIL.{module}"), name)
    except (ImportError, AttributeError):
        return False  # an extra, of which older versions know less
    try:
        with read(io.BytesIO(data)) as picture:
            if picture.width * picture.height <= _MOST_PIXELS:
                # Of a JPEG every byte is read for a small one, too.
                picture.draft(None, (1, 1))
                picture.load()
    except Exception as error:  # whatever a decoder raises for what it is given
        log(logging.DEBUG, "Pillow does not like a picture of %s: %s", media_type, error)
        # A warning is an error only where a program wants it so.
        says_so = isinstance(error, EOFError) or any(words in str(error).lower() for words in _RUN_OUT)
        return says_so and not isinstance(error, Warning)
    return False
