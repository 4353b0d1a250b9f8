"""Follows WAVs in a live stream: their lengths may be wrong, chunks may follow the audio, and files may follow each other."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

import numpy as np

from myna.streaming.audio.marks import BEGINS, unfinished
from myna.streaming.audio.raw import Encoding, to_float

_BEGINS_SIZE = 12
_CHUNK_HEAD = 8
_LARGEST_HEAD = 1024 * 1024
"""A WAV whose chunks before the audio are longer is passed to FFmpeg unchanged."""
_LARGEST_CHUNK = 1024 * 1024
"""The most bytes of a chunk after the audio; what looks like a longer chunk is audio."""
_UNKNOWN_LENGTH = 0xFFFF_0000
"""A length from here on, or 0, means that the recorder did not know the length; the audio then extends to the end."""
_LEAST_FORMAT, _LARGEST_FORMAT = 16, 40
_EXTENSIBLE = 0xFFFE
_DOUBLE = 8
_PLAIN = {
    (1, 1): None, (1, 3): None, (1, 4): None, (1, 2): Encoding.LINEAR16, (3, 4): Encoding.FLOAT32,
    (3, _DOUBLE): Encoding.FLOAT32, (6, 1): Encoding.ALAW, (7, 1): Encoding.MULAW,
}  # fmt: skip
"""Encodings by the format tag of a WAV and the bytes of a sample."""
_PLACES = (
    "FL", "FR", "FC", "LFE", "BL", "BR", "FLC", "FRC", "BC", "SL", "SR", "TC", "TFL", "TFC", "TFR", "TBL", "TBC", "TBR",
)  # fmt: skip
"""The channels' positions by the bits of an extensible WAV's channel mask."""
_CHUNK_NAME = re.compile(rb"[A-Za-z_][A-Za-z0-9_ ]{3}")


@dataclass(frozen=True, slots=True)
class Pcm:
    """The format of interleaved samples; `width` is the number of bytes of one sample."""

    rate: int
    channels: int
    width: int
    encoding: Encoding | None
    """None: little-endian integers, unsigned if they have one byte."""
    positions: tuple[str, ...]
    """The channels' positions, as for `Converter`."""

    @property
    def frame(self) -> int:
        """The number of bytes of one sample of all channels."""
        return self.channels * self.width

    def samples(self, data: bytes) -> np.ndarray:
        """Return whole frames as floats, shape [samples, channels]."""
        if self.encoding is Encoding.FLOAT32 and self.width == _DOUBLE:
            data = np.frombuffer(data, "<f8").astype("<f4").tobytes()
        if self.encoding is not None:
            audio = to_float(data, self.encoding)
        elif self.width == 1:
            audio = (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128
        else:  # the sample becomes the highest bytes of a 32-bit integer
            wide = np.zeros((len(data) // self.width, 4), np.uint8)
            wide[:, 4 - self.width :] = np.frombuffer(data, np.uint8).reshape(-1, self.width)
            audio = (wide.view("<i4")[:, 0] / 2.0**31).astype(np.float32)
        return audio.reshape(-1, self.channels)


def _pcm(form: bytes) -> Pcm | None:
    """Return the format in a `fmt ` chunk if it is one of plain samples; None: FFmpeg must decode the audio."""
    if len(form) < _LEAST_FORMAT:
        return None
    tag, channels, rate, _, align, bits = struct.unpack_from("<HHIIHH", form)
    mask = 0
    if tag == _EXTENSIBLE and len(form) >= _LARGEST_FORMAT:
        mask, tag = struct.unpack_from("<IH", form, 20)
    width, rest = divmod(align, channels) if channels else (0, 1)
    if rest or (bits + 7) // 8 != width or (tag, width) not in _PLAIN:
        return None
    places = tuple(place for bit, place in enumerate(_PLACES) if mask >> bit & 1)
    return Pcm(rate, channels, width, _PLAIN[tag, width], places if len(places) == channels else ("",) * channels)


class Riff:
    """One WAV. Its length is hidden from FFmpeg, since audio, a chunk or another container may follow the announced audio."""

    excused = 0

    def __init__(self) -> None:
        self._kept = b""
        self._in_head = True
        self.pcm: Pcm | None = None
        """The format of the audio, once the head has been read, if it is one of plain samples."""
        self.head_size: int | None = None
        """The number of bytes before the audio, once they have been read."""
        self._left: int | None = 0  # bytes left of the announced audio; None: it extends to the end
        self._odd = False
        self._skip = 0

    def take(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Return the bytes that belong to this WAV, and the bytes after it once it has ended."""
        data, self._kept = self._kept + data, b""
        head = b""
        if self._in_head:
            head, data = self._head(data)
            if self._in_head:
                self._kept = data
                return head, None
        begins = BEGINS.search(data)
        sound, rest = self._sound(data[: begins.start()] if begins else data, last=begins is not None)
        if begins:
            return head + sound, data[begins.start() :]
        self._kept = rest
        return head + sound, None

    def end(self) -> bytes:
        """Return the bytes kept back, unless they are the beginning of a chunk."""
        return b"" if self._left == 0 and _CHUNK_NAME.match(self._kept) else self._kept

    def _head(self, data: bytes) -> tuple[bytes, bytes]:
        """Return the head, with the lengths made unknown, and the bytes after it; b"" as head while it is incomplete."""
        position = _BEGINS_SIZE
        size64 = 0
        while len(data) >= position + _CHUNK_HEAD:
            name, size = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
            position += _CHUNK_HEAD
            if name == b"ds64" and len(data) >= position + 16:
                size64 = int.from_bytes(data[position + 8 : position + 16], "little")
            if name == b"fmt ":
                self.pcm = _pcm(data[position : position + min(size, _LARGEST_FORMAT)])
            if name == b"data":
                self._in_head = False
                self.head_size = position
                length = size64 if size >= _UNKNOWN_LENGTH else size
                self._left, self._odd = length or None, bool(length % 2)
                return b"RIFF" + data[4 : position - 4] + bytes(4), data[position:]
            position += size + size % 2
        if position > _LARGEST_HEAD:
            self._in_head, self._left = False, None
            return data, b""
        return b"", data

    def _sound(self, data: bytes, *, last: bool) -> tuple[bytes, bytes]:
        """Return the audio in these bytes, and the last bytes if their meaning depends on what follows (not if `last`)."""
        sound = b""
        while data:
            if self._skip:
                skipped = min(self._skip, len(data))
                data, self._skip = data[skipped:], self._skip - skipped
            elif self._left is None:
                keep = len(data) if last else unfinished(data)
                return sound + data[:keep], data[keep:]
            elif self._left:
                # The last bytes may begin another WAV, even if this one announced more audio.
                size = min(self._left, len(data) if last else unfinished(data))
                if not size:
                    return sound, data
                sound, data, self._left = sound + data[:size], data[size:], self._left - size
                if self._left and len(data) < _BEGINS_SIZE:
                    return sound, data
            elif len(data) < _CHUNK_HEAD + self._odd:
                return sound + (data if last and not _CHUNK_NAME.match(data) else b""), b"" if last else data
            else:
                self._after(data)
        return sound, b""

    def _after(self, data: bytes) -> None:
        """Decide what follows the announced audio: a chunk (after a padding byte if the length is odd) or more audio."""
        for pad in {0, int(self._odd and data[0] == 0)}:
            size = int.from_bytes(data[pad + 4 : pad + 8], "little")
            if _CHUNK_NAME.match(data, pad) and size <= _LARGEST_CHUNK:
                self._skip = pad + _CHUNK_HEAD + size
                self._odd = bool(size % 2)
                return
        self._left = None
