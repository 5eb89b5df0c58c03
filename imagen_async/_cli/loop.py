"""The event loop of a command, and the signals that ask it to leave in good order, and once more, at once."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_HANGUP: signal.Signals | None = getattr(signal, "SIGHUP", None)
"""The terminal was closed, or the ssh broke; Windows has none."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, *([] if _HANGUP is None else [_HANGUP]))


def run_in_loop(work: Coroutine[Any, Any, T], stop: Callable[[], bool] | None = None) -> T:
    """Run in an event loop, uvloop's where it is installed, until it ends or a signal ends it."""
    # A batch keeps many small objects alive; looking through them time and again costs up to a third of a request.
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    return _run_until_signalled(work, _loop_factory(), stop)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        # It saves 30 % over http, measured, and nothing over https: used where it is there, and not asked for.
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _run_until_signalled(
    work: Coroutine[Any, Any, T],
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None,
    stop: Callable[[], bool] | None = None,
) -> T:
    """Run until the work ends, or a signal ends it.

    Args:
        work: What to do.
        loop_factory: Makes the event loop; None: asyncio's own.
        stop: Asked first; True when the work ends by itself then. Else it is cancelled.

    Raises:
        KeyboardInterrupt: A signal ended it.
    """
    is_signalled = False

    async def watched() -> T:
        task = asyncio.current_task()
        assert task is not None

        def hear() -> None:
            nonlocal is_signalled
            is_signalled = True
            _ignore_hangups()
            if stop is None or not stop():
                task.cancel()

        with _heard(hear):
            return await work

    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            return runner.run(watched())
    except asyncio.CancelledError:
        if is_signalled:
            raise KeyboardInterrupt from None
        raise


def _ignore_hangups() -> None:
    """Take them for what was heard already: one closed terminal sends several, and a service manager one on top."""
    if _HANGUP is not None:
        asyncio.get_running_loop().remove_signal_handler(_HANGUP)
        signal.signal(_HANGUP, signal.SIG_IGN)


@contextlib.contextmanager
def _heard(hear: Callable[[], None]) -> Any:
    """Call `hear` for each signal while the block runs; one that was ignored from the start, as by nohup, stays so."""
    loop = asyncio.get_running_loop()
    wanted = [each for each in _SIGNALS if signal.getsignal(each) != signal.SIG_IGN]
    for each in wanted:
        with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C cancels the work by itself there
            loop.add_signal_handler(each, hear)
    try:
        yield
    finally:
        for each in wanted:
            with contextlib.suppress(NotImplementedError):
                loop.remove_signal_handler(each)
            if each is _HANGUP:
                signal.signal(each, signal.SIG_DFL)
