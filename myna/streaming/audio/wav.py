"""WAV as a live stream sends it: with lengths that lie, with chunks behind the sound, one file after the other."""

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
"""A WAV whose chunks before its sound are longer is left to FFmpeg as it is."""
_LARGEST_CHUNK = 1024 * 1024
"""Bytes of a chunk behind the sound; what claims to be longer is no chunk but more sound."""
_UNKNOWN_LENGTH = 0xFFFF_0000
"""Lengths from here on, and 0, stand for one that the recorder did not know; the sound then goes on to the end."""
_LEAST_FORMAT, _LARGEST_FORMAT = 16, 40
_EXTENSIBLE = 0xFFFE
_DOUBLE = 8
_PLAIN = {
    (1, 1): None, (1, 3): None, (1, 4): None, (1, 2): Encoding.LINEAR16, (3, 4): Encoding.FLOAT32,
    (3, _DOUBLE): Encoding.FLOAT32, (6, 1): Encoding.ALAW, (7, 1): Encoding.MULAW,
}  # fmt: skip
"""Formats by their number in a WAV and the bytes of a sample."""
_PLACES = (
    "FL", "FR", "FC", "LFE", "BL", "BR", "FLC", "FRC", "BC", "SL", "SR", "TC", "TFL", "TFC", "TFR", "TBL", "TBC", "TBR",
)  # fmt: skip
"""The channels' places by the bits of an extensible WAV's mask."""
_CHUNK_NAME = re.compile(rb"[A-Za-z_][A-Za-z0-9_ ]{3}")


@dataclass(frozen=True, slots=True)
class Pcm:
    """Interleaved samples; `width` is the bytes of one."""

    rate: int
    channels: int
    width: int
    encoding: Encoding | None
    """None: whole numbers, little-endian; of one byte without a sign."""
    positions: tuple[str, ...]
    """Of the channels, as of a `Converter`."""

    @property
    def frame(self) -> int:
        """The bytes of a sample of every channel."""
        return self.channels * self.width

    def samples(self, data: bytes) -> np.ndarray:
        """Return whole frames as floats, shape [samples, channels]."""
        if self.encoding is Encoding.FLOAT32 and self.width == _DOUBLE:
            data = np.frombuffer(data, "<f8").astype("<f4").tobytes()
        if self.encoding is not None:
            audio = to_float(data, self.encoding)
        elif self.width == 1:
            audio = (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128
        else:  # the highest bytes of 32 bits
            wide = np.zeros((len(data) // self.width, 4), np.uint8)
            wide[:, 4 - self.width :] = np.frombuffer(data, np.uint8).reshape(-1, self.width)
            audio = (wide.view("<i4")[:, 0] / 2.0**31).astype(np.float32)
        return audio.reshape(-1, self.channels)


def _pcm(form: bytes) -> Pcm | None:
    """Return what a `fmt ` chunk says if that is plain samples and makes sense; FFmpeg knows the rest."""
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
    """One WAV. FFmpeg is told no length: what follows the announced sound is more of it, or a chunk, or another container."""

    excused = 0

    def __init__(self) -> None:
        self._kept = b""
        self._in_head = True
        self.pcm: Pcm | None = None
        """What its sound is, once the head has been read, if it is plain samples."""
        self.head_size: int | None = None
        """Bytes before the sound, once they have been read."""
        self._left: int | None = 0  # bytes of sound still announced; None: to the end
        self._odd = False
        self._skip = 0

    def take(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Return what of these bytes is of this WAV, and what follows it."""
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
        """Return what was kept back, or nothing where that is the beginning of a chunk."""
        return b"" if self._left == 0 and _CHUNK_NAME.match(self._kept) else self._kept

    def _head(self, data: bytes) -> tuple[bytes, bytes]:
        """Return the bytes up to the sound, the length made unknown, and what follows; nothing while they are incomplete."""
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
        """Return the sound in these bytes, and those that only what follows can explain; none if these are the last."""
        sound = b""
        while data:
            if self._skip:
                skipped = min(self._skip, len(data))
                data, self._skip = data[skipped:], self._skip - skipped
            elif self._left is None:
                keep = len(data) if last else unfinished(data)
                return sound + data[:keep], data[keep:]
            elif self._left:
                # The last bytes may begin another WAV, though this one has announced more.
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
        """Decide what follows the sound that was announced: a chunk (after a byte that fills up an odd length) or sound."""
        for pad in {0, int(self._odd and data[0] == 0)}:
            size = int.from_bytes(data[pad + 4 : pad + 8], "little")
            if _CHUNK_NAME.match(data, pad) and size <= _LARGEST_CHUNK:
                self._skip = pad + _CHUNK_HEAD + size
                self._odd = bool(size % 2)
                return
        self._left = None
