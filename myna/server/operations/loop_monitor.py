"""How late the event loop is, how much of a core it takes, and a clock of the time during which it ran."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

_EVERY_S = 0.05
_WINDOW_S = 10.0
_COUNTED_S = 5 * _EVERY_S
"""Time from one beat to the next that counts as awake at most: a loop whose beat is later than that stood still."""


class LoopMonitor:
    """Measures the loop that `beat` runs on. `on_lag` is told of every beat, in seconds."""

    def __init__(self, on_lag: Callable[[float], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._on_lag = on_lag
        self._clock = clock
        self._cpu: deque[tuple[float, float]] = deque()  # (time, CPU seconds of the thread until then)
        self._beaten_at = self._awake = clock()

    @property
    def busy(self) -> float:
        """The share of a core that the loop's thread has used in the last seconds."""
        if len(self._cpu) < 2:
            return 0.0
        (began, before), (now, used) = self._cpu[0], self._cpu[-1]
        return (used - before) / max(1e-9, now - began)

    def awake(self) -> float:
        """Return a clock, in seconds, that stands still while the loop does: a stopped process, a VM that moves, a long call.

        Limits on how long a peer may be silent are measured with it: what the peer said meanwhile waits in the socket, and a
        limit that is measured with the wall's clock runs out before that could be read. It moves with each beat.
        """
        return self._awake

    async def beat(self) -> None:
        """Measure, for ever."""
        while True:
            due = self._clock() + _EVERY_S
            await asyncio.sleep(_EVERY_S)
            now = self._clock()
            self._awake += min(now - self._beaten_at, _COUNTED_S)
            self._beaten_at = now
            self._on_lag(max(0.0, now - due))
            self._cpu.append((now, time.thread_time()))
            while self._cpu[0][0] < now - _WINDOW_S:
                self._cpu.popleft()
