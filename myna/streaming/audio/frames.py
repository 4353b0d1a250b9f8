"""Converts FFmpeg's frames to int16 at one rate, even if their rate, channels or time stamps change midway."""

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
"""Supported sample rates of media in Hz: lower ones carry no speech, and no recorder uses higher ones."""
_PLAIN = {"s16": (np.int16, 2.0**-15), "s32": (np.int32, 2.0**-31), "flt": (np.float32, 1.0)}
"""Sample formats of most decoders, with the factor that scales their full scale to 1.0."""
_MOST_PLANES = 7
"""PyAV finds the number of planes by the first empty entry; FFmpeg's array of eight has none when all eight are used."""
_QUIET = 10 ** (-60 / 20)
"""While the audio is ahead of its time stamps, a frame whose samples stay below -60 dB of full scale is dropped."""


class Sink(Protocol):
    """A receiver of samples."""

    def put(self, channels: list[bytes]) -> None:
        """Take the next int16 samples of each channel; may block until the reader needs them."""
        ...


class FrameConverter:
    """Converts the audio of one stream or file; rate, channels and format may change between frames.

    The output has `channels` channels; 0: as many as the first frame, or one if they are mixed. If a frame has one channel,
    it goes to every output channel. If it has fewer channels, they go to the first output channels. If it has more, their mix
    goes to every output channel. Frames are converted in batches of up to a second (`settle`), at half the cost of single
    frames.
    """

    def __init__(self, sink: Sink, *, mix: bool, rate: int = SAMPLE_RATE, channels: int = 0) -> None:
        self._sink = sink
        self._mix = mix
        self._rate = rate
        self._channels = channels
        self._form: _Form | None = None
        self._run: _Run | None = None
        self._waiting: list[np.ndarray] = []
        self._waiting_samples = 0
        self._stamps = Stamps()
        self._before = Fraction()  # seconds of audio before the current run
        self._put = 0  # samples handed out, at the output's rate

    @property
    def heard(self) -> bool:
        """Whether there has been a frame."""
        return self._run is not None

    def begin(self) -> None:
        """Take note that another container begins, with time stamps of its own."""
        self._stamps.begin(self._position)

    def put(self, frame: av.AudioFrame, stamp: float | None) -> None:
        """Take FFmpeg's next frame; `stamp` is its time in seconds from the start of its container, if known.

        Raises `AudioError` if its rate or its number of channels is not supported.
        """
        kind = (frame.sample_rate, frame.layout.name, frame.format.name)
        if self._form is None or self._form.kind != kind:
            self._form = _Form(frame, kind)
        self.add(self._form.samples(frame), frame.sample_rate, self._form.positions, stamp)

    def add(self, audio: np.ndarray, rate: int, positions: Sequence[str], stamp: float | None = None) -> None:
        """Take the next samples, shape [samples, channels], at this rate; `positions` are as for `Converter`.

        Raises `AudioError` if the rate or the number of channels is not supported.
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
        """Add silence in place of missing audio."""
        run = self._run
        if run is None:
            return
        left = round(seconds * run.rate)
        while left > 0:
            size = min(left, run.rate)
            self._take(run, np.zeros((size, run.channels), np.float32))
            left -= size

    def settle(self) -> None:
        """Convert the waiting frames, except for the few milliseconds that the filter buffers."""
        if self._waiting and self._run is not None:
            audio = np.concatenate(self._waiting) if len(self._waiting) > 1 else self._waiting[0]
            self._waiting, self._waiting_samples = [], 0
            for start in range(0, len(audio), self._run.rate):  # a second at a time, since a frame may be long
                self._hand_out(self._run.converter.convert(self._run.arrange(audio[start : start + self._run.rate])))

    def flush(self) -> None:
        """Hand out everything received, including the filter's buffer. More may follow."""
        self.settle()
        if self._run is not None:
            self._hand_out(self._run.converter.flush())

    def finish(self) -> None:
        """Hand out everything received; the next frame begins a new run."""
        self.settle()
        run = self._run
        if run is None:
            return
        total = self._before + Fraction(run.received, run.rate)
        # The end of a run is rounded in the whole stream, so that rounding errors do not add up over the runs.
        missing = max(0, round(total * self._rate) - self._put)
        tail = [channel[: 2 * missing].ljust(2 * missing, b"\0") for channel in run.converter.flush()]
        self._hand_out(tail)
        self._before, run.received = total, 0

    @property
    def _position(self) -> float:
        """The seconds of audio so far."""
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
        self._run = _Run(rate, positions, self._channels, self._rate, mix=self._mix)
        self._channels = self._run.width
        return self._run


class _Run:
    """Consecutive samples of one rate and layout, converted to `width` channels at `to` Hz; 0: to as many as they have.

    Raises `AudioError` if the rate or the number of channels is not supported.
    """

    def __init__(self, rate: int, positions: Sequence[str], width: int, to: int, *, mix: bool) -> None:
        self.rate, self.positions, self.channels = rate, positions, len(positions)
        if not 1 <= self.channels <= MOST_CHANNELS:
            raise AudioError(
                f"{self.channels} channels are not supported: the number must be from 1 to {MOST_CHANNELS}"
            )
        if not LOWEST_MEDIA_RATE <= rate <= HIGHEST_MEDIA_RATE:
            raise AudioError(
                f"the sample rate must be from {LOWEST_MEDIA_RATE} to {HIGHEST_MEDIA_RATE} Hz, not {rate} Hz"
            )
        self.received = 0
        self.width = width or (1 if mix else self.channels)
        self.arrange = _unchanged if mix else _arrangement(rate, positions, self.width)
        self.converter = Converter(rate, positions if mix else [""] * self.width, mix=mix, to=to)


class _Form:
    """Reads the samples of FFmpeg's frames that share one rate, layout and sample format."""

    def __init__(self, frame: av.AudioFrame, kind: tuple[int, str, str]) -> None:
        self.kind = kind
        positions = tuple(channel.name for channel in frame.layout.channels)
        known = len(set(positions)) == len(positions) == frame.layout.nb_channels  # otherwise the layout has no order
        self.positions = positions if known else ("",) * frame.layout.nb_channels
        self._plain = _PLAIN.get(frame.format.packed.name) if len(positions) <= _MOST_PLANES else None
        self._planar = frame.format.is_planar
        if self._plain is None:
            self._to_float = av.AudioResampler(format="flt", layout=frame.layout, rate=frame.sample_rate)

    def samples(self, frame: av.AudioFrame) -> np.ndarray:
        """Return a frame's samples, shape [samples, channels]."""
        width = len(self.positions)
        if self._plain is not None:  # FFmpeg's own conversion gives the same values in four times the time
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
    """Return a function that converts samples with these channel positions to `width` channels."""
    channels = len(positions)
    if channels == width:
        return _unchanged
    if channels == 1:
        return lambda audio: np.repeat(audio, width, axis=1)
    if channels < width:
        return lambda audio: np.pad(audio, ((0, 0), (0, width - channels)))
    mixer = Mixer(rate, positions)
    return lambda audio: np.repeat(mixer.mix(audio), width, axis=1)
