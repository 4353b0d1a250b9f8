"""A WebSocket's receive and send loops, written once for every dialect."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from dataclasses import replace
from typing import Any

import structlog
from aiohttp import WebSocketError, WSCloseCode, WSMessage, WSMsgType, web

from myna.server.operations.admission import Place
from myna.server.keys import Identity
from myna.server.settings import Settings
from myna.server.http.connections import on_excess
from myna.server.dialects.base import Audio, Command, Configure, Dialect, End, Farewell, Frame, Open, Stalled
from myna.runtime.errors import DialectError
from myna.server.websocket.live_stream import LiveStream, failure
from myna.server.websocket.outbox import SlowReaderError
from myna.runtime.deadlines import LAST_LOOK_S, timeout
from myna.server.services import Services
from myna.server.websocket.loop_share import Share
from myna.streaming.audio.raw import Codec, Coded

log = structlog.get_logger()

HEARTBEAT_S = 30.0
"""The server pings so often; a client that has vanished without a word is noticed half of it later."""
_SHORTEST_S = 0.01
"""What is due now is waited for so long: the clock moves with the loop's beats."""
_LONGEST_REASON = 123
"""Bytes of a close frame's reason (RFC 6455, 5.5)."""
FAREWELL_S = 5.0
"""A client may take so long to read what is left when a stream ends, then the connection is dropped."""
_CLOSING_S = 2 * FAREWELL_S
"""What was sent before may take so long to go out, and the client's close frame to come; then the connection is dropped."""
DELIVERY_S = 60.0
"""Where results go elsewhere, they may take so long at the end; then those that are left are dropped."""
FINALS_S = 20.0
"""A stream that a stopping server ends waits so long for its last finals."""
_SPOOL_FINALS_S = 600.0
"""The same where the stream itself is the reason: a spool full of audio is decoded first."""
_LATE_S = 1.0
"""A timer that runs so late finds that the event loop stood still."""
_STALL_S = 1.0
"""Beyond its endpoint, a stream without audio for so long counts as silent: a network that stumbles is seldom away longer."""


_JOINED_BYTES = 16_384
"""Audio that waits in the socket in small messages is taken together, up to so many bytes: half a second of PCM."""


_AFTER_CLIENT = Farewell((), WSCloseCode.OK, "gone")
"""How a socket is closed that its client has closed or lost."""
_UNEXPECTED = Farewell((), WSCloseCode.INTERNAL_ERROR, "internal error")
"""How it is closed where there is no other farewell: a normal close would say that all is well."""
_DATA = (WSMsgType.TEXT, WSMsgType.BINARY)
_CONTROL = (WSMsgType.PING, WSMsgType.PONG)


class _Gone(Exception):  # noqa: N818 - not an error: clients may leave
    """The client closed the connection (`lost`: it broke)."""

    def __init__(self, *, lost: bool) -> None:
        super().__init__()
        self.lost = lost

    @classmethod
    def saying(cls, message: WSMessage) -> _Gone:
        """Return what the last message of a socket means."""
        return cls(lost=message.type is not WSMsgType.CLOSE)


class _Socket(web.WebSocketResponse):
    """Tells its owner of a message over the limit before aiohttp closes the socket for it.

    However its connection breaks, `heard` says so with a message.
    """

    def __init__(self, max_frame_bytes: int, too_big: Callable[[], Farewell], subprotocol: str | None) -> None:
        super().__init__(
            max_msg_size=max_frame_bytes,
            timeout=FAREWELL_S,
            heartbeat=HEARTBEAT_S,
            compress=False,
            autoclose=False,
            autoping=False,  # whoever receives answers, and counts what that costs
            protocols=[subprotocol] if subprotocol else (),
        )
        self._too_big = too_big

    async def heard(self, within_s: float | None = None) -> WSMessage:
        """Return the next message; one of type ERROR, CLOSED or CLOSING where the connection has broken.

        Raises `TimeoutError` where none comes within so many seconds.
        """
        try:
            return await self.receive(within_s)
        except ConnectionError as error:
            return WSMessage(WSMsgType.ERROR, error, None)

    def _pong_not_received(self) -> None:
        """Close the connection, as aiohttp does; not when the loop stood still, since the pong may wait in the socket."""
        timer = self._pong_response_cb
        now = asyncio.get_running_loop().time()
        if timer is not None and now - timer.when() > _LATE_S:
            self._pong_response_cb = asyncio.get_running_loop().call_later(HEARTBEAT_S / 2, self._pong_not_received)
        else:
            super()._pong_not_received()

    @property
    def waiting(self) -> bool:
        """Whether another text or binary message has come already."""
        if self._reader is None or not self._reader._buffer:
            return False
        message, _ = self._reader._buffer[0]
        return message.type in (WSMsgType.TEXT, WSMsgType.BINARY)

    def overflow(self) -> None:
        """Refuse the message that is under way, as one over the limit is."""
        if self._reader is not None:
            self._reader.set_exception(WebSocketError(WSCloseCode.MESSAGE_TOO_BIG, "there is no room for the message"))

    async def answer(self, ping: bytes) -> None:
        """Answer a ping, unless the connection is broken: the next read tells that. Raises `SlowReaderError`."""
        try:
            async with asyncio.timeout(FAREWELL_S):
                with contextlib.suppress(ConnectionError):
                    await self.pong(ping)
        except TimeoutError:
            raise SlowReaderError from None

    async def say_goodbye(self, farewell: Farewell) -> None:
        """Close, its frames having been sent."""
        await self._close_within(replace(farewell, frames=()), drain=True)

    async def close(self, *, code: int = WSCloseCode.OK, message: bytes = b"", drain: bool = True) -> bool:
        """Close as aiohttp does, which calls this for a message over the limit, too: that is told first."""
        farewell = Farewell((), code, message.decode("utf-8", "replace"))
        if code == WSCloseCode.MESSAGE_TOO_BIG and not self.closed:
            farewell = self._too_big()
        return await self._close_within(farewell, drain=drain)

    async def _close_within(self, farewell: Farewell, *, drain: bool) -> bool:
        """Close; a client that reads nothing does not hold this up for long."""
        try:
            async with asyncio.timeout(_CLOSING_S):
                for frame in farewell.frames:
                    await _send(self, frame)
                reason = _short_reason(farewell.reason)
                return await super().close(code=farewell.close_code, message=reason, drain=drain)
        except TimeoutError:
            self._set_code_close_transport(WSCloseCode.ABNORMAL_CLOSURE)
            return True


class _Seat:
    """A socket of the stream's client, which has got the frames up to number `after`; `left`: the stream is done with it."""

    def __init__(self, socket: _Socket, request: web.Request, after: int) -> None:
        self.socket = socket
        self.after = after
        self.left = asyncio.Event()
        self._request = request

    def abort(self) -> None:
        """Drop the connection without a word."""
        if self._request.transport is not None:
            self._request.transport.abort()

    def turn_away(self) -> None:
        """Drop a client that is not served here."""
        self.abort()
        self.left.set()


Delivery = Callable[[str | bytes], Awaitable[None]]
"""Carries a message to where the client wants it."""


class Connection:
    """One client's stream from its upgrade to its close, over one socket or, if it comes back, several.

    `name` is the stream's, `identity` the client's, `place` what admission has given it; frames go to `delivery`, or back
    over the socket.
    """

    def __init__(
        self,
        name: str,
        identity: Identity,
        dialect: Dialect,
        place: Place,
        services: Services,
        settings: Settings,
        *,
        subprotocol: str | None = None,
        delivery: Delivery | None = None,
    ) -> None:
        self.identity = identity
        self.path = ""
        self._dialect = dialect
        self._services = services
        self._settings = settings
        self._place = place
        self._live = LiveStream(name, dialect, place, services)
        self._began = self._heard_at = services.clock()
        self._stall_s: float | None = None
        self._endpoint_s = 0.0
        self._subprotocol = subprotocol
        self._delivery = delivery
        self._seat: _Seat | None = None
        self._next: asyncio.Future[_Seat] = asyncio.get_running_loop().create_future()
        self._retired: asyncio.Future[DialectError] = asyncio.get_running_loop().create_future()
        self._over = False
        self._share = Share()
        self._joins = True
        self._held: list[bytes] = []
        self._farewell: Farewell | None = None

    async def run(self, request: web.Request) -> web.WebSocketResponse:
        """Serve the client; returns when the socket is closed and everything the stream held is free."""
        seat = await self._prepared(request)
        first, self.path = seat.socket, request.path
        async with self._known():
            await self._run(request, seat)
        return first

    async def _run(self, request: web.Request, seat: _Seat | None) -> None:
        live = self._live
        with structlog.contextvars.bound_contextvars(stream=live.name):
            log.info("stream connected", peer=request.remote, path=request.path, model=live.engine.info.name)
            while seat is not None:
                self._seat, lost = seat, False
                try:
                    await self._serve_at(seat)
                except _Gone as gone:
                    lost = gone.lost
                finally:
                    seat.left.set()
                seat = await self._successor() if lost else None
            said = _AFTER_CLIENT if self._farewell is None else self._farewell
            log.info("stream closed", code=said.close_code, reason=said.reason, heard_s=round(live.heard_s, 3))

    def can_resume(self, after: int) -> bool:
        """Return whether nothing is lost to a client that has got the frames up to this number."""
        return self._live.outbox.holds_after(after)

    async def resume(self, request: web.Request, after: int) -> web.WebSocketResponse:
        """Go on with the stream over another socket; returns when that one is done with."""
        seat = await self._prepared(request, after)
        if self._next.done():  # somebody else comes back with the same token: the last one wins
            self._next.result().turn_away()
            self._next = asyncio.get_running_loop().create_future()
        if self._seat is not None:
            self._seat.abort()
        self._next.set_result(seat)
        await seat.left.wait()
        return seat.socket

    def retire(self, error: DialectError) -> None:
        """End the stream for this reason, its finals first."""
        if not self._retired.done():
            self._retired.set_result(error)

    def break_off(self, error: Exception) -> None:
        """End the stream for this reason, at once."""
        self._live.break_off(error)

    async def _prepared(self, request: web.Request, after: int = 0) -> _Seat:
        too_big = DialectError(
            "message_too_big",
            f"a message was larger than {self._settings.max_frame_bytes} bytes, the most this server takes, or there was"
            " no room for it besides the unfinished messages of others",
        )
        socket = _Socket(
            self._settings.max_frame_bytes,
            lambda: self._dialect.closing(too_big, self._live.heard_s),
            self._subprotocol,
        )
        await socket.prepare(request)
        on_excess(request, socket.overflow)
        return _Seat(socket, request, after)

    @contextlib.asynccontextmanager
    async def _known(self) -> AsyncIterator[None]:
        """Let the server know of the stream while it lasts, and free what it held afterwards."""
        live, services = self._live, self._services
        services.streams[live.name] = self
        try:
            yield
        finally:
            del services.streams[live.name]
            if self._dialect.resume_token is not None:
                services.resumable.pop(self._dialect.resume_token, None)
            if self._next.done():  # the client came back too late
                self._next.result().turn_away()
            await live.close()

    async def _successor(self) -> _Seat | None:
        """Wait for the client to come back; None if it cannot, or does not in time."""
        if self._dialect.resume_token is None or not self._settings.resume_s:
            return None
        log.info("the connection was lost; the stream waits for its client", resume_s=self._settings.resume_s)
        ended: list[asyncio.Future[Any]] = [self._next, self._live.broken, self._retired, self._place.given_up]
        with self._place.away(), contextlib.suppress(TimeoutError):
            async with timeout(self._settings.resume_s, self._services.clock):
                await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
        if not self._next.done() or self._place.given_up.done():
            return None
        seat, self._next = self._next.result(), asyncio.get_running_loop().create_future()
        try:
            self._live.outbox.rewind(seat.after, self._dialect.resumed())
        except Exception as error:  # the client is told over its new connection
            self._live.fail(error)
        log.info("the client is back")
        return seat

    async def _serve_at(self, seat: _Seat) -> None:
        """Serve over this socket to the end of the stream, and close it. Raises `_Gone`."""
        socket = seat.socket
        writer = asyncio.create_task(self._write(socket), name=f"writer {self._live.name}")
        otherwise = _UNEXPECTED
        try:
            if self._farewell is None:
                self._farewell = await self._serve(socket)
            if not await self._written(writer) and self._delivery is None:
                seat.abort()
        except _Gone:
            otherwise = _AFTER_CLIENT
            raise
        finally:
            await _stopped(writer)
            with contextlib.suppress(ConnectionError):
                await socket.say_goodbye(otherwise if self._farewell is None else self._farewell)
        if socket.close_code == WSCloseCode.ABNORMAL_CLOSURE:  # nobody has confirmed the end: it may not have arrived
            raise _Gone(lost=True)

    async def _serve(self, socket: _Socket) -> Farewell:
        """Receive until the end; return how to close, all frames being in the outbox. Raises `_Gone`."""
        try:
            return await self._served(socket)
        except _Gone:
            raise
        except Exception as error:
            self._live.fail(error)
        try:
            return self._refuse(failure())
        except Exception:
            log.exception("a stream cannot be told how it ends")
            return _UNEXPECTED

    async def _served(self, socket: _Socket) -> Farewell:
        try:
            await self._until_over(socket)
        except DialectError as error:
            if error.finals_first:
                patience_s = FINALS_S if self._retired.done() else _SPOOL_FINALS_S
                with contextlib.suppress(TimeoutError, DialectError, SlowReaderError):
                    async with timeout(patience_s, self._services.clock):
                        await self._last_finals(socket)
            return self._refuse(error)
        except SlowReaderError:
            self._live.outbox.clear()  # room for the reason
            return self._refuse(DialectError("slow_reader", "the client does not read what it is sent"))
        return self._say_farewell(None)

    async def _until_over(self, socket: _Socket) -> None:
        if not self._over:
            await self._unless_broken(self._share.of(self._receive(socket)))
            self._over = True
        await self._last_finals(socket)

    async def _last_finals(self, socket: _Socket) -> None:
        """Wait for what is left, while pings are answered and nothing else is."""
        listener = asyncio.create_task(self._share.of(self._listen(socket)), name=f"listener {self._live.name}")
        ending = asyncio.create_task(self._live.end(), name=f"last finals {self._live.name}")
        try:
            await asyncio.wait([ending, listener], return_when=asyncio.FIRST_COMPLETED)
            await (ending if ending.done() else listener)  # the listener ends only by raising that the client is gone
        finally:
            await _stopped(listener, ending)
        if self._live.broken.done():
            raise self._live.broken.result()

    async def _listen(self, socket: _Socket) -> None:
        while (message := await socket.heard()).type in (*_DATA, *_CONTROL):
            if message.type is WSMsgType.PING:
                await socket.answer(message.data)
            await self._take_turn()
        if self._delivery is not None:
            await asyncio.Event().wait()  # what is left goes elsewhere: the client may leave
        raise _Gone.saying(message)

    async def _unless_broken(self, work: Coroutine[Any, Any, None]) -> None:
        """Do the work unless the stream breaks, or is to end, before."""
        working = asyncio.create_task(work, name=f"receiver {self._live.name}")
        ends: list[asyncio.Future[Any]] = [working, self._live.broken, self._retired]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if self._live.broken.done():
                raise self._live.broken.result()
            if self._retired.done() and not working.done():
                raise self._retired.result()
            await working
        finally:
            await _stopped(working)

    def _refuse(self, error: DialectError) -> Farewell:
        log.warning("stream refused", code=error.code, message=error.message)
        self._live.break_off(error)  # nothing is told behind the farewell
        return self._say_farewell(error)

    def _say_farewell(self, error: DialectError | None) -> Farewell:
        farewell = self._dialect.closing(error, self._live.heard_s)
        self._live.outbox.put_last(farewell.frames)
        self._services.metrics.stream_ended("close" if error is None else error.code)
        return farewell

    async def _receive(self, socket: _Socket) -> None:
        if not self._live.is_open:
            await self._act(self._dialect.begin())
        said_at, look_until = self._services.clock(), None
        while True:
            await self._take_turn()
            message: WSMessage | None = None
            with contextlib.suppress(TimeoutError):
                message = await socket.heard(self._patience_s(said_at) if look_until is None else LAST_LOOK_S)
            if message is not None and message.type is WSMsgType.PING:
                await socket.answer(message.data)
            if message is None or (message.type in _CONTROL and self._patience_s(said_at) <= _SHORTEST_S):
                look_until = await self._look_once_more(said_at, look_until)
                continue
            if message.type in _CONTROL:
                continue
            if message.type not in _DATA:
                raise _Gone.saying(message)
            said_at, look_until = self._services.clock(), None
            try:
                over = await self._act(self._dialect.receive(message.data))
            except DialectError:
                await self._hand_over()
                raise
            if over:
                return
            if not socket.waiting or self._share.is_due:
                await self._hand_over()

    async def _look_once_more(self, said_at: float, look_until: float | None) -> float | None:
        """Act on a silence that lasts too long once what has arrived is read; return until when that is read."""
        now = self._services.clock()
        if look_until is None:
            return now + LAST_LOOK_S
        if now < look_until:
            return look_until
        await self._on_silence(said_at)
        return None

    async def _take_turn(self) -> None:
        """Let others have their turn. Raises `DialectError` if the client takes too much of the event loop for too long."""
        alone = len(self._services.streams) < 2
        if await self._share.turn(self._live.heard_s, alone=alone):
            raise DialectError(
                "overloaded",
                "the messages of this client cost far more time than its audio: send fewer and larger ones",
                finals_first=True,
            )

    async def _hand_over(self) -> None:
        """Hand over the audio that was held back to be joined."""
        if self._held:
            audio, self._held = Audio(b"".join(self._held)), []
            await self._live.act(audio)
            self._heard_at = self._services.clock()
            self._stall_s = self._endpoint_s + _STALL_S

    async def _act(self, commands: Iterable[Command]) -> bool:
        """Carry the commands out, but hold audio back; return whether the last was the end."""
        for command in commands:
            if isinstance(command, Audio):
                if sum(map(len, self._held)) + len(command.data) > _JOINED_BYTES:
                    await self._hand_over()
                self._held.append(command.data)
                if not self._joins:
                    await self._hand_over()
                continue
            await self._hand_over()
            if isinstance(command, End):
                return True
            if self._share.is_due:
                await self._take_turn()
            if isinstance(command, Open):
                self._place.resize(command.channels)
            await self._live.act(command)
            match command:
                case Configure(policy=policy) if policy is not None:
                    self._endpoint_s = policy.patience_s
                case Open(policy=policy, audio=audio):
                    self._endpoint_s = policy.patience_s
                    self._joins = not (
                        isinstance(audio, Coded) and audio.codec is Codec.OPUS
                    )  # each message is a packet
                    if self._dialect.resume_token is not None:
                        self._services.resumable[self._dialect.resume_token] = self
        return False

    def _patience_s(self, said_at: float) -> float:
        """Return how long to wait for the next message: it is time then for one of several things to happen."""
        now = self._services.clock()
        if not self._live.is_open:
            return max(_SHORTEST_S, self._began + self._settings.start_timeout_s - now)
        idle_s = said_at + self._dialect.idle_timeout_s - now
        if self._stall_s is None:
            return max(_SHORTEST_S, idle_s)
        return max(_SHORTEST_S, min(idle_s, self._heard_at + self._stall_s - now))

    async def _on_silence(self, said_at: float) -> None:
        now = self._services.clock()
        if not self._live.is_open:
            limit = self._settings.start_timeout_s
            if now - self._began < limit:
                return
            raise DialectError("no_start", f"no start message came within {limit:g} s")
        limit = self._dialect.idle_timeout_s
        if now - said_at >= limit:
            raise DialectError("idle", f"neither audio nor a keepalive came for {limit:g} s", finals_first=True)
        if self._stall_s is not None and now - self._heard_at >= self._stall_s:
            self._stall_s = None  # once, until there is audio again
            await self._live.act(Stalled())

    async def _written(self, writer: asyncio.Task[None]) -> bool:
        """Wait until the outbox is empty; return whether it is. Raises `_Gone` if the connection broke meanwhile."""
        self._live.outbox.close()
        with contextlib.suppress(TimeoutError):
            async with timeout(FAREWELL_S if self._delivery is None else DELIVERY_S, self._services.clock):
                await asyncio.wait([writer])
        if writer.done() and isinstance(writer.exception(), ConnectionError):
            raise _Gone(lost=True)
        return writer.done()

    async def _write(self, socket: _Socket) -> None:
        failed = False
        while True:
            try:
                frame = await self._live.outbox.get()
                if frame is None:
                    return
                if self._delivery is None:
                    await _send(socket, frame)
                else:
                    await self._delivery(frame.payload)
            except Exception as error:
                if self._delivery is None and isinstance(error, ConnectionError):
                    raise
                self._live.fail(error)
                if self._farewell is not None:  # an end has been told that is none
                    self._farewell = _UNEXPECTED
                if failed:
                    return  # neither can the reason be sent; the code of the close frame is left
                failed = True


async def _stopped(*tasks: asyncio.Task[None]) -> None:
    """End tasks; what they raised has been raised again where it matters."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # seen


def _short_reason(reason: str) -> bytes:
    """Return a reason that fits into a close frame, no character of it cut in two."""
    return reason.encode("utf-8", "replace")[:_LONGEST_REASON].decode("utf-8", "ignore").encode()


async def _send(socket: web.WebSocketResponse, frame: Frame) -> None:
    if isinstance(frame.payload, str):
        await socket.send_str(frame.payload)
    else:
        await socket.send_bytes(frame.payload)
