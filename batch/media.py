"""Sound files of any kind FFmpeg reads, as int16 at 16 kHz. This runs in a decoder process."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from myna.streaming.audio import AudioError, Coded, RawDecoder, RawFormat
from myna.streaming.container import Feed, decode_media, sniff

SUPPORTED = "WAV, FLAC, MP3, Ogg, WebM and Matroska, MP4/M4A/MOV, AAC, AMR, AIFF, AU, CAF, AVI, WMA, MPEG"
_READ = 1 << 16
_MORE_MAGIC = (
    (0, b"FORM", "aiff"),
    (0, b".snd", "au"),
    (0, b"caff", "caf"),
    (0, b"riff", "w64"),
    (8, b"AVI ", "avi"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
    (0, b"\x00\x00\x01\xba", "mpeg"),
    (4, b"moov", "mp4"),
    (4, b"mdat", "mp4"),
    (4, b"wide", "mp4"),
    (4, b"free", "mp4"),
)
"""Offset, bytes, FFmpeg's name. Only formats that hold their sound themselves: a playlist could name any file or address."""
_TRANSPORT_PACKET = 188
"""MPEG transport streams repeat their mark, 0x47, so often."""


def decode_file(path: Path, audio: RawFormat | Coded, feed: Feed, *, mix: bool) -> None:
    """Put the samples of a file into the feed, of which nothing is read. Raises `AudioError`.

    What the file is its first bytes say, not its name. `audio` is raw only where the client announced it.
    """
    with path.open("rb") as file:
        if isinstance(audio, RawFormat):
            _decode_raw(file, audio, feed, mix=mix)
            return
        name = kind_of(file.read(_TRANSPORT_PACKET + 1), audio)
    heard = _Heard(feed)
    try:
        decode_media(f"file:{path}", name, heard, mix=mix, options={"protocol_whitelist": "file"})
    except AudioError as error:
        if not heard.any:
            raise AudioError(f"corrupt or unsupported data: {error}") from error
        # What there was of a truncated file is worth having.


def kind_of(head: bytes, audio: Coded | None = None) -> str:
    """Return FFmpeg's name of the format that begins with these bytes. Raises `AudioError` if it is none we read."""
    if not head:
        raise AudioError("the file is empty")
    name = sniff(head) if len(head) >= 12 else None
    if audio is not None and audio.codec is not None and name in (None, "mp3", "aac"):
        return audio.codec.value
    for offset, magic, known in _MORE_MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return known
    if head[0] == 0x47 and head[_TRANSPORT_PACKET : _TRANSPORT_PACKET + 1] == b"\x47":
        return "mpegts"
    if name is None:
        raise AudioError(f"corrupt or unsupported data: the file is none of {SUPPORTED}")
    return name


def _decode_raw(file: BinaryIO, audio: RawFormat, feed: Feed, *, mix: bool) -> None:
    decoder = RawDecoder(audio, mix=mix)
    while data := file.read(_READ):
        decoder.feed(data)
        while channels := decoder.read():
            feed.put(channels)
    decoder.finish()
    while channels := decoder.read():
        feed.put(channels)


class _Heard:
    """A feed that knows whether anything was put into it."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self.read = feed.read
        self.packet = feed.packet
        self.any = False

    def put(self, channels: list[bytes]) -> None:
        self.any = self.any or bool(channels and channels[0])
        self._feed.put(channels)
