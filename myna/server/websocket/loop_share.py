"""A client's share of the event loop: its work is done in short steps, and one that takes too much waits, then is ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import coroutine
from typing import Any, TypeVar

_Result = TypeVar("_Result")

STEP_S = 0.005
"""After so much work for one client in a row, everybody else has a turn."""
SHARE = 0.25
"""Of the loop's time that one client may take while there are others. A live stream takes less than a hundredth."""
AHEAD_S = 0.5
"""Loop time that a client may take at once before its share is looked at."""
LONGEST_WAIT_S = 1.0
"""A client waits for its turn so long at most: then it is read from again, and its pings are answered."""
PATIENCE_S = 30.0
"""A client that has waited again and again for so long may be ended."""
COSTLY = 0.1
"""Seconds of the loop for a second of audio. One that sends audio in bulk costs a tenth of that, and is slowed, not ended."""


class Share:
    """One client's. Counts the processor time of the coroutine that `of` runs, which calls `turn` between its messages."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        spent: Callable[[], float] = time.thread_time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._clock = clock
        self._spent = spent
        self._sleep = sleep
        self._at = clock()
        self._began = spent()
        self._owed = 0.0  # loop time taken, less the share of the time since
        self._slow_since: float | None = None
        self._slow_cost = 0.0
        self._slow_heard_s = 0.0

    @property
    def is_due(self) -> bool:
        """Whether the client has worked long enough for others to have a turn, or has to wait for its own."""
        return self._spent() - self._began >= STEP_S or self._owed > AHEAD_S

    async def of(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Do the work, counting the time that its steps take; what others do while it waits does not count."""
        return await self._steps(work)

    async def turn(self, heard_s: float, *, alone: bool) -> bool:
        """Let others have their turn where they should; return whether the client should be ended for what it takes.

        `heard_s`: seconds of audio received so far; `alone`: there is nobody else.
        """
        now = self._clock()
        self._owed = max(0.0, self._owed - SHARE * (now - self._at))
        self._at = now
        over = self._owed - AHEAD_S
        if alone or over <= 0:
            self._slow_since = None
            if self.is_due:
                await self._sleep(0)
            return False
        if self._slow_since is None:
            self._slow_since, self._slow_cost, self._slow_heard_s = now, 0.0, heard_s
        elif now - self._slow_since >= PATIENCE_S and self._slow_cost > COSTLY * (heard_s - self._slow_heard_s):
            return True
        await self._sleep(min(LONGEST_WAIT_S, over / SHARE))
        return False

    @coroutine
    def _steps(self, work: Coroutine[Any, Any, _Result]) -> Generator[Any, Any, _Result]:
        steps = work.__await__()
        go_on: Callable[[Any], Any] = steps.send
        argument: Any = None
        while True:
            self._began = self._spent()
            try:
                awaited = go_on(argument)
            except StopIteration as ended:
                result: _Result = ended.value
                return result
            finally:
                cost = self._spent() - self._began
                self._owed += cost
                self._slow_cost += cost
            try:
                argument = yield awaited
                go_on = steps.send
            except BaseException as error:  # to be raised where the work waits
                argument, go_on = error, steps.throw
