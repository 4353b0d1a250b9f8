"""Sounds without a word: silence, noise, tones and music, synthesised and the same in each run. int16 mono at 16 kHz."""

from __future__ import annotations

import numpy as np
from sounds import RATE


def silence(seconds: float) -> np.ndarray:
    """Return a line that is open and quiet: the last bit flickers."""
    return np.random.default_rng(1).integers(-1, 2, round(seconds * RATE)).astype(np.int16)


def noise(seconds: float) -> np.ndarray:
    """Return ten-second stretches of white, pink and brown noise, and of noise that swells like surf."""
    rng = np.random.default_rng(2)
    parts = []
    for number in range(-(-round(seconds) // 10)):
        spectrum = np.fft.rfft(rng.standard_normal(10 * RATE))
        slope = (0.0, 0.5, 1.0, 0.5)[number % 4]
        coloured = np.fft.irfft(spectrum / np.maximum(np.arange(len(spectrum)), 8.0) ** slope)
        if number % 4 == 3:
            coloured *= 0.55 + 0.45 * np.sin(2 * np.pi * 0.3 * np.arange(len(coloured)) / RATE)
        parts.append(coloured / np.abs(coloured).max() * (0.05, 0.3)[number // 4 % 2])
    return _int16(np.concatenate(parts)[: round(seconds * RATE)])


def tone(seconds: float) -> np.ndarray:
    """Return tones of three seconds: low and high, with and without overtones, and telephone signals."""
    parts = []
    t = np.arange(3 * RATE) / RATE
    for number in range(-(-round(seconds) // 3)):
        pitch = (110.0, 440.0, 1000.0, 425.0, 2600.0)[number % 5]
        wave = np.sin(2 * np.pi * pitch * t)
        if number % 2:
            wave = wave + 0.5 * np.sin(4 * np.pi * pitch * t) + 0.25 * np.sin(6 * np.pi * pitch * t)
        if pitch == 425.0:
            wave = wave * (t % 1.0 < 0.5)  # the busy signal
        parts.append(0.3 * wave / np.abs(wave).max())
    return _int16(np.concatenate(parts)[: round(seconds * RATE)])


def music(seconds: float) -> np.ndarray:
    """Return a band: chords, a melody with vibrato, a bass, and drums of noise, at 100 beats a minute."""
    rng = np.random.default_rng(3)
    beat = round(0.6 * RATE)
    beats = round(seconds * RATE) // beat + 1
    wave = np.zeros((beats + 4) * beat)
    chords = ((0, 4, 7), (9, 12, 16), (5, 9, 12), (7, 11, 14))
    for number in range(beats):
        chord, at = chords[number // 4 % 4], number * beat
        if number % 4 == 0:
            for note in chord:
                _add(wave, at, _note(note, 4 * beat, bright=0.3), 0.12)
        _add(wave, at, _note(chord[0] - 24, beat, bright=0.2), 0.3)
        if rng.random() < 0.8:
            _add(
                wave,
                at,
                _note(int(rng.choice(chord)) + 12, beat * int(rng.integers(1, 3)), bright=0.6, vibrato=5.5),
                0.25,
            )
        drum = rng.standard_normal(beat // 4) * np.exp(-np.arange(beat // 4) / (0.03 * RATE))
        _add(wave, at + (beat // 2 if number % 2 else 0), drum, 0.08)
    return _int16(0.6 * wave[: round(seconds * RATE)] / np.abs(wave).max())


def _note(semitones: int, length: int, *, bright: float, vibrato: float = 0.0) -> np.ndarray:
    t = np.arange(length) / RATE
    pitch = 261.63 * 2 ** (semitones / 12)
    phase = 2 * np.pi * pitch * t + (0.6 * np.sin(2 * np.pi * vibrato * t) if vibrato else 0.0)
    tones = [bright**k * np.sin((k + 1) * phase) for k in range(6) if pitch * (k + 1) < RATE / 2]
    return np.sum(tones, axis=0) * np.minimum(1.0, t / 0.02) * np.exp(-1.5 * t)


def _add(wave: np.ndarray, at: int, sound: np.ndarray, gain: float) -> None:
    wave[at : at + len(sound)] += gain * sound


def _int16(wave: np.ndarray) -> np.ndarray:
    return np.round(32767 * np.clip(wave, -1.0, 1.0)).astype(np.int16)
