"""One decoder process, seen from the server: its messages, its exit status, its end."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from myna.media.messages import HEAD, HELLO, LARGEST_ANSWER, STATUS, MessageKind, message

_STATUS_S = 1.0
"""Wall time within which the fork server reports how a process ended, unless it has ended itself."""


class DecoderProcess:
    """A decoder process, connected by a socket for messages and a lifeline that ends it when closed."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lifeline: socket.socket) -> None:
        self._reader = reader
        self._writer = writer
        self._lifeline = lifeline

    @property
    def gone(self) -> bool:
        """Whether the process has ended."""
        return self._reader.at_eof() or self._reader.exception() is not None

    def send(self, kind: MessageKind, body: bytes = b"") -> None:
        """Send a message."""
        self._writer.write(message(kind, body))

    async def hello(self) -> None:
        """Wait until the process runs. Raises `EOFError` if it ends before."""
        await self._reader.readexactly(len(HELLO))

    async def answer(self) -> tuple[MessageKind, bytes]:
        """Return the next answer. Raises `EOFError` if the process has ended, `ValueError` if the answer is invalid."""
        kind, size = HEAD.unpack(await self._reader.readexactly(HEAD.size))
        if size > LARGEST_ANSWER:
            raise ValueError(f"an answer has {size} bytes, at most {LARGEST_ANSWER} are allowed")
        return MessageKind(kind), await self._reader.readexactly(size)

    async def status(self) -> int | None:
        """Return the exit code of the process, or the negative number of the signal that ended it; None: it is unknown."""
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(_STATUS_S):
                data = await asyncio.get_running_loop().sock_recv(self._lifeline, STATUS.size)
            if len(data) == STATUS.size:
                return int(STATUS.unpack(data)[0])
        return None

    def end(self) -> None:
        """Kill the process, whatever it is doing."""
        self._lifeline.close()
        self._writer.transport.abort()
