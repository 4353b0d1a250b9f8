"""One aiohttp connection with bounds on what it may cost: bytes of headers, time, unfinished messages.

aiohttp parses and answers. This subclass counts what arrives. docs/decisions/0050 gives the reasons.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, cast

from aiohttp import web
from aiohttp.http_websocket import WebSocketReader
from aiohttp.web_request import BaseRequest

from myna.batch.addresses import network_of
from myna.batch.pace import TOO_SLOW, Pace
from myna.server.http.connection_limits import Connections
from myna.server.http.diversion import MOST_LINE_BYTES, Diversion, Route
from myna.server.http.frame_meter import FrameMeter

MOST_FIELD_BYTES = 32_768
"""Bytes of each header. A client secret of OpenAI's Realtime API holds its session."""
MOST_HEADERS = 64
MOST_HEAD_BYTES = 131_072
"""Bytes of a request's first line and headers together."""
MOST_PIECES = 16_384
"""Frames of one message."""
MOST_UNSENT_BYTES = 65_536
"""Unsent bytes in the system's buffer. Megabytes there would hide for minutes how slowly a client reads."""
CLOSING_S = 10.0
"""Seconds that a closing connection has to take what was written."""
LINGERING_S = 5.0
"""Seconds for which the rest of a refused request's body is read and dropped, so that the client reads the refusal."""
MOST_LINGERING_BYTES = 64 << 20
_ANSWER_S = 1.0
"""Seconds that the client of a dropped connection has to read the answer."""
_NEVER_S = 86_400.0
_ANSWERS = {
    "slow_request": "408 Request Timeout",
    "headers": "431 Request Header Fields Too Large",
    "unauthenticated": "503 Service Unavailable",
    "unauthenticated_of_peer": "503 Service Unavailable",
}
"""The answer to a client whose connection is dropped after it has sent a part of a request, by reason."""


def authenticated(request: web.Request) -> None:
    """Note that the client of this request has authenticated."""
    if isinstance(request.protocol, WatchedConnection):
        request.protocol.note_authenticated()


def on_excess(request: web.Request, refuse: Callable[[], None]) -> None:
    """Have `refuse` called when an unfinished message of the request's WebSocket takes too much memory or time."""
    if isinstance(request.protocol, WatchedConnection):
        request.protocol.refuse_message = refuse


class SlowBodyError(web.HTTPRequestTimeout):
    """The body of a request arrives too slowly. The handler that reads the body gets this."""


class WatchedConnection(web.RequestHandler):
    """aiohttp's connection, which answers one request at a time, with bounds."""

    def __init__(
        self, connections: Connections, server: web.Server, route: Route | None = None, begun: bytes = b""
    ) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type] # how aiohttp switches it off
            keepalive_timeout=_NEVER_S,  # `check` does this, and spares a connection whose next request has begun
            lingering_time=LINGERING_S,
            max_line_size=MOST_LINE_BYTES,
            max_field_size=MOST_FIELD_BYTES,
            max_headers=MOST_HEADERS,
            auto_decompress=False,  # myna/server/http/uploads.py refuses compressed bodies
        )
        self.head_bytes = 0
        self.idle_since = 0.0
        self.refuse_message: Callable[[], None] | None = None
        self._connections = connections
        self._peer = ""
        self._own_transport: asyncio.Transport | None = None  # aiohttp drops its reference when it closes
        self._made_at = 0.0
        self._busy = False  # serving a request
        self._answered = False  # at least one request
        self._head_since: float | None = None
        self._received = 0
        self._lingered = 0
        self._rest: Any = None  # the unread body of the last request
        self._meter: FrameMeter | None = None
        self._ignores = False
        self._closing_since: float | None = None
        self._dropped_at: float | None = None  # when the answer that says why was sent
        self._receiving, self._sending = Pace(connections.clock), Pace(connections.clock)
        self._answer_bytes = 0  # of all answers but the present one
        self._route = route
        self._begun = begun  # what another process has read from the connection
        self._diversion: Diversion | None = None

    @property
    def age_s(self) -> float:
        """Seconds since the connection was made."""
        return self._connections.clock() - self._made_at

    @property
    def is_idle(self) -> bool:
        """Whether no request is being served."""
        return not self._busy

    @property
    def unfinished_bytes(self) -> int:
        """Memory of the WebSocket message that is not complete."""
        return 0 if self._meter is None or self._ignores else self._meter.held

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to count."""
        super().connection_made(transport)
        self._own_transport = cast("asyncio.Transport", transport)  # uvloop's transport does not derive from it
        self._made_at = self.idle_since = self._connections.clock()
        peer, sock = transport.get_extra_info("peername"), transport.get_extra_info("socket")
        self._peer = network_of(str(peer[0])) if peer else ""
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, MOST_UNSENT_BYTES)
        self._connections.add(self, self._peer, sock.fileno() if sock is not None else -1)
        if self._route is not None:
            self._diversion = Diversion(self._route, self._own_transport, self._take_request, self.abort)
        if self._begun:
            self._take_request(self._begun)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Remove the connection from the counts."""
        self._count_head(0)
        self._set_unfinished(-self.unfinished_bytes)
        self._ignores = True
        self._connections.remove(self, self._peer)
        super().connection_lost(exc)

    def note_authenticated(self) -> None:
        """Note that the client has authenticated."""
        self._connections.authenticated(self, self._peer)

    def data_received(self, data: bytes) -> None:
        """Pass the next bytes on to aiohttp, unless they exceed a bound."""
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
        diversion, in_request = self._diversion, self._busy or self._is_in_body()
        if diversion is None or in_request or (self.head_bytes and not diversion.holds):
            self._take_request(data)
        elif (begun := diversion.take(data)) is not None:
            self._take_request(begun)
        else:
            self._take_head(len(data))

    def _take_request(self, data: bytes) -> None:
        """Pass bytes of requests on to aiohttp."""
        before, of_body = self._request_count, self._is_in_body()
        super().data_received(data)
        requests = self._request_count - before
        if requests > (0 if self._busy else 1):  # the client does not wait for answers
            self._connections.on_drop("pipelined")
            self.close()
        if requests:
            self._begin_request()
        elif not of_body:
            self._take_head(len(data))

    def set_parser(self, parser: WebSocketReader, data_received_cb: Callable[[], None] | None = None) -> None:
        """Note that the connection is a WebSocket from now on."""
        self._meter = FrameMeter()
        self._meter.feed(self._message_tail)
        self._set_unfinished(self.unfinished_bytes)
        super().set_parser(parser, data_received_cb)

    async def finish_response(
        self, request: BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer, then wait for the next request."""
        sent = request.writer.output_size  # by its handler
        self._answer_bytes += sent
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self._answer_bytes += request.writer.output_size - sent
            if isinstance(request.content.exception(), SlowBodyError):
                self.force_close()  # aiohttp would read the rest of the body, and meet the error
            self._rest = None if request.content.is_eof() else request.content
            self._lingered = 0
            self._answered = True
            self._busy = bool(self._messages)
            self.idle_since = self._connections.clock()
            self._head_since = self.idle_since if self.head_bytes else None
            if self._busy:  # aiohttp found another request behind an upgrade that was declined
                self.close()

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer bytes that are not HTTP without a log line: any client may send them any number of times."""
        if status != 400 or request.writer.output_size:
            return super().handle_error(request, status, exc, message)
        self._connections.on_drop("bad_request")
        response = web.Response(status=400, text=f"400: {(message or 'this is not HTTP')[:200]}")
        response.force_close()
        return response

    def overflow(self, reason: str) -> None:
        """Drop the message that is being received; its stream ends as after one that is too large."""
        self._connections.on_drop(reason)
        self._set_unfinished(-self.unfinished_bytes)
        self._ignores = True
        if self.refuse_message is not None:
            self.refuse_message()
        else:
            self.abort()

    def abort(self) -> None:
        """Drop the connection without an answer."""
        if self._own_transport is not None:
            self._own_transport.abort()

    def drop(self, reason: str, *, at_once: bool = False) -> None:
        """Close the connection. A client that has begun a request is answered first, unless the close is `at_once`."""
        self._connections.on_drop(reason)
        self._connections.authenticated(self, self._peer)
        status = _ANSWERS.get(reason)
        answers = status is not None and bool(self.head_bytes) and not self._busy and not at_once
        self._count_head(0)
        self._ignores = True
        if at_once:
            self.abort()
        if (
            answers and self._own_transport is not None
        ):  # unread bytes would make the system drop the answer, so they are read for a while
            self._own_transport.write(f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode())
            self._own_transport.write_eof()
            self._dropped_at, self._lingered = self._connections.clock(), 0
        else:
            self.force_close()

    def check(self) -> None:
        """Drop the connection if it takes too long for something."""
        now, transport, limits = self._connections.clock(), self._own_transport, self._connections.limits
        if transport is None:
            return
        if transport.is_closing():
            self._closing_since = self._closing_since or now
            if now - self._closing_since >= CLOSING_S:
                transport.abort()
            return
        if self._dropped_at is not None:
            if now - self._dropped_at >= _ANSWER_S:
                self.force_close()
            return
        if self._sending.is_slow(self._taken(transport)):
            self.drop("slow_reader", at_once=True)
        elif self._receiving.is_slow(self._awaited(transport)):
            if self._meter is not None:
                self.overflow("slow_message")
            elif self._current_request is not None:
                self._connections.on_drop("slow_body")
                error = SlowBodyError(text=f"The body arrives too slowly: {TOO_SLOW}.")
                self._current_request.content.set_exception(error)
        elif not self._busy:
            began = self._head_since or self.idle_since
            idle = self._answered and self._head_since is None
            if idle and now - began >= limits.keepalive_s:
                self.force_close()
            elif not idle and now - began >= limits.request_within_s:
                self.drop("slow_request")

    def _taken(self, transport: asyncio.Transport) -> int | None:
        """Return how many bytes of its answers the client has taken; None if there is nothing more to take."""
        unsent = transport.get_write_buffer_size()
        if self._meter is not None or not unsent:
            return None
        request = self._current_request
        return self._answer_bytes + (request.writer.output_size if request is not None else 0) - unsent

    def _awaited(self, transport: asyncio.Transport) -> int | None:
        """Return how many bytes the client has sent; None if no more are expected now."""
        if not transport.is_reading():
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
        """Return whether the next bytes belong to a body, not to the head of a request, as far as is known."""
        if self._busy:
            request = self._current_request
            return self._upgraded or request is None or not request.content.is_eof()
        if self._rest is not None and self._rest.is_eof():
            self._rest = None
        return self._rest is not None

    def _take_head(self, size: int) -> None:
        """Count bytes of a request's incomplete head."""
        if not size:
            return
        if self._head_since is None and not self._busy:
            self._head_since = self._connections.clock()
        self._count_head(self.head_bytes + size)
        if self.head_bytes > MOST_HEAD_BYTES:
            self.drop("headers")
        else:
            self._connections.check_sums()

    def _count_head(self, size: int) -> None:
        self._connections.heads_bytes += size - self.head_bytes
        self.head_bytes = size

    def _set_unfinished(self, change: int) -> None:
        self._connections.unfinished_bytes += change
        if change > 0:
            self._connections.check_sums()
