"""Follows the outermost boxes of an MP4 to find its index and the beginning of another file."""

from __future__ import annotations

from os import SEEK_END
from typing import BinaryIO

from myna.streaming.audio.raw import AudioError

_HEAD = 8
_LONG_HEAD = 16
_NAMES = set(
    b"ftyp moov moof mdat free skip wide uuid udta meta sidx ssix styp mfra mfro emsg prft pdin pnot PICT junk imda idat bloc"
    b" prfl iods tref MCDI".split()
)
"""The outermost boxes of ISO/IEC 14496-12 and QuickTime."""
_INDEXES = (b"moov", b"moof")


def beginnings(file: BinaryIO) -> list[int]:
    """Return the positions at which the MP4s in a file begin."""
    begins, begun, position = [0], False, 0
    end = file.seek(0, SEEK_END)
    while len(head := _read_at(file, position)) >= _HEAD:
        size, kind = int.from_bytes(head[:4]), head[4:8]
        size = int.from_bytes(head[8:16]) if size == 1 else size
        if kind == b"ftyp" and begun:
            begins.append(position)
        begun = kind != b"ftyp" and (begun or kind in (*_INDEXES, b"mdat"))
        if size < _HEAD or position + size > end or kind not in _NAMES:
            break
        position += size
    return begins


def _read_at(file: BinaryIO, position: int) -> bytes:
    file.seek(position)
    return file.read(_LONG_HEAD)


class Boxes:
    """One MP4. It ends before another one's first box (`ftyp`), or where no known box begins."""

    excused = 1 << 62  # anything after the audio is a box or ends the file

    def __init__(self) -> None:
        self._kept = b""
        self._left: int | None = 0  # bytes left of the box; None: it extends to the end
        self._kind = b""
        self.indexed = False
        """Whether a complete index has been read."""
        self._sound = False

    @property
    def index_is_last(self) -> bool | None:
        """Whether the audio (mdat) comes before the index (moov); None: neither has begun."""
        if self._kind in _INDEXES or self.indexed:
            return False
        return True if self._sound else None

    def take(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Return the bytes that belong to this MP4, and the bytes after it once it has ended."""
        data, self._kept = self._kept + data, b""
        position = 0
        while position < len(data):
            if self._left is None:
                return data, None
            if self._left:
                size = min(self._left, len(data) - position)
                position += size
                self._left -= size
                self.indexed = self.indexed or (not self._left and self._kind in _INDEXES)
                continue
            head = data[position : position + _LONG_HEAD]
            size, kind = int.from_bytes(head[:4]), head[4:8]
            if len(head) < (_LONG_HEAD if size == 1 else _HEAD):
                self._kept = head
                return data[:position], None
            begun = self.indexed or self._sound
            if begun and (kind == b"ftyp" or kind not in _NAMES):
                return data[:position], data[position:]
            self._enter(kind, size if size != 1 else int.from_bytes(head[8:16]))
        return data, None

    def end(self) -> bytes:
        """Return the bytes kept back."""
        return self._kept

    def _enter(self, kind: bytes, size: int) -> None:
        if 0 < size < _HEAD:
            raise AudioError(
                f"the MP4 stream is damaged: its {kind!r} box has {size} bytes, at least {_HEAD} are needed"
            )
        self._kind, self._left = kind, size or None
        self._sound = self._sound or kind == b"mdat"
