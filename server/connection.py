"""A WebSocket's receive and send loops, written once for every dialect."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Sequence
from typing import Any

import structlog
from aiohttp import WSCloseCode, WSMsgType, web

from myna.server.config import Settings
from myna.server.dialects.base import Dialect, DialectError, End, Frame
from myna.server.engine import EngineWorker
from myna.server.live import LiveStream, Services
from myna.server.outbox import SlowReaderError

log = structlog.get_logger()

HEARTBEAT_S = 30.0
"""The server pings so often; a client that has vanished without a word is noticed half of it later."""
FAREWELL_S = 5.0
"""A client may take so long to read what is left when a stream ends, then the connection is dropped."""


class _Gone(Exception):  # noqa: N818 - not an error: clients may leave
    pass


class _Socket(web.WebSocketResponse):
    """Tells its owner of a message over the limit before aiohttp closes the socket for it."""

    def __init__(self, max_frame_bytes: int, too_big: Sequence[Frame]) -> None:
        super().__init__(max_msg_size=max_frame_bytes, heartbeat=HEARTBEAT_S, compress=False, autoclose=False)
        self._too_big = too_big

    async def close(self, *, code: int = WSCloseCode.OK, message: bytes = b"", drain: bool = True) -> bool:
        if code == WSCloseCode.MESSAGE_TOO_BIG and not self.closed:
            for frame in self._too_big:
                await _send(self, frame)
        return await super().close(code=code, message=message, drain=drain)


class Connection:
    """One client from its upgrade to its close."""

    def __init__(self, dialect: Dialect, engine: EngineWorker, services: Services, settings: Settings) -> None:
        self._dialect = dialect
        self._services = services
        self._settings = settings
        self._live = LiveStream(secrets.token_hex(8), dialect, engine, services)
        self._began = time.monotonic()

    async def run(self, request: web.Request) -> web.WebSocketResponse:
        """Serve the client; returns when the socket is closed and everything it held is free."""
        too_big = DialectError(
            "message_too_big",
            f"a message was larger than {self._settings.max_frame_bytes} bytes, the most this server takes",
            WSCloseCode.MESSAGE_TOO_BIG,
        )
        socket = _Socket(
            self._settings.max_frame_bytes,
            [*self._dialect.failing(too_big), *self._dialect.closing(too_big.code, 0.0)],
        )
        await socket.prepare(request)
        live = self._live
        self._services.streams[live.name] = live
        with structlog.contextvars.bound_contextvars(stream=live.name):
            log.info("stream connected", peer=request.remote, path=request.path, model=live.engine.info.name)
            writer = asyncio.create_task(self._write(socket), name=f"writer {live.name}")
            reason = "gone"
            code: int = WSCloseCode.OK
            try:
                reason, code = await self._serve(socket)
                if not await self._farewell(writer) and request.transport is not None:
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
                    await socket.close(code=code, message=reason.encode()[:120])
                log.info("stream closed", reason=reason, heard_s=round(heard_s, 3))
        return socket

    async def _serve(self, socket: web.WebSocketResponse) -> tuple[str, int]:
        """Receive until the end; return its reason and close code, all frames being in the outbox."""
        try:
            await self._receive_unless_broken(socket)
        except DialectError as error:
            return self._refuse(error)
        except SlowReaderError:
            self._live.outbox.clear()  # room for the reason
            return self._refuse(
                DialectError("slow_reader", "the client does not read what it is sent", WSCloseCode.TRY_AGAIN_LATER)
            )
        self._put(self._dialect.closing("close", self._live.heard_s))
        return "close", WSCloseCode.OK

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

    def _refuse(self, error: DialectError) -> tuple[str, int]:
        log.warning("stream refused", code=error.code, message=error.message)
        self._put(self._dialect.failing(error))
        self._put(self._dialect.closing(error.code, self._live.heard_s))
        return error.code, error.close_code

    async def _receive(self, socket: web.WebSocketResponse) -> None:
        while True:
            try:
                message = await socket.receive(timeout=self._patience_s())
            except TimeoutError:
                await self._on_silence()
                continue
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                raise _Gone
            for command in self._dialect.receive(message.data):
                await self._live.act(command)
                if isinstance(command, End):
                    return

    def _patience_s(self) -> float:
        if self._live.is_open:
            return self._settings.idle_timeout_s
        return max(0.001, self._began + self._settings.start_timeout_s - time.monotonic())

    async def _on_silence(self) -> None:
        if self._live.is_open:
            await self._live.end()
            limit = self._settings.idle_timeout_s
            raise DialectError(
                "idle", f"neither audio nor a keepalive came for {limit:g} s", WSCloseCode.POLICY_VIOLATION
            )
        limit = self._settings.start_timeout_s
        raise DialectError("no_start", f"no start message came within {limit:g} s", WSCloseCode.POLICY_VIOLATION)

    def _put(self, frames: Sequence[Frame]) -> None:
        for frame in frames:
            self._live.outbox.put(frame)

    async def _farewell(self, writer: asyncio.Task[None]) -> bool:
        self._live.outbox.close()
        sent, _ = await asyncio.wait([writer], timeout=FAREWELL_S)
        return bool(sent)

    async def _write(self, socket: web.WebSocketResponse) -> None:
        while frame := await self._live.outbox.get():
            await _send(socket, frame)


async def _send(socket: web.WebSocketResponse, frame: Frame) -> None:
    if isinstance(frame.payload, str):
        await socket.send_str(frame.payload)
    else:
        await socket.send_bytes(frame.payload)
