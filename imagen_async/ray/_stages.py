"""The stages of Ray Data by which rows are asked for and their pictures are fetched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError
from ._asking import Asking
from ._fetcher import FetchTerms
from ._fetching import Fetching
from ._parts import Part
from ._rows import Reading
from ._sizes import Sizes

if TYPE_CHECKING:
    from ray.data import ActorPoolStrategy, Dataset

FETCHED_AT_ONCE = 2
"""Blocks that a worker fetches at once, so that one slow picture does not hold up the next block's."""

_WHOLE: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow"}
"""A block at a time, as Arrow has it."""


def with_stages(
    dataset: Dataset,
    parts: Sequence[Part],
    reading: Reading,
    fetching: FetchTerms,
    sizes: Sizes,
    concurrency: int | tuple[int, int],
) -> Dataset:
    """The data set with both stages behind it, none of which has begun; raises ConfigurationError."""
    fewest, most = (concurrency, concurrency) if isinstance(concurrency, int) else concurrency
    if not 1 <= fewest <= most:
        raise ConfigurationError(f"concurrency={concurrency!r}: allowed is a number, or the fewest and the most.")
    # Of exactly so many rows, for a task of Ray's gives back nothing until its last row has come to an end.
    blocks = dataset.repartition(target_num_rows_per_block=sizes.rows, strict=True)
    asking = _pool(sizes.askers, sizes.askers, sizes.blocks, sizes.blocks)
    given = list(parts), reading
    asked = blocks.map_batches(Asking, fn_constructor_args=given, compute=asking, num_cpus=0.1, **_WHOLE)
    working = _pool(fewest, most, FETCHED_AT_ONCE, 2 * FETCHED_AT_ONCE)
    told = list(parts), fetching
    return asked.map_batches(Fetching, fn_constructor_args=told, compute=working, num_cpus=0.5, **_WHOLE)


def _pool(fewest: int, most: int, at_once: int, waiting: int) -> ActorPoolStrategy:
    """Actors of which each has so many blocks at once."""
    from ray.data import ActorPoolStrategy

    return ActorPoolStrategy(
        min_size=fewest,
        max_size=most,
        max_tasks_in_flight_per_actor=waiting,
        max_concurrent_calls_per_actor=at_once,
        enable_true_multi_threading=True,
    )
