"""A client's share of the event loop. Its work is done in short steps; a client over its share waits, then is ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import coroutine
from typing import Any, TypeVar

_Result = TypeVar("_Result")

STEP_S = 0.005
"""Processor time for one client after which the others run."""
SHARE = 0.25
"""Share of the loop's time for one client while there are others. A live stream takes less than a hundredth."""
BURST_S = 0.5
"""Processor time that a client may take beyond its share before it has to wait."""
LONGEST_WAIT_S = 1.0
"""The longest wait of a client over its share: after it, the server reads from the client and answers its pings."""
OVERUSE_S = 30.0
"""Seconds over its share after which a client may be ended."""
COSTLY = 0.1
"""Processor time for a second of audio above which a client over its share is ended. A client that sends audio in bulk costs
a tenth of that, and only waits."""


class LoopShare:
    """One client's share.

    `run` counts the processor time of a coroutine, which calls `yield_to_others` between its messages.
    """

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
        self._owed = 0.0  # processor time taken, less the share of the time since
        self._over_since: float | None = None
        self._over_cost = 0.0
        self._over_heard_s = 0.0

    @property
    def is_due(self) -> bool:
        """Whether the client has worked for a step, or is over its share: `yield_to_others` should be called."""
        return self._spent() - self._began >= STEP_S or self.is_over

    @property
    def is_over(self) -> bool:
        """Whether the client may be over its share: `yield_to_others` knows, and must be called."""
        return self._owed > BURST_S

    async def run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Run the coroutine and count the processor time of its steps; what others do while it waits does not count."""
        return await self._steps(work)

    async def yield_to_others(self, heard_s: float, *, alone: bool) -> bool:
        """Let others run, and wait if the client is over its share; return whether it should be ended.

        `heard_s` is the audio received so far, in seconds; `alone` says that there is no other client.
        """
        now = self._clock()
        self._owed = max(0.0, self._owed - SHARE * (now - self._at))
        self._at = now
        over = self._owed - BURST_S
        if alone or over <= 0:
            self._over_since = None
            if self.is_due:
                await self._sleep(0)
            return False
        if self._over_since is None:
            self._over_since, self._over_cost, self._over_heard_s = now, 0.0, heard_s
        elif now - self._over_since >= OVERUSE_S and self._over_cost > COSTLY * (heard_s - self._over_heard_s):
            return True
        await self._sleep(min(LONGEST_WAIT_S, over / SHARE))
        return False

    @coroutine
    def _steps(self, work: Coroutine[Any, Any, _Result]) -> Generator[Any, Any, _Result]:
        steps = work.__await__()
        resume: Callable[[Any], Any] = steps.send
        argument: Any = None
        while True:
            self._began = self._spent()
            try:
                awaited = resume(argument)
            except StopIteration as ended:
                result: _Result = ended.value
                return result
            finally:
                cost = self._spent() - self._began
                self._owed += cost
                self._over_cost += cost
            try:
                argument = yield awaited
                resume = steps.send
            except BaseException as error:  # is raised in the coroutine, where it waits
                argument, resume = error, steps.throw
