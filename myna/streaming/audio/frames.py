"""FFmpeg's frames → int16 at 16 kHz, whatever their rate, channels and stamps come to be on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Protocol

import av
import numpy as np

from myna.streaming.audio.mixing import Mixer
from myna.streaming.audio.raw import MOST_CHANNELS, AudioError, Converter
from myna.streaming.audio.timestamps import LEAST_HOLE_S, Stamps
from myna.streaming.events import SAMPLE_RATE

LOWEST_MEDIA_RATE, HIGHEST_MEDIA_RATE = 4_000, 384_000
"""Sample rates of media in Hz: below lies no speech, above no recorder."""
_PLAIN = {"s16": (np.int16, 2.0**-15), "s32": (np.int32, 2.0**-31), "flt": (np.float32, 1.0)}
"""Most decoders' sample formats, and what makes 1.0 of their full scale."""
_MOST_PLANES = 7
"""PyAV counts a frame's planes up to the first that is missing: of eight, there is none in FFmpeg's array of eight."""
_QUIET = 10 ** (-60 / 20)
"""A frame whose samples stay below -60 dB of full scale is left out while the sound is ahead of its stamps."""


class Sink(Protocol):
    """Where samples go."""

    def put(self, channels: list[bytes]) -> None:
        """Take the next int16 samples at 16 kHz of each channel; may wait until somebody wants them."""
        ...


class FrameConverter:
    """The sound of one stream or file, through all that its frames change to.

    It has as many channels as its first frame, or one if they are mixed: a single channel that comes later is heard on
    each of them, fewer are the first of them, and more are mixed and heard on each. Frames are converted a second, or what
    there is, at a time (`settle`): each by itself would cost twice as much.
    """

    def __init__(self, sink: Sink, *, mix: bool) -> None:
        self._sink = sink
        self._mix = mix
        self._channels = 0
        self._form: _Form | None = None
        self._run: _Run | None = None
        self._waiting: list[np.ndarray] = []
        self._waiting_samples = 0
        self._stamps = Stamps()
        self._before = Fraction()  # seconds before the run
        self._put = 0  # samples at 16 kHz

    @property
    def heard(self) -> bool:
        """Whether there has been a frame."""
        return self._run is not None

    def begin(self) -> None:
        """Take note that another container begins, with stamps of its own."""
        self._stamps.begin(self._position)

    def put(self, frame: av.AudioFrame, stamp: float | None) -> None:
        """Take FFmpeg's next frame, and its time in seconds from the beginning of its container, if that is known.

        Raises `AudioError` if its rate or its channels are not supported.
        """
        kind = (frame.sample_rate, frame.layout.name, frame.format.name)
        if self._form is None or self._form.kind != kind:
            self._form = _Form(frame, kind)
        self.add(self._form.samples(frame), frame.sample_rate, self._form.positions, stamp)

    def add(self, audio: np.ndarray, rate: int, positions: Sequence[str], stamp: float | None = None) -> None:
        """Take the next samples, shape [samples, channels], at this rate; `positions` as of a `Converter`.

        Raises `AudioError` if rate or channels are not supported.
        """
        run = self._run
        if run is None or run.rate != rate or run.positions != positions:
            run = self._begin_run(rate, positions)
        if stamp is not None and (hole := self._stamps.hole(stamp, self._position)):
            self.lose(hole)
        if self._stamps.ahead > LEAST_HOLE_S and np.abs(audio).max(initial=0) < _QUIET:
            return
        self._take(run, audio)

    def lose(self, seconds: float) -> None:
        """Put silence where sound is missing."""
        run = self._run
        if run is None:
            return
        left = round(seconds * run.rate)
        while left > 0:
            size = min(left, run.rate)
            self._take(run, np.zeros((size, run.channels), np.float32))
            left -= size

    def settle(self) -> None:
        """Convert what waits, but for the few milliseconds that the filter keeps."""
        if self._waiting and self._run is not None:
            audio = np.concatenate(self._waiting) if len(self._waiting) > 1 else self._waiting[0]
            self._waiting, self._waiting_samples = [], 0
            for start in range(0, len(audio), self._run.rate):  # however long a frame is, a second at a time
                self._hand_out(self._run.converter.convert(self._run.arrange(audio[start : start + self._run.rate])))

    def flush(self) -> None:
        """Hand out everything heard, the filter's milliseconds included. More may follow."""
        self.settle()
        if self._run is not None:
            self._hand_out(self._run.converter.flush())

    def finish(self) -> None:
        """Hand out everything heard; the next frame begins anew."""
        self.settle()
        run = self._run
        if run is None:
            return
        total = self._before + Fraction(run.received, run.rate)
        # Each run is rounded where it ends in the whole stream, not by itself, so that no rounding adds up.
        missing = max(0, round(total * SAMPLE_RATE) - self._put)
        tail = [channel[: 2 * missing].ljust(2 * missing, b"\0") for channel in run.converter.flush()]
        self._hand_out(tail)
        self._before, run.received = total, 0

    @property
    def _position(self) -> float:
        """Seconds of sound so far."""
        run = self._run
        return float(self._before) + (run.received / run.rate if run else 0.0)

    def _take(self, run: _Run, audio: np.ndarray) -> None:
        run.received += len(audio)
        self._waiting.append(audio)
        self._waiting_samples += len(audio)
        if self._waiting_samples >= run.rate:
            self.settle()

    def _hand_out(self, channels: list[bytes]) -> None:
        self._put += len(channels[0]) // 2
        self._sink.put(channels)

    def _begin_run(self, rate: int, positions: Sequence[str]) -> _Run:
        self.finish()
        self._run = _Run(rate, positions, self._channels, mix=self._mix)
        self._channels = self._run.width
        return self._run


class _Run:
    """Samples of one rate and layout, to a stream of `width` channels; 0: to as many as they have.

    Raises `AudioError` if the rate or the number of channels is not supported.
    """

    def __init__(self, rate: int, positions: Sequence[str], width: int, *, mix: bool) -> None:
        self.rate, self.positions, self.channels = rate, positions, len(positions)
        if not 1 <= self.channels <= MOST_CHANNELS:
            raise AudioError(f"{self.channels} channels are not supported: 1 to {MOST_CHANNELS} are")
        if not LOWEST_MEDIA_RATE <= rate <= HIGHEST_MEDIA_RATE:
            raise AudioError(
                f"a sample rate of {rate} Hz is not supported: {LOWEST_MEDIA_RATE} to {HIGHEST_MEDIA_RATE} Hz are"
            )
        self.received = 0
        self.width = width or (1 if mix else self.channels)
        self.arrange = _unchanged if mix else _arrangement(rate, positions, self.width)
        self.converter = Converter(rate, positions if mix else [""] * self.width, mix=mix)


class _Form:
    """The form of FFmpeg's frames, all of one kind."""

    def __init__(self, frame: av.AudioFrame, kind: tuple[int, str, str]) -> None:
        self.kind = kind
        positions = tuple(channel.name for channel in frame.layout.channels)
        known = len(set(positions)) == len(positions) == frame.layout.nb_channels  # else nobody has announced an order
        self.positions = positions if known else ("",) * frame.layout.nb_channels
        self._plain = _PLAIN.get(frame.format.packed.name) if len(positions) <= _MOST_PLANES else None
        self._planar = frame.format.is_planar
        self._to_float = av.AudioResampler(format="flt", layout=frame.layout, rate=frame.sample_rate)

    def samples(self, frame: av.AudioFrame) -> np.ndarray:
        """Return a frame's samples, shape [samples, channels]."""
        width = len(self.positions)
        if self._plain is not None:  # FFmpeg's own conversion gives the same numbers and takes four times as long
            kind, scale = self._plain
            if self._planar and width > 1:
                planes = [np.frombuffer(plane, kind, frame.samples) for plane in frame.planes]  # type: ignore[call-overload]
                return np.asarray(np.stack(planes, axis=1) * np.float32(scale), np.float32)
            packed = np.frombuffer(frame.planes[0], kind, frame.samples * width)  # type: ignore[call-overload]
            return np.asarray(packed * np.float32(scale), np.float32).reshape(-1, width)
        parts = [part.to_ndarray().reshape(-1, width) for part in self._to_float.resample(frame)]
        return parts[0] if len(parts) == 1 else np.concatenate([np.zeros((0, width), np.float32), *parts])


def _unchanged(audio: np.ndarray) -> np.ndarray:
    return audio


def _arrangement(rate: int, positions: Sequence[str], width: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return what makes `width` channels of those at these positions."""
    channels = len(positions)
    if channels == width:
        return _unchanged
    if channels == 1:
        return lambda audio: np.repeat(audio, width, axis=1)
    if channels < width:
        return lambda audio: np.pad(audio, ((0, 0), (0, width - channels)))
    mixer = Mixer(rate, positions)
    return lambda audio: np.repeat(mixer.mix(audio), width, axis=1)
