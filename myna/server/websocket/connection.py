"""The life of one client's stream, from its upgrade to its close, for every dialect."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import structlog
from aiohttp import WSCloseCode, web

from myna.inference.port import ModelPool
from myna.runtime.deadlines import timeout
from myna.runtime.errors import DialectError
from myna.runtime.tasks import cancel_and_wait
from myna.server.dialects.base import Dialect, Farewell
from myna.server.http.connections import on_excess
from myna.server.keys import Identity
from myna.server.operations.front_admission import StreamPlace
from myna.server.services import Services
from myna.server.settings import Settings
from myna.server.websocket.client_socket import ClientGone, ClientSocket
from myna.server.websocket.live_stream import LiveStream, failure
from myna.server.websocket.outbox import SlowReaderError
from myna.server.websocket.receiver import Receiver
from myna.server.websocket.resumption import Attachment, Resumption
from myna.server.websocket.silence import SilenceTimer
from myna.server.websocket.writer import Delivery, Writer

log = structlog.get_logger()

FINALS_S = 20.0
"""Seconds for the last finals of a stream that a stopping server ends."""
_SPOOL_FINALS_S = 600.0
"""Seconds for the last finals of a stream that ends for a reason of its own: a full spool is decoded first."""
_AFTER_CLIENT = Farewell((), WSCloseCode.OK, "gone")
"""How the server closes a socket that its client has closed or lost."""
_UNEXPECTED = Farewell((), WSCloseCode.INTERNAL_ERROR, "internal error")
"""How the server closes a socket where no farewell could be made: a normal close would report success."""


class Connection:
    """One client's stream, over one socket or, if the client comes back after losing it, several.

    `name` is the stream's, `identity` the client's, `place` its admission. Frames go to `delivery`, or over the socket if it
    is None.
    """

    def __init__(
        self,
        name: str,
        identity: Identity,
        dialect: Dialect,
        place: StreamPlace,
        services: Services,
        settings: Settings,
        *,
        subprotocol: str | None = None,
        delivery: Delivery | None = None,
        diarizer: ModelPool | None = None,
    ) -> None:
        self.identity = identity
        self.path = ""
        self._dialect = dialect
        self._services = services
        self._settings = settings
        self._place = place
        self._subprotocol = subprotocol
        self._delivery = delivery
        self._live = LiveStream(name, dialect, place, services, diarizer)
        silence = SilenceTimer(settings.start_timeout_s, dialect.idle_timeout_s, services.clock)
        self._receiver = Receiver(self._live, dialect, silence, services, self._allow_resumption)
        self._resumption = Resumption(services.clock)
        self._shutdown: asyncio.Future[DialectError] = asyncio.get_running_loop().create_future()
        self._received = False  # all that the client sends
        self._farewell: Farewell | None = None

    @property
    def held_s(self) -> float:
        """Seconds of decoded audio in memory, all channels together."""
        return self._live.held_s

    @property
    def backlog_s(self) -> float:
        """Seconds of decoded audio that wait for voice activity detection or the engine."""
        return self._live.backlog_s

    @property
    def spooled_bytes(self) -> int:
        """Bytes of audio and commands that wait to be decoded."""
        return self._live.spooled_bytes

    async def run(self, request: web.Request) -> web.WebSocketResponse:
        """Serve the client; return when the socket is closed and everything the stream held is free."""
        attachment = await self._attachment(request)
        self.path = request.path
        async with self._registered():
            await self._run(request, attachment)
        return attachment.socket

    def can_resume(self, after: int) -> bool:
        """Return whether the client can get every frame after this number."""
        return self._live.outbox.holds_after(after)

    async def resume(self, request: web.Request, after: int) -> web.WebSocketResponse:
        """Continue the stream over another socket; return when the stream no longer uses it."""
        attachment = await self._attachment(request, after)
        self._resumption.offer(attachment)
        await attachment.released.wait()
        return attachment.socket

    def shut_down(self, error: DialectError) -> None:
        """End the stream for this reason, after its finals if `error.finals_first`."""
        if not self._shutdown.done():
            self._shutdown.set_result(error)

    def abort(self, error: Exception) -> None:
        """End the stream for this reason at once."""
        self._live.abort(error)

    async def _attachment(self, request: web.Request, after: int = 0) -> Attachment:
        too_big = DialectError(
            "message_too_big",
            f"a message was larger than {self._settings.max_frame_bytes} bytes, the most this server takes, or there was"
            " no room for it besides the unfinished messages of others",
        )
        socket = ClientSocket(
            self._settings.max_frame_bytes,
            lambda: self._dialect.closing(too_big, self._live.heard_s),
            self._subprotocol,
        )
        await socket.prepare(request)
        on_excess(request, socket.refuse_message)
        return Attachment(socket, request, after)

    @contextlib.asynccontextmanager
    async def _registered(self) -> AsyncIterator[None]:
        """List the stream among the server's while the context lasts; free what it held afterwards."""
        live, services = self._live, self._services
        services.streams[live.name] = self
        try:
            yield
        finally:
            del services.streams[live.name]
            if self._dialect.resume_token is not None:
                services.resumable.pop(self._dialect.resume_token, None)
            self._resumption.close()
            await live.close()

    def _allow_resumption(self) -> None:
        if self._dialect.resume_token is not None:
            self._services.resumable[self._dialect.resume_token] = self

    async def _run(self, request: web.Request, attachment: Attachment | None) -> None:
        live = self._live
        with structlog.contextvars.bound_contextvars(stream=live.name):
            log.info("stream connected", peer=request.remote, path=request.path, model=live.engine.info.name)
            while attachment is not None:
                self._resumption.use(attachment)
                lost = False
                try:
                    await self._serve(attachment)
                except ClientGone as gone:
                    lost = gone.lost
                finally:
                    attachment.released.set()
                attachment = await self._next_attachment() if lost else None
            closed = _AFTER_CLIENT if self._farewell is None else self._farewell
            log.info("stream closed", code=closed.close_code, reason=closed.reason, heard_s=round(live.heard_s, 3))

    async def _next_attachment(self) -> Attachment | None:
        """Wait for the client to come back; return None if it cannot, or does not in time."""
        if self._dialect.resume_token is None or not self._settings.resume_s:
            return None
        log.info("connection lost; the stream waits for its client", resume_s=self._settings.resume_s)
        with self._place.away():
            attachment = await self._resumption.wait(
                self._settings.resume_s, (self._live.broken, self._shutdown, self._place.given_up)
            )
        if attachment is None:
            return None
        if self._place.given_up.done():
            attachment.reject()
            return None
        try:
            self._live.outbox.rewind(attachment.after, self._dialect.resumed())
        except Exception as error:  # the client is told over its new connection
            self._live.fail(error)
        log.info("the client has come back")
        return attachment

    async def _serve(self, attachment: Attachment) -> None:
        """Serve over this socket to the end of the stream, and close it. Raises `ClientGone`."""
        socket = attachment.socket
        writer = Writer(self._live.name, self._live.outbox, socket, self._delivery, self._write_failed)
        otherwise = _UNEXPECTED
        try:
            if self._farewell is None:
                self._farewell = await self._until_farewell(socket)
            if not await writer.flush(self._services.clock) and self._delivery is None:
                attachment.abort()
        except ClientGone:
            otherwise = _AFTER_CLIENT
            raise
        finally:
            await writer.stop()
            with contextlib.suppress(ConnectionError):
                await socket.close_as(otherwise if self._farewell is None else self._farewell)
        if (
            socket.close_code == WSCloseCode.ABNORMAL_CLOSURE
        ):  # the client may have missed the end: it did not confirm it
            raise ClientGone(lost=True)

    async def _until_farewell(self, socket: ClientSocket) -> Farewell:
        """Receive until the end; return how to close, with all frames in the outbox. Raises `ClientGone`."""
        try:
            return await self._until_end(socket)
        except ClientGone:
            raise
        except Exception as error:
            self._live.fail(error)
        try:
            return self._refuse(failure())
        except Exception:
            log.exception("the farewell of a stream failed")
            return _UNEXPECTED

    async def _until_end(self, socket: ClientSocket) -> Farewell:
        try:
            await self._receive_all(socket)
        except DialectError as error:
            if error.finals_first:
                finals_s = FINALS_S if self._shutdown.done() else _SPOOL_FINALS_S
                with contextlib.suppress(TimeoutError, DialectError, SlowReaderError):
                    async with timeout(finals_s, self._services.clock):
                        await self._last_finals(socket)
            return self._refuse(error)
        except SlowReaderError:
            self._live.outbox.clear()  # room for the reason
            return self._refuse(DialectError("slow_reader", "the client does not read what it is sent"))
        return self._say_farewell(None)

    async def _receive_all(self, socket: ClientSocket) -> None:
        """Receive until the client ends the stream, then wait for the last finals."""
        if not self._received:
            await self._unless_broken(self._receiver.receive(socket))
            self._received = True
        await self._last_finals(socket)

    async def _last_finals(self, socket: ClientSocket) -> None:
        """Wait for the last finals, while pings are answered."""
        listener = asyncio.create_task(self._listen(socket), name=f"listener {self._live.name}")
        ending = asyncio.create_task(self._live.end(), name=f"last finals {self._live.name}")
        try:
            await asyncio.wait([ending, listener], return_when=asyncio.FIRST_COMPLETED)
            await (ending if ending.done() else listener)  # the listener ends only with an exception
        finally:
            await cancel_and_wait(listener, ending)
        if self._live.broken.done():
            raise self._live.broken.result()

    async def _listen(self, socket: ClientSocket) -> None:
        try:
            await self._receiver.answer_pings(socket)
        except ClientGone:
            if self._delivery is None:
                raise
        await asyncio.Event().wait()  # the results go elsewhere, and the client may leave

    async def _unless_broken(self, work: Coroutine[Any, Any, None]) -> None:
        """Do the work, unless the stream breaks or is shut down before."""
        working = asyncio.create_task(work, name=f"receiver {self._live.name}")
        ends: list[asyncio.Future[Any]] = [working, self._live.broken, self._shutdown]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if self._live.broken.done():
                raise self._live.broken.result()
            if self._shutdown.done() and not working.done():
                raise self._shutdown.result()
            await working
        finally:
            await cancel_and_wait(working)

    def _refuse(self, error: DialectError) -> Farewell:
        log.warning("stream ends with an error", code=error.code, message=error.message)
        self._live.abort(error)  # nothing may follow the farewell
        return self._say_farewell(error)

    def _say_farewell(self, error: DialectError | None) -> Farewell:
        farewell = self._dialect.closing(error, self._live.heard_s)
        self._live.outbox.put_last(farewell.frames)
        self._services.metrics.stream_ended("close" if error is None else error.code)
        return farewell

    def _write_failed(self, error: Exception) -> None:
        self._live.fail(error)
        if self._farewell is not None:  # it may report success
            self._farewell = _UNEXPECTED
