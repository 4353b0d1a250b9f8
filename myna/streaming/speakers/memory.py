"""The speakers of a live channel: labels that never change once they are told. Pure and deterministic.

At each segment all runs so far are clustered anew, and a cluster inherits the label in which most of its seconds were. So a
voice that was split comes together again, and labels are as good as those of a file after about a minute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from myna.streaming.events import samples
from myna.streaming.speakers.clustering import clustered
from myna.streaming.speakers.labelling import (
    LEAST_OWN,
    Distances,
    SpeakerLimits,
    SpeakerTurn,
    assigned,
    centroid,
    inherited,
)
from myna.streaming.speakers.runs import Run, in_order, vectors

NEW_SPEAKER = samples(2.0)
"""Speech from which a voice without a label gets a new one. The first voice gets its label at once."""
_NARROWER = 0.03
"""What live narrowband speech is cut closer by than a file's: words that two voices shared keep their label. On composed
conversations as many words had a wrong speaker; in a telephone dialogue of half a minute 3 instead of 43 %."""
MOST_RUNS = 60
"""Runs kept of each label, the longest ones: memory is bounded, and no speaker is forgotten."""


@dataclass(frozen=True, slots=True)
class _Known:
    run: Run
    label: int


class SpeakerMemory:
    """The labels of one channel."""

    def __init__(self, distances: Distances, limits: SpeakerLimits) -> None:
        self._distances = replace(distances, narrowband=distances.narrowband - _NARROWER)
        self._limits = limits
        self._known: list[_Known] = []
        self._next = 0

    @property
    def runs_kept(self) -> int:
        """The number of runs in memory."""
        return len(self._known)

    def label(self, runs: Sequence[Run]) -> list[SpeakerTurn]:
        """Return the speakers of the next segment's runs, and remember their voices."""
        runs = in_order(runs)
        fresh = [run for run in runs if run.embedding is not None and run.own >= LEAST_OWN]
        if not self._known and not fresh:  # too little to tell: provisionally the first speaker
            return [SpeakerTurn(run.span, 0, 0.5) for run in runs]
        names, centroids = self._clusters([known.run for known in self._known] + fresh)
        labels = assigned(runs, centroids, names)
        label_of = {id(run): label for run, label in zip(runs, labels, strict=True)}
        self._known += [_Known(run, label_of[id(run)].speaker) for run in fresh]
        self._forget()
        return [SpeakerTurn(run.span, label.speaker, label.confidence) for run, label in zip(runs, labels, strict=True)]

    def _clusters(self, runs: Sequence[Run]) -> tuple[list[int], np.ndarray]:
        """Cluster the runs, the known ones first; return the labels of the clusters and their centroids [clusters, D]."""
        voices = vectors(runs)
        own = np.array([run.own for run in runs], np.float32)
        tree = clustered(voices)
        groups = tree.below(self._distances.of(runs))
        most = self._limits.number or self._limits.highest
        if groups.max() + 1 > most:
            groups = tree.into(most)
        named = self._inherited(groups, own)
        by_size = sorted(range(int(groups.max()) + 1), key=lambda group: (-float(own[groups == group].sum()), group))
        for group in by_size:
            enough = own[groups == group].sum() >= NEW_SPEAKER or self._next == 0
            if group not in named and enough and self._next < most:
                named[group] = self._next
                self._next += 1
        told = [group for group in by_size if group in named]
        centroids = [centroid(voices[groups == group], own[groups == group] + 1) for group in told]
        return [named[group] for group in told], np.stack(centroids)

    def _inherited(self, groups: np.ndarray, own: np.ndarray) -> dict[int, int]:
        """Return cluster → label, where most of the cluster's seconds have that label; each label goes to one cluster."""
        claims: dict[tuple[int, int], float] = {}
        for index, known in enumerate(self._known):
            claim = int(groups[index]), known.label
            claims[claim] = claims.get(claim, 0.0) + float(own[index])
        return inherited(claims)

    def _forget(self) -> None:
        for label in {known.label for known in self._known}:
            same = [known for known in self._known if known.label == label]
            for surplus in sorted(same, key=lambda known: known.run.own)[: max(0, len(same) - MOST_RUNS)]:
                self._known.remove(surplus)
