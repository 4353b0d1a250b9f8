"""Container formats as a growing stream: WAV, FLAC, MP3, Ogg, WebM, MP4/M4A and ADTS, decoded by FFmpeg through PyAV.

FFmpeg pulls, a live stream pushes. So FFmpeg runs as a coroutine: on a thread of its own that is awake only while the
caller waits for it, until it asks for bytes that have not come. Nothing runs at the same time as its caller.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import av
import numpy as np

from myna.streaming.audio import MOST_CHANNELS, PORTION, AudioError, Codec, PcmQueue, Resampler

SUPPORTED = "WAV, FLAC, MP3, Ogg, WebM, MP4/M4A, AAC (ADTS)"
MOST_MP4_BYTES = 64 * 1024 * 1024
"""An MP4 whose index lies behind its audio can only be decoded once all of it is here: this much is kept for that."""
_MOST_MP4_HEAD = 1024 * 1024
"""An MP4 whose first boxes (type, padding) are longer is taken as one whose index comes first."""
_MOST_BAD_PACKETS = 50
"""Damaged packets in a row after which the stream is not audio any more; a lossy link damages a few."""


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


class ContainerDecoder:
    """Decodes one container that arrives in pieces; rate and channels are the container's own.

    Bytes that begin no container are taken as a stream of `codec`, if one is given.
    """

    def __init__(self, *, mix: bool = False, codec: Codec | None = None) -> None:
        self._mix = mix
        self._codec = codec
        self._head = b""
        self._pipe: _Pipe | None = None
        self._finished = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Raises `AudioError` as soon as they cannot be a supported container."""
        if self._pipe is None:
            self._head += data
            if len(self._head) < 12:
                return
            name = sniff(self._head)
            if self._codec and name in (
                None,
                "mp3",
                "aac",
            ):  # their marks are so short that any codec's bytes may bear them
                name = self._codec.value
            if name is None:
                raise AudioError(
                    "these bytes begin no container this server reads "
                    f"({SUPPORTED}); for raw audio give encoding and sample_rate"
                )
            seekable = False
            if name == "mp4":
                late = index_is_last(self._head)
                if late is None and len(self._head) < _MOST_MP4_HEAD:
                    return
                seekable = bool(late)
            self._pipe = _Pipe(name, mix=self._mix, seekable=seekable)
            data, self._head = self._head, b""
        self._pipe.feed(data)

    def finish(self) -> None:
        """No more bytes follow."""
        self._finished = True
        if self._pipe is not None:
            self._pipe.finish()
        elif self._head:
            raise AudioError(f"these {len(self._head)} bytes are too few to be a container ({SUPPORTED})")

    def read(self) -> list[bytes]:
        """Return the next samples of each channel. Raises `AudioError` if FFmpeg cannot read the stream."""
        return self._pipe.read() if self._pipe else []

    def close(self) -> None:
        """End the decoding thread."""
        if self._pipe is not None:
            self._pipe.close()


class _Closed(Exception):  # noqa: N818 - not an error: it unwinds the decoding thread
    pass


class _Pipe:
    """The coroutine. Exactly one of caller and decoding thread runs at a time."""

    def __init__(self, container: str, *, mix: bool, seekable: bool) -> None:
        self._container = container
        self._mix = mix
        self._seekable = seekable
        self._source = _Seekable(self) if seekable else _Source(self)
        self._full = False
        self._bytes = bytearray()
        self._bytes_start = 0
        self._eof = False
        self._closed = False
        self._done = False
        self._failure: AudioError | None = None
        self._decoded = PcmQueue()
        self._caller_waits = threading.Semaphore(0)
        self._decoder_waits = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, name="container-decoder", daemon=True)
        self._started = False

    def feed(self, data: bytes) -> None:
        self._bytes += data
        if self._seekable and len(self._bytes) > MOST_MP4_BYTES:
            raise AudioError(
                f"an MP4 whose index follows its audio can be at most {MOST_MP4_BYTES} bytes long: "
                "write it with its index first (-movflags +faststart) or fragmented"
            )

    def finish(self) -> None:
        self._eof = True

    def read(self) -> list[bytes]:
        unread = self._bytes_start + len(self._bytes) > self._source.position
        if not self._done and not self._closed and (unread or self._eof or self._full):
            self._resume()
        if self._failure and not self._decoded.samples:
            raise self._failure
        return self._decoded.take()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            if self._started and not self._done:
                self._resume()
            self._bytes.clear()

    def _resume(self) -> None:
        if self._started:
            self._decoder_waits.release()
        else:
            self._started = True
            self._thread.start()
        self._caller_waits.acquire()

    # Below runs on the decoding thread.

    def pause(self) -> None:
        self._caller_waits.release()
        self._decoder_waits.acquire()
        if self._closed:
            raise _Closed

    def take(self, position: int, size: int) -> bytes:
        """Return bytes from `position` on, waiting until there are some; none at the end of the stream."""
        while position >= self._bytes_start + len(self._bytes) and not self._eof:
            self.pause()
        begin = position - self._bytes_start
        return bytes(self._bytes[begin : begin + size])

    def forget(self, position: int) -> None:
        surplus = position - self._bytes_start
        if surplus > 65_536:
            del self._bytes[:surplus]
            self._bytes_start = position

    def total(self) -> int:
        while not self._eof:
            self.pause()
        return self._bytes_start + len(self._bytes)

    def _run(self) -> None:
        try:
            self._decode()
        except _Closed:
            pass
        except AudioError as error:
            self._failure = error
        except (av.FFmpegError, ValueError, OSError) as error:
            if not self._closed:
                self._failure = AudioError(f"the {self._container} stream cannot be decoded: {error}")
        finally:
            self._done = True
            self._caller_waits.release()

    def _decode(self) -> None:
        # Probing is bounded: a live stream must not wait for megabytes before its first word.
        options = {"probesize": "65536", "analyzeduration": "500000"}
        with av.open(self._source, format=self._container, mode="r", options=options) as container:
            if not container.streams.audio:
                raise AudioError(f"the {self._container} stream holds no audio")
            resampler = FrameResampler(self._decoded, mix=self._mix)
            for frame in audio_frames(container, self._container):
                resampler.put(frame)
                while self._decoded.samples >= PORTION:
                    self._full = True
                    self.pause()
                self._full = False
            if not resampler.heard:
                raise AudioError(f"the {self._container} stream holds no audio that can be decoded")
            resampler.finish()


def audio_frames(container: av.container.InputContainer, name: str) -> Iterator[av.AudioFrame]:
    """Return the frames of the first sound track; a damaged packet costs itself. Raises `AudioError` if too many are."""
    bad = 0
    for packet in container.demux(container.streams.audio[0]):
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            bad += 1
            if bad > _MOST_BAD_PACKETS:
                raise AudioError(f"the {name} stream is damaged: {error}") from error
            continue
        bad = 0
        for frame in frames:
            if isinstance(frame, av.AudioFrame):
                yield frame


class FrameResampler:
    """FFmpeg's frames, all like the first, to int16 at 16 kHz in a queue."""

    def __init__(self, queue: PcmQueue, *, mix: bool) -> None:
        self._queue = queue
        self._mix = mix
        self._channels = 0
        self._to_float: av.AudioResampler | None = None
        self._resampler: Resampler | None = None

    @property
    def heard(self) -> bool:
        """Whether there has been a frame."""
        return self._resampler is not None

    def put(self, frame: av.AudioFrame) -> None:
        """Take the next frame. Raises `AudioError` if it has too many channels."""
        if self._to_float is None or self._resampler is None:
            self._channels = len(frame.layout.channels)
            if self._channels > MOST_CHANNELS:
                raise AudioError(f"{self._channels} channels are not supported: 1 to {MOST_CHANNELS} are")
            self._to_float = av.AudioResampler(format="fltp", layout=frame.layout, rate=frame.sample_rate)
            self._resampler = Resampler(frame.sample_rate, self._channels, mix=self._mix)
        for converted in self._to_float.resample(frame):
            self._queue.put(self._resampler.resample(converted.to_ndarray().T))

    def finish(self) -> None:
        """Empty the filter."""
        if self._resampler is not None:
            width = 1 if self._mix else self._channels
            self._queue.put(self._resampler.resample(np.zeros((0, width), np.float32), last=True))


class _Source:
    """What FFmpeg reads from."""

    def __init__(self, pipe: _Pipe) -> None:
        self._pipe = pipe
        self.position = 0

    def read(self, size: int) -> bytes:
        data = self._pipe.take(self.position, size)
        self.position += len(data)
        self._release()
        return data

    def _release(self) -> None:
        self._pipe.forget(self.position)


class _Seekable(_Source):
    """For an MP4 whose index lies at the end: keeps everything, waits for the end, and seeks."""

    def seek(self, offset: int, whence: int = 0) -> int:
        base = {0: 0, 1: self.position}[whence] if whence != 2 else self._pipe.total()
        self.position = base + offset
        return self.position

    def tell(self) -> int:
        return self.position

    def _release(self) -> None:
        pass
