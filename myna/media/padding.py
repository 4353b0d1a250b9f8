"""Encodes the sound of a file as WebM with Opus, after some silence. This code runs in a decoder process."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np

from myna.media.files import decode_coded
from myna.streaming.audio.frames import FrameConverter
from myna.streaming.audio.raw import AudioError, Coded

RATE, CHANNELS, BIT_RATE = 48_000, 2, 128_000
"""The format in which Reflector stores tracks: Opus at 48 kHz, stereo, 128 kbit/s."""
_AT_ONCE = 10 * RATE
"""Samples of silence encoded at once."""


def pad_file(path: Path, pad_ms: int, write: Callable[[int, bytes], None]) -> None:
    """Encode a file's sound after `pad_ms` of silence. Raises `AudioError`.

    `write` takes each piece of the result with its place in the file; later pieces may replace earlier ones.
    """
    try:
        with av.open(_Written(write), "w", format="webm") as made:
            sink = _Encoder(made)
            sink.silence(pad_ms * RATE // 1000)
            decode_coded(path, Coded(), FrameConverter(sink, mix=False, rate=RATE, channels=CHANNELS))
            sink.finish()
    except av.FFmpegError as error:
        raise AudioError(f"the audio cannot be encoded: {error}") from error


class _Written(io.RawIOBase):
    """A file for FFmpeg that can seek, as it does at the end to complete the header."""

    def __init__(self, write: Callable[[int, bytes], None]) -> None:
        self._put = write
        self._place = self._size = 0

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        piece = bytes(data)  # type: ignore[call-overload]
        self._put(self._place, piece)
        self._place += len(piece)
        self._size = max(self._size, self._place)
        return len(piece)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence] + offset
        return self._place

    def tell(self) -> int:
        return self._place


class _Encoder:
    """A `Sink` that encodes int16 samples of two channels."""

    def __init__(self, made: av.container.OutputContainer) -> None:
        self._made = made
        self._stream = made.add_stream("libopus", rate=RATE, layout="stereo", bit_rate=BIT_RATE)
        self._samples = 0

    def silence(self, samples: int) -> None:
        """Encode silence."""
        for start in range(0, samples, _AT_ONCE):
            self.put([bytes(2 * min(_AT_ONCE, samples - start))] * CHANNELS)

    def put(self, channels: list[bytes]) -> None:
        """Encode the next samples of each channel."""
        samples = np.stack([np.frombuffer(channel, np.int16) for channel in channels], axis=1)
        if not len(samples):
            return
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="stereo")
        frame.sample_rate, frame.pts = RATE, self._samples
        self._samples += len(samples)
        self._made.mux(self._stream.encode(frame))

    def finish(self) -> None:
        """Encode what the encoder has buffered."""
        self._made.mux(self._stream.encode(None))
