"""A WebSocket's receive and send loops, written once for every dialect."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog
from aiohttp import WSCloseCode, WSMsgType, web

from myna.server.config import Settings
from myna.server.dialects.base import Command, Dialect, DialectError, End, Farewell, Frame
from myna.server.engine import EngineWorker
from myna.server.live import LiveStream
from myna.server.outbox import SlowReaderError
from myna.server.pump import Services

log = structlog.get_logger()

HEARTBEAT_S = 30.0
"""The server pings so often; a client that has vanished without a word is noticed half of it later."""
_LONGEST_REASON = 123
"""Bytes of a close frame's reason (RFC 6455, 5.5)."""
FAREWELL_S = 5.0
"""A client may take so long to read what is left when a stream ends, then the connection is dropped."""
DELIVERY_S = 60.0
"""Where results go elsewhere, they may take so long at the end; then those that are left are dropped."""


class _Gone(Exception):  # noqa: N818 - not an error: clients may leave
    pass


class _Socket(web.WebSocketResponse):
    """Tells its owner of a message over the limit before aiohttp closes the socket for it."""

    def __init__(self, max_frame_bytes: int, too_big: Callable[[], Farewell], subprotocol: str | None) -> None:
        super().__init__(
            max_msg_size=max_frame_bytes,
            heartbeat=HEARTBEAT_S,
            compress=False,
            autoclose=False,
            protocols=[subprotocol] if subprotocol else (),
        )
        self._too_big = too_big

    async def close(self, *, code: int = WSCloseCode.OK, message: bytes = b"", drain: bool = True) -> bool:
        if code == WSCloseCode.MESSAGE_TOO_BIG and not self.closed:
            farewell = self._too_big()
            for frame in farewell.frames:
                await _send(self, frame)
            code, message = farewell.close_code, farewell.reason.encode()
        return await super().close(code=code, message=message, drain=drain)


Delivery = Callable[[Frame], Awaitable[None]]
"""Carries a frame to where the client wants it."""


class Connection:
    """One client from its upgrade to its close. `name` is the stream's; frames go to `delivery`, or back over the socket."""

    def __init__(
        self,
        name: str,
        dialect: Dialect,
        engine: EngineWorker,
        services: Services,
        settings: Settings,
        *,
        subprotocol: str | None = None,
        delivery: Delivery | None = None,
    ) -> None:
        self._dialect = dialect
        self._services = services
        self._settings = settings
        self._live = LiveStream(name, dialect, engine, services)
        self._began = time.monotonic()
        self._subprotocol = subprotocol
        self._delivery = delivery

    async def run(self, request: web.Request) -> web.WebSocketResponse:
        """Serve the client; returns when the socket is closed and everything it held is free."""
        too_big = DialectError(
            "message_too_big",
            f"a message was larger than {self._settings.max_frame_bytes} bytes, the most this server takes",
        )
        live = self._live
        socket = _Socket(
            self._settings.max_frame_bytes, lambda: self._dialect.closing(too_big, live.heard_s), self._subprotocol
        )
        await socket.prepare(request)
        self._services.streams[live.name] = live
        with structlog.contextvars.bound_contextvars(stream=live.name):
            log.info("stream connected", peer=request.remote, path=request.path, model=live.engine.info.name)
            writer = asyncio.create_task(self._write(socket), name=f"writer {live.name}")
            farewell = Farewell((), WSCloseCode.OK, "gone")
            try:
                farewell = await self._serve(socket)
                if not await self._farewell(writer) and self._delivery is None and request.transport is not None:
                    request.transport.abort()
            except _Gone:
                pass
            finally:
                heard_s = live.heard_s
                del self._services.streams[live.name]
                live.close()
                writer.cancel()
                with contextlib.suppress(asyncio.CancelledError, ConnectionError, RuntimeError):
                    await writer
                with contextlib.suppress(ConnectionError):
                    await socket.close(code=farewell.close_code, message=farewell.reason.encode()[:_LONGEST_REASON])
                log.info("stream closed", code=farewell.close_code, reason=farewell.reason, heard_s=round(heard_s, 3))
        return socket

    async def _serve(self, socket: web.WebSocketResponse) -> Farewell:
        """Receive until the end; return how to close, all frames being in the outbox."""
        try:
            await self._receive_unless_broken(socket)
        except DialectError as error:
            return self._refuse(error)
        except SlowReaderError:
            self._live.outbox.clear()  # room for the reason
            return self._refuse(DialectError("slow_reader", "the client does not read what it is sent"))
        return self._say_farewell(None)

    async def _receive_unless_broken(self, socket: web.WebSocketResponse) -> None:
        receiving = asyncio.create_task(self._receive(socket), name=f"receiver {self._live.name}")
        either: list[asyncio.Future[Any]] = [receiving, self._live.broken]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if self._live.broken.done():
                raise self._live.broken.result()
            await receiving
        finally:
            receiving.cancel()
            await asyncio.wait([receiving])
            if not receiving.cancelled():
                receiving.exception()  # seen: it has been raised above, or the stream broke first

    def _refuse(self, error: DialectError) -> Farewell:
        log.warning("stream refused", code=error.code, message=error.message)
        return self._say_farewell(error)

    def _say_farewell(self, error: DialectError | None) -> Farewell:
        farewell = self._dialect.closing(error, self._live.heard_s)
        for frame in farewell.frames:
            self._live.outbox.put(frame)
        return farewell

    async def _receive(self, socket: web.WebSocketResponse) -> None:
        await self._act(self._dialect.begin())
        while True:
            try:
                message = await socket.receive(timeout=self._patience_s())
            except TimeoutError:
                await self._on_silence()
                continue
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                raise _Gone
            if await self._act(self._dialect.receive(message.data)):
                return

    async def _act(self, commands: Sequence[Command]) -> bool:
        """Carry the commands out; return whether the last was the end."""
        for command in commands:
            await self._live.act(command)
            if isinstance(command, End):
                return True
        return False

    def _patience_s(self) -> float:
        if self._live.is_open:
            return self._dialect.idle_timeout_s
        return max(0.001, self._began + self._settings.start_timeout_s - time.monotonic())

    async def _on_silence(self) -> None:
        if self._live.is_open:
            await self._live.end()
            limit = self._dialect.idle_timeout_s
            raise DialectError("idle", f"neither audio nor a keepalive came for {limit:g} s")
        limit = self._settings.start_timeout_s
        raise DialectError("no_start", f"no start message came within {limit:g} s")

    async def _farewell(self, writer: asyncio.Task[None]) -> bool:
        self._live.outbox.close()
        sent, _ = await asyncio.wait([writer], timeout=FAREWELL_S if self._delivery is None else DELIVERY_S)
        return bool(sent)

    async def _write(self, socket: web.WebSocketResponse) -> None:
        while frame := await self._live.outbox.get():
            if self._delivery is None:
                await _send(socket, frame)
            else:
                await self._delivery(frame)


async def _send(socket: web.WebSocketResponse, frame: Frame) -> None:
    if isinstance(frame.payload, str):
        await socket.send_str(frame.payload)
    else:
        await socket.send_bytes(frame.payload)
