"""Kaldi's log mel filterbank in numpy: 80 bands of 20 Hz to 8 kHz, frames of 25 ms every 10 ms, no dither."""

from __future__ import annotations

import numpy as np

from myna.streaming.events import SAMPLE_RATE

MELS = 80
LENGTH, HOP = 400, 160
"""Samples of a frame, and from one frame to the next."""
_FFT = 512
_PRE_EMPHASIS = np.float32(0.97)
_SCALE = np.float32(32768)
_FLOOR = np.float32(1.1920929e-07)
"""Kaldi's floor of an energy before its logarithm: the smallest step of a float32 at 1."""


def _mel(hertz: np.ndarray | float) -> np.ndarray:
    return np.asarray(1127 * np.log1p(np.asarray(hertz, float) / 700))


_EDGES = np.linspace(_mel(20), _mel(8000), MELS + 2)
CENTRES_HZ = 700 * (np.exp(_EDGES[1:-1] / 1127) - 1)
"""The middle of each band."""


def _bank() -> np.ndarray:
    bins = _mel(np.arange(_FFT // 2) * SAMPLE_RATE / _FFT)  # Kaldi leaves out the highest bin
    rising = (bins[None] - _EDGES[:-2, None]) / (_EDGES[1:-1] - _EDGES[:-2])[:, None]
    falling = (_EDGES[2:, None] - bins[None]) / (_EDGES[2:] - _EDGES[1:-1])[:, None]
    return np.asarray(np.maximum(0, np.minimum(rising, falling)).T, np.float32)


_BANK = _bank()
HAMMING = np.hamming(LENGTH).astype(np.float32)
POVEY = (np.hanning(LENGTH) ** 0.85).astype(np.float32)
"""The windows of a frame: Kaldi's default is Povey's."""


def fbank(audio: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Return the features float32 [frames, 80] of float audio between -1 and 1, padded to one frame if it is shorter."""
    if len(audio) < LENGTH:
        audio = np.pad(audio, (0, LENGTH - len(audio)))
    frames = np.lib.stride_tricks.sliding_window_view(audio.astype(np.float32) * _SCALE, LENGTH)[::HOP]
    frames = frames - frames.mean(axis=1, keepdims=True)
    before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    spectra = np.fft.rfft((frames - _PRE_EMPHASIS * before) * window, _FFT)[:, :-1]
    power = (np.abs(spectra) ** 2).astype(np.float32)
    return np.asarray(np.log(np.maximum(power @ _BANK, _FLOOR)))
