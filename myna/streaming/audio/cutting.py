"""Where one container ends and the next begins, in bytes that go by: FFmpeg reads each container as if it were alone."""

from __future__ import annotations

import re
from typing import Protocol

from myna.streaming.audio.marks import BEGINS, BEGINS_IN_MATROSKA, BEGINS_IN_OGG, unfinished
from myna.streaming.audio.mp4 import Boxes
from myna.streaming.audio.mpegts import Transport
from myna.streaming.audio.wav import Riff


class Cutter(Protocol):
    """Follows the bytes of one container. `excused`: bytes of indexes and tags in it, which make no sound and may be long."""

    excused: int

    def take(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Return what of these bytes and of those kept back is of the container, and what follows it if its end is there."""
        ...

    def end(self) -> bytes:
        """Return what was kept back; no bytes follow."""
        ...


def cutter(name: str) -> Cutter:
    """Return what knows the end of a container of FFmpeg's format `name`."""
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
    """What has no end that could be told."""

    excused = 0

    def take(self, data: bytes) -> tuple[bytes, bytes | None]:
        return data, None

    def end(self) -> bytes:
        return b""


_ELEMENTS = re.compile(rb"(?:\x1c\x53\xbb\x6b|\x12\x54\xc3\x67|\x19\x41\xa4\x69)([\x08-\xff])")
"""Matroska's cues, tags and attachments, and the first byte of their size."""
_APE = re.compile(rb"APETAGEX[\s\S]{4}([\s\S]{4})")
"""A tag behind the sound, and its size."""


class _Marks:
    """A container that ends where another's mark is."""

    def __init__(self, begins: re.Pattern[bytes]) -> None:
        self._begins = begins
        self._kept = b""
        self._any = False
        self.excused = 0

    def take(self, data: bytes) -> tuple[bytes, bytes | None]:
        data = self._kept + data
        self._kept = b""
        found = self._begins.search(data, 0 if self._any else 1)  # its own mark is the first byte's
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
            length = 9 - element[1][0].bit_length()  # of the size, which the byte's zeros tell
            size = int.from_bytes(data[element.end() - 1 : element.end() - 1 + length])
            self.excused += size & ((1 << (7 * length)) - 1)
        for tag in _APE.finditer(data):
            self.excused += int.from_bytes(tag[1], "little")


_OGG_PAGE = re.compile(rb"OggS\x00([\x00-\x07])")
_OGG_BEGINS = 2
"""The flag of a logical stream's first page."""


class _Ogg:
    """A chain's next link begins with a first page after pages that are none."""

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
            if not first and not self._beyond_first:  # in a first page, the head of another format may stand
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
"""A tag; its size, seven bits a byte, leaves out these ten bytes."""
_MP3_BEGINS = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb][\x10-\xef][\s\S]\x00{9,34}(?:Xing|Info)")
"""The frame that encoders write first, silent, with what they know of the file."""
_MP3_BEGUN = re.compile(
    rb"(?:\xff(?:[\xe2\xe3\xf2\xf3\xfa\xfb](?:[\x10-\xef](?:[\s\S]\x00{0,34}(?:X|Xi|Xin|I|In|Inf)?)?)?)?"
    rb"|I(?:D(?:3[\s\S]{0,6})?)?)\Z"
)
"""Last bytes that may become such a frame, or a tag."""
_LONGEST_MP3_MARK = 42


class _Mp3:
    """Joined files: tags between them are left out, and an encoder's first frame begins another."""

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
    """Return the bytes of a tag after those that `ID3` matches."""
    size = 0
    for byte in tag[1]:
        size = size << 7 | byte
    return size
