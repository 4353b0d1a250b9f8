"""Runs work on threads. A cancelled task waits for its work to end."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import TypeVar

_Made = TypeVar("_Made")


async def on_thread(work: Callable[[], _Made], unclaimed: Callable[[_Made], object] = lambda _: None) -> _Made:
    """Run `work` on one of the event loop's threads and return its result; see `settled` for cancellation."""
    context = contextvars.copy_context()  # so that log lines there name the stream or request
    return await settled(asyncio.get_running_loop().run_in_executor(None, context.run, work), unclaimed)


async def settled(working: asyncio.Future[_Made], unclaimed: Callable[[_Made], object] = lambda _: None) -> _Made:
    """Return the result of work on a thread.

    If the task is cancelled, it first waits for the work to end, so that nothing that the work uses is freed before. Then
    `unclaimed` is called with the result.
    """
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        while not working.done():
            try:
                await asyncio.wait([working])
            except asyncio.CancelledError:
                continue  # cancelled once more while the thread still works
        if not working.cancelled() and working.exception() is None:
            unclaimed(working.result())
        raise
