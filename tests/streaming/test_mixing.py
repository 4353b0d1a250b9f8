"""A mix of several channels keeps speech on any of them, at its level, however the samples are split."""

from __future__ import annotations

import numpy as np
import pytest
from sounds import RATE, recording

from myna.streaming.audio.mixing import Mixer
from myna.streaming.audio.raw import Encoding, RawDecoder, RawFormat

SPEECH = recording("beckett")[: 6 * RATE].astype(np.float32) / 32768
HUM = 0.2 * np.sin(2 * np.pi * 180 * np.arange(len(SPEECH)) / RATE).astype(np.float32)
NOTHING = np.zeros(len(SPEECH), np.float32)
SURROUND = ["FL", "FR", "FC", "LFE", "BL", "BR"]


def mixed(channels: list[np.ndarray], positions: list[str] | None = None) -> np.ndarray:
    """Return the mix by a decoder of raw audio, or, if positions are given, by one of a container."""
    audio = np.stack(channels, axis=1)
    if positions:
        return Mixer(RATE, positions).mix(audio)[:, 0]
    decoder = RawDecoder(RawFormat(Encoding.FLOAT32, RATE, len(channels)), mix=True)
    decoder.feed(audio.astype("<f4").tobytes())
    decoder.finish()
    parts = []
    while channel := decoder.read():
        parts.append(np.frombuffer(channel[0], np.int16))
    return np.concatenate(parts) / np.float32(32768)


def level(pcm: np.ndarray) -> float:
    """Return the root mean square after the first quarter second, in which a mix may adapt."""
    return float(np.sqrt(np.mean(pcm[RATE // 4 :] ** 2)))


def likeness(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one[RATE // 4 :], other[RATE // 4 :])[0, 1])


@pytest.mark.parametrize("others", [1, 5, 7])
def test_silent_channels_do_not_lower_the_level_of_a_voice(others: int) -> None:
    out = mixed([SPEECH, *[NOTHING] * others])
    assert likeness(out, SPEECH) > 0.999
    assert level(out) == pytest.approx(level(SPEECH), rel=0.05)


@pytest.mark.parametrize("strength", [1.0, 0.8, 0.6])
@pytest.mark.parametrize("first", [1, -1])
def test_channels_of_opposite_phase_do_not_cancel_each_other(strength: float, first: int) -> None:
    out = mixed([first * SPEECH, -first * strength * SPEECH])
    assert abs(likeness(out, SPEECH)) > 0.99
    assert level(out) > 0.5 * level(SPEECH)


def test_an_opposite_phase_that_begins_midway_costs_less_than_a_syllable() -> None:
    half = len(SPEECH) // 2
    turned = np.concatenate([SPEECH[:half], -SPEECH[half:]])
    out = mixed([SPEECH, turned])
    lost = np.abs(out) < 0.2 * np.abs(SPEECH)
    assert np.count_nonzero(lost & (np.abs(SPEECH) > 0.02)) < 0.15 * RATE
    assert level(out[half:]) > 0.9 * level(SPEECH[half:])


def test_two_of_six_channels_that_cancel_each_other_stay_audible() -> None:
    out = mixed([SPEECH, 0.2 * HUM, NOTHING, -SPEECH, NOTHING, NOTHING])
    rest = out - HUM * (np.dot(out, HUM) / np.dot(HUM, HUM))
    assert abs(likeness(rest, SPEECH)) > 0.9


def test_quiet_dialogue_in_the_centre_of_a_film_is_kept() -> None:
    left, right, bass = HUM, np.roll(HUM, 37), 2 * HUM
    out = mixed([left, right, 0.3 * SPEECH, bass, NOTHING, NOTHING], SURROUND)
    plain = (left + right + 0.3 * SPEECH + bass) / 6

    def clearness(pcm: np.ndarray) -> float:
        voice = 0.3 * SPEECH * np.dot(pcm, 0.3 * SPEECH) / np.dot(0.3 * SPEECH, 0.3 * SPEECH)
        return level(voice) / level(pcm - voice)

    assert clearness(out) > 2 * clearness(plain)
    alone = mixed([NOTHING, NOTHING, SPEECH, 2 * HUM, NOTHING, NOTHING], SURROUND)
    assert likeness(alone, SPEECH) > 0.999  # nothing of the subwoofer's
    assert level(alone) == pytest.approx(level(SPEECH), rel=0.05)


def test_two_voices_in_turn_on_two_channels_stay_audible() -> None:
    half = len(SPEECH) // 2
    one, other = SPEECH.copy(), SPEECH.copy()
    one[half:] = other[:half] = 0
    out = mixed([one, other])
    for part in (slice(RATE // 4, half), slice(half + RATE // 10, None)):
        assert np.corrcoef(out[part], SPEECH[part])[0, 1] > 0.99
        assert level(out[part]) > 0.45 * level(SPEECH[part])


def test_a_voice_is_kept_from_its_beginning_if_the_other_channel_holds_it_inverted() -> None:
    half = len(SPEECH) // 2
    one, other = SPEECH.copy(), SPEECH.copy()
    one[half:] = other[:half] = 0
    out = mixed([one - 0.1 * other, other - 0.1 * one])
    for part in (slice(RATE // 4, half), slice(half, half + RATE), slice(half + RATE, None)):
        assert abs(np.corrcoef(out[part], SPEECH[part])[0, 1]) > 0.97


def test_a_mix_of_the_same_sound_on_all_channels_is_not_louder() -> None:
    assert np.abs(mixed([SPEECH, SPEECH]) - SPEECH).max() < 1e-4


@pytest.mark.parametrize("sizes", [(1,), (7, 100, 3), (319, 320, 321), (5000,)])
def test_the_mix_does_not_depend_on_how_the_samples_are_split(sizes: tuple[int, ...]) -> None:
    audio = np.stack([SPEECH, -SPEECH, HUM], axis=1)[: 2 * RATE]
    whole = Mixer(RATE, ["", "", ""]).mix(audio)
    mixer, parts, position, index = Mixer(RATE, ["", "", ""]), [], 0, 0
    while position < len(audio):
        size = sizes[index % len(sizes)]
        parts.append(mixer.mix(audio[position : position + size]))
        position, index = position + size, index + 1
    assert np.array_equal(np.concatenate(parts), whole)
