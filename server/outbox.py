"""Frames on their way to one client, bounded: a slow reader gets fewer tentatives, never fewer finals, then a close."""

from __future__ import annotations

import asyncio
from collections import deque

from myna.server.dialects.base import Frame

LARGEST = 4 * 1024 * 1024
"""Bytes of unsent frames after which a client counts as gone: an hour of a talker's finals."""


class SlowReaderError(Exception):
    """The client does not read what it is sent."""


class Outbox:
    """A queue with one writer and one reader, on one event loop."""

    def __init__(self) -> None:
        self._frames: deque[Frame] = deque()
        self._size = 0
        self._closed = False
        self._changed = asyncio.Event()

    def put(self, frame: Frame) -> None:
        """Queue a frame. Raises `SlowReaderError` when too much waits."""
        if frame.replaces is not None:
            self._forget(frame.replaces)
        self._frames.append(frame)
        self._size += len(frame.payload)
        self._changed.set()
        if self._size > LARGEST:
            raise SlowReaderError

    def clear(self) -> None:
        """Drop what is queued: the client will not read it."""
        self._frames.clear()
        self._size = 0

    def close(self) -> None:
        """No frame follows; what is queued can still be taken."""
        self._closed = True
        self._changed.set()

    async def get(self) -> Frame | None:
        """Return the next frame, or None after the last."""
        while not self._frames:
            if self._closed:
                return None
            self._changed.clear()
            await self._changed.wait()
        frame = self._frames.popleft()
        self._size -= len(frame.payload)
        return frame

    def _forget(self, key: str) -> None:
        # Only the last few frames can be of an older tentative that is still worth replacing.
        for index in range(len(self._frames) - 1, max(-1, len(self._frames) - 9), -1):
            if self._frames[index].replaces == key:
                self._size -= len(self._frames[index].payload)
                del self._frames[index]
                return
