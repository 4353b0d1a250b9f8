"""Known voices among the speakers of a recording: properties that hold for any voices."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myna.server.dialects.openai.known_speakers import display_names
from myna.streaming.events import Span, samples
from myna.streaming.speakers.clustering import unit
from myna.streaming.speakers.known import matched, voice_of
from myna.streaming.speakers.labelling import Distances, SpeakerLimits, SpeakerTurn, label_all
from myna.streaming.speakers.runs import Run, Track

DISTANCES = Distances(0.6, 0.5)
LENGTH = samples(2.0)
VOICES = np.eye(8, dtype=np.float32)


def run(at: int, voice: np.ndarray, own: int = LENGTH) -> Run:
    return Run(Span(2 * at * LENGTH, (2 * at + 1) * LENGTH), own, Track(at, 0), voice.astype(np.float32).tobytes(), own)


def near(voice: int, rng: np.random.Generator, spread: float = 0.05) -> np.ndarray:
    return unit(VOICES[voice] + rng.normal(0, spread, 8).astype(np.float32))


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 7), min_size=1, max_size=20), st.lists(st.integers(0, 7), max_size=4, unique=True),
    st.integers(0, 1000),
)  # fmt: skip
def test_each_known_voice_is_found_in_its_speaker_and_no_other_speaker_has_one(
    spoken: list[int], known: list[int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    twice = [voice for voice in spoken for _ in range(2)]
    runs = [run(at, near(voice, rng)) for at, voice in enumerate(twice)]
    turns = label_all(runs, DISTANCES, SpeakerLimits())
    found = matched(runs, turns, [near(voice, rng) for voice in known], DISTANCES)
    numbers: dict[int, int] = {}
    for voice in spoken:
        numbers.setdefault(voice, len(numbers))
    assert found == {numbers[voice]: index for index, voice in enumerate(known) if voice in numbers}


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(0, 4), st.integers(0, 10_000))
def test_the_assignment_is_the_best_of_all_and_every_pair_is_close(speakers: int, known: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    centres = unit(rng.normal(0, 1, (speakers, 3)).astype(np.float32))
    voices = [unit(rng.normal(0, 1, 3).astype(np.float32)) for _ in range(known)]
    runs = [run(at, centre) for at, centre in enumerate(centres)]
    turns = [SpeakerTurn(each.span, number, 1.0) for number, each in enumerate(runs)]
    found = matched(runs, turns, voices, DISTANCES)
    margin = {
        (s, k): DISTANCES.wideband - (1 - float(centres[s] @ voices[k])) for s in range(speakers) for k in range(known)
    }
    assert len(set(found.values())) == len(found)
    assert all(margin[pair] > 0 for pair in found.items())
    best = max(
        sum(max(0.0, margin[speaker, voice]) for voice, speaker in enumerate(chosen) if speaker < speakers)
        for chosen in permutations(range(speakers + known), known)
    )
    assert sum(margin[pair] for pair in found.items()) == pytest.approx(best, abs=1e-4)


def test_a_recording_without_voices_or_without_known_ones_has_no_known_speaker() -> None:
    assert matched([], [], [VOICES[0]], DISTANCES) == {}
    short = Run(Span(0, 1000), 1000, Track(0, 0), None)
    assert matched([short], [SpeakerTurn(short.span, 0, 0.5)], [VOICES[0]], DISTANCES) == {}
    assert matched([run(0, VOICES[0])], [SpeakerTurn(Span(0, LENGTH), 0, 1.0)], [], DISTANCES) == {}


def test_the_voice_of_a_clip_is_that_of_its_main_speaker() -> None:
    rng = np.random.default_rng(1)
    clip = [run(0, near(0, rng)), run(1, near(1, rng)), run(2, near(0, rng))]
    voice = voice_of(clip, DISTANCES)
    assert voice is not None
    assert voice @ VOICES[0] > 0.95
    assert np.linalg.norm(voice) == pytest.approx(1)


@pytest.mark.parametrize(
    "clip", [[], [run(0, VOICES[0], own=samples(0.9))], [Run(Span(0, LENGTH), LENGTH, Track(0, 0), None)]]
)
def test_a_clip_with_less_than_a_second_of_speech_has_no_voice(clip: list[Run]) -> None:
    assert voice_of(clip, DISTANCES) is None


def test_unknown_speakers_have_letters_that_are_no_given_name() -> None:
    assert display_names({0, 1, 2, 3}, {}, ()) == {0: "A", 1: "B", 2: "C", 3: "D"}
    assert display_names({0, 1, 2, 3}, {1: "A"}, ("A", "C")) == {0: "B", 1: "A", 2: "D", 3: "E"}
    assert display_names(set(range(28)), {}, ())[27] == "AB"
