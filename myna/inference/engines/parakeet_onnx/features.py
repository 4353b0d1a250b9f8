"""Computes the features of NeMo's Parakeet models (`FilterbankFeatures`) in numpy."""

from __future__ import annotations

import numpy as np

from myna.streaming.events import SAMPLE_RATE

HOP = 160
"""Samples between two feature frames: NeMo's `window_stride` of 10 ms."""
WINDOW = 400
"""Samples covered by a feature frame: NeMo's `window_size` of 25 ms."""
_FFT = 512
_PREEMPHASIS = np.float32(0.97)
_FLOOR = np.float32(2**-24)
"""Added to the power before the logarithm: NeMo's `log_zero_guard_value`."""
_DEVIATION = np.float32(1e-5)
"""Added to the standard deviation: NeMo's `CONSTANT`."""


class Features:
    """Log-mel features of one model: `mels` bands, normalised over the utterance if `normalized`."""

    def __init__(self, mels: int, *, normalized: bool) -> None:
        self._normalized = normalized
        self._filters = np.ascontiguousarray(mel_filters(mels).T)
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / (WINDOW - 1))  # symmetric, as NeMo's
        self._window = np.pad(hann, (_FFT - WINDOW) // 2).astype(np.float32)

    def __call__(self, pcm: np.ndarray) -> np.ndarray:
        """Return the features [mels, len(pcm) // HOP] of an int16 utterance."""
        signal = pcm.astype(np.float32) / np.float32(32768)
        signal = np.concatenate([signal[:1], signal[1:] - _PREEMPHASIS * signal[:-1]])
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(signal, _FFT // 2), _FFT)[::HOP][: len(pcm) // HOP]
        spectrum = np.fft.rfft(windows * self._window, axis=1)
        power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
        frames: np.ndarray = np.log(power @ self._filters + _FLOOR)
        if self._normalized:
            deviation = frames.std(axis=0, ddof=1) if len(frames) > 1 else np.float32(0)
            frames = (frames - frames.mean(axis=0)) / (deviation + _DEVIATION)
        return frames.T.astype(np.float32)


def mel_filters(mels: int) -> np.ndarray:
    """Return the filters [mels, 257] from 0 Hz to half the sample rate: the slaney scale and norm of librosa, as in NeMo."""
    edges = _hertz(np.linspace(0.0, _mel(SAMPLE_RATE / 2), mels + 2))
    ramps = edges[:, None] - np.fft.rfftfreq(_FFT, 1 / SAMPLE_RATE)
    widths = np.diff(edges)
    rising, falling = -ramps[:-2] / widths[:-1, None], ramps[2:] / widths[1:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    filters: np.ndarray = (triangles * (2 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)
    return filters


_LINEAR = 200 / 3
"""Hertz of a mel below 1,000 Hz, where the scale is linear."""
_BREAK = 1000 / _LINEAR
_LOG_STEP = np.log(6.4) / 27


def _mel(hertz: float) -> float:
    """Return the mel of a frequency above 1,000 Hz."""
    return float(_BREAK + np.log(hertz / 1000) / _LOG_STEP)


def _hertz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < _BREAK, mel * _LINEAR, 1000 * np.exp(_LOG_STEP * (mel - _BREAK)))
