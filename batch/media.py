"""Sound files of any kind FFmpeg reads, as int16 at 16 kHz, in portions: an hour of audio never is in memory at once."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import av

from myna.streaming.audio import PORTION, AudioError, Coded, PcmQueue, RawDecoder, RawFormat
from myna.streaming.container import FrameResampler, audio_frames, sniff

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


def portions(path: Path, audio: RawFormat | Coded, *, mix: bool) -> Generator[list[bytes]]:
    """Return the file's samples, some seconds of each channel at a time. Raises `AudioError`.

    What the file is its first bytes say, not its name. `audio` is raw only where the client announced it.
    """
    if isinstance(audio, RawFormat):
        return _raw(path, audio, mix=mix)
    return _decoded(path, audio, mix=mix)


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


def _raw(path: Path, audio: RawFormat, *, mix: bool) -> Generator[list[bytes]]:
    decoder = RawDecoder(audio, mix=mix)
    with path.open("rb") as file:
        while data := file.read(_READ):
            decoder.feed(data)
            while channels := decoder.read():
                yield channels
    decoder.finish()
    while channels := decoder.read():
        yield channels


def _decoded(path: Path, audio: Coded, *, mix: bool) -> Generator[list[bytes]]:
    with path.open("rb") as file:
        name = kind_of(file.read(_TRANSPORT_PACKET + 1), audio)
    queue = PcmQueue()
    resampler = FrameResampler(queue, mix=mix)
    try:
        with av.open(f"file:{path}", format=name) as container:
            if not container.streams.audio:
                raise AudioError(f"the {name} file holds no audio")
            for frame in audio_frames(container, name):
                resampler.put(frame)
                if queue.samples >= PORTION:
                    yield queue.take()
            resampler.finish()
    except (av.FFmpegError, ValueError, OSError) as error:
        if not resampler.heard:
            raise AudioError(f"corrupt or unsupported data: the {name} file cannot be decoded") from error
        # What there was of a truncated file is worth having.
    if not resampler.heard:
        raise AudioError(f"corrupt or unsupported data: the {name} file holds no audio that can be decoded")
    if queue.samples:
        yield queue.take()


class MediaDecoder:
    """A file as a `Decoder`: nothing is fed, everything is read."""

    def __init__(self, path: Path, audio: RawFormat | Coded, *, mix: bool) -> None:
        self._portions = portions(path, audio, mix=mix)

    def feed(self, data: bytes) -> None:
        """Do nothing: the file is all there is."""

    def finish(self) -> None:
        """Do nothing: the file has an end."""

    def read(self) -> list[bytes]:
        """Return the next samples of each channel; none at the end. Raises `AudioError`."""
        return next(self._portions, [])

    def close(self) -> None:
        """Let go of the file."""
        self._portions.close()
