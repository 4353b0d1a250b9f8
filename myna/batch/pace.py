"""Detects transfers that are too slow, so that slow senders and readers can be disconnected."""

from __future__ import annotations

from collections.abc import Callable

WINDOW_S = 30.0
"""Interval over which the rate is measured."""
LEAST_RATE = 500
"""Lowest accepted rate, in bytes per second: speech at the lowest bit rate (AMR, 4.75 kbit/s) and modems are faster."""
TOO_SLOW = f"less than {LEAST_RATE} bytes a second over {WINDOW_S:g} s"


class Pace:
    """Measures one transfer's rate. `clock` returns seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since: float | None = None
        self._count = 0

    def is_slow(self, count: int | None) -> bool:
        """Return whether the transfer is too slow. `count` is the number of bytes so far; None: no bytes are expected now."""
        if count is None:
            self._since = None
            return False
        now = self._clock()
        if self._since is None:
            self._since, self._count = now, count
        if (passed_s := now - self._since) < WINDOW_S:
            return False
        slow = count - self._count < LEAST_RATE * passed_s
        self._since, self._count = now, count
        return slow
