"""Admission control: a stream is admitted while finals meet their target, and within the limits of its API key.

Limits count live channels. A stream has one, or as many as are transcribed separately.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import time
from collections.abc import AsyncIterator, Iterator, Sequence

import structlog

from myna.inference.port import ModelPool
from myna.inference.scheduling.capacity import ALONE, Beside
from myna.inference.scheduling.claims import Claim
from myna.inference.workers.pool import EnginePool
from myna.runtime.errors import DialectError, Refusal
from myna.server.keys import ANYBODY, Identity
from myna.server.operations.front_admission import FrontAdmission
from myna.server.operations.loop_monitor import LoopMonitor
from myna.server.operations.metrics import Metrics
from myna.server.settings import Settings

log = structlog.get_logger()

KEPT_S = 10.0
"""Seconds for which a stream keeps its place after its client lost the connection; then another stream may take it."""
_MOST_ROOM = 1000
_GAUGED_S = 10.0
"""Oldest measurement, in seconds, that the `myna_headroom_streams` gauge uses."""


class Place:
    """A live stream's place, from its admission to its end. `given_up` is done when another stream has taken it."""

    def __init__(
        self, admission: Admission, key: Identity, pool: EnginePool, claim: Claim, speakers: EnginePool | None = None
    ) -> None:
        self.key = key
        self.pool = pool
        self.pools = (pool,) if speakers is None else (pool, speakers)
        """The engines that the stream uses: for its words and, if it asks for them, its speakers."""
        self.claim = claim
        self.given_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._admission = admission
        self._away_since = math.inf

    @property
    def channels(self) -> int:
        """How many channels the stream has."""
        return self.claim.channels

    @property
    def away_s(self) -> float:
        """Seconds since the client lost its connection; negative while it is connected."""
        return time.monotonic() - self._away_since

    async def resize(self, channels: int) -> None:
        """Note how many channels the stream really has. Raises `DialectError` if there is no room for the additional ones."""
        if channels > self.channels:
            self._admission.widen(self, channels - self.channels)
        self.claim.resize(channels, time.monotonic())

    def heard(self, audio_s: float) -> None:
        """Note the seconds of audio received, all channels together."""
        for pool in self.pools:
            pool.capacity.heard(time.monotonic(), self.claim, audio_s)

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Count the stream as a quiet one while the context lasts: its client is away and may come back."""
        self._away_since, self.claim.away = time.monotonic(), True
        try:
            yield
        finally:
            self._away_since = math.inf
            self.claim.back(time.monotonic())


class Admission(FrontAdmission):
    """Admits the streams and files of a server whose models run in workers of this process."""

    def __init__(self, settings: Settings, metrics: Metrics, loop_monitor: LoopMonitor) -> None:
        super().__init__(settings, metrics, loop_monitor)
        self._places: list[Place] = []

    @property
    def away(self) -> int:
        """How many streams wait for their client to come back."""
        return sum(place.away_s >= 0 for place in self._places)

    @contextlib.asynccontextmanager
    async def stream(
        self, name: str, key: Identity, peer: str, pool: ModelPool, channels: int, speakers: ModelPool | None = None
    ) -> AsyncIterator[Place]:
        """Admit a live stream while the context lasts; `peer` is the client's address. Raises `Refusal`.

        `pool` decodes its words; `speakers` tells its speakers apart, if it asks for them.
        """
        self._check_open()
        assert isinstance(pool, EnginePool)
        assert speakers is None or isinstance(speakers, EnginePool)
        owner = _owner(key, peer)
        pools = (pool,) if speakers is None else (pool, speakers)
        if not self._keeps_target(pools, owner, channels):
            for each in pools:
                await each.measure()  # the estimate may date from a time when other programs used the cores
            self._check_open()
        for place in self._check(key, owner, pools, channels):
            self._give_up(place)
        with self.present(name, key, peer, pool, channels, speakers) as place:
            yield place

    @contextlib.contextmanager
    def present(
        self, name: str, key: Identity, peer: str, pool: EnginePool, channels: int, speakers: EnginePool | None
    ) -> Iterator[Place]:
        """Count a live stream while the context lasts, without a check: it has been admitted."""
        claim = pool.capacity.claims.join(name, _owner(key, peer), channels, time.monotonic())
        place = Place(self, key, pool, claim, speakers)
        if speakers is not None:
            speakers.capacity.claims.share(claim)
        self._places.append(place)
        try:
            yield place
        finally:
            if place in self._places:
                self._leave(place)

    def widen(self, place: Place, more: int) -> None:
        """Admit additional channels of an admitted stream. Raises `DialectError`."""
        try:
            yielding = self._check(place.key, place.claim.owner, place.pools, more, place)
        except Refusal as refusal:
            raise DialectError(refusal.code, refusal.message) from refusal
        for other in yielding:
            self._give_up(other)

    def room(self, pool: EnginePool) -> int:
        """Return how many more channels the model is expected to serve; at most 1,000."""
        limit, target_s = self._settings.max_streams, self._settings.final_target_ms / 1000
        now, room = time.monotonic(), _MOST_ROOM
        if self.draining or not pool.alive:
            return 0
        if target_s:
            pool.start_measurement(_GAUGED_S)
            alone = pool.capacity.claims.weight(now) < 1
            room = max(pool.capacity.room(now, target_s, self._beside(now, (pool,), pool, 0)), int(alone))
            if self._front_is_full(self._claims, 1):
                room = 0
        if limit:
            taken = sum(place.channels for place in self._places if place.pool is pool and place.away_s < KEPT_S)
            room = min(room, max(0, limit - taken))
        return room

    def _check(
        self, key: Identity, owner: str, pools: Sequence[EnginePool], channels: int, widened: Place | None = None
    ) -> list[Place]:
        """Return the places that must be given up for the additional channels. Raises `Refusal`."""
        pool = pools[0]
        yielding: list[Place] = []
        if limit := key.streams or self._settings.key_streams:
            theirs = [place for place in self._places if place.key.name == key.name]
            missing = _give(theirs, limit - channels, yielding)
            if missing > 0:
                taken = sum(place.channels for place in theirs)
                message = f"This API key may have {limit} live channels; it has {taken} and requests {channels} more."
                raise self._refusal(429, "too_many_streams", "key_streams", message)
        if limit := self._settings.max_streams:
            there = [place for place in self._places if place.pool is pool and place not in yielding]
            missing = _give(there, limit - channels, yielding)
            if missing > 0:
                taken = sum(place.channels for place in there)
                message = f"The server admits {limit} live channels; it has {taken}, and {channels} more are requested."
                raise self._busy("max_streams", message)
        if not self._keeps_target(pools, owner, channels, widened):
            predicted_s = self._predicted_p95(time.monotonic(), pools, owner, channels)
            message = "The server is too busy: with another stream its finals would be late."
            raise self._busy("headroom", message, predicted_ms=1000 * predicted_s)
        self._check_front(self._claims, channels)
        return yielding

    def _keeps_target(
        self, pools: Sequence[EnginePool], owner: str, channels: int, widened: Place | None = None
    ) -> bool:
        """Return whether finals meet their target with the additional channels, or no other stream counts."""
        target_s = self._settings.final_target_ms / 1000
        now, claim = time.monotonic(), None if widened is None else widened.claim
        if not target_s or all(pool.alive and pool.capacity.claims.weight(now, owner, claim) < 1 for pool in pools):
            return True  # a machine too slow for its target still serves one client
        return self._predicted_p95(now, pools, owner, channels) <= target_s

    def _predicted_p95(self, now: float, pools: Sequence[EnginePool], owner: str, channels: int) -> float:
        """Return the predicted 95th percentile of the delay of words and, if they are asked for, of speakers."""
        return max(
            pool.capacity.predicted_p95(now, channels, owner, self._beside(now, pools, pool, channels))
            for pool in pools
        )

    def _beside(self, now: float, pools: Sequence[EnginePool], pool: EnginePool, channels: int) -> Beside:
        """Return what other engines take of the cores that this one computes on, now and for the additional channels."""
        if pool.info.gpu:
            return ALONE
        cores = max(pool.lanes, os.cpu_count() or 1)
        others = {other for place in self._places for other in place.pools if other is not pool and not other.info.gpu}
        seen = sum(other.capacity.busy(now) for other in others)
        more = sum(channels * other.capacity.demand(now) for other in pools if other is not pool and not other.info.gpu)
        return Beside(seen / cores, more / cores)

    @property
    def _claims(self) -> list[Claim]:
        return [place.claim for place in self._places]

    def _give_up(self, place: Place) -> None:
        log.info("a stream whose client is away loses its place to another stream", stream=place.claim.name)
        self._leave(place)
        place.given_up.set_result(None)

    def _leave(self, place: Place) -> None:
        self._places.remove(place)
        for pool in place.pools:
            pool.capacity.claims.leave(place.claim)


def _owner(key: Identity, peer: str) -> str:
    """Return whose claim a stream is: its key's, or its address's if the server has no keys."""
    return peer if key is ANYBODY else f"key {key.name}"


def _give(places: list[Place], limit: int, yielding: list[Place]) -> int:
    """Add places of absent clients to `yielding`, longest absence first, until the others are within the limit.

    Return how many channels remain over the limit; if there are any, `yielding` is left as it was.
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
