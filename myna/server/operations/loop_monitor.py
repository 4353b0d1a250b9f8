"""Measures the event loop: its delay, its share of a core, and the time during which it was not blocked."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

_EVERY_S = 0.05
_WINDOW_S = 10.0
_COUNTED_S = 5 * _EVERY_S
"""Most time between two measurements that counts as awake: a loop that is later than that was blocked."""


class LoopMonitor:
    """Measures the loop that `run` runs on. `on_lag` is called with the delay of each measurement, in seconds."""

    def __init__(self, on_lag: Callable[[float], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._on_lag = on_lag
        self._clock = clock
        self._cpu: deque[tuple[float, float]] = deque()  # (time, CPU seconds of the thread until then)
        self._measured_at = self._awake = clock()

    @property
    def busy(self) -> float:
        """The share of a core that the loop's thread has used in the last ten seconds."""
        if len(self._cpu) < 2:
            return 0.0
        (began, before), (now, used) = self._cpu[0], self._cpu[-1]
        return (used - before) / max(1e-9, now - began)

    def awake(self) -> float:
        """Return the time, in seconds, of a clock that stops while the loop is blocked.

        A stopped process, a migrating VM or a long call blocks it. Limits on a peer's silence use this clock: what the peer
        sent meanwhile waits in the socket, and by wall-clock time a limit would run out before it is read. The clock advances
        with each measurement.
        """
        return self._awake

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            due = self._clock() + _EVERY_S
            await asyncio.sleep(_EVERY_S)
            now = self._clock()
            self._awake += min(now - self._measured_at, _COUNTED_S)
            self._measured_at = now
            self._on_lag(max(0.0, now - due))
            self._cpu.append((now, time.thread_time()))
            while self._cpu[0][0] < now - _WINDOW_S:
                self._cpu.popleft()
