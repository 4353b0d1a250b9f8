"""Parses the frame headers of a WebSocket client (RFC 6455, 5.2) to know the memory of its unfinished message."""

from __future__ import annotations

_READ_BYTES = 64
"""Memory of each read of an unfinished message besides its bytes."""
_LENGTHS = {126: 2, 127: 8}
"""Bytes of the extended forms of a frame's length."""
_LAST_DATA = (0x80, 0x81, 0x82)
"""First bytes of a message's last frame: continuation, text, binary."""


class FrameMeter:
    """Follows one socket. `held` is the memory of its unfinished message in bytes, `pieces` the complete frames of it."""

    def __init__(self) -> None:
        self.held = 0
        self.pieces = 0
        self._head = b""
        self._left = 0  # bytes of the frame's payload that have not arrived
        self._in_frame = False
        self._is_data = False
        self._is_last = False

    @property
    def is_open(self) -> bool:
        """Whether a frame or a message is incomplete."""
        return bool(self.held or self.pieces or self._in_frame or self._head)

    def feed(self, data: bytes) -> None:
        """Process the next bytes."""
        at = 0
        if not self._in_frame and not self._head and _is_one_message(data):
            self.held = self.pieces = 0
            return
        while at < len(data):
            if not self._in_frame:
                at = self._begin(data, at)
            if self._in_frame:
                step = min(self._left, len(data) - at)
                at += step
                self._left -= step
                if self._is_data:
                    self.held += step
                if not self._left:
                    self._end()
        if self._in_frame and self._is_data:
            self.held += _READ_BYTES

    def _begin(self, data: bytes, at: int) -> int:
        """Parse a frame's header, or buffer an incomplete one; return where the rest begins."""
        before = len(self._head)
        head = self._head + data[at : at + 14 - before]
        size = 2 if len(head) < 2 else 2 + _LENGTHS.get(head[1] & 0x7F, 0) + (4 if head[1] & 0x80 else 0)
        if len(head) < size or len(head) < 2:
            self._head = head
            return len(data)
        self._head = b""
        length, more = head[1] & 0x7F, _LENGTHS.get(head[1] & 0x7F, 0)
        self._left = int.from_bytes(head[2 : 2 + more]) if more else length
        self._in_frame, self._is_data, self._is_last = True, not head[0] & 0x08, bool(head[0] & 0x80)
        return at + size - before

    def _end(self) -> None:
        self._in_frame = False
        if not self._is_data:
            return
        if self._is_last:
            self.held = self.pieces = 0
        else:
            self.pieces += 1


def _is_one_message(data: bytes) -> bool:
    """Return whether the bytes are one complete masked data frame of 126 to 65,535 bytes, the last of its message."""
    return len(data) > 8 and data[0] in _LAST_DATA and data[1] == 0xFE and len(data) == 8 + (data[2] << 8) + data[3]
