"""How long a client may be silent: before its start message, between messages, and between audio."""

from __future__ import annotations

from myna.runtime.deadlines import LAST_LOOK_S, Clock
from myna.runtime.errors import DialectError

_SHORTEST_S = 0.01
"""The shortest wait for a message: a limit that has run out is noticed at the loop monitor's next beat."""
STALL_S = 1.0
"""Seconds without audio, beyond the endpoint's silence, after which a stream counts as silent. A network is seldom
interrupted for longer."""


class SilenceTimer:
    """Measures one client's silence, over all its sockets. Limits are in seconds of `clock`.

    A limit that has run out is checked once more after `LAST_LOOK_S`, so that what has arrived meanwhile is read first.
    """

    def __init__(self, start_timeout_s: float, idle_timeout_s: float, clock: Clock) -> None:
        self._start_timeout_s = start_timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._clock = clock
        self._began = self._message_at = self._audio_at = clock()
        self._endpoint_s: float | None = None  # None until the stream is open
        self._stall_s: float | None = None  # None until there is audio again
        self._recheck_at: float | None = None

    def opened(self, endpoint_s: float) -> None:
        """Note that the stream is open, and which silence ends an utterance from here on."""
        self._endpoint_s = endpoint_s

    def message_received(self) -> None:
        """Note that the client has sent a message, or has a new socket."""
        self._message_at, self._recheck_at = self._clock(), None

    def audio_received(self) -> None:
        """Note that the client has sent audio."""
        self._audio_at = self._clock()
        self._stall_s = (self._endpoint_s or 0.0) + STALL_S

    @property
    def wait_s(self) -> float:
        """How long to wait for the next message before `check` is due."""
        return self._left_s() if self._recheck_at is None else LAST_LOOK_S

    @property
    def has_expired(self) -> bool:
        """Whether a limit has run out."""
        return self._left_s() <= _SHORTEST_S

    def check(self) -> bool:
        """Return whether the audio has stalled, once for each silence. Raises `DialectError` where the stream must end.

        The first call after a limit has run out only starts the recheck.
        """
        now = self._clock()
        if self._recheck_at is None:
            self._recheck_at = now + LAST_LOOK_S
            return False
        if now < self._recheck_at:
            return False
        self._recheck_at = None
        if self._endpoint_s is None:
            if now - self._began >= self._start_timeout_s:
                raise DialectError("no_start", f"no start message came within {self._start_timeout_s:g} s")
            return False
        if now - self._message_at >= self._idle_timeout_s:
            limit = f"neither audio nor a keepalive came for {self._idle_timeout_s:g} s"
            raise DialectError("idle", limit, finals_first=True)
        if self._stall_s is not None and now - self._audio_at >= self._stall_s:
            self._stall_s = None
            return True
        return False

    def _left_s(self) -> float:
        now = self._clock()
        if self._endpoint_s is None:
            return max(_SHORTEST_S, self._began + self._start_timeout_s - now)
        idle_s = self._message_at + self._idle_timeout_s - now
        if self._stall_s is None:
            return max(_SHORTEST_S, idle_s)
        return max(_SHORTEST_S, min(idle_s, self._audio_at + self._stall_s - now))
