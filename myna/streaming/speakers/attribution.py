"""Gives words their speakers. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

from myna.streaming.events import Word, seconds
from myna.streaming.speakers.labelling import SpeakerTurn

_NEAR_S = 0.5
"""A word that lies in no turn gets the speaker of a turn at most this far away."""


def with_speakers(words: Sequence[Word], turns: Sequence[SpeakerTurn]) -> tuple[Word, ...]:
    """Return the words with the speaker of most of each word's time, or of the nearest turn; None if no turn is near."""
    if not turns:
        return tuple(words)
    turns = sorted(turns, key=lambda turn: turn.span.start)
    starts = [seconds(turn.span.start) for turn in turns]
    ends = [seconds(turn.span.end) for turn in turns]
    latest: list[float] = []  # the latest end of the turns up to each one
    for end in ends:
        latest.append(max(end, latest[-1]) if latest else end)
    return tuple(_attributed(word, turns, starts, ends, latest) for word in words)


def speakers_of(times: Sequence[tuple[float, float]], turns: Sequence[SpeakerTurn]) -> list[int | None]:
    """Return the speaker of each stretch of time, from start to end in seconds, as of a word there."""
    return [word.speaker for word in with_speakers([Word("", start, end, 1.0) for start, end in times], turns)]


def _attributed(
    word: Word, turns: Sequence[SpeakerTurn], starts: Sequence[float], ends: Sequence[float], latest: Sequence[float]
) -> Word:
    shared: dict[int, tuple[float, float]] = {}  # speaker → seconds inside the word, and confidence times seconds
    nearest: tuple[float, int] | None = None
    index = bisect_left(starts, word.end + _NEAR_S)
    while index > 0 and latest[index - 1] >= word.start - _NEAR_S:
        index -= 1
        turn = turns[index]
        overlap = min(word.end, ends[index]) - max(word.start, starts[index])
        if overlap > 0:
            seconds_so_far, weighted = shared.get(turn.speaker, (0.0, 0.0))
            shared[turn.speaker] = seconds_so_far + overlap, weighted + overlap * turn.confidence
        elif nearest is None or -overlap < nearest[0]:
            nearest = -overlap, index
    if shared:
        speaker = max(shared, key=lambda each: (shared[each][0], -each))
        total, weighted = shared[speaker]
        return replace(word, speaker=speaker, speaker_confidence=weighted / total)
    if nearest is not None and nearest[0] <= _NEAR_S:
        turn = turns[nearest[1]]
        return replace(word, speaker=turn.speaker, speaker_confidence=turn.confidence)
    return word
