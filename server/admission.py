"""Who is let in when it gets full: streams while finals keep their target, and each key's own share."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import structlog

from myna.server.auth import Identity
from myna.server.config import Settings
from myna.server.dialects.base import Refusal
from myna.server.engine import EnginePool
from myna.server.metrics import Metrics
from myna.server.pulse import Pulse

log = structlog.get_logger()

RETRY_S = 5
"""When to come again: a place is free when a stream ends, which nobody knows; that soon is no burden."""
_BUSIEST = 0.9
"""Of a core, which is all the event loop can take: beyond it everything is late."""
_BUSY_FROM = 0.5
"""Below it, a stream's share of the front is too uncertain to be counted on."""


class Admission:
    """One server's."""

    def __init__(self, settings: Settings, metrics: Metrics, pulse: Pulse) -> None:
        self._settings = settings
        self._metrics = metrics
        self._pulse = pulse
        self._streams: Counter[str] = Counter()
        self._requests: Counter[str] = Counter()
        self.draining = False
        """Whether the server is stopping, and takes no more streams and files."""

    @contextlib.contextmanager
    def stream(self, identity: Identity, pool: EnginePool) -> Iterator[None]:
        """Let a live stream in while the context lasts. Raises `Refusal`."""
        self._check_open()
        limit = identity.streams or self._settings.key_streams
        self._check_share(limit, self._streams[identity.name], "streams")
        self._check_room(pool)
        self._streams[identity.name] += 1
        pool.headroom.join(1.0)
        try:
            yield
        finally:
            pool.headroom.join(-1.0)
            self._streams[identity.name] -= 1

    @contextlib.asynccontextmanager
    async def request(self, identity: Identity, waiting: Callable[[str], Awaitable[int]]) -> AsyncIterator[None]:
        """Let a file in; `waiting` tells how many of a key's have been accepted and are not done. Raises `Refusal`."""
        self._check_open()
        if limit := identity.requests or self._settings.key_requests:
            accepted = await waiting(identity.id)
            self._check_share(limit, self._requests[identity.name] + accepted, "requests")
        self._requests[identity.name] += 1
        try:
            yield
        finally:
            self._requests[identity.name] -= 1

    def room(self, pool: EnginePool) -> int:
        """Return how many more streams the model takes, as far as that can be foreseen; at most 1,000."""
        target_s = self._settings.final_target_ms / 1000
        return pool.headroom.room(time.monotonic(), target_s) if target_s else 1000

    def _check_open(self) -> None:
        if self.draining:
            raise self._refusal(503, "shutting_down", "draining", "The server is stopping.")

    def _check_share(self, limit: int, taken: int, what: str) -> None:
        if limit and taken >= limit:
            message = f"This key may have {limit} {what} at a time, and it has {taken}."
            raise self._refusal(429, f"too_many_{what}", f"key_{what}", message)

    def _check_room(self, pool: EnginePool) -> None:
        limit, target_s = self._settings.max_streams, self._settings.final_target_ms / 1000
        streams = pool.headroom.streams
        if limit and streams >= limit:
            raise self._busy("max_streams", f"The server takes {limit} streams, and it has as many.")
        if not target_s or streams < 1:  # a machine too slow for its own target serves one client all the same
            return
        predicted_s = pool.headroom.predicted_p95(time.monotonic(), 1.0)
        if predicted_s > target_s:
            message = "The server is too busy: with another stream its finals would come late."
            raise self._busy("headroom", message, predicted_ms=1000 * predicted_s)
        busy = self._pulse.busy * (streams + 1) / streams
        if self._pulse.busy > _BUSY_FROM and busy > _BUSIEST:
            raise self._busy("front", "The server is too busy: it could not keep up with another connection.")

    def _busy(self, reason: str, message: str, **details: float) -> Refusal:
        log.warning("a stream was refused", reason=reason, **details)
        return self._refusal(503, "too_busy", reason, message)

    def _refusal(self, status: int, code: str, reason: str, message: str) -> Refusal:
        self._metrics.refused(reason)
        return Refusal(status, code, message, retry_after_s=RETRY_S)
