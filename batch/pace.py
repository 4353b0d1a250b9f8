"""Senders that must not take for ever: those whose bytes drip are given up."""

from __future__ import annotations

import asyncio

WINDOW_S = 30.0
"""The rate is looked at over so long."""
LEAST_RATE = 512
"""Bytes a second: speech at the lowest rates there are (AMR, 4.75 kbit/s) is faster."""


class TooSlowError(Exception):
    """A sender has been slower than `LEAST_RATE` for `WINDOW_S`."""


class Pace:
    """Watches one sender, from when it is made."""

    def __init__(self) -> None:
        self._clock = asyncio.get_running_loop().time
        self._began = self._clock()
        self._bytes = 0

    def note(self, size: int) -> None:
        """Take note that so many bytes came. Raises `TooSlowError`."""
        self._bytes += size
        passed_s = self._clock() - self._began
        if passed_s < WINDOW_S:
            return
        if self._bytes < LEAST_RATE * passed_s:
            raise TooSlowError(f"it sends less than {LEAST_RATE} bytes a second")
        self._began, self._bytes = self._clock(), 0
