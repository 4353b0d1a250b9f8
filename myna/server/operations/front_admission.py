"""What a front checks itself before it admits a stream or a file, wherever its models run."""

from __future__ import annotations

import asyncio
import contextlib
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Protocol

import structlog

from myna.inference.port import ModelPool
from myna.inference.scheduling.claims import Claim
from myna.runtime.errors import Refusal
from myna.server.keys import Identity
from myna.server.operations.loop_monitor import LoopMonitor
from myna.server.operations.metrics import Metrics
from myna.server.settings import Settings

log = structlog.get_logger()

RETRY_S = 5
"""Seconds in `Retry-After`. When a place becomes free is unknown, and a retry after this time costs little."""
_BUSIEST = 0.9
"""Share of a core, all that the event loop can use, above which everything is late."""
_BUSY_FROM = 0.5
"""Share of a core below which the estimate of a channel's cost on the event loop is too uncertain."""
_CHANNEL_BUSY = 0.02
"""Most of a core that one channel is assumed to cost on the event loop: seven times the cost in docs/performance.md. A higher
figure comes from other work, such as files."""


class StreamPlace(Protocol):
    """A live stream's place, from its admission to its end."""

    @property
    def pool(self) -> ModelPool:
        """The engine of the stream's words."""
        ...

    @property
    def given_up(self) -> asyncio.Future[None]:
        """A future that is done when another stream has taken the place."""
        ...

    async def resize(self, channels: int) -> None:
        """Note how many channels the stream really has. Raises `DialectError` if there is no room for the additional ones."""
        ...

    def heard(self, audio_s: float) -> None:
        """Note the seconds of audio received, all channels together."""
        ...

    def away(self) -> AbstractContextManager[None]:
        """Return a context during which the stream counts as a quiet one: its client is away and may come back."""
        ...


class FrontAdmission(ABC):
    """Admits the files of one front, and streams as far as its event loop and its end decide."""

    def __init__(self, settings: Settings, metrics: Metrics, loop_monitor: LoopMonitor) -> None:
        self._settings = settings
        self._metrics = metrics
        self._loop_monitor = loop_monitor
        self._requests: Counter[str] = Counter()
        self.draining = False
        """Whether the front is stopping and admits no more streams and files."""

    @property
    @abstractmethod
    def away(self) -> int:
        """How many streams wait for their client to come back."""

    @abstractmethod
    def stream(
        self, name: str, key: Identity, peer: str, pool: ModelPool, channels: int, speakers: ModelPool | None = None
    ) -> AbstractAsyncContextManager[StreamPlace]:
        """Return a context in which a live stream is admitted; `peer` is the client's address. Entering raises `Refusal`.

        `pool` decodes its words; `speakers` tells its speakers apart, if it asks for them.
        """

    @contextlib.asynccontextmanager
    async def request(self, identity: Identity, waiting: Callable[[str], int]) -> AsyncIterator[None]:
        """Admit a file; `waiting` returns how many accepted files of a key are not finished. Raises `Refusal`."""
        self._check_open()
        if limit := identity.requests or self._settings.key_requests:
            accepted = waiting(identity.id)
            taken = self._requests[identity.name] + accepted
            if taken >= limit:
                message = f"This API key may have {limit} requests at a time and has {taken}."
                raise self._refusal(429, "too_many_requests", "key_requests", message)
        self._requests[identity.name] += 1
        try:
            yield
        finally:
            self._requests[identity.name] -= 1

    def _front_is_full(self, claims: Iterable[Claim], channels: int) -> bool:
        """Return whether the additional channels would overload the event loop, which serves the streams of `claims`."""
        now, busy = time.monotonic(), self._loop_monitor.busy
        there = sum(claim.speaking(now) for claim in claims)
        if not there or busy <= _BUSY_FROM:
            return False
        return busy + channels * min(_CHANNEL_BUSY, busy / there) > _BUSIEST

    def _check_front(self, claims: Iterable[Claim], channels: int) -> None:
        """Raise `Refusal` if the additional channels would overload the event loop."""
        if self._settings.final_target_ms and self._front_is_full(claims, channels):
            raise self._busy("front", "The server is too busy for another connection.")

    def _check_open(self) -> None:
        if self.draining:
            raise self._refusal(503, "shutting_down", "draining", "The server is stopping.")

    def _busy(self, reason: str, message: str, **details: float) -> Refusal:
        log.warning("a stream was refused", reason=reason, **details)
        return self._refusal(503, "too_busy", reason, message)

    def _refusal(self, status: int, code: str, reason: str, message: str) -> Refusal:
        self._metrics.refused(reason)
        return Refusal(status, code, message, retry_after_s=RETRY_S)
