"""Time limits for peers that do not expire while this process is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType

from aiohttp import web

Clock = Callable[[], float]
"""Returns the seconds for which the event loop has been running; see the loop monitor."""
CLOCK: web.AppKey[Clock] = web.AppKey("clock")
"""Key of the clock in a server's application."""
LAST_LOOK_S = 0.05
"""Grace period after a limit has expired, in which data that has arrived meanwhile is read."""


class timeout:  # noqa: N801 - used as asyncio.timeout is
    """An async context manager like `asyncio.timeout`, with a limit in seconds of `clock`. Raises `TimeoutError`."""

    def __init__(self, limit_s: float, clock: Clock) -> None:
        self._clock = clock
        self._until = clock() + limit_s
        self._timeout = asyncio.timeout(None)
        self._loop = asyncio.get_running_loop()
        self._looked = False
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        self._timer = self._loop.call_later(max(LAST_LOOK_S, self._until - self._clock()), self._look)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._timer is not None
        self._timer.cancel()
        await self._timeout.__aexit__(kind, error, trace)

    def _look(self) -> None:
        left_s = self._until - self._clock()
        if left_s <= 0 and self._looked:
            self._timeout.reschedule(self._loop.time())
            return
        self._looked = left_s <= 0
        self._timer = self._loop.call_later(max(LAST_LOOK_S, left_s), self._look)
