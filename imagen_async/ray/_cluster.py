"""The coordinator on a cluster: started where its journal is, one for a journal, and left with the driver."""

from __future__ import annotations

import atexit
import hashlib
import os
import secrets
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from .._accounts import Account
from ..errors import ConfigurationError, ImagenError, JournalError
from ._coordinator import LOOK, SILENCE, Coordinator
from ._metrics import Watching

NAMESPACE = "imagen_async"
"""Of Ray's names for actors: one by one name in a cluster, whatever job asks."""

MOST_CALLS = 10_000
"""Calls that a coordinator has open at once: one for each block that is asked for, and a few."""

IDLE = 2 * SILENCE
"""Seconds after which those who have asked for a job that is over are known to be gone."""

LEAVING = 30.0
"""Seconds that the end of a driver waits for creates that are on their way."""


class Held(msgspec.Struct, frozen=True):
    """A coordinator of this driver.

    Attributes:
        actor: Ray's handle of it.
        told: What it was told: whoever tells it something else has another one.
        call: What lasts as long as it does.
    """

    actor: Any
    told: tuple[Any, ...]
    call: Any


_held: dict[str, Held] = {}
"""By name: those of this driver."""


def check_ray() -> None:
    """Make sure that Ray can be used here, and is; raises ConfigurationError."""
    try:
        import ray.data
    except ImportError as error:
        raise ConfigurationError("This needs Ray: pip install 'imagen-async[ray]'.") from error
    if not ray.is_initialized():
        ray.init()


def coordinator_of(
    journal: str | None, accounts: Sequence[Account], options: Mapping[str, Any], node: str | None
) -> tuple[Any, str, float]:
    """The coordinator of a journal, as this driver has it, or a new one; its journal's mark, and its Unix time.

    Raises:
        ImagenError: It cannot be open; nothing was sent.
    """
    import ray

    name, told = _name_of(journal), (tuple(accounts), dict(options), node)
    found = _held.get(name)
    is_well = found is not None and _is_well(found)
    if found is not None and not (is_well and found.told == told):
        # One that takes nothing more is in nobody's way, whoever still asks it.
        _retire(name, found, journal, if_idle=is_well)
    if not _held:
        atexit.register(leave_all)
    held = _held.get(name) or _started(name, journal, told, _node_of(node))
    try:
        mark, now = ray.get(held.actor.begin.remote())
    except ImagenError as error:
        ray.kill(held.actor)
        raise _plain(error) from None
    _held[name] = held
    return held.actor, mark, now


def _started(name: str, journal: str | None, told: tuple[Any, ...], node: str) -> Held:
    """A new coordinator, which is about to open."""
    import ray

    where = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
    place = {"name": name, "namespace": NAMESPACE, "num_cpus": 0, "scheduling_strategy": where}
    # What was asked of one that died is asked of the next: each call is free to repeat.
    life = {"max_restarts": -1, "max_task_retries": -1, "max_concurrency": MOST_CALLS}
    try:
        actor = ray.remote(ImagenCoordinator).options(**place, **life).remote(journal)
    except ValueError:  # the name is taken
        raise _in_use("cluster", journal) from None
    accounts, options, _ = told
    # Keys go by a call, which no other process of Ray's keeps, as it keeps what an actor is made of.
    return Held(actor, told, actor.hold.remote(list(accounts), options))


def leave_all() -> None:
    """Have all coordinators of this driver send nothing more, and hear out what is on its way."""
    import ray

    for name, held in [*_held.items()] if ray.is_initialized() else []:
        with suppress(Exception):  # one that is gone
            ray.get(held.actor.leave.remote(), timeout=LEAVING)
            ray.get(held.call, timeout=LEAVING)
        _held.pop(name, None)


def _is_well(held: Held) -> bool:
    import ray

    try:
        return not ray.get(held.actor.is_stopped.remote(), timeout=LEAVING)
    except Exception:  # its node is gone
        return False


def _retire(name: str, held: Held, journal: str | None, *, if_idle: bool) -> None:
    """Have one go that has other accounts, or is well no more; raises JournalError while it is asked."""
    import ray

    is_idle, by = True, time.monotonic() + IDLE
    with suppress(Exception):  # its node, or its whole cluster, is gone
        while not (is_idle := ray.get(held.actor.leave.remote(only_if_idle=if_idle), timeout=LEAVING)):
            if time.monotonic() > by:
                break
            time.sleep(LOOK)
        if is_idle:
            ray.get(held.call, timeout=LEAVING)
    if not is_idle:
        raise _in_use("program, with other accounts,", journal)
    with suppress(Exception):
        ray.kill(held.actor)
    del _held[name]


def _in_use(whose: str, journal: str | None) -> JournalError:
    message = f"Another job of this {whose} is at work with {journal or 'these accounts'}. Nothing was sent"
    return JournalError(f"{message}. Wait for its end, or give this one a journal of its own.")


def _name_of(journal: str | None) -> str:
    # Without a journal nothing has to be there once only: a service knows each create by its name.
    what = os.path.realpath(journal) if journal is not None else secrets.token_hex(8)
    return f"coordinator-{hashlib.blake2b(os.fsencode(what), digest_size=8).hexdigest()}"


def _node_of(node: str | None) -> str:
    """The id of a node, by that or by its address; the driver's where none is named. Raises ConfigurationError."""
    import ray

    if node is None:
        own: str = ray.get_runtime_context().get_node_id()
        return own
    alive = [each for each in ray.nodes() if each["Alive"]]
    for each in alive:
        if node in (each["NodeID"], each["NodeManagerAddress"], each["NodeManagerHostname"]):
            found: str = each["NodeID"]
            return found
    there = ", ".join(sorted({each["NodeManagerAddress"] for each in alive}))
    raise ConfigurationError(f"node={node!r}: the cluster has no such node alive, but {there}.")


def _plain(error: ImagenError) -> ImagenError:
    """An error as it was raised there, without the traceback of another process in its text."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, ImagenError) else error


class ImagenCoordinator(Coordinator):
    """The coordinator as Ray runs it."""

    def __init__(self, journal: str | None) -> None:
        import ray

        with warnings.catch_warnings():
            # Ray 2.60 warns of a property of its own that this one asks.
            warnings.simplefilter("ignore")
            is_again: bool = ray.get_runtime_context().was_current_actor_reconstructed
        super().__init__(journal, is_again=is_again, listener=Watching().on_event)
