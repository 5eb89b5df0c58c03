"""The form of a transition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..job import Job

Move = Callable[[Job, Any, Any, float], Job]
"""Makes of a job, its state and an event at loop time `now` the job that it is then."""
