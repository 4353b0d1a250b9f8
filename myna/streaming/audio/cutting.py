"""Finds where one container ends and the next begins in a stream of bytes, so that FFmpeg reads each one alone."""

from __future__ import annotations

import re
from typing import Protocol

from myna.streaming.audio.marks import BEGINS, BEGINS_IN_MATROSKA, BEGINS_IN_OGG, unfinished
from myna.streaming.audio.mp4 import Boxes
from myna.streaming.audio.mpegts import Transport
from myna.streaming.audio.wav import Riff


class Cutter(Protocol):
    """Follows the bytes of one container. `excused` counts bytes of its indexes and tags, which yield no audio."""

    excused: int

    def take(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Return the bytes, including those kept back, that belong to the container, and those after it once it has ended."""
        ...

    def end(self) -> bytes:
        """Return the bytes kept back; no bytes follow."""
        ...


def cutter(name: str) -> Cutter:
    """Return a cutter for containers of FFmpeg's format `name`."""
    match name:
        case "wav":
            return Riff()
        case "mp4":
            return Boxes()
        case "mpegts":
            return Transport()
        case "ogg":
            return _Ogg()
        case "mp3":
            return _Mp3()
        case "matroska":
            return _Marks(BEGINS_IN_MATROSKA)
        case "flac" | "amr" | "aac":
            return _Marks(BEGINS)
    return _Uncut()


class _Uncut:
    """A container whose end cannot be detected."""

    excused = 0

    def take(self, data: bytes) -> tuple[bytes, bytes | None]:
        return data, None

    def end(self) -> bytes:
        return b""


_ELEMENTS = re.compile(rb"(?:\x1c\x53\xbb\x6b|\x12\x54\xc3\x67|\x19\x41\xa4\x69)([\x08-\xff])")
"""The cues, tags and attachments of Matroska, and the first byte of their size."""
_APE = re.compile(rb"APETAGEX[\s\S]{4}([\s\S]{4})")
"""A tag after the audio, and its size."""


class _Marks:
    """A container that ends at the mark of another one."""

    def __init__(self, begins: re.Pattern[bytes]) -> None:
        self._begins = begins
        self._kept = b""
        self._any = False
        self.excused = 0

    def take(self, data: bytes) -> tuple[bytes, bytes | None]:
        data = self._kept + data
        self._kept = b""
        found = self._begins.search(data, 0 if self._any else 1)  # its own mark begins at the first byte
        keep = found.start() if found else max(unfinished(data), 0 if self._any else 1)
        self._any = self._any or bool(data)
        self._excuse(data[:keep])
        if found:
            return data[:keep], data[keep:]
        self._kept = data[keep:]
        return data[:keep], None

    def end(self) -> bytes:
        return self._kept

    def _excuse(self, data: bytes) -> None:
        for element in _ELEMENTS.finditer(data):
            length = 9 - element[1][0].bit_length()  # the leading zeros give the length of the size field
            size = int.from_bytes(data[element.end() - 1 : element.end() - 1 + length])
            self.excused += size & ((1 << (7 * length)) - 1)
        for tag in _APE.finditer(data):
            self.excused += int.from_bytes(tag[1], "little")


_OGG_PAGE = re.compile(rb"OggS\x00([\x00-\x07])")
_OGG_BEGINS = 2
"""The flag of the first page of a logical stream."""


class _Ogg:
    """One link of a chain. The next link begins with a first page after pages that are not first pages."""

    excused = 0

    def __init__(self) -> None:
        self._kept = b""
        self._beyond_first = False

    def take(self, data: bytes) -> tuple[bytes, bytes | None]:
        data = self._kept + data
        self._kept = b""
        begin = 0
        for page in _OGG_PAGE.finditer(data):
            first = page[1][0] & _OGG_BEGINS
            if first and self._beyond_first:
                other = BEGINS_IN_OGG.search(data, begin, page.start())
                end = other.start() if other else page.start()
                return data[:end], data[end:]
            if not first and not self._beyond_first:  # a first page may contain the head of another format
                self._beyond_first, begin = True, page.start()
        other = BEGINS_IN_OGG.search(data, begin) if self._beyond_first else None
        if other:
            return data[: other.start()], data[other.start() :]
        keep = unfinished(data)
        self._kept = data[keep:]
        return data[:keep], None

    def end(self) -> bytes:
        return self._kept


ID3 = re.compile(rb"ID3[\x02-\x04][\x00-\x0f][\x00-\xf0]([\x00-\x7f]{4})")
"""A tag. Its size, with seven bits per byte, does not count these ten bytes."""
_MP3_BEGINS = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb][\x10-\xef][\s\S]\x00{9,34}(?:Xing|Info)")
"""The silent frame that encoders write first, with information about the file."""
_MP3_BEGUN = re.compile(
    rb"(?:\xff(?:[\xe2\xe3\xf2\xf3\xfa\xfb](?:[\x10-\xef](?:[\s\S]\x00{0,34}(?:X|Xi|Xin|I|In|Inf)?)?)?)?"
    rb"|I(?:D(?:3[\s\S]{0,6})?)?)\Z"
)
"""The last bytes of a chunk if they may be the beginning of such a frame or a tag."""
_LONGEST_MP3_MARK = 42


class _Mp3:
    """Concatenated MP3s: tags between them are skipped, and an encoder's first frame begins another file."""

    def __init__(self) -> None:
        self._kept = b""
        self._skip = 0
        self._any = False
        self.excused = 0

    def take(self, data: bytes) -> tuple[bytes, bytes | None]:
        data, self._kept = self._kept + data, b""
        sound: list[bytes] = []
        for tag in _APE.finditer(data):
            self.excused += int.from_bytes(tag[1], "little")
        while data:
            if self._skip:
                skipped = min(self._skip, len(data))
                data, self._skip = data[skipped:], self._skip - skipped
                continue
            found = [m for m in (_MP3_BEGINS.search(data, 0 if self._any else 1), BEGINS.search(data)) if m]
            end = min((begins.start() for begins in found), default=len(data))
            id3 = ID3.search(data, 0, end)
            if id3:
                sound.append(data[: id3.start()])
                self._skip, data = id3_size(id3), data[id3.end() :]
            elif found:
                return b"".join(sound) + data[:end], data[end:]
            else:
                begun = _MP3_BEGUN.search(data, max(0 if self._any else 1, len(data) - _LONGEST_MP3_MARK))
                keep = min(unfinished(data), begun.start() if begun else len(data))
                sound.append(data[:keep])
                self._kept = data[keep:]
                data = b""
            self._any = self._any or bool(sound[-1])
        return b"".join(sound), None

    def end(self) -> bytes:
        return self._kept


def id3_size(tag: re.Match[bytes]) -> int:
    """Return the number of bytes of a tag after those that `ID3` matches."""
    size = 0
    for byte in tag[1]:
        size = size << 7 | byte
    return size
