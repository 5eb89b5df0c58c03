"""What a batch takes in: any iterable of requests, looked at for what cannot be one, pulled one at a time."""

from __future__ import annotations

from collections.abc import (
    AsyncIterable,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
    Sized,
)
from types import AsyncGeneratorType, GeneratorType
from typing import Protocol

from .._core.plain_values import key_of
from .._core.values import ImageRequest
from .._text import told
from ..errors import InvalidRequest

Requests = Iterable[str | ImageRequest] | AsyncIterable[str | ImageRequest]

END = object()
"""What a puller gives when there is no more."""


class Counted(Protocol):
    """Requests of which it is known how many there are, and that can be looped over anew."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[ImageRequest]: ...


class LookedUp:
    """Requests that were all looked up in the batch's journal before, by whoever has that open.

    Args:
        requests: Whatever has a length, and gives the same each time.
        settled: By place, 1 for each request whose result stands: it comes out no more, and is counted.
        keys: By place, the keys of the other ones, where they are not those that they have or their content makes.
    """

    def __init__(self, requests: Counted, settled: Sequence[int], keys: Mapping[int, str]) -> None:
        self._requests = requests
        self._settled = settled
        self._keys = keys

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[ImageRequest]:
        return iter(self._requests)

    def is_settled(self, place: int) -> bool:
        """True for a request of which nothing more is to be known."""
        return bool(self._settled[place])

    def key(self, place: int, own: str) -> str:
        """The key by which the journal knows a request, or is to know it; its own mostly."""
        return self._keys.get(place, own)


def puller(requests: Requests) -> tuple[Callable[[], Awaitable[object]], Callable[[], Awaitable[None]]]:
    """Make one way to ask for the next item, `END` for none, of both kinds of iterable; and one to end the asking.

    That closes a generator: nobody else goes on with it. Whatever else there is to close, such as a file that gives its
    lines, is its owner's.
    """
    if isinstance(requests, AsyncIterable):
        source = aiter(requests)

        async def pull_async() -> object:
            return await anext(source, END)

        async def close_async() -> None:
            if isinstance(source, AsyncGeneratorType):
                await source.aclose()

        return pull_async, close_async
    iterator = iter(requests)

    async def pull() -> object:
        return next(iterator, END)

    async def close() -> None:
        if isinstance(iterator, GeneratorType):
            iterator.close()

    return pull, close


def length_of(requests: Requests) -> int | None:
    """How many requests there are; None where nobody knows."""
    try:
        return len(requests) if isinstance(requests, Sized) else None
    except Exception:  # of what has one for some of what it wraps, such as a progress bar around a generator
        return None


def check_keys(requests: Requests) -> None:
    """Refuse a list in which two requests have the same key. (A lazy input is not remembered: see `key`.)"""
    if not isinstance(requests, Sequence):
        return
    seen: dict[str, int] = {}
    for index, item in enumerate(requests):
        key = key_of(item)
        if key is not None and seen.setdefault(key, index) != index:
            message = f"Requests {seen[key]} and {index} have the same key {told(key)}; keys must differ."
            raise InvalidRequest(message)


def check_input(requests: object) -> None:
    """Refuse what looks like an input and is none: a string would be sent letter by letter, a table name by name."""
    if isinstance(requests, str | bytes | bytearray | memoryview | ImageRequest):
        raise InvalidRequest(
            "A batch takes an iterable of prompts; for one prompt use generate(…), or put it in a list."
        )
    kind = type(requests).__name__
    if not isinstance(requests, Iterable | AsyncIterable):
        raise InvalidRequest(f"A batch takes an iterable of prompts, not {kind}.")
    if _is_by_name(requests):
        raise InvalidRequest(
            f"A batch takes an iterable of prompts and ImageRequests; from this {kind} come the names of what is in "
            "it. Give a list of what is to be made, such as its values, or one column of it."
        )


def _is_by_name(requests: object) -> bool:
    """True for a mapping, and for a table of a library that we need not know: to iterate gives keys, or columns."""
    kind = type(requests)
    if isinstance(requests, Mapping) or hasattr(kind, "columns"):
        return True
    # A Series of pandas has keys too, and gives its values.
    return hasattr(kind, "keys") and not hasattr(kind, "array")
