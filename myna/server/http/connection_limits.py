"""Limits over all connections of one server: unauthenticated ones, unfinished headers and messages, descriptors.

docs/decisions/0050 gives the reasons.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from myna.runtime.deadlines import Clock

log = structlog.get_logger()

MOST_HEADS_BYTES = 16 << 20
"""Bytes of all requests together whose headers are not complete."""
GRACE_S = 1.0
"""Seconds before a new connection may be dropped because there are too many."""
_RESERVE = 8
"""An eighth of the descriptors, and at most `_MOST_RESERVE`, are kept for files, workers and callbacks."""
_MOST_RESERVE = 64
_CHECK_EVERY_S = 0.5


class LimitedConnection(Protocol):
    """One connection, as these limits see it."""

    head_bytes: int
    """Bytes of a request whose headers are not complete."""
    idle_since: float
    """When the connection was made, or its last request was answered."""

    @property
    def age_s(self) -> float:
        """Seconds since the connection was made."""
        ...

    @property
    def is_idle(self) -> bool:
        """Whether no request is being served."""
        ...

    @property
    def unfinished_bytes(self) -> int:
        """Memory of the WebSocket message that is not complete."""
        ...

    def drop(self, reason: str, *, at_once: bool = False) -> None:
        """Close the connection; `at_once`: without an answer."""
        ...

    def overflow(self, reason: str) -> None:
        """Refuse the WebSocket message that is being received."""
        ...

    def check(self) -> None:
        """Drop the connection if it takes too long for something."""
        ...

    def abort(self) -> None:
        """Drop the connection without an answer."""
        ...


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Bounds of one server. Durations are in seconds; `descriptors` is the process's limit."""

    request_within_s: float
    keepalive_s: float
    unauthenticated: int
    unfinished_bytes: int
    descriptors: int

    @property
    def unauthenticated_of_peer(self) -> int:
        """How many connections that have not authenticated one address may have."""
        return max(1, self.unauthenticated // 4)

    @property
    def reserve(self) -> int:
        """Descriptors that connections may not take."""
        return min(_MOST_RESERVE, self.descriptors // _RESERVE)


class Connections:
    """All connections of one server. `on_drop` is called with the reason for each connection or message that is dropped."""

    def __init__(self, limits: ConnectionLimits, on_drop: Callable[[str], None], clock: Clock) -> None:
        self.limits = limits
        self.clock = clock
        self.on_drop = on_drop
        self.heads_bytes = 0
        self.unfinished_bytes = 0
        self._all: dict[LimitedConnection, None] = {}  # these three: oldest first
        self._unauthenticated: dict[LimitedConnection, None] = {}
        self._unauthenticated_of_peers: dict[str, dict[LimitedConnection, None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Check the connections periodically from now on."""
        interval_s = min(_CHECK_EVERY_S, self.limits.request_within_s / 4)
        self._timer = asyncio.get_running_loop().call_later(interval_s, self._check)

    def close(self) -> None:
        """Stop checking."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def add(self, connection: LimitedConnection, peer: str, descriptor: int) -> None:
        """Note a new connection, and drop others if there are too many."""
        self._all[connection] = self._unauthenticated[connection] = None
        of_peer = self._unauthenticated_of_peers.setdefault(peer, {})
        of_peer[connection] = None
        if self._is_short(descriptor):
            self._free_descriptors(connection)
        elif len(of_peer) > self.limits.unauthenticated_of_peer:
            self._drop_oldest(of_peer, "unauthenticated_of_peer")
        elif len(self._unauthenticated) > self.limits.unauthenticated:
            self._drop_oldest(self._unauthenticated, "unauthenticated")

    def authenticated(self, connection: LimitedConnection, peer: str) -> None:
        """Note that a connection no longer counts as unauthenticated."""
        self._unauthenticated.pop(connection, None)
        of_peer = self._unauthenticated_of_peers.get(peer)
        if of_peer is not None:
            of_peer.pop(connection, None)
            if not of_peer:
                del self._unauthenticated_of_peers[peer]

    def remove(self, connection: LimitedConnection, peer: str) -> None:
        """Note that a connection is closed."""
        self._all.pop(connection, None)
        self.authenticated(connection, peer)

    def check_sums(self) -> None:
        """Drop the largest headers or message if all connections together hold too much."""
        if self.heads_bytes > MOST_HEADS_BYTES:
            max(self._all, key=lambda connection: connection.head_bytes).drop("headers")
        if self.unfinished_bytes > self.limits.unfinished_bytes:
            max(self._all, key=lambda connection: connection.unfinished_bytes).overflow("unfinished_messages")

    def _drop_oldest(self, among: dict[LimitedConnection, None], reason: str) -> None:
        oldest = next(iter(among))
        if oldest.age_s >= GRACE_S:
            oldest.drop(reason)

    def _is_short(self, descriptor: int) -> bool:
        """Return whether few descriptors are left. The system gives out the lowest free one, and this was it."""
        return descriptor >= self.limits.descriptors - self.limits.reserve

    def _free_descriptors(self, new: LimitedConnection | None = None) -> None:
        """Drop the oldest connections that have not authenticated, then those idle longest; the new one if there are none."""
        idle = [
            connection for connection in self._all if connection.is_idle and connection not in self._unauthenticated
        ]
        idle.sort(key=lambda connection: connection.idle_since)
        others = [connection for connection in (*self._unauthenticated, *idle) if connection is not new]
        for connection in others[: self.limits.reserve]:
            connection.drop("descriptors", at_once=True)
        if new is not None and not others:
            new.drop("descriptors", at_once=True)

    def _check_descriptors(self) -> None:
        """Free descriptors if the system can give out no more: then no connection arrives that would trigger it."""
        try:
            probe = os.open(os.devnull, os.O_RDONLY)
        except OSError:
            self._free_descriptors()
            return
        os.close(probe)
        if self._is_short(probe):
            self._free_descriptors()

    def _check(self) -> None:
        try:
            self._check_descriptors()
            for connection in list(self._all):
                try:
                    connection.check()
                except Exception:
                    log.exception("checking a connection failed; it is closed")
                    connection.abort()
        finally:
            self.start()
