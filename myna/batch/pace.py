"""Senders and readers that must not take for ever: those whose bytes drip are given up."""

from __future__ import annotations

from collections.abc import Callable

WINDOW_S = 30.0
"""The rate is looked at over so long."""
LEAST_RATE = 500
"""Bytes a second: speech at the lowest rates there are (AMR, 4.75 kbit/s) is faster, and so is a telephone's modem."""
TOO_SLOW = f"less than {LEAST_RATE} bytes a second over {WINDOW_S:g} s"


class Pace:
    """Watches one transfer, on `clock` (seconds)."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since: float | None = None
        self._count = 0

    def is_slow(self, count: int | None) -> bool:
        """Return whether too few bytes have passed; `count` is how many have until now, None: none are to pass now."""
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
