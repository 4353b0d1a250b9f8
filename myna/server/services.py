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


class ActiveStream(Protocol):
    """A live stream, as the rest of the server sees it."""

    path: str
    """The address the client requested."""
    identity: Identity
    """The client."""

    @property
    def held_s(self) -> float:
        """Seconds of decoded audio in memory, all channels together."""
        ...

    @property
    def backlog_s(self) -> float:
        """Seconds of decoded audio that wait for voice activity detection or the engine."""
        ...

    @property
    def spooled_bytes(self) -> int:
        """Bytes of audio and commands that wait to be decoded."""
        ...

    def shut_down(self, error: DialectError) -> None:
        """End the stream for this reason, after its finals if `error.finals_first`."""
        ...

    def abort(self, error: Exception) -> None:
        """End the stream for this reason at once."""
        ...


class ResumableStream(Protocol):
    """A live stream whose client may come back after its connection broke."""

    identity: Identity
    """The client, which alone may come back."""

    def can_resume(self, after: int) -> bool:
        """Return whether the client can get every frame after this number."""
        ...

    async def resume(self, request: web.Request, after: int) -> web.WebSocketResponse:
        """Continue the stream over another socket."""
        ...


@dataclass(slots=True)
class Services:
    """What the live streams of one server share.

    `streams` are the live streams by name, `resumable` those of them that a client may come back for, by token. `clock`
    measures how long a peer is silent (`LoopMonitor.awake`).
    """

    vad: VadWorker
    metrics: Metrics
    decoders: DecoderPool
    max_backlog_s: float
    spool_bytes: int
    clock: Clock
    streams: dict[str, ActiveStream] = field(default_factory=dict)
    resumable: dict[str, ResumableStream] = field(default_factory=dict)
