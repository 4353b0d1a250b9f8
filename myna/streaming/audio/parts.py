"""Splits a stream of bytes into its containers, so that each can be read as if it were alone."""

from __future__ import annotations

from typing import Protocol

from myna.streaming.audio.cutting import ID3, Cutter, cutter, id3_size
from myna.streaming.audio.frames import FrameConverter, Sink
from myna.streaming.audio.raw import AudioError

SUPPORTED = "WAV, FLAC, MP3, Ogg, WebM and Matroska, MP4/M4A/MOV, AAC (ADTS), AMR, AIFF, AU, CAF, AVI, WMA, MPEG"
_MAGIC = (
    (0, b"fLaC", "flac"),
    (0, b"OggS", "ogg"),
    (0, b"\x1a\x45\xdf\xa3", "matroska"),
    (0, b"#!AMR", "amr"),
    (0, b"ID3", "mp3"),
    (0, b"FORM", "aiff"),
    (0, b".snd", "au"),
    (0, b"caff", "caf"),
    (0, b"riff", "w64"),
    (8, b"WAVE", "wav"),
    (8, b"AVI ", "avi"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
    (0, b"\x00\x00\x01\xba", "mpeg"),
    (4, b"ftyp", "mp4"),
    (4, b"moov", "mp4"),
    (4, b"mdat", "mp4"),
    (4, b"wide", "mp4"),
    (4, b"free", "mp4"),
)
"""Offset, bytes, FFmpeg's name. Only formats that contain their audio: a playlist could name any file or address."""
WEAKLY_MARKED = {"mp3", "aac"}
"""Formats whose marks are so short that they occur in the bytes of any codec."""
_LEAST_HEAD = 12
"""Bytes that suffice to recognise most containers."""
_TRANSPORT_PACKET = 188
"""The packet size of MPEG transport streams; each packet begins with the mark 0x47."""
TELLING = _TRANSPORT_PACKET + 1
"""Bytes that suffice to recognise every container."""
MOST_IDLE_BYTES = 16 * 1024
"""The most bytes at the end of a container that yield no audio, such as small tags and padding."""
_READ = 65_536
"""Bytes read at a time."""


class FlushAsked(Exception):  # noqa: N818 - not an error: reading continues
    """Everything decoded so far must be handed out at once."""


class Readable(Protocol):
    """A sequence of bytes."""

    def read(self, size: int, /) -> bytes:
        """Return 1 to `size` bytes, waiting for them; none at the end. A live source may raise `FlushAsked`."""
        ...


class Feed(Readable, Sink, Protocol):
    """The source of a live decoder's bytes and the sink of its samples."""

    def packet(self) -> bytes | None:
        """Return the bytes of one message, waiting for it; None at the end of the stream. May raise `FlushAsked`."""
        ...


def sniff(head: bytes) -> str | None:
    """Return FFmpeg's name of the container that begins with `head`; None if no supported container does."""
    for offset, magic, name in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return name
    if head[:1] == b"\x47" and head[_TRANSPORT_PACKET:TELLING] == b"\x47":
        return "mpegts"
    if len(head) < _LEAST_HEAD or head[0] != 0xFF:
        return None
    if head[1] & 0xF6 == 0xF0:
        return "aac"
    return "mp3" if head[1] & 0xE0 == 0xE0 and head[1] & 0x06 else None


class Parts:
    """The containers in a feed. If the first bytes begin none, they are a stream of `codec`, if one is given."""

    def __init__(self, feed: Readable, sound: FrameConverter, codec: str | None = None) -> None:
        self._feed = feed
        self._sound = sound
        self._codec = codec
        self._rest = b""
        self._last: str | None = None
        self._tagged = False

    def next(self) -> Part | None:
        """Return the next container once the last is read; None at the end. Raises `AudioError` if no container begins."""
        if self._last is not None:
            self._skip_padding()
        head = self._head()
        if not head or (self._last is not None and len(head) < _LEAST_HEAD):
            return None
        if len(head) < _LEAST_HEAD:
            raise AudioError(f"the audio has only {len(head)} bytes, too few for a container ({SUPPORTED})")
        name = sniff(head)
        if name in WEAKLY_MARKED and self._last not in (None, name) and not self._tagged:
            name = None  # after another container, such a short mark is more likely chance
        if self._codec and self._last is None and (name is None or name in WEAKLY_MARKED):
            name = self._codec
        if name is None and self._last is not None:
            if len(self._read_to(MOST_IDLE_BYTES)) < MOST_IDLE_BYTES:
                return None
            raise AudioError(
                f"the bytes after the end of the {self._last} stream begin no container that is supported ({SUPPORTED})"
            )
        if name is None:
            raise AudioError(
                f"the audio begins with no container that is supported ({SUPPORTED}); for raw audio set encoding and"
                " sample_rate"
            )
        self._last = name
        return Part(self, name)

    def read(self) -> bytes:
        """Return the next bytes; none at the end."""
        if self._rest:
            data, self._rest = self._rest, b""
            return data
        self._sound.settle()  # the read below may block, and audio received before must not wait for it
        while True:
            try:
                return self._feed.read(_READ)
            except FlushAsked:
                self._sound.flush()

    def unread(self, data: bytes) -> None:
        """Put these bytes back, to be read next."""
        self._rest = data + self._rest

    def _head(self) -> bytes:
        """Return enough bytes to recognise the next container, fewer at the end. Tags before it are skipped."""
        head = self._read_to(_LEAST_HEAD)
        self._tagged = False
        while self._codec is None and (tag := ID3.match(head)):
            self._tagged = True
            self._skip(tag.end() + id3_size(tag))
            head = self._read_to(_LEAST_HEAD)
            if sniff(head) is None and head and not ID3.match(head):
                self.unread(b"ID3\x04\0\0\0\0\0\0")  # an empty tag marks an MP3 whose first frame is damaged
                return self._read_to(_LEAST_HEAD)
        return self._read_to(TELLING) if head[:1] == b"\x47" else head

    def _skip_padding(self) -> None:
        while (head := self._read_to(_LEAST_HEAD)) and not any(head):
            rest = self.read().lstrip(b"\0")
            self.unread(bytes(3) + rest if rest[1:5] == b"ftyp" else rest)  # an MP4 begins with zeros itself

    def _read_to(self, size: int) -> bytes:
        """Return the next `size` bytes, fewer at the end, without consuming them."""
        data = b""
        while len(data) < size and (more := self.read()):
            data += more
        self.unread(data)
        return data

    def _skip(self, size: int) -> None:
        while size and (data := self.read()):
            self.unread(data[size:])
            size -= min(size, len(data))


class Part:
    """The bytes of one container."""

    def __init__(self, parts: Parts, name: str) -> None:
        self.name = name
        self.cutter: Cutter = cutter(name)
        self._parts = parts
        self._ready = b""
        self._ended = False
        self._read = self._sounded = 0
        self.patience: int | None = None
        """The most consecutive bytes that may yield no audio, besides those that the cutter excuses; None: no limit."""

    def check(self) -> None:
        """Raise `AudioError` if too many consecutive bytes yielded no audio."""
        idle = self._read - self._sounded
        if self.patience is not None and idle > self.patience + self.cutter.excused:
            raise AudioError(f"the {self.name} stream is damaged: its last {idle} bytes are not audio")

    def sounded(self, end: int | None) -> None:
        """Take note that the bytes before `end` yielded audio; None: all bytes read so far."""
        self._sounded = max(self._sounded, self._read if end is None else min(end, self._read))

    def read(self, size: int) -> bytes:
        """Return the next 1 to `size` bytes; none at the end."""
        self.check()
        while not self._ready and not self._ended:
            data = self._parts.read()
            if not data:
                self._ready, self._ended = self.cutter.end(), True
                break
            self._ready, rest = self.cutter.take(data)
            if rest is not None:
                self._parts.unread(rest)
                self._ended = True
        data, self._ready = self._ready[:size], self._ready[size:]
        self._read += len(data)
        return data

    def unread(self, data: bytes) -> None:
        """Put these bytes back, to be read once more."""
        self._ready = data + self._ready
        self._read -= len(data)

    def drain(self) -> None:
        """Skip the bytes that FFmpeg has not read. Raises `AudioError` if they are more than tags and padding can be."""
        self._sounded, self.patience = self._read, MOST_IDLE_BYTES
        while self.read(_READ):
            pass
