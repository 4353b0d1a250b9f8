"""Commands of one client that wait until its earlier audio is decoded. The audio in them waits as it was sent."""

from __future__ import annotations

from collections import deque

from myna.runtime.errors import DialectError
from myna.server.dialects.base import Audio, Command, End, Stalled

_COMMAND_BYTES = 256
"""Memory of a command besides its audio."""


class Spool:
    """A queue of commands, each with the time it arrived at. It holds `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._commands: deque[tuple[Command, float]] = deque()
        self._size = 0

    def __len__(self) -> int:
        """Return how many commands wait."""
        return len(self._commands)

    @property
    def size(self) -> int:
        """Bytes that the commands take."""
        return self._size

    def append(self, command: Command, arrived: float) -> None:
        """Queue a command. Raises `DialectError` if it does not fit; one command fits into an empty spool, however large."""
        size = _size(command)
        if self._size and self._size + size > self._limit:
            raise DialectError(
                "overloaded",
                f"{self._size} bytes of audio wait to be decoded, and the server keeps {self._limit} of a client: send it"
                " more slowly",
                finals_first=True,
            )
        self._size += size
        self._commands.append((command, arrived))

    def popleft(self) -> tuple[Command, float]:
        """Return the oldest command, and when it arrived."""
        command, arrived = self._commands.popleft()
        self._size -= _size(command)
        return command, arrived

    def clear(self) -> None:
        """Drop all commands."""
        self._commands.clear()
        self._size = 0


def _size(command: Command) -> int:
    match command:
        case Audio(data):
            return _COMMAND_BYTES + len(data)
        case End() | Stalled():  # the server's own, which always fit
            return 0
        case _:
            return _COMMAND_BYTES
