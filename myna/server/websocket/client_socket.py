"""A client's WebSocket: reading messages, answering pings, sending frames, closing within a time limit."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable
from dataclasses import replace

from aiohttp import WebSocketError, WSCloseCode, WSMessage, WSMsgType, web

from myna.server.dialects.base import Farewell, Frame
from myna.server.websocket.outbox import SlowReaderError

HEARTBEAT_S = 30.0
"""Seconds between the server's pings. A client that does not answer is disconnected after half of that."""
CLOSE_TIMEOUT_S = 5.0
"""Seconds that sending a pong may take, and that the client has to answer the server's close frame."""
_CLOSING_S = 2 * CLOSE_TIMEOUT_S
"""Seconds for the whole close: sending what was written before, and receiving the client's close frame."""
_LATE_S = 1.0
"""A timer that runs this much too late shows that the event loop was blocked."""
_LONGEST_REASON = 123
"""Bytes of a close frame's reason (RFC 6455, 5.5)."""
_NO_MESSAGE = WSMessage(WSMsgType.CONTINUATION, None, None)
"""What the queue of messages gets when the patience of its reader is over; a client's frames never have this type there."""
DATA = (WSMsgType.TEXT, WSMsgType.BINARY)
CONTROL = (WSMsgType.PING, WSMsgType.PONG)


class ClientGone(Exception):  # noqa: N818 - not an error: clients may leave
    """The client closed the connection, or, if `lost`, the connection broke."""

    def __init__(self, *, lost: bool) -> None:
        super().__init__()
        self.lost = lost

    @classmethod
    def after(cls, message: WSMessage) -> ClientGone:
        """Return the exception for the last message of a socket."""
        return cls(lost=message.type is not WSMsgType.CLOSE)


class ClientSocket(web.WebSocketResponse):
    """The server's end of a WebSocket.

    `too_big` returns the farewell for a message over the limit. It is sent before aiohttp closes the socket.
    """

    def __init__(self, max_frame_bytes: int, too_big: Callable[[], Farewell], subprotocol: str | None) -> None:
        super().__init__(
            max_msg_size=max_frame_bytes,
            timeout=CLOSE_TIMEOUT_S,
            heartbeat=HEARTBEAT_S,
            compress=False,
            autoclose=False,
            autoping=False,  # the receiver answers pings, and counts what they cost
            protocols=[subprotocol] if subprotocol else (),
        )
        self._too_big = too_big
        self._patience: asyncio.TimerHandle | None = None
        self._awaited_until = math.inf  # by the loop's clock

    async def next_message(self, within_s: float | None = None) -> WSMessage:
        """Return the next message; one of type ERROR, CLOSED or CLOSING if the connection has broken.

        Raises `TimeoutError` if none comes within `within_s` seconds.
        """
        self._awaited_until = math.inf
        if within_s is not None:
            self._wait_until(asyncio.get_running_loop().time() + within_s)
        while True:
            try:
                message = await self.receive()
            except ConnectionError as error:
                return WSMessage(WSMsgType.ERROR, error, None)
            if message is not _NO_MESSAGE:
                return message
            if asyncio.get_running_loop().time() >= self._awaited_until:
                raise TimeoutError

    def _wait_until(self, at: float) -> None:
        """Have `receive` return `_NO_MESSAGE` at this time of the loop's clock.

        A timer is made only where none falls due before: aiohttp's own timeouts make one for each message.
        """
        self._awaited_until = at
        if self._patience is not None and self._patience.when() > at:
            self._patience.cancel()
            self._patience = None
        if self._patience is None:
            self._patience = asyncio.get_running_loop().call_at(at, self._lose_patience)

    def _lose_patience(self) -> None:
        self._patience = None
        if asyncio.get_running_loop().time() < self._awaited_until:
            if self._awaited_until < math.inf:
                self._wait_until(self._awaited_until)
        elif self._reader is not None and self._waiting and not self._reader._buffer:
            self._reader.feed_data(_NO_MESSAGE, 0)

    @property
    def has_data(self) -> bool:
        """Whether another text or binary message has already been received."""
        if self._reader is None or not self._reader._buffer:
            return False
        message, _ = self._reader._buffer[0]
        return message.type in DATA

    def refuse_message(self) -> None:
        """Refuse the message that is being received, as one over the size limit is refused."""
        if self._reader is not None:
            self._reader.set_exception(WebSocketError(WSCloseCode.MESSAGE_TOO_BIG, "there is no room for the message"))

    async def answer_ping(self, payload: bytes) -> None:
        """Send a pong. A broken connection is left to the next read. Raises `SlowReaderError`."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                with contextlib.suppress(ConnectionError):
                    await self.pong(payload)
        except TimeoutError:
            raise SlowReaderError from None

    async def send(self, frame: Frame) -> None:
        """Send a frame as text or binary, whichever its payload is."""
        if isinstance(frame.payload, str):
            await self.send_str(frame.payload)
        else:
            await self.send_bytes(frame.payload)

    async def close_as(self, farewell: Farewell) -> None:
        """Close with the farewell's code and reason; its frames have already been sent."""
        await self._close_within(replace(farewell, frames=()), drain=True)

    async def close(self, *, code: int = WSCloseCode.OK, message: bytes = b"", drain: bool = True) -> bool:
        """Close as aiohttp does. aiohttp calls this for a message over the limit, and the client is told why first."""
        farewell = Farewell((), code, message.decode("utf-8", "replace"))
        if code == WSCloseCode.MESSAGE_TOO_BIG and not self.closed:
            farewell = self._too_big()
        return await self._close_within(farewell, drain=drain)

    async def _close_within(self, farewell: Farewell, *, drain: bool) -> bool:
        """Close; drop the connection of a client that reads nothing."""
        self._awaited_until = math.inf
        if self._patience is not None:
            self._patience.cancel()
        try:
            async with asyncio.timeout(_CLOSING_S):
                for frame in farewell.frames:
                    await self.send(frame)
                reason = _short_reason(farewell.reason)
                return await super().close(code=farewell.close_code, message=reason, drain=drain)
        except TimeoutError:
            self._set_code_close_transport(WSCloseCode.ABNORMAL_CLOSURE)
            return True

    def _pong_not_received(self) -> None:
        """Close the connection, as aiohttp does, unless the loop was blocked: the pong may then wait in the socket."""
        timer = self._pong_response_cb
        now = asyncio.get_running_loop().time()
        if timer is not None and now - timer.when() > _LATE_S:
            self._pong_response_cb = asyncio.get_running_loop().call_later(HEARTBEAT_S / 2, self._pong_not_received)
        else:
            super()._pong_not_received()


def _short_reason(reason: str) -> bytes:
    """Return a reason that fits into a close frame, cut between two characters."""
    return reason.encode("utf-8", "replace")[:_LONGEST_REASON].decode("utf-8", "ignore").encode()
