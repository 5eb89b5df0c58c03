"""The coordinator on a cluster: started where its journal is, one for a journal, and left with the driver."""

from __future__ import annotations

import atexit
import hashlib
import os
import secrets
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec

from .._accounts import Account
from ..errors import ConfigurationError, ImagenError, JournalError
from ._coordinator import Coordinator, Terms
from ._metrics import Watching
from ._parts import Part, names_of

NAMESPACE = "imagen_async"
"""Of Ray's names for actors: one by one name in a cluster, whatever job asks."""

MOST_CALLS = 10_000
"""Calls that a coordinator has open at once: one for each block that is asked for, and a few."""

LEAVING = 30.0
"""Seconds that the end of a driver waits for creates that are on their way."""


class Held(msgspec.Struct, frozen=True):
    """A coordinator of this driver.

    Attributes:
        part: As the stages know it.
        terms: What it was told.
        call: What lasts as long as it does.
    """

    part: Part
    terms: tuple[Any, ...]
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


def coordinator_of(terms: Terms, accounts: Sequence[Account], node: str | None) -> Part:
    """The coordinator of a journal, as this driver has it, or a new one.

    Raises:
        ImagenError: It cannot be open; nothing was sent.
    """
    name, key = _name_of(terms), (terms, tuple(accounts), node)
    found = _held.get(name)
    if found is not None:
        if found.terms == key and _is_well(found):
            return found.part
        _retire(name, found, terms)
    if not _held:
        atexit.register(leave_all)
    _held[name] = _started(name, terms, accounts, _node_of(node), key)
    return _held[name].part


def _started(name: str, terms: Terms, accounts: Sequence[Account], node: str, key: tuple[Any, ...]) -> Held:
    """A new coordinator, once it is open; raises ImagenError where it cannot be."""
    import ray

    where = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
    place = {"name": name, "namespace": NAMESPACE, "num_cpus": 0, "scheduling_strategy": where}
    # What was asked of one that died is asked of the next: each call is free to repeat.
    life = {"max_restarts": -1, "max_task_retries": -1, "max_concurrency": MOST_CALLS}
    try:
        actor = ray.remote(ImagenCoordinator).options(**place, **life).remote(terms)
    except ValueError:  # the name is taken
        raise _in_use("cluster", terms) from None
    # Keys go by a call, which no other process of Ray's keeps, as it keeps what an actor is made of.
    call = actor.hold.remote(list(accounts))
    try:
        mark = ray.get(actor.mark.remote())
    except ImagenError as error:
        ray.kill(actor)
        raise _plain(error) from None
    return Held(Part(actor, mark, names_of(accounts)), key, call)


def leave_all() -> None:
    """Have all coordinators of this driver send nothing more, and hear out what is on its way."""
    import ray

    for name, held in [*_held.items()] if ray.is_initialized() else []:
        with suppress(Exception):  # one that is gone
            ray.get(held.part.actor.leave.remote(), timeout=LEAVING)
            ray.get(held.call, timeout=LEAVING)
        _held.pop(name, None)


def _is_well(held: Held) -> bool:
    import ray

    try:
        return not ray.get(held.part.actor.is_stopped.remote(), timeout=LEAVING)
    except Exception:  # its node is gone
        return False


def _retire(name: str, held: Held, terms: Terms) -> None:
    """Have one that is on other terms, or well no more, go for a new one; raises JournalError while it is asked."""
    import ray

    is_idle = True
    with suppress(Exception):  # its node, or its whole cluster, is gone
        is_idle = ray.get(held.part.actor.leave.remote(only_if_idle=True), timeout=LEAVING)
        if is_idle:
            ray.get(held.call, timeout=LEAVING)
    if not is_idle:
        raise _in_use("program, on other terms,", terms)
    with suppress(Exception):
        ray.kill(held.part.actor)
    del _held[name]


def _in_use(whose: str, terms: Terms) -> JournalError:
    message = f"Another job of this {whose} is at work with {terms.journal or 'these accounts'}. Nothing was sent"
    return JournalError(f"{message}. Wait for its end, or give this one a journal of its own.")


def _name_of(terms: Terms) -> str:
    # Without a journal nothing has to be there once only: a service knows each create by its name.
    what = os.path.realpath(terms.journal) if terms.journal is not None else secrets.token_hex(8)
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

    def __init__(self, terms: Terms) -> None:
        import ray

        with warnings.catch_warnings():
            # Ray 2.60 warns of a property of its own that this one asks.
            warnings.simplefilter("ignore")
            is_again: bool = ray.get_runtime_context().was_current_actor_reconstructed
        super().__init__(terms, is_again=is_again, listener=Watching().on_event)
