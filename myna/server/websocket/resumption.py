"""The sockets of one stream's client, one after the other: a client that lost its connection may attach another."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any

from aiohttp import web

from myna.runtime.deadlines import Clock, timeout
from myna.server.websocket.client_socket import ClientSocket


class Attachment:
    """A socket attached to a stream. Its client has received the frames up to number `after`.

    `released` is set when the stream no longer uses the socket.
    """

    def __init__(self, socket: ClientSocket, request: web.Request, after: int) -> None:
        self.socket = socket
        self.after = after
        self.released = asyncio.Event()
        self._request = request

    def abort(self) -> None:
        """Drop the connection without a close frame."""
        if self._request.transport is not None:
            self._request.transport.abort()

    def reject(self) -> None:
        """Drop the connection of a client that the stream will not serve."""
        self.abort()
        self.released.set()


class Resumption:
    """Hands a stream from a broken socket to its client's next one."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._current: Attachment | None = None
        self._next: asyncio.Future[Attachment] = asyncio.get_running_loop().create_future()

    def use(self, attachment: Attachment) -> None:
        """Note the socket that serves the client from here on."""
        self._current = attachment

    def offer(self, attachment: Attachment) -> None:
        """Replace the current socket, if it is still there; of several offers the last one wins."""
        if self._next.done():
            self._next.result().reject()
            self._next = asyncio.get_running_loop().create_future()
        if self._current is not None:
            self._current.abort()
        self._next.set_result(attachment)

    async def wait(self, within_s: float, unless: Iterable[asyncio.Future[Any]]) -> Attachment | None:
        """Return the client's next socket; None if it does not come in time, or one of `unless` is done before."""
        with contextlib.suppress(TimeoutError):
            async with timeout(within_s, self._clock):
                await asyncio.wait([self._next, *unless], return_when=asyncio.FIRST_COMPLETED)
        if not self._next.done():
            return None
        attachment, self._next = self._next.result(), asyncio.get_running_loop().create_future()
        return attachment

    def close(self) -> None:
        """Reject a client that came back too late."""
        if self._next.done():
            self._next.result().reject()
