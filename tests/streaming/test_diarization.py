"""Runs, clustering and labels: properties that hold for any voices."""

from __future__ import annotations

from itertools import pairwise
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myna.streaming.events import Span, Word, samples, seconds
from myna.streaming.speakers.attribution import with_speakers
from myna.streaming.speakers.clustering import clustered, unit
from myna.streaming.speakers.history import History
from myna.streaming.speakers.labelling import Distances, SpeakerLimits, SpeakerTurn, joined_turns, label_all
from myna.streaming.speakers.memory import MOST_RUNS, SpeakerMemory
from myna.streaming.speakers.runs import (
    BRIDGED,
    FIELD,
    FRAME,
    LONGEST_RUN,
    WINDOW,
    Run,
    Track,
    file_windows,
    live_windows,
    local_runs,
)

DISTANCES = Distances(0.6, 0.5)
LIMITS = SpeakerLimits()
SECOND = samples(1.0)


def voice(speaker: int, rng: np.random.Generator, spread: float = 0.02) -> np.ndarray:
    direction = np.zeros(32, np.float32)
    direction[speaker] = 1.0
    return unit(direction + rng.normal(0, spread, 32).astype(np.float32))


def said(
    speakers: list[int], length_s: float = 2.0, seed: int = 1, spread: float = 0.02, own: int | None = None
) -> list[Run]:
    rng = np.random.default_rng(seed)
    length = samples(length_s)
    return [
        Run(
            Span(at * 2 * length, at * 2 * length + length), length,
            Track(at, 0), voice(speaker, rng, spread).tobytes(), length,
        )
        for at, speaker in enumerate(speakers)
    ]  # fmt: skip


def labels(turns: list[SpeakerTurn]) -> list[int]:
    return [turn.speaker for turn in turns]


@settings(deadline=None)
@given(st.integers(1, 40 * SECOND))
def test_each_frame_of_a_file_belongs_to_exactly_one_window(length: int) -> None:
    windows = file_windows(length)
    wanted = [(window.start + part.start, window.start + part.end) for window, part in windows]
    assert wanted[0][0] == 0
    assert wanted[-1][1] == length
    assert all(before[1] == after[0] for before, after in pairwise(wanted))
    assert all(len(window) <= WINDOW and part.end <= len(window) for window, part in windows)


@settings(deadline=None)
@given(st.integers(0, 60 * SECOND), st.integers(1, 40 * SECOND), st.integers(0, SECOND))
def test_each_frame_of_a_live_segment_belongs_to_exactly_one_window(start: int, length: int, more: int) -> None:
    speech = Span(start, start + length)
    windows = live_windows(speech, speech.end + more)
    wanted = [(window.start + part.start, window.start + part.end) for window, part in windows]
    assert wanted[0][0] <= speech.start
    assert wanted[-1][1] >= speech.end
    assert all(before[1] == after[0] for before, after in pairwise(wanted))
    assert all(len(window) <= WINDOW for window, _ in windows)


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=600))
def test_the_runs_of_a_window_cover_what_each_voice_says_and_nothing_else(rows: list[tuple[bool, ...]]) -> None:
    active = np.array(rows)
    length = FIELD + FRAME * len(rows)
    runs = local_runs(active, Span(0, length))
    for voice_number in range(3):
        covered = np.zeros(len(rows), int)
        mine = [run for run in runs if run.voice == voice_number]
        for run in mine:
            first = round((run.span.start - FIELD / 2) / FRAME + 0.5)
            assert len(run.span) <= LONGEST_RUN + FRAME
            covered[max(0, first) : max(0, first) + len(run.frames)] += 1
        assert covered.max(initial=0) <= 1
        assert (covered[active[:, voice_number]] == 1).all()
        bridged = (covered == 1) & ~active[:, voice_number]
        assert bridged.sum() == 0 or BRIDGED >= FRAME


@settings(deadline=None)
@given(st.integers(1, 16), st.integers(0, 1000))
def test_the_tree_is_that_of_average_linkage(count: int, seed: int) -> None:
    vectors = unit(np.random.default_rng(seed).normal(0, 1, (count, 8)).astype(np.float32))
    tree = clustered(vectors)
    clusters = [[leaf] for leaf in range(count)]
    distances = []
    while len(clusters) > 1:  # the plain way
        pairs = [
            (float(np.mean(1 - vectors[one] @ vectors[other].T)), i, j)
            for i, one in enumerate(clusters) for j, other in enumerate(clusters) if i < j
        ]  # fmt: skip
        distance, i, j = min(pairs)
        distances.append(distance)
        clusters[i] += clusters.pop(j)
    assert tree.distances == pytest.approx(distances, abs=1e-5)
    assert len(set(tree.into(3))) == min(3, count)
    assert len(set(tree.below(-1.0))) == count
    assert len(set(tree.below(3.0))) == 1


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(0, 1000))
def test_speakers_of_a_file_are_told_apart_and_numbered_as_they_first_speak(speakers: list[int], seed: int) -> None:
    lasting = [speaker for speaker in speakers for _ in range(2)]  # each has the 4 s that a speaker needs
    turns = label_all(said(lasting, seed=seed), DISTANCES, SpeakerLimits())
    numbers: dict[int, int] = {}
    assert labels(turns) == [numbers.setdefault(speaker, len(numbers)) for speaker in lasting]
    assert all(turn.confidence > 0.9 for turn in turns)


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 1000))
def test_live_speakers_get_the_labels_that_they_have_in_a_file(speakers: list[int], seed: int) -> None:
    runs = said(speakers, seed=seed)
    memory = SpeakerMemory(DISTANCES, SpeakerLimits())
    told = [turn.speaker for run in runs for turn in memory.label([run])]
    numbers: dict[int, int] = {}
    assert told == [numbers.setdefault(speaker, len(numbers)) for speaker in speakers]


@settings(deadline=None)
@given(st.integers(0, 1000))
def test_the_same_runs_give_the_same_labels(seed: int) -> None:
    runs = said([0, 1, 2, 1, 0, 2, 2, 1] * 4, seed=seed, spread=0.15)
    assert label_all(runs, DISTANCES, SpeakerLimits()) == label_all(runs[::-1], DISTANCES, SpeakerLimits())


def test_a_voice_that_says_too_little_belongs_to_the_nearest_speaker_of_a_file() -> None:
    assert set(labels(label_all(said([0, 0, 0, 1, 0, 0, 0]), DISTANCES, SpeakerLimits()))) == {0}


def test_in_a_short_file_two_short_turns_are_two_speakers() -> None:
    assert labels(label_all(said([0, 1]), DISTANCES, SpeakerLimits())) == [0, 1]


@pytest.mark.parametrize(("limits", "number"), [
    (SpeakerLimits(number=1), 1), (SpeakerLimits(number=2), 2), (SpeakerLimits(number=3), 3), (SpeakerLimits(highest=2), 2),
    (SpeakerLimits(lowest=4), 4), (SpeakerLimits(number=200), 4),
])  # fmt: skip
def test_the_number_of_speakers_can_be_given(limits: SpeakerLimits, number: int) -> None:
    runs = said([0, 0, 0, 1, 1, 1, 2, 2, 2, 3])
    if limits.number == 200:
        runs = runs[::3]
    assert len(set(labels(label_all(runs, DISTANCES, limits)))) == number


@st.composite
def limits_among(draw: st.DrawFn) -> SpeakerLimits:
    lowest = draw(st.integers(1, 6))
    highest = draw(st.integers(lowest, 20))
    return SpeakerLimits(lowest, highest, draw(st.none() | st.integers(lowest, highest)))


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(0, 1000), limits_among())
def test_the_number_of_speakers_stays_within_the_limits(speakers: list[int], seed: int, limits: SpeakerLimits) -> None:
    runs = said([speaker for speaker in speakers for _ in range(2)], seed=seed)
    voices = len(set(speakers))
    count = len(set(labels(label_all(runs, DISTANCES, limits))))
    assert count <= (limits.number or limits.highest)
    assert count >= min(voices, limits.number or limits.lowest)
    memory = SpeakerMemory(DISTANCES, limits)
    told = {turn.speaker for run in runs for turn in memory.label([run])}
    assert told == set(range(min(voices, limits.number or limits.highest)))


def test_runs_too_short_for_an_embedding_belong_to_one_speaker() -> None:
    silent = [Run(Span(at * SECOND, at * SECOND + 3200), 0, Track(at, 0), None) for at in range(3)]
    assert labels(label_all(silent, DISTANCES, SpeakerLimits())) == [0, 0, 0]
    assert labels(SpeakerMemory(DISTANCES, SpeakerLimits()).label(silent)) == [0, 0, 0]
    assert label_all([], DISTANCES, SpeakerLimits()) == []


def test_a_live_channel_remembers_a_bounded_number_of_runs_and_forgets_no_speaker() -> None:
    memory = SpeakerMemory(DISTANCES, SpeakerLimits())
    for run in said([0, *[1] * 300, 0]):
        (turn,) = memory.label([run])
    assert turn.speaker == 0
    assert memory.runs_kept <= 2 * MOST_RUNS


def test_a_live_channel_has_at_most_the_speakers_that_the_client_allows() -> None:
    memory = SpeakerMemory(DISTANCES, SpeakerLimits(number=2))
    told = {turn.speaker for run in said([0, 1, 2, 3, 0, 1, 2, 3]) for turn in memory.label([run])}
    assert told == {0, 1}


def kept(runs: list[Run], limits: SpeakerLimits = LIMITS) -> History:
    """Return the history of a live channel that heard these runs, each with a word in its middle."""
    memory, history = SpeakerMemory(DISTANCES, limits), History(0, DISTANCES, limits)
    for run in runs:
        history.tell([run], memory.label([run]))
        history.write([Word("a", seconds(run.span.start) + 0.5, seconds(run.span.start) + 1.0, 1)])
    return history


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(0, 1000), st.sampled_from([0.02, 0.15, 0.3]))
def test_the_labels_at_the_end_of_a_stream_are_those_of_a_file(speakers: list[int], seed: int, spread: float) -> None:
    runs = said(speakers, seed=seed, spread=spread)
    revision = kept(runs).past().revised()
    turns = label_all(runs, DISTANCES, LIMITS)
    words = [Word("a", seconds(run.span.start) + 0.5, seconds(run.span.start) + 1.0, 1) for run in runs]
    assert list(revision.turns) == turns
    assert revision.words == tuple(word.speaker for word in with_speakers(words, turns))
    assert revision.count == len(set(labels(turns)))
    assert revision.since == 0


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), min_size=30, max_size=60), st.integers(0, 1000), st.booleans())
def test_a_long_stream_keeps_a_bounded_history_whose_labels_mean_the_speakers_told(
    speakers: list[int], seed: int, many_words: bool
) -> None:
    everybody = [*[0, 1, 2, 3] * 2, *speakers]
    runs = said(everybody, seed=seed)
    with (
        mock.patch("myna.streaming.speakers.history.MOST_RUNS_KEPT", 1000 if many_words else 24),
        mock.patch("myna.streaming.speakers.history.MOST_WORDS_KEPT", 24 if many_words else 1000),
    ):
        history = kept(runs)
    assert (history.words_kept if many_words else history.runs_kept) == 24
    revision = history.past().revised()
    assert revision.since > 0
    assert len(revision.words) in (23, 24)  # a run that a forgotten word lay in is forgotten, too
    assert all(turn.span.start >= revision.since for turn in revision.turns)
    last = everybody[-len(revision.words) :]
    lasting = {speaker for speaker in last if last.count(speaker) >= 3}  # the others may lack the 4 s
    assert all(told == speaker for speaker, told in zip(last, revision.words, strict=True) if speaker in lasting)


def test_a_word_has_the_speaker_of_most_of_its_time_or_of_a_turn_nearby() -> None:
    turns = [SpeakerTurn(Span(0, SECOND), 0, 0.9), SpeakerTurn(Span(SECOND, 2 * SECOND), 1, 0.8)]
    words = [Word("a", 0.2, 0.5, 1), Word("b", 0.9, 1.3, 1), Word("c", 2.2, 2.4, 1), Word("d", 4.0, 4.2, 1)]
    found = with_speakers(words, turns)
    assert [word.speaker for word in found] == [0, 1, 1, None]
    assert [word.speaker_confidence for word in found] == pytest.approx([0.9, 0.8, 0.8, 0.0])
    assert with_speakers(words, []) == tuple(words)


def test_a_word_inside_a_long_turn_finds_it_behind_many_short_ones() -> None:
    long = SpeakerTurn(Span(0, 100 * SECOND), 0, 0.9)
    short = [SpeakerTurn(Span(at * SECOND, at * SECOND + 100), 1, 0.9) for at in range(1, 90)]
    (word,) = with_speakers([Word("a", 95.0, 95.5, 1)], [long, *short])
    assert word.speaker == 0


def test_turns_of_a_speaker_that_nearly_touch_are_one() -> None:
    turns = [
        SpeakerTurn(Span(0, 1000), 0, 1.0),
        SpeakerTurn(Span(500, 900), 1, 0.5),
        SpeakerTurn(Span(2000, 3000), 0, 0.5),
    ]
    joined = joined_turns(turns)
    assert [(turn.span.start, turn.span.end, turn.speaker) for turn in joined] == [(0, 3000, 0), (500, 900, 1)]
    assert joined[0].confidence == pytest.approx(0.75)
