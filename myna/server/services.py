"""What the live streams of one server share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from aiohttp import web

from myna.inference.workers.vad_worker import VadWorker
from myna.media.pool import DecoderPool
from myna.runtime.deadlines import Clock
from myna.runtime.errors import DialectError
from myna.server.keys import Identity
from myna.server.operations.metrics import Metrics


class Ending(Protocol):
    """A live stream, as the server knows it."""

    path: str
    """The address it was asked for at."""
    identity: Identity
    """Who asked for it."""

    def retire(self, error: DialectError) -> None:
        """End it for this reason, its finals first."""
        ...

    def break_off(self, error: Exception) -> None:
        """End it for this reason, at once."""
        ...


class Resumable(Protocol):
    """A live stream whose client may come back after it has lost its connection."""

    identity: Identity
    """Who asked for it, and may come back."""

    def can_resume(self, after: int) -> bool:
        """Return whether nothing is lost to a client that has got the frames up to this number."""
        ...

    async def resume(self, request: web.Request, after: int) -> web.WebSocketResponse:
        """Go on over another socket."""
        ...


@dataclass(slots=True)
class Services:
    """What every stream shares. `streams` are the live ones, by name; `resumable` are some of them, by their tokens.

    `clock` measures how long a peer is silent (`Pulse.awake`).
    """

    vad: VadWorker
    metrics: Metrics
    decoders: DecoderPool
    max_backlog_s: float
    spool_bytes: int
    clock: Clock
    streams: dict[str, Ending] = field(default_factory=dict)
    resumable: dict[str, Resumable] = field(default_factory=dict)
