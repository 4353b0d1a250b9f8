"""Finds known voices, of which there are clips, among the speakers of a recording. Pure and deterministic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from myna.streaming.events import seconds
from myna.streaming.speakers.attribution import speakers_of
from myna.streaming.speakers.clustering import clustered
from myna.streaming.speakers.labelling import LEAST_OWN, Distances, SpeakerTurn, centroid, telling
from myna.streaming.speakers.runs import Run, vectors


def voice_of(runs: Sequence[Run], distances: Distances) -> np.ndarray | None:
    """Return the voice float32 [D], of length 1, of the speaker with the most speech in a clip.

    None: less than a second of the clip is speech.
    """
    embedded = [run for run in runs if run.embedding is not None]
    if sum(run.own for run in embedded) < LEAST_OWN:
        return None
    voices = vectors(embedded)
    own = np.array([run.own for run in embedded], np.float32)
    groups = clustered(voices).below(distances.of(embedded))
    largest = int(np.bincount(groups, own).argmax())
    return centroid(voices[groups == largest], own[groups == largest] + 1)


def matched(
    runs: Sequence[Run], turns: Sequence[SpeakerTurn], known: Sequence[np.ndarray], distances: Distances
) -> dict[int, int]:
    """Return speaker → index of the known voice, for the speakers that have one. Each known voice is one speaker's at most.

    `turns` are those of `runs`. A pair must be closer than the distance of the clustering. Of all assignments the one is
    returned whose pairs are below that distance by the most in all.
    """
    large = telling(runs)
    if not large or not known:
        return {}
    spoken_by = np.array(
        speakers_of([(seconds(run.span.start), seconds(run.span.end)) for run in large], turns), object
    )
    voices, own = vectors(large), np.array([run.own + 1 for run in large], np.float32)
    speakers = sorted({speaker for speaker in spoken_by if speaker is not None})
    if not speakers:
        return {}
    centroids = np.stack([centroid(voices[spoken_by == s], own[spoken_by == s]) for s in speakers])
    margins = distances.of(large) - (1 - np.stack(known) @ centroids.T)  # [known, speakers]
    near = [{speakers[at]: float(row[at]) for at in np.flatnonzero(row > 0)} for row in margins]
    _, best = _best(near, 0, frozenset())
    return best


def _best(near: Sequence[Mapping[int, float]], voice: int, taken: frozenset[int]) -> tuple[float, dict[int, int]]:
    """Return the best assignment of the known voices from this one on, and its sum of margins."""
    if voice == len(near):
        return 0.0, {}
    best = _best(near, voice + 1, taken)
    for speaker, margin in near[voice].items():
        if speaker not in taken:
            total, rest = _best(near, voice + 1, taken | {speaker})
            if total + margin > best[0]:
                best = total + margin, {**rest, speaker: voice}
    return best
