"""Frames on their way to one client, bounded: a slow reader gets fewer interims, never fewer finals, then a close."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Sequence

from myna.server.dialects.base import Frame

LARGEST = 4 * 1024 * 1024
"""Bytes of unsent frames after which a client counts as gone: an hour of a talker's finals."""
_KEPT = 1024 * 1024
"""Bytes of sent frames kept for a client that may come back for them: what is lost with a connection was sent in its last
minute, before anybody could notice."""


class SlowReaderError(Exception):
    """The client does not read what it is sent."""


class Outbox:
    """A queue with one writer and one reader at a time, on one event loop. Numbered frames are kept when sent.

    A frame that replaces another takes it out wherever it waits and goes to the end: of each key one frame waits at most, and
    never before a final that was queued ahead of it.
    """

    def __init__(self) -> None:
        self._frames: OrderedDict[int, Frame] = OrderedDict()  # by an arbitrary number of its own
        self._count = 0
        self._replaceable: dict[str, int] = {}  # by key: the frame that waits
        self._size = 0
        self._sent: deque[Frame] = deque()
        self._sent_size = 0
        self._forgotten = 0
        self._closed = False
        self._changed = asyncio.Event()

    def put(self, frame: Frame) -> None:
        """Queue a frame. Raises `SlowReaderError` when too much waits."""
        self._append(frame)
        self._changed.set()
        if self._size > LARGEST:
            raise SlowReaderError

    def put_last(self, frames: Sequence[Frame]) -> None:
        """Queue what is said last: there is always room for it, however much waits."""
        for frame in frames:
            self._append(frame)
        self._changed.set()

    def clear(self) -> None:
        """Drop what is queued, and what was kept: the client will not read it."""
        self._frames.clear()
        self._replaceable.clear()
        self._sent.clear()
        self._size = self._sent_size = 0

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
        place, frame = self._frames.popitem(last=False)
        self._size -= len(frame.payload)
        if frame.replaces is not None and self._replaceable.get(frame.replaces) == place:
            del self._replaceable[frame.replaces]
        if frame.number is not None and frame.replaces is None:  # an interim is not worth keeping
            self._keep(frame)
        return frame

    def holds_after(self, number: int) -> bool:
        """Return whether every frame after this one is still here."""
        return number >= self._forgotten

    def rewind(self, number: int, first: Sequence[Frame]) -> None:
        """Queue again, behind `first` and before what was never sent, the frames sent after this one."""
        again = [frame for frame in self._sent if frame.number is not None and frame.number > number]
        self._sent.clear()
        self._sent_size = 0
        for frame in reversed([*first, *again]):
            self._frames.move_to_end(self._append(frame), last=False)
        self._changed.set()

    def _keep(self, frame: Frame) -> None:
        self._sent.append(frame)
        self._sent_size += len(frame.payload)
        while self._sent_size > _KEPT:
            oldest = self._sent.popleft()
            self._sent_size -= len(oldest.payload)
            self._forgotten = oldest.number or 0

    def _append(self, frame: Frame) -> int:
        """Queue a frame in place of the one it replaces; return where it is."""
        self._count += 1
        if frame.replaces is not None:
            if older := self._frames.pop(self._replaceable.get(frame.replaces, 0), None):
                self._size -= len(older.payload)
            self._replaceable[frame.replaces] = self._count
        self._frames[self._count] = frame
        self._size += len(frame.payload)
        return self._count
