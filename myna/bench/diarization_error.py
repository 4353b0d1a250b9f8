"""Errors of speaker labels: the diarization error rate, and the words that have the wrong speaker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

NEAR_S = 0.25
"""A recognised word that overlaps no spoken one is compared with one at most this far away."""


@dataclass(frozen=True, slots=True)
class SpokenTurn:
    """A stretch of one speaker, in seconds."""

    start: float
    end: float
    speaker: str


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """A word with its time in seconds. A recognised word without a label has the speaker None."""

    word: str
    start: float
    end: float
    speaker: str | None


@dataclass(slots=True)
class DiarizationError:
    """Seconds of speech, and of the errors in it. Overlapping speech counts once for each speaker."""

    speech_s: float = 0.0
    missed_s: float = 0.0
    false_s: float = 0.0
    confused_s: float = 0.0

    @property
    def rate(self) -> float:
        """The diarization error rate."""
        return (self.missed_s + self.false_s + self.confused_s) / self.speech_s if self.speech_s else 0.0

    def add(self, other: DiarizationError) -> None:
        """Add the seconds of another recording."""
        self.speech_s += other.speech_s
        self.missed_s += other.missed_s
        self.false_s += other.false_s
        self.confused_s += other.confused_s


@dataclass(slots=True)
class WordErrors:
    """The recognised words that could be compared with spoken ones, and those of them with another speaker or none."""

    compared: int = 0
    wrong: int = 0

    @property
    def rate(self) -> float:
        """The share of wrong words."""
        return self.wrong / self.compared if self.compared else 0.0

    def add(self, other: WordErrors) -> None:
        """Add the words of another recording."""
        self.compared += other.compared
        self.wrong += other.wrong


def diarization_error(
    reference: Sequence[SpokenTurn], hypothesis: Sequence[SpokenTurn], collar_s: float = 0.0
) -> DiarizationError:
    """Return the errors of a recording, with overlap, under the best one-to-one mapping of the speakers.

    `collar_s` on each side of every boundary of the reference is left out; pyannote.metrics calls twice this its collar.
    """
    cuts = {at for turn in (*reference, *hypothesis) for at in (turn.start, turn.end)}
    edges = {at for turn in reference for at in (turn.start, turn.end)}
    if collar_s:
        cuts |= {edge + side for edge in edges for side in (-collar_s, collar_s)}
    times = np.array(sorted(cuts))
    middles, lengths = (times[1:] + times[:-1]) / 2, np.diff(times)
    if collar_s:
        for edge in edges:
            lengths[abs(middles - edge) < collar_s] = 0.0
    spoken, labelled = _activity(reference, middles), _activity(hypothesis, middles)
    together = (spoken * lengths) @ labelled.T  # seconds of each pair of speakers, [reference, hypothesis]
    right = float(together[linear_sum_assignment(-together)].sum())
    voices, labels = spoken.sum(axis=0), labelled.sum(axis=0)
    return DiarizationError(
        speech_s=float((voices * lengths).sum()),
        missed_s=float((np.maximum(voices - labels, 0) * lengths).sum()),
        false_s=float((np.maximum(labels - voices, 0) * lengths).sum()),
        confused_s=float((np.minimum(voices, labels) * lengths).sum()) - right,
    )


def word_errors(
    spoken: Sequence[SpokenWord], recognised: Iterable[SpokenWord], same: Callable[[str, str], bool]
) -> WordErrors:
    """Return the words with a wrong speaker, under the best one-to-one mapping of the speakers.

    A recognised word is compared with the spoken one of its time; where several speak, with one that is the `same` word.
    """
    pairs: Counter[tuple[str, str | None]] = Counter()
    for word in recognised:
        if (truth := _spoken_then(word, spoken, same)) is not None:
            pairs[truth, word.speaker] += 1
    speakers = sorted({truth for truth, _ in pairs})
    labels = sorted({label for _, label in pairs if label is not None})
    counts = np.zeros((len(speakers), len(labels)), int)
    for (truth, label), number in pairs.items():
        if label is not None:
            counts[speakers.index(truth), labels.index(label)] = number
    right = int(counts[linear_sum_assignment(-counts)].sum())
    return WordErrors(pairs.total(), pairs.total() - right)


def _activity(turns: Sequence[SpokenTurn], at: np.ndarray) -> np.ndarray:
    """Return which speakers speak at these times, as 0 or 1, float [speakers, times]."""
    speakers = sorted({turn.speaker for turn in turns})
    active = np.zeros((len(speakers), len(at)))
    for turn in turns:
        active[speakers.index(turn.speaker), (at >= turn.start) & (at < turn.end)] = 1.0
    return active


def _spoken_then(word: SpokenWord, spoken: Sequence[SpokenWord], same: Callable[[str, str], bool]) -> str | None:
    near = [
        (same(word.word, each.word), min(word.end, each.end) - max(word.start, each.start), each.speaker)
        for each in spoken
        if each.start < word.end + NEAR_S and each.end > word.start - NEAR_S
    ]
    return max(near, key=lambda found: found[:2])[2] if near else None
