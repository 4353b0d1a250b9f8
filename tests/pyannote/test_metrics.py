from __future__ import annotations

import random

import pytest

from myna.bench.diarization_error import SpokenTurn, diarization_error


def conversation(seed: int) -> list[SpokenTurn]:
    chance = random.Random(seed)
    found, at = [], 0.0
    for _ in range(chance.randint(1, 25)):
        start = max(0.0, at + chance.uniform(-1.0, 1.5))
        at = start + chance.uniform(0.2, 6.0)
        found.append(SpokenTurn(start, at, chance.choice("abcd")))
    return _apart(found)


def _apart(turns: list[SpokenTurn]) -> list[SpokenTurn]:
    """Return the turns without those that overlap another of their speaker, which the two count differently."""
    kept: list[SpokenTurn] = []
    for turn in turns:
        if all(turn.speaker != other.speaker or turn.start >= other.end for other in kept):
            kept.append(turn)
    return kept


@pytest.mark.parametrize("collar_s", [0.0, 0.25])
@pytest.mark.parametrize("seed", range(25))
def test_the_error_rate_is_that_of_pyannotes_metrics(seed: int, collar_s: float) -> None:
    from pyannote.core import Annotation, Segment, Timeline
    from pyannote.metrics.diarization import DiarizationErrorRate

    def annotated(turns: list[SpokenTurn]) -> Annotation:
        found = Annotation(uri="x")
        for number, turn in enumerate(turns):
            found[Segment(turn.start, turn.end), number] = turn.speaker
        return found

    reference, hypothesis = conversation(seed), conversation(1000 + seed)
    whole = Timeline([Segment(0, max(turn.end for turn in [*reference, *hypothesis]) + 1)])
    metric = DiarizationErrorRate(collar=2 * collar_s)
    theirs = metric(annotated(reference), annotated(hypothesis), uem=whole, detailed=True)
    ours = diarization_error(reference, hypothesis, collar_s)
    assert ours.speech_s == pytest.approx(theirs["total"], abs=1e-4)
    assert ours.missed_s == pytest.approx(theirs["missed detection"], abs=1e-4)
    assert ours.false_s == pytest.approx(theirs["false alarm"], abs=1e-4)
    assert ours.confused_s == pytest.approx(theirs["confusion"], abs=1e-4)
