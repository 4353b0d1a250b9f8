"""The tie between the parent and a process of the server: a socket pair over which the process says that it works.

The parent writes the role and nothing else. The process writes lines: `ready`, `failed REASON`, and empty ones, its pulse.
The end of the connection tells either that the other is gone.
"""

from __future__ import annotations

import asyncio
import socket

import msgspec

from myna.server.fronts.role import Role

PULSE_S = 1.0
"""Interval of the pulse."""
READY, FAILED = b"ready", b"failed "
_LARGEST = 1 << 20
_DECODER = msgspec.json.Decoder(Role)


def write_role(sock: socket.socket, role: Role) -> None:
    """Write the role, as the parent. Raises `OSError`."""
    sock.sendall(msgspec.json.encode(role) + b"\n")


class Tie:
    """The process's end."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        with sock.makefile("rb") as lines:
            self.role = _DECODER.decode(lines.readline(_LARGEST))

    def failed(self, reason: str) -> None:
        """Say that the process cannot start."""
        self._say(FAILED + reason.replace("\n", " ").encode())

    def ready(self) -> None:
        """Say that the process serves."""
        self._say(READY)

    async def pulse(self) -> None:
        """Say periodically that the event loop turns, until cancelled."""
        while True:
            await asyncio.sleep(PULSE_S)
            self._say(b"")

    async def parent_gone(self) -> None:
        """Return when the parent is gone."""
        reader, _ = await asyncio.open_unix_connection(sock=self._socket.dup())
        await reader.read()

    def _say(self, line: bytes) -> None:
        try:
            self._socket.send(line + b"\n", socket.MSG_DONTWAIT)
        except OSError:
            return  # the parent is gone, or has been stopped and reads nothing
