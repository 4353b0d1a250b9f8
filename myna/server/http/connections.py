"""What a connection may cost before anybody has shown who it is, and afterwards: bytes of headers, time, sockets, messages.

aiohttp parses and answers; each of its connections is watched here. docs/decisions/0050 says why.
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import structlog
from aiohttp import web
from aiohttp.http_websocket import WebSocketReader
from aiohttp.web_request import BaseRequest

from myna.batch.addresses import network_of
from myna.batch.pace import TOO_SLOW, Pace
from myna.runtime.deadlines import Clock
from myna.server.http.frame_meter import FrameMeter

log = structlog.get_logger()

MOST_LINE_BYTES = 65_536
"""Of a request's first line: a hundred keyterms fit in an address."""
MOST_FIELD_BYTES = 32_768
"""Of each header. A client secret of OpenAI's Realtime API holds its session."""
MOST_HEADERS = 64
MOST_HEAD_BYTES = 131_072
"""Of a request's first line and headers together."""
MOST_HEADS_BYTES = 16 << 20
"""Of all requests together whose headers are not complete."""
MOST_PIECES = 16_384
"""Frames of one message."""
MOST_UNSENT_BYTES = 65_536
"""The system takes no more ahead of what it can send: megabytes there would hide for minutes how fast a client reads."""
CLOSING_S = 10.0
"""A connection that is being closed has so long to take what was written."""
LINGERING_S = 5.0
"""The rest of a refused request's body is thrown away for so long, so that the client reads the refusal."""
MOST_LINGERING_BYTES = 64 << 20
GRACE_S = 1.0
"""A connection so young is not dropped because there are too many of them; one that is given up has so long to read why."""
_RESERVE = 8
"""An eighth of the descriptors, and at most `_MOST_RESERVE`, are kept for files, workers and callbacks."""
_MOST_RESERVE = 64
_MOST_DESCRIPTORS = 1 << 20
_TICK_S = 0.5
_NEVER_S = 86_400.0


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Bounds of one server. Durations in seconds; `descriptors`: the process's limit."""

    request_within_s: float
    keepalive_s: float
    unauthenticated: int
    unfinished_bytes: int
    descriptors: int

    @property
    def of_peer(self) -> int:
        """How many connections that have not authenticated one address may have."""
        return max(1, self.unauthenticated // 4)

    @property
    def reserve(self) -> int:
        """Descriptors that connections leave alone."""
        return min(_MOST_RESERVE, self.descriptors // _RESERVE)


def raise_descriptor_limit() -> None:
    """Let the process have as many descriptors as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def descriptor_limit() -> int:
    """Return how many descriptors the process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


def authenticated(request: web.Request) -> None:
    """Note that the client of this request has shown who it is."""
    if isinstance(request.protocol, Watched):
        request.protocol.know()


def on_excess(request: web.Request, stop: Callable[[], None]) -> None:
    """Call this when the request's WebSocket has an unfinished message for which there is no more room."""
    if isinstance(request.protocol, Watched):
        request.protocol.stop = stop


class Connections:
    """Watches the connections of one server. `dropped` is told the reason for each that is given up."""

    def __init__(self, limits: ConnectionLimits, dropped: Callable[[str], None], clock: Clock) -> None:
        self.limits = limits
        self.clock = clock
        self.dropped = dropped
        self.connections: dict[Watched, None] = {}  # oldest first
        self.strangers: dict[Watched, None] = {}
        """Those that have not authenticated, oldest first."""
        self.of_peers: dict[str, dict[Watched, None]] = {}
        """The same by their address."""
        self.heads_bytes = 0
        self.unfinished_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def protocol(self, server: web.Server) -> Watched:
        """Return the protocol of a new connection."""
        return Watched(self, server)

    def start(self) -> None:
        """Begin to look at the connections again and again."""
        tick_s = min(_TICK_S, self.limits.request_within_s / 4)
        self._timer = asyncio.get_running_loop().call_later(tick_s, self._look)

    def close(self) -> None:
        """Stop looking."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def arrived(self, connection: Watched, peer: str, descriptor: int) -> None:
        """Note a new connection, and make room where there are too many."""
        self.connections[connection] = self.strangers[connection] = None
        of_peer = self.of_peers.setdefault(peer, {})
        of_peer[connection] = None
        if self._is_short(descriptor):
            self._free_descriptors(connection)
        elif len(of_peer) > self.limits.of_peer:
            self._drop_oldest(of_peer, "unauthenticated_of_peer")
        elif len(self.strangers) > self.limits.unauthenticated:
            self._drop_oldest(self.strangers, "unauthenticated")

    def known(self, connection: Watched, peer: str) -> None:
        """Note that a connection has authenticated, or is gone."""
        self.strangers.pop(connection, None)
        of_peer = self.of_peers.get(peer)
        if of_peer is not None:
            of_peer.pop(connection, None)
            if not of_peer:
                del self.of_peers[peer]

    def gone(self, connection: Watched, peer: str) -> None:
        """Note that a connection is closed."""
        self.connections.pop(connection, None)
        self.known(connection, peer)

    def check_sums(self) -> None:
        """Give up the largest where all connections together hold too much."""
        if self.heads_bytes > MOST_HEADS_BYTES:
            max(self.connections, key=lambda connection: connection.head_bytes).give_up("headers")
        if self.unfinished_bytes > self.limits.unfinished_bytes:
            max(self.connections, key=lambda connection: connection.unfinished_bytes).overflow("unfinished_messages")

    def _drop_oldest(self, among: dict[Watched, None], reason: str) -> None:
        oldest = next(iter(among))
        if oldest.age_s >= GRACE_S:
            oldest.give_up(reason)

    def _is_short(self, descriptor: int) -> bool:
        """Return whether few descriptors are left: the lowest free one is given out, and this was it."""
        return descriptor >= self.limits.descriptors - self.limits.reserve

    def _free_descriptors(self, new: Watched | None = None) -> None:
        """Drop the oldest connections that have not authenticated, else those that are idle longest, else the new one."""
        idle = [
            connection for connection in self.connections if connection.is_idle and connection not in self.strangers
        ]
        idle.sort(key=lambda connection: connection.waits_since)
        others = [connection for connection in (*self.strangers, *idle) if connection is not new]
        for connection in others[: self.limits.reserve]:
            connection.give_up("descriptors", at_once=True)
        if new is not None and not others:
            new.give_up("descriptors", at_once=True)

    def _look_at_descriptors(self) -> None:
        """Make room where the system can give out no more: no connection arrives then that would."""
        try:
            probe = os.open(os.devnull, os.O_RDONLY)
        except OSError:
            self._free_descriptors()
            return
        os.close(probe)
        if self._is_short(probe):
            self._free_descriptors()

    def _look(self) -> None:
        try:
            self._look_at_descriptors()
            for connection in list(self.connections):
                try:
                    connection.look()
                except Exception:
                    log.exception("a connection cannot be watched, and is closed")
                    connection.abort()
        finally:
            self.start()


class SlowBodyError(web.HTTPRequestTimeout):
    """The body of a request comes too slowly; whoever reads it is told."""


class Watched(web.RequestHandler):
    """aiohttp's connection, which answers one request after the other, with bounds."""

    def __init__(self, connections: Connections, server: web.Server) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type] # aiohttp's way to switch it off
            keepalive_timeout=_NEVER_S,  # `look` does that, and leaves those alone that have begun to ask
            lingering_time=LINGERING_S,
            max_line_size=MOST_LINE_BYTES,
            max_field_size=MOST_FIELD_BYTES,
            max_headers=MOST_HEADERS,
            auto_decompress=False,  # myna/server/http/uploads.py refuses what is compressed; nobody else reads it
        )
        self.head_bytes = 0
        self.waits_since = 0.0
        self.stop: Callable[[], None] | None = None
        self._intake = connections
        self._peer = ""
        self._wire: asyncio.Transport | None = None  # ours: aiohttp forgets its own when it closes
        self._born = 0.0
        self._busy = False  # with a request
        self._answered = False  # a request, at least
        self._head_since: float | None = None
        self._received = 0
        self._lingered = 0
        self._rest: Any = None  # of the last request's body
        self._meter: FrameMeter | None = None
        self._ignores = False
        self._closing_since: float | None = None
        self._told_at: float | None = None  # why it is given up
        self._receiving, self._sending = Pace(connections.clock), Pace(connections.clock)
        self._given = 0  # bytes of answers, those of the present one not counted

    @property
    def age_s(self) -> float:
        """How long ago the connection was made."""
        return self._intake.clock() - self._born

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way."""
        return not self._busy

    @property
    def unfinished_bytes(self) -> int:
        """Memory of the WebSocket message that is not complete."""
        return 0 if self._meter is None or self._ignores else self._meter.held

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to watch."""
        super().connection_made(transport)
        self._wire = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        self._born = self.waits_since = self._intake.clock()
        peer, end = transport.get_extra_info("peername"), transport.get_extra_info("socket")
        self._peer = network_of(str(peer[0])) if peer else ""
        if end is not None:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, MOST_UNSENT_BYTES)
        self._intake.arrived(self, self._peer, end.fileno() if end is not None else -1)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection."""
        self._count_head(0)
        self._set_unfinished(-self.unfinished_bytes)
        self._ignores = True
        self._intake.gone(self, self._peer)
        super().connection_lost(exc)

    def know(self) -> None:
        """Note that the client has shown who it is."""
        self._intake.known(self, self._peer)

    def data_received(self, data: bytes) -> None:
        """Take the next bytes, unless they are too many."""
        self._received += len(data)
        if self._ignores or self._rest is not None:
            self._lingered += len(data)
            if self._lingered > MOST_LINGERING_BYTES:
                self.abort()
        if self._ignores:
            return
        if self._meter is not None:
            before = self.unfinished_bytes
            self._meter.feed(data)
            super().data_received(data)
            self._set_unfinished(self.unfinished_bytes - before)
            if self._meter.pieces > MOST_PIECES:
                self.overflow("pieces")
            return
        before, of_body = self._request_count, self._is_in_body()
        super().data_received(data)
        requests = self._request_count - before
        if requests > (0 if self._busy else 1):  # it does not wait for its answers
            self._intake.dropped("pipelined")
            self.close()
        if requests:
            self._begin_request()
        elif not of_body:
            self._take_head(len(data))

    def set_parser(self, parser: WebSocketReader, data_received_cb: Callable[[], None] | None = None) -> None:
        """Note that the connection is a WebSocket from here on."""
        self._meter = FrameMeter()
        self._meter.feed(self._message_tail)
        self._set_unfinished(self.unfinished_bytes)
        super().set_parser(parser, data_received_cb)

    async def finish_response(
        self, request: BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer; the next request is waited for then."""
        given = request.writer.output_size  # by its handler
        self._given += given
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self._given += request.writer.output_size - given
            if isinstance(request.content.exception(), SlowBodyError):
                self.force_close()  # aiohttp would read the rest of the body, and find the error
            self._rest = None if request.content.is_eof() else request.content
            self._lingered = 0
            self._answered = True
            self._busy = bool(self._messages)
            self.waits_since = self._intake.clock()
            self._head_since = self.waits_since if self.head_bytes else None
            if self._busy:  # aiohttp has found it behind an upgrade that was declined
                self.close()

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no HTTP without a line in the log: anybody may send it, again and again."""
        if status != 400 or request.writer.output_size:
            return super().handle_error(request, status, exc, message)
        self._intake.dropped("bad_request")
        response = web.Response(status=400, text=f"400: {(message or 'this is no HTTP')[:200]}")
        response.force_close()
        return response

    def overflow(self, reason: str) -> None:
        """Take nothing more of the message that is under way; the stream is told that it was too large."""
        self._intake.dropped(reason)
        self._set_unfinished(-self.unfinished_bytes)
        self._ignores = True
        if self.stop is not None:
            self.stop()
        else:
            self.abort()

    def abort(self) -> None:
        """Drop the connection without a word."""
        if self._wire is not None:
            self._wire.abort()

    def give_up(self, reason: str, *, at_once: bool = False) -> None:
        """Close the connection; who has begun a request is told why, unless the descriptor is needed `at_once`."""
        self._intake.dropped(reason)
        self._intake.known(self, self._peer)
        status = _ANSWERS.get(reason)
        told = status is not None and bool(self.head_bytes) and not self._busy and not at_once
        self._count_head(0)
        self._ignores = True
        if at_once:
            self.abort()
        if told and self._wire is not None:  # what has come and is not read would make the system drop the answer
            self._wire.write(f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode())
            self._wire.write_eof()
            self._told_at, self._lingered = self._intake.clock(), 0
        else:
            self.force_close()

    def look(self) -> None:
        """Give the connection up if it takes too long for something."""
        now, wire, limits = self._intake.clock(), self._wire, self._intake.limits
        if wire is None:
            return
        if wire.is_closing():
            self._closing_since = self._closing_since or now
            if now - self._closing_since >= CLOSING_S:
                wire.abort()
            return
        if self._told_at is not None:
            if now - self._told_at >= GRACE_S:
                self.force_close()
            return
        if self._sending.is_slow(self._read(wire)):
            self.give_up("slow_reader", at_once=True)
        elif self._receiving.is_slow(self._awaited(wire)):
            if self._meter is not None:
                self.overflow("slow_message")
            elif self._current_request is not None:
                self._intake.dropped("slow_body")
                error = SlowBodyError(text=f"The body comes too slowly: {TOO_SLOW}.")
                self._current_request.content.set_exception(error)
        elif not self._busy:
            began = self._head_since or self.waits_since
            idle = self._answered and self._head_since is None
            if idle and now - began >= limits.keepalive_s:
                self.force_close()
            elif not idle and now - began >= limits.request_within_s:
                self.give_up("slow_request")

    def _read(self, wire: asyncio.Transport) -> int | None:
        """Return how much of its answers the client has taken if there is more for it to take now."""
        unsent = wire.get_write_buffer_size()
        if self._meter is not None or not unsent:
            return None
        request = self._current_request
        return self._given + (request.writer.output_size if request is not None else 0) - unsent

    def _awaited(self, wire: asyncio.Transport) -> int | None:
        """Return how much the client has sent if it is to send more now."""
        if not wire.is_reading():
            return None
        if self._meter is not None:
            return self._received if self._meter.is_open and not self._ignores else None
        request = self._current_request
        return self._received if self._busy and request is not None and not request.content.is_eof() else None

    def _begin_request(self) -> None:
        self._busy = True
        self._rest = None
        self._head_since = None
        self._count_head(0)

    def _is_in_body(self) -> bool:
        """Return whether what comes next is not the head of a request, as far as can be told."""
        if self._busy:
            request = self._current_request
            return self._upgraded or request is None or not request.content.is_eof()
        if self._rest is not None and self._rest.is_eof():
            self._rest = None
        return self._rest is not None

    def _take_head(self, size: int) -> None:
        """Count bytes of a request's head that is not complete."""
        if not size:
            return
        if self._head_since is None and not self._busy:
            self._head_since = self._intake.clock()
        self._count_head(self.head_bytes + size)
        if self.head_bytes > MOST_HEAD_BYTES:
            self.give_up("headers")
        else:
            self._intake.check_sums()

    def _count_head(self, size: int) -> None:
        self._intake.heads_bytes += size - self.head_bytes
        self.head_bytes = size

    def _set_unfinished(self, change: int) -> None:
        self._intake.unfinished_bytes += change
        if change > 0:
            self._intake.check_sums()


_ANSWERS = {
    "slow_request": "408 Request Timeout",
    "headers": "431 Request Header Fields Too Large",
    "unauthenticated": "503 Service Unavailable",
    "unauthenticated_of_peer": "503 Service Unavailable",
}
"""What a client is told that has sent a part of a request."""
