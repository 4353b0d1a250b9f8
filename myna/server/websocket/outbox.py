"""The bounded queue of frames for one client. A slow reader gets fewer interims, never fewer finals, and is then closed."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Sequence

from myna.server.dialects.base import Frame

LARGEST = 4 * 1024 * 1024
"""Bytes of unsent frames above which the stream ends: an hour of one speaker's finals."""
_KEPT = 1024 * 1024
"""Bytes of sent frames kept for a client that may come back. Frames that are lost with a connection were sent in its last
minute, before the server noticed."""


class SlowReaderError(Exception):
    """The client does not read what the server sends."""


class Outbox:
    """A queue with one writer and one reader at a time, on one event loop. Numbered frames are kept after they are sent.

    A frame that replaces an unsent one removes it and goes to the end of the queue. So at most one frame of each key is
    queued, and never ahead of a final that was queued before it.
    """

    def __init__(self) -> None:
        self._frames: OrderedDict[int, Frame] = OrderedDict()  # by position
        self._count = 0
        self._replaceable: dict[str, int] = {}  # by key: the position of the unsent frame
        self._size = 0
        self._sent: deque[Frame] = deque()
        self._sent_size = 0
        self._forgotten = 0
        self._closed = False
        self._changed = asyncio.Event()

    def put(self, frame: Frame) -> None:
        """Queue a frame. Raises `SlowReaderError` when the queue is too large."""
        self._append(frame)
        self._changed.set()
        if self._size > LARGEST:
            raise SlowReaderError

    def put_last(self, frames: Sequence[Frame]) -> None:
        """Queue the last frames, even if the queue is too large."""
        for frame in frames:
            self._append(frame)
        self._changed.set()

    def clear(self) -> None:
        """Drop all frames, queued or kept."""
        self._frames.clear()
        self._replaceable.clear()
        self._sent.clear()
        self._size = self._sent_size = 0

    def close(self) -> None:
        """Note that no frame follows; those in the queue can still be taken."""
        self._closed = True
        self._changed.set()

    async def get(self) -> Frame | None:
        """Return the next frame, or None after the last."""
        while not self._frames:
            if self._closed:
                return None
            self._changed.clear()
            await self._changed.wait()
        position, frame = self._frames.popitem(last=False)
        self._size -= len(frame.payload)
        if frame.replaces is not None and self._replaceable.get(frame.replaces) == position:
            del self._replaceable[frame.replaces]
        if frame.number is not None and frame.replaces is None:  # interims are not kept
            self._keep(frame)
        return frame

    def holds_after(self, number: int) -> bool:
        """Return whether every frame after this number is still kept."""
        return number >= self._forgotten

    def rewind(self, number: int, first: Sequence[Frame]) -> None:
        """Queue `first` and the frames sent after this number again, ahead of the unsent ones."""
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
        """Queue a frame instead of the one it replaces; return its position."""
        self._count += 1
        if frame.replaces is not None:
            if older := self._frames.pop(self._replaceable.get(frame.replaces, 0), None):
                self._size -= len(older.payload)
            self._replaceable[frame.replaces] = self._count
        self._frames[self._count] = frame
        self._size += len(frame.payload)
        return self._count
