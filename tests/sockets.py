"""Bare sockets and hand-made WebSocket frames, for what no client library sends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator

ASKS = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Raw:
    """A bare socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def rest(self) -> bytes:
        """Return everything until the server closes."""
        async with asyncio.timeout(10):
            said = b""
            with contextlib.suppress(ConnectionError):
                while data := await self.reader.read(65_536):
                    said += data
            return said

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        async with asyncio.timeout(10):
            await self.writer.drain()


@contextlib.asynccontextmanager
async def raw(url: str, limit: int = 1 << 24, receive_buffer: int | None = None) -> AsyncIterator[Raw]:
    """A connection whose client reads so many bytes ahead, and whose system does."""
    host, port = url.removeprefix("http://").split(":")
    end = socket.socket()
    end.setblocking(False)  # noqa: FBT003 - the standard library's signature
    if receive_buffer is not None:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    await asyncio.get_running_loop().sock_connect(end, (host, int(port)))
    reader, writer = await asyncio.open_connection(sock=end, limit=limit)
    try:
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()


def frame(opcode: int, payload: bytes, *, final: bool = True, length: int | None = None) -> bytes:
    """A client's frame whose mask is zero; its head may announce more than there is."""
    first, size = opcode | (0x80 if final else 0), len(payload) if length is None else length
    head = struct.pack("!BB", first, 0x80 | size) if size < 126 else struct.pack("!BBQ", first, 0xFF, size)
    return head + bytes(4) + payload


async def upgraded(client: Raw, path: str = "/v1/listen?encoding=linear16&sample_rate=16000") -> None:
    await client.send(
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
    )
    assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
