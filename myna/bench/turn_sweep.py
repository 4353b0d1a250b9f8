"""Sweep policies over the pauses of turns, as eot-bench does (https://github.com/livekit/eot-bench).

A policy ends a turn once the silence has lasted `least_s` and the confidence is above `threshold`, and in any case after
`timeout_s`. A *cut-off* is a hold, a pause inside a turn, during which the policy ends the turn. The *latency* is the silence
at the end of a turn before the policy ends it. Silence alone is a policy without confidence. The grids and both measures are
those of eot-bench; the pauses are those of the recordings given here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from myna.bench.accuracy import AccuracyError
from myna.bench.pauses import Pause

THRESHOLDS = tuple(round(step / 100, 2) for step in range(101))
LEAST_S = tuple(round(step / 10, 1) for step in range(2, 11))
TIMEOUTS_S = tuple(round(step / 2, 1) for step in range(2, 8))
SILENCES_S = tuple(round(step / 10, 1) for step in range(2, 36))
"""The silences after which silence alone ends a turn."""
LATENCIES_S = (0.3, 0.6)
CUTOFFS = (0.05, 0.10)
"""The budgets: mean latency in seconds, and share of holds that are cut off."""
_EQUAL = 1e-9


@dataclass(frozen=True, slots=True)
class Outcome:
    """A policy's result. `threshold` is None for silence alone, whose `least_s` and `timeout_s` are equal."""

    threshold: float | None
    least_s: float
    timeout_s: float
    cutoffs: float
    """The share of holds during which the policy ends the turn."""
    latency_s: float
    """The mean latency."""
    latency_p90_s: float


@dataclass(frozen=True, slots=True)
class AtThreshold:
    """What the server does at a threshold, with a time-out that is never reached and decodes that take no time."""

    threshold: float
    false_ends: float
    """The share of turns that end inside."""
    cutoffs: float
    """The share of holds during which the turn ends."""
    delay_median_s: float
    """From the true end of the last word."""
    delay_p90_s: float


def at_threshold(found: Sequence[Pause], threshold: float) -> AtThreshold:
    """Return the figures of one threshold. Raises `AccuracyError` without holds or without ends."""
    holds, ends = _parted(found)
    cut = [hold for hold in holds if _fires_at(hold, threshold) < hold.length_s - _EQUAL]
    delays = [min(_fires_at(end, threshold), end.length_s) + end.late_s for end in ends]
    median, p90 = (float(np.quantile(delays, share)) for share in (0.5, 0.9))
    return AtThreshold(threshold, len({hold.audio for hold in cut}) / len(ends), len(cut) / len(holds), median, p90)


def swept(found: Sequence[Pause]) -> list[Outcome]:
    """Return the outcome of each policy with a threshold. Raises `AccuracyError` without holds or without ends."""
    holds, ends = _parted(found)
    lengths = np.array([hold.length_s for hold in holds])
    outcomes = []
    for threshold in THRESHOLDS:
        at_holds = np.array([_fires_at(hold, threshold) for hold in holds])
        at_ends = np.array([_fires_at(end, threshold) for end in ends])
        for least, timeout in product(LEAST_S, TIMEOUTS_S):
            cut = np.minimum(np.maximum(at_holds, least), timeout) < lengths - _EQUAL
            latency = np.minimum(np.maximum(at_ends, least), timeout)
            outcomes.append(_outcome(threshold, least, timeout, cut, latency))
    return outcomes


def by_silence(found: Sequence[Pause]) -> list[Outcome]:
    """Return the outcome of each silence alone. Raises `AccuracyError` without holds or without ends."""
    holds, ends = _parted(found)
    lengths = np.array([hold.length_s for hold in holds])
    return [
        _outcome(None, silence, silence, lengths > silence + _EQUAL, np.full(len(ends), silence))
        for silence in SILENCES_S
    ]


def fewest_cutoffs(outcomes: Sequence[Outcome], latency_s: float) -> Outcome | None:
    """Return the outcome with the fewest cut-offs within a mean latency; None: no policy is as fast."""
    able = [one for one in outcomes if one.latency_s <= latency_s + _EQUAL]
    return min(able, key=lambda one: (one.cutoffs, one.latency_s), default=None)


def shortest_latency(outcomes: Sequence[Outcome], cutoffs: float) -> Outcome | None:
    """Return the outcome with the shortest mean latency within a share of cut-offs; None: every policy cuts off more."""
    able = [one for one in outcomes if one.cutoffs <= cutoffs + _EQUAL]
    return min(able, key=lambda one: (one.latency_s, one.cutoffs), default=None)


def operating_points(outcomes: Sequence[Outcome]) -> dict[str, Outcome | None]:
    """Return the best outcome within each budget."""
    return dict(_points(outcomes))


def _points(outcomes: Sequence[Outcome]) -> Iterator[tuple[str, Outcome | None]]:
    for latency in LATENCIES_S:
        yield f"cutoffs_within_{1000 * latency:.0f}_ms", fewest_cutoffs(outcomes, latency)
    for cutoffs in CUTOFFS:
        yield f"latency_within_{100 * cutoffs:.0f}_percent", shortest_latency(outcomes, cutoffs)


def _parted(found: Sequence[Pause]) -> tuple[list[Pause], list[Pause]]:
    holds, ends = [pause for pause in found if not pause.ends], [pause for pause in found if pause.ends]
    if not holds or not ends:
        raise AccuracyError(f"a sweep needs pauses inside turns and ends of turns, not {len(holds)} and {len(ends)}")
    return holds, ends


def _fires_at(pause: Pause, threshold: float) -> float:
    """Return the silence in seconds at which the confidence first exceeds the threshold; infinite: it does not."""
    return next((silence for silence, confidence in pause.confidences if confidence > threshold), np.inf)


def _outcome(threshold: float | None, least: float, timeout: float, cut: np.ndarray, latency: np.ndarray) -> Outcome:
    p90 = float(np.quantile(latency, 0.9))
    return Outcome(threshold, least, timeout, float(cut.mean()), float(latency.mean()), p90)
