"""Connections and questions that the processes of one server pass to each other over Unix sockets.

A client's connection is passed as a descriptor, with the bytes that were read from it. It needs no forwarding afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import structlog

log = structlog.get_logger()

_HEAD = struct.Struct("<cI")
_CONNECTION, _SNAPSHOT = b"c", b"s"
_TAKEN = b"\x06"
_MOST_BYTES = 1 << 24
"""Limit on the bytes that come with a connection: a read of a socket yields less."""
ANSWER_WITHIN_S = 5.0
"""Limit on the time of one exchange."""
_BACKLOG = 512

TakeConnection = Callable[[socket.socket, bytes], Awaitable[None]]
"""Serves a client's connection; the bytes were read from it before."""


class PeerListener:
    """Listens for the other processes at `path`. `snapshot` answers questions; `take` serves connections passed on."""

    def __init__(self, path: Path, snapshot: Callable[[], bytes], take: TakeConnection) -> None:
        self._snapshot = snapshot
        self._take = take
        self._tasks: set[asyncio.Task[None]] = set()
        self._socket = socket.socket(socket.AF_UNIX)
        path.unlink(missing_ok=True)  # of a process that was killed
        self._socket.bind(str(path))
        self._socket.listen(_BACKLOG)
        self._socket.setblocking(False)  # noqa: FBT003 - the standard library's signature

    async def run(self) -> None:
        """Serve until cancelled."""
        while True:
            connection, _ = await asyncio.get_running_loop().sock_accept(self._socket)
            task = asyncio.create_task(self._serve(connection), name="peer")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Stop listening."""
        for task in self._tasks:
            task.cancel()
        self._socket.close()

    async def _serve(self, peer: socket.socket) -> None:
        try:
            with peer:
                async with asyncio.timeout(ANSWER_WITHIN_S):
                    await self._answer(peer)
        except (OSError, ValueError, TimeoutError) as error:
            log.error("a peer process was dropped", reason=str(error) or "it sent too little in time")
        except Exception:
            log.exception("a request of a peer process failed")

    async def _answer(self, peer: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        head, descriptors = await _received(peer)
        with contextlib.ExitStack() as stack:
            for descriptor in descriptors:
                stack.callback(os.close, descriptor)
            if len(head) < _HEAD.size:
                raise ValueError(f"its message has {len(head)} bytes, fewer than the {_HEAD.size} of a head")
            kind, length = _HEAD.unpack(head)
            if kind == _SNAPSHOT:
                await loop.sock_sendall(peer, self._snapshot())
                return
            if kind != _CONNECTION or len(descriptors) != 1 or length > _MOST_BYTES:
                raise ValueError(f"it sent a message of kind {kind!r} with {len(descriptors)} descriptors")
            data = bytearray()
            while len(data) < length:
                if not (more := await loop.sock_recv(peer, length - len(data))):
                    raise ValueError(f"it closed the connection after {len(data)} of {length} bytes")
                data += more
            connection = socket.socket(fileno=os.dup(descriptors[0]))
        connection.setblocking(False)  # noqa: FBT003 - the standard library's signature
        await loop.sock_sendall(peer, _TAKEN)
        await self._take(connection, bytes(data))


async def pass_on(path: Path, descriptor: int, data: bytes) -> bool:
    """Pass a client's connection, and what was read from it, to the process that listens at `path`.

    Return whether the connection may have been taken; False: that process does not run, and the caller can serve the client.
    """
    loop = asyncio.get_running_loop()
    with _connected(path) as peer:
        if peer is None:
            return False
        with contextlib.suppress(OSError, TimeoutError):  # the other process may have taken it all the same
            async with asyncio.timeout(ANSWER_WITHIN_S):
                socket.send_fds(peer, [_HEAD.pack(_CONNECTION, len(data))], [descriptor])
                await loop.sock_sendall(peer, data)
                await loop.sock_recv(peer, len(_TAKEN))
    return True


async def snapshot_of(path: Path) -> bytes | None:
    """Return the answer of the process that listens at `path`; None if it does not answer."""
    loop = asyncio.get_running_loop()
    answer = bytearray()
    with _connected(path) as peer:
        if peer is None:
            return None
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                await loop.sock_sendall(peer, _HEAD.pack(_SNAPSHOT, 0))
                while data := await loop.sock_recv(peer, 1 << 20):
                    answer += data
        except (OSError, TimeoutError):
            return None
    return bytes(answer) or None


@contextlib.contextmanager
def _connected(path: Path) -> Iterator[socket.socket | None]:
    """Yield a connection; None if nothing listens there, or its queue is full."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.setblocking(False)  # noqa: FBT003 - the standard library's signature
        try:
            peer.connect(str(path))  # a Unix socket connects at once or fails
        except OSError:
            yield None
        else:
            yield peer


async def _received(peer: socket.socket) -> tuple[bytes, list[int]]:
    """Return the head of a message and the descriptors that came with it."""
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()

    def on_readable() -> None:
        if not readable.done():
            readable.set_result(None)

    loop.add_reader(peer, on_readable)
    try:
        await readable
    finally:
        loop.remove_reader(peer)
    head, descriptors, _, _ = socket.recv_fds(peer, _HEAD.size, 4)
    return head, descriptors
