"""Passes a connection to another process of the server if the address of its next request belongs there."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

MOST_LINE_BYTES = 65_536
"""Bytes of a request's first line: a hundred keyterms fit into an address."""
Destination = Callable[[int, bytes], Awaitable[bool]]
"""Takes a connection's descriptor and the bytes read from it; returns whether it may have taken the connection."""
Route = Callable[[bytes], Destination | None]
"""Given the first line of a request, returns where its connection is passed; None: it is served here."""


class Diversion:
    """The diversion of one connection, whose bytes it holds back until the first line of a request is complete.

    `serve` takes the bytes of a request that is served here after all, `leave` closes the connection in this process.
    """

    def __init__(
        self, route: Route, transport: asyncio.Transport, serve: Callable[[bytes], None],
        leave: Callable[[], None],
    ) -> None:  # fmt: skip
        self._route = route
        self._transport = transport
        self._serve = serve
        self._leave = leave
        self._held = bytearray()
        self._passing: asyncio.Task[None] | None = None

    @property
    def holds(self) -> bool:
        """Whether bytes of a request are held back."""
        return bool(self._held)

    def take(self, data: bytes) -> bytes | None:
        """Take the next bytes of a request; return all its bytes once it is known that it is served here."""
        self._held += data
        if self._passing is not None:
            return None
        end = self._held.find(b"\n")
        if end < 0 and len(self._held) <= MOST_LINE_BYTES:
            return None
        destination = None if end < 0 else self._route(bytes(self._held[:end]))
        if destination is None:
            return self._released()
        self._transport.pause_reading()
        descriptor = os.dup(self._transport.get_extra_info("socket").fileno())
        self._passing = asyncio.create_task(self._pass_on(destination, descriptor), name="connection passed on")
        return None

    def _released(self) -> bytes:
        held, self._held = bytes(self._held), bytearray()
        return held

    async def _pass_on(self, destination: Destination, descriptor: int) -> None:
        try:
            taken = await destination(descriptor, bytes(self._held))
        finally:
            os.close(descriptor)
        self._passing = None
        if taken:
            self._leave()
        elif not self._transport.is_closing():
            self._serve(self._released())
            self._transport.resume_reading()
