"""How late the event loop is, and how much of a core it takes: the front's own limits."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

_EVERY_S = 0.05
_WINDOW_S = 10.0


class Pulse:
    """Measures the loop it is started on. `on_lag` is told of every beat."""

    def __init__(self, on_lag: Callable[[float], None]) -> None:
        self._on_lag = on_lag
        self._cpu: deque[tuple[float, float]] = deque()  # (time, CPU seconds of the thread until then)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to beat."""
        self._task = asyncio.create_task(self._beat(), name="pulse")

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    @property
    def busy(self) -> float:
        """The share of a core that the loop's thread has used in the last seconds."""
        if len(self._cpu) < 2:
            return 0.0
        (began, before), (now, used) = self._cpu[0], self._cpu[-1]
        return (used - before) / max(1e-9, now - began)

    async def _beat(self) -> None:
        while True:
            due = time.monotonic() + _EVERY_S
            await asyncio.sleep(_EVERY_S)
            now = time.monotonic()
            self._on_lag(max(0.0, now - due))
            self._cpu.append((now, time.thread_time()))
            while self._cpu[0][0] < now - _WINDOW_S:
                self._cpu.popleft()
