"""Work on threads that a cancelled task does not leave behind."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import TypeVar

_Made = TypeVar("_Made")


async def on_thread(work: Callable[[], _Made], unclaimed: Callable[[_Made], object] = lambda _: None) -> _Made:
    """Return what `work` returns, done on one of the event loop's threads; see `settled`."""
    context = contextvars.copy_context()  # so that what is logged there names the stream or request
    return await settled(asyncio.get_running_loop().run_in_executor(None, context.run, work), unclaimed)


async def settled(working: asyncio.Future[_Made], unclaimed: Callable[[_Made], object] = lambda _: None) -> _Made:
    """Return the result of work on a thread.

    A task that is cancelled meanwhile waits for the work to end, so that nothing it uses is freed before. Nobody takes its
    result then: `unclaimed` is called with it.
    """
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        while not working.done():
            try:
                await asyncio.wait([working])
            except asyncio.CancelledError:
                continue  # cancelled once more: the thread is still at it
        if not working.cancelled() and working.exception() is None:
            unclaimed(working.result())
        raise
