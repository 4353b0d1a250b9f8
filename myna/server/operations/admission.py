"""Who is let in when it gets full: streams while finals keep their target, and each key's own share.

What is counted is live channels: a stream has one, or as many as it has transcribed separately.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator

import structlog

from myna.server.keys import ANYBODY, Identity
from myna.server.settings import Settings
from myna.runtime.errors import DialectError
from myna.runtime.errors import Refusal
from myna.inference.workers.pool import EnginePool
from myna.server.operations.metrics import Metrics
from myna.server.operations.loop_monitor import LoopMonitor
from myna.inference.scheduling.claims import Claim

log = structlog.get_logger()

RETRY_S = 5
"""When to come again: a place is free when a stream ends, which nobody knows; that soon is no burden."""
_BUSIEST = 0.9
"""Of a core, which is all the event loop can take: beyond it everything is late."""
_BUSY_FROM = 0.5
"""Below it, a channel's share of the front is too uncertain to be counted on."""
_CHANNEL_BUSY = 0.02
"""Of a core: no channel takes more of the event loop, which is seven times what docs/performance.md measured. What else keeps
the loop busy, such as files, is not the streams'."""
KEPT_S = 10.0
"""A stream whose client has lost its connection keeps its place so long; then somebody else may have it."""
_MOST_ROOM = 1000
_GAUGED_S = 10.0
"""A figure that is looked at rests on a measurement no older than this."""


class Place:
    """A live stream's place, from its admission to its end. `given_up` is done when somebody else has got it."""

    def __init__(self, admission: Admission, key: Identity, pool: EnginePool, claim: Claim) -> None:
        self.key = key
        self.pool = pool
        self.claim = claim
        self.given_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._admission = admission
        self._away_since = math.inf

    @property
    def channels(self) -> int:
        """Channels the stream has."""
        return self.claim.channels

    @property
    def away_s(self) -> float:
        """For how long its client has been away; below 0 if it is there."""
        return time.monotonic() - self._away_since

    def resize(self, channels: int) -> None:
        """Note how many channels the stream really has. Raises `DialectError` if there is no room for those it has more."""
        if channels > self.channels:
            self._admission.widen(self, channels - self.channels)
        self.claim.resize(channels, time.monotonic())

    def heard(self, audio_s: float) -> None:
        """Note that so much audio has come, all channels together."""
        self.pool.capacity.heard(time.monotonic(), self.claim, audio_s)

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Hold no more than a quiet stream does, while the client is away and may come back."""
        self._away_since, self.claim.away = time.monotonic(), True
        try:
            yield
        finally:
            self._away_since = math.inf
            self.claim.back(time.monotonic())


class Admission:
    """One server's."""

    def __init__(self, settings: Settings, metrics: Metrics, loop_monitor: LoopMonitor) -> None:
        self._settings = settings
        self._metrics = metrics
        self._loop_monitor = loop_monitor
        self._places: list[Place] = []
        self._requests: Counter[str] = Counter()
        self.draining = False
        """Whether the server is stopping, and takes no more streams and files."""

    @contextlib.asynccontextmanager
    async def stream(
        self, name: str, key: Identity, peer: str, pool: EnginePool, channels: int
    ) -> AsyncIterator[Place]:
        """Let a live stream in while the context lasts; `peer` is the address it comes from. Raises `Refusal`."""
        self._check_open()
        owner = peer if key is ANYBODY else f"key {key.name}"
        if not self._keeps_target(pool, owner, channels):
            await pool.measure()  # it may have been learned while other programs had the cores
            self._check_open()
        for place in self._check(key, owner, pool, channels):
            self._give_up(place)
        place = Place(self, key, pool, pool.capacity.claims.join(name, owner, channels, time.monotonic()))
        self._places.append(place)
        try:
            yield place
        finally:
            if place in self._places:
                self._leave(place)

    def widen(self, place: Place, more: int) -> None:
        """Let a stream that is there have so many channels more. Raises `DialectError`."""
        try:
            yielding = self._check(place.key, place.claim.owner, place.pool, more, place)
        except Refusal as refusal:
            raise DialectError(refusal.code, refusal.message) from refusal
        for other in yielding:
            self._give_up(other)

    @contextlib.asynccontextmanager
    async def request(self, identity: Identity, waiting: Callable[[str], int]) -> AsyncIterator[None]:
        """Let a file in; `waiting` tells how many of a key's have been accepted and are not done. Raises `Refusal`."""
        self._check_open()
        if limit := identity.requests or self._settings.key_requests:
            accepted = waiting(identity.id)
            taken = self._requests[identity.name] + accepted
            if taken >= limit:
                message = f"This key may have {limit} requests at a time, and it has {taken}."
                raise self._refusal(429, "too_many_requests", "key_requests", message)
        self._requests[identity.name] += 1
        try:
            yield
        finally:
            self._requests[identity.name] -= 1

    def room(self, pool: EnginePool) -> int:
        """Return how many more channels the model takes, as far as that can be foreseen; at most 1,000."""
        limit, target_s = self._settings.max_streams, self._settings.final_target_ms / 1000
        now, room = time.monotonic(), _MOST_ROOM
        if self.draining or not pool.alive:
            return 0
        if target_s:
            pool.start_measurement(_GAUGED_S)
            alone = pool.capacity.claims.weight(now) < 1
            room = max(pool.capacity.room(now, target_s), int(alone))
            if self._front_is_full(1):
                room = 0
        if limit:
            taken = sum(place.channels for place in self._places if place.pool is pool and place.away_s < KEPT_S)
            room = min(room, max(0, limit - taken))
        return room

    def _check(
        self, key: Identity, owner: str, pool: EnginePool, channels: int, widened: Place | None = None
    ) -> list[Place]:
        """Return the places that have to be given up for so many channels more. Raises `Refusal`."""
        yielding: list[Place] = []
        if limit := key.streams or self._settings.key_streams:
            theirs = [place for place in self._places if place.key.name == key.name]
            missing = _give(theirs, limit - channels, yielding)
            if missing > 0:
                taken = sum(place.channels for place in theirs)
                message = (
                    f"This key may have {limit} live channels at a time; it has {taken}, and asks for {channels} more."
                )
                raise self._refusal(429, "too_many_streams", "key_streams", message)
        if limit := self._settings.max_streams:
            there = [place for place in self._places if place.pool is pool and place not in yielding]
            missing = _give(there, limit - channels, yielding)
            if missing > 0:
                taken = sum(place.channels for place in there)
                message = f"The server takes {limit} live channels; it has {taken}, and {channels} more are asked for."
                raise self._busy("max_streams", message)
        if not self._keeps_target(pool, owner, channels, widened):
            predicted_s = pool.capacity.predicted_p95(time.monotonic(), channels, owner)
            message = "The server is too busy: with another stream its finals would come late."
            raise self._busy("headroom", message, predicted_ms=1000 * predicted_s)
        if self._settings.final_target_ms and self._front_is_full(channels):
            raise self._busy("front", "The server is too busy: it could not keep up with another connection.")
        return yielding

    def _keeps_target(self, pool: EnginePool, owner: str, channels: int, widened: Place | None = None) -> bool:
        """Return whether finals keep their target with so many channels more, or the stream is the only one that counts."""
        target_s = self._settings.final_target_ms / 1000
        now, claim = time.monotonic(), None if widened is None else widened.claim
        if not target_s or (pool.alive and pool.capacity.claims.weight(now, owner, claim) < 1):
            return True  # a machine too slow for its own target serves one client all the same
        return pool.capacity.predicted_p95(now, channels, owner) <= target_s

    def _front_is_full(self, channels: int) -> bool:
        """Return whether the event loop could not keep up with so many channels more."""
        now, busy = time.monotonic(), self._loop_monitor.busy
        there = sum(place.claim.speaking(now) for place in self._places)
        if not there or busy <= _BUSY_FROM:
            return False
        return busy + channels * min(_CHANNEL_BUSY, busy / there) > _BUSIEST

    def _give_up(self, place: Place) -> None:
        log.info("a stream whose client is away loses its place to another", stream=place.claim.name)
        self._leave(place)
        place.given_up.set_result(None)

    def _leave(self, place: Place) -> None:
        self._places.remove(place)
        place.pool.capacity.claims.leave(place.claim)

    def _check_open(self) -> None:
        if self.draining:
            raise self._refusal(503, "shutting_down", "draining", "The server is stopping.")

    def _busy(self, reason: str, message: str, **details: float) -> Refusal:
        log.warning("a stream was refused", reason=reason, **details)
        return self._refusal(503, "too_busy", reason, message)

    def _refusal(self, status: int, code: str, reason: str, message: str) -> Refusal:
        self._metrics.refused(reason)
        return Refusal(status, code, message, retry_after_s=RETRY_S)


def _give(places: list[Place], limit: int, yielding: list[Place]) -> int:
    """Have places of clients that are away yield, those away longest first, until the others keep the limit.

    Return how many channels too many there are all the same; then none yields.
    """
    over = sum(place.channels for place in places) - limit
    chosen: list[Place] = []
    for place in sorted(places, key=lambda place: -place.away_s):
        if over <= 0 or place.away_s < KEPT_S:
            break
        chosen.append(place)
        over -= place.channels
    if over <= 0:
        yielding += chosen
    return over
