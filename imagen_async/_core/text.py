"""Texts that everything takes: what is stored, sent, logged or printed has no half characters."""

from __future__ import annotations


def well_formed(text: str) -> str:
    """The text with U+FFFD for each lone surrogate: what stands for a byte that was no text has no encoding itself."""
    # Quick where all is well, which is nearly always.
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
