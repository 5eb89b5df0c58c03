"""What the task ids of an API look like, as its record says it: for the sandbox, which makes some of that look."""

from __future__ import annotations

import re

from ..._text import seldom, told
from ...errors import ConfigurationError

_DIGITS = 32

# A task's id is part of the addresses of its pictures, and a raw model may be called anything.
_NO_NAME = seldom(r"[^\w.-]", re.A)


def task_id_of(form: str, model: str, hexadecimal: str) -> str:
    """A task's id, made of the model's name on the wire and 32 digits."""
    return _filled(form, _NO_NAME().sub("-", model), hexadecimal)


def check_task_id_form(form: str) -> None:
    """Refuse a form that cannot be filled in, or in which all tasks of a model would have one id."""
    try:
        ids = {_filled(form, "model", digit * _DIGITS) for digit in "12"}
    except (LookupError, ValueError, TypeError, AttributeError):  # all that a template of somebody's own may raise
        ids = set()
    if len(ids) < 2:
        allowed = "allowed is a text with {hex} or {number} in it, and {model}"
        raise ConfigurationError(f"task_id_form={told(form)}: {allowed}.")


def _filled(form: str, model: str, hexadecimal: str) -> str:
    return form.format(model=model, hex=hexadecimal, number=int(hexadecimal[:12], 16))
