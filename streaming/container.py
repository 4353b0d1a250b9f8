"""Container formats as a growing stream: WAV, FLAC, MP3, Ogg, WebM, MP4/M4A and ADTS, decoded by FFmpeg through PyAV.

FFmpeg reads from a `Feed`, which blocks until there are bytes: this runs in a decoder process, never on an event loop.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Protocol

import av
import numpy as np

from myna.streaming.audio import MOST_CHANNELS, AudioError, Codec, Resampler

SUPPORTED = "WAV, FLAC, MP3, Ogg, WebM, MP4/M4A, AAC (ADTS)"
MOST_MP4_BYTES = 64 * 1024 * 1024
"""An MP4 whose index lies behind its audio can only be decoded once all of it is here: this much is kept for that."""
LOWEST_MEDIA_RATE, HIGHEST_MEDIA_RATE = 4_000, 384_000
"""Sample rates of media in Hz: below lies no speech, above no recorder."""
_MOST_MP4_HEAD = 1024 * 1024
"""An MP4 whose first boxes (type, padding) are longer is taken as one whose index comes first."""
_MOST_BAD_PACKETS = 50
"""Damaged packets in a row after which the stream is not audio any more; a lossy link damages a few."""
_READ = 65_536
"""Bytes read at a time."""
PROBING = {"probesize": "65536", "analyzeduration": "500000"}
"""A live stream must not wait for megabytes before its first word."""


class Feed(Protocol):
    """Where a decoder's bytes come from and where its samples go."""

    def read(self, size: int) -> bytes:
        """Return 1 to `size` bytes, waiting for them; none at the end of the stream."""
        ...

    def packet(self) -> bytes | None:
        """Return the bytes of one message, waiting for it; None at the end of the stream."""
        ...

    def put(self, channels: list[bytes]) -> None:
        """Take the next int16 samples at 16 kHz of each channel; may wait until somebody wants them."""
        ...


def sniff(head: bytes) -> str | None:
    """Return FFmpeg's name of the container that begins with `head` (12 bytes or more), or None if it is none we read."""
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        return "wav"
    if head[4:8] == b"ftyp":
        return "mp4"
    for magic, name in (
        (b"fLaC", "flac"),
        (b"OggS", "ogg"),
        (b"\x1a\x45\xdf\xa3", "matroska"),
        (b"#!AMR", "amr"),
        (b"ID3", "mp3"),
    ):
        if head.startswith(magic):
            return name
    if head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return "aac"
    if head[0] == 0xFF and head[1] & 0xE0 == 0xE0 and head[1] & 0x06:
        return "mp3"
    return None


def index_is_last(head: bytes) -> bool | None:
    """Return whether an MP4 that begins with `head` has its audio (mdat) before its index (moov); None: not seen yet."""
    position = 0
    while position + 16 <= len(head):
        size, kind = int.from_bytes(head[position : position + 4]), head[position + 4 : position + 8]
        if kind in (b"moov", b"moof", b"mdat"):
            return kind == b"mdat"
        if size == 1:  # the size is the 64 bits that follow
            size = int.from_bytes(head[position + 8 : position + 16])
        if size < 8:
            raise AudioError(f"the MP4 stream is damaged: it has a {kind!r} box of {size} bytes")
        position += size
    return None


def decode_container(feed: Feed, *, mix: bool = False, codec: Codec | None = None) -> None:
    """Decode one container to its end. Rate and channels are the container's own. Raises `AudioError`.

    Bytes that begin no container are taken as a stream of `codec`, if one is given.
    """
    head = _read_to(feed, b"", 12)
    if not head:
        return
    if len(head) < 12:
        raise AudioError(f"these {len(head)} bytes are too few to be a container ({SUPPORTED})")
    name = sniff(head)
    if codec and name in (None, "mp3", "aac"):  # their marks are so short that any codec's bytes may bear them
        name = codec.value
    if name is None:
        raise AudioError(
            f"these bytes begin no container this server reads ({SUPPORTED}); for raw audio give encoding and sample_rate"
        )
    if name == "mp4":
        late = index_is_last(head)
        while late is None and len(head) < _MOST_MP4_HEAD and (more := feed.read(_READ)):
            head += more
            late = index_is_last(head)
        if late:
            decode_media(_whole_mp4(feed, head), name, feed, mix=mix, options=PROBING)
            return
    decode_media(Begun(feed, head), name, feed, mix=mix, options=PROBING)


def _read_to(feed: Feed, data: bytes, size: int) -> bytes:
    """Return the data and what follows it, up to `size` bytes if there are so many."""
    while len(data) < size and (more := feed.read(_READ)):
        data += more
    return data


def _whole_mp4(feed: Feed, head: bytes) -> io.BytesIO:
    whole = io.BytesIO()
    whole.write(head)
    while more := feed.read(_READ):
        if whole.tell() + len(more) > MOST_MP4_BYTES:
            raise AudioError(
                f"an MP4 whose index follows its audio can be at most {MOST_MP4_BYTES} bytes long: "
                "write it with its index first (-movflags +faststart) or fragmented"
            )
        whole.write(more)
    whole.seek(0)
    return whole


class Begun:
    """A feed whose first bytes, `head`, have been looked at already: they are read once more."""

    def __init__(self, feed: Feed, head: bytes) -> None:
        self._feed = feed
        self._head = head
        self.packet = feed.packet
        self.put = feed.put

    def read(self, size: int) -> bytes:
        """Return the next bytes, waiting for them; none at the end."""
        if self._head:
            data, self._head = self._head[:size], self._head[size:]
            return data
        return self._feed.read(size)


class Readable(Protocol):
    """A file as FFmpeg needs it; with `seek` and `tell` where it can go back."""

    def read(self, size: int, /) -> bytes:
        """Return 1 to `size` bytes; none at the end."""
        ...


def decode_media(source: Readable | str, name: str, feed: Feed, *, mix: bool, options: dict[str, str]) -> None:
    """Decode the first sound track of a stream in FFmpeg's format `name`. Raises `AudioError` if there is none.

    What was decoded of a stream that breaks off is kept.
    """
    resampler = FrameResampler(feed, mix=mix)
    try:
        with av.open(source, format=name, mode="r", options=options) as container:
            if not container.streams.audio:
                raise AudioError(f"the {name} stream holds no audio")
            for frame in _frames(container, name):
                resampler.put(frame)
            if not resampler.heard:
                raise AudioError(f"the {name} stream holds no audio that can be decoded")
            resampler.finish()
    except MemoryError as error:
        raise AudioError(f"the {name} stream cannot be decoded: it needs too much memory") from error
    except (av.FFmpegError, ValueError, OSError, OverflowError) as error:
        raise AudioError(f"the {name} stream cannot be decoded: {error}") from error


def _frames(container: av.container.InputContainer, name: str) -> Iterator[av.AudioFrame]:
    """Return the frames of the first sound track; a damaged packet costs itself. Raises `AudioError` if too many are."""
    stream = container.streams.audio[0]
    codec: av.AudioCodecContext | None = (
        stream.codec_context
    )  # None, whatever PyAV's types say, if FFmpeg knows no such codec
    if codec is None:
        raise AudioError(f"the sound of the {name} stream has an unknown codec")
    codec.thread_count = 1  # more threads would hold a frame back each, and a process has its limits
    bad = 0
    for packet in _packets(container, stream, name):
        try:
            frames = packet.decode()
        except MemoryError:
            raise
        except av.FFmpegError as error:
            bad += 1
            if bad > _MOST_BAD_PACKETS:
                raise AudioError(f"the {name} stream is damaged: {error}") from error
            continue
        bad = 0
        for frame in frames:
            if isinstance(frame, av.AudioFrame):
                yield frame


def _packets(
    container: av.container.InputContainer, stream: av.AudioStream, name: str
) -> Iterator[av.Packet[av.AudioStream]]:
    for _ in range(_MOST_BAD_PACKETS):
        try:
            yield from container.demux(stream)
        except IndexError:  # PyAV: a packet of a stream that appeared midway, or was never announced
            continue
        return
    raise AudioError(f"the {name} stream is damaged: its packets are of streams that it does not announce")


class FrameResampler:
    """FFmpeg's frames, all like the first, to int16 at 16 kHz."""

    def __init__(self, feed: Feed, *, mix: bool) -> None:
        self._feed = feed
        self._mix = mix
        self._channels = 0
        self._rate = 0
        self._to_float: av.AudioResampler | None = None
        self._resampler: Resampler | None = None

    @property
    def heard(self) -> bool:
        """Whether there has been a frame."""
        return self._resampler is not None

    def put(self, frame: av.AudioFrame) -> None:
        """Take the next frame. Raises `AudioError` if its rate or its channels are not supported."""
        if self._to_float is None or self._resampler is None:
            self._begin(frame)
        assert self._to_float is not None
        assert self._resampler is not None
        for converted in self._to_float.resample(frame):
            # Packed samples: PyAV reads only the first eight planes of planar ones, and beyond that foreign memory.
            audio = converted.to_ndarray().reshape(-1, self._channels)
            for start in range(0, len(audio), self._rate):  # however long a frame is, a second at a time
                self._feed.put(self._resampler.resample(audio[start : start + self._rate]))

    def finish(self) -> None:
        """Empty the filter."""
        if self._resampler is not None:
            width = 1 if self._mix else self._channels
            self._feed.put(self._resampler.resample(np.zeros((0, width), np.float32), last=True))

    def _begin(self, frame: av.AudioFrame) -> None:
        self._channels, self._rate = frame.layout.nb_channels, frame.sample_rate
        if not 1 <= self._channels <= MOST_CHANNELS:
            raise AudioError(f"{self._channels} channels are not supported: 1 to {MOST_CHANNELS} are")
        if not LOWEST_MEDIA_RATE <= self._rate <= HIGHEST_MEDIA_RATE:
            raise AudioError(
                f"a sample rate of {self._rate} Hz is not supported: {LOWEST_MEDIA_RATE} to {HIGHEST_MEDIA_RATE} Hz are"
            )
        self._to_float = av.AudioResampler(format="flt", layout=frame.layout, rate=self._rate)
        self._resampler = Resampler(self._rate, self._channels, mix=self._mix)
