"""What an engine's work costs, and how many more streams it can take before finals come late. Pure; time is handed in.

The mandatory work is that of finals: interims thin out and files wait. What a second of a stream's audio costs in finals is
learned from the work itself, so it holds whatever the machine, the model, the speakers and the client's settings are.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from myna.streaming.engines.base import Kind

WINDOW_S = 20.0
"""What happened longer ago says nothing about now: about three utterances of each stream."""
_SPEECH_COSTS = 4.0
"""A second of a live stream costs about so many times what a second of silence cost when the engine was warmed up: speech
has words to be decoded, and finals hear their context again."""
_PRIOR_S = 60.0
"""The first estimate weighs as much as so many seconds of streams' audio."""
_STEP_S = 12.0
"""Audio of the longest finals, before any has been decoded."""
_MEASURED_FROM = 20
"""Finals within the window from which their measured delay is believed."""
_HEARD_EVERY_S = 0.5
"""Audio of all streams is counted together in spans of this: hundreds of frames come in a second."""
_FULL = 0.98
"""Utilisation beyond which there is no steady state."""
_COST_WEIGHT = 0.05
"""Of the newest batch in the running mean of what a second of audio costs."""


@dataclass(frozen=True, slots=True)
class _Step:
    at: float
    kind: Kind
    took_s: float


class Headroom:
    """One model's. `lanes` work at the same time; `cost` is the first estimate of a second of audio, 0 if there is none."""

    def __init__(self, lanes: int, cost: float) -> None:
        self.lanes = lanes
        self.cost = cost
        """Seconds a lane needs for a second of audio: a running mean."""
        self._prior = _SPEECH_COSTS * cost
        self._steps: deque[_Step] = deque()
        self._busy_s = dict.fromkeys(Kind, 0.0)  # within the window
        self._delays: deque[tuple[float, float]] = deque()
        self._heard: deque[tuple[float, float]] = deque()
        self._heard_s = 0.0  # within the window
        self._since: float | None = None

    def step_done(self, now: float, kind: Kind, audio_s: float, took_s: float) -> None:
        """A lane has decoded a batch of so much audio."""
        if audio_s > 0:
            newest = took_s / audio_s
            self.cost += _COST_WEIGHT * (newest - self.cost) if self.cost else newest
        self._steps.append(_Step(now, kind, took_s))
        self._busy_s[kind] += took_s
        self._forget(now)

    def final_out(self, now: float, late_s: float) -> None:
        """A final has come so long after it was due."""
        self._delays.append((now, max(0.0, late_s)))
        self._forget(now)

    def heard(self, now: float, audio_s: float) -> None:
        """Streams have sent so much audio."""
        if self._since is None:
            self._since = now
        self._heard_s += audio_s
        if self._heard and now - self._heard[-1][0] < _HEARD_EVERY_S:
            audio_s += self._heard[-1][1]
            now = self._heard.pop()[0]
        self._heard.append((now, audio_s))
        self._forget(now)

    def share(self, now: float, kind: Kind) -> float:
        """Return the share of the lanes' time that work of this kind has taken lately."""
        self._forget(now)
        return self._busy_s[kind] / (self.lanes * self._span(now))

    def p95(self, now: float) -> float | None:
        """Return the delay that 95 % of the latest finals kept; None if there were too few."""
        self._forget(now)
        if len(self._delays) < _MEASURED_FROM:
            return None
        return _p95([late_s for _, late_s in self._delays])

    def predicted_p95(self, now: float, streams: float, more: float) -> float:
        """Return the delay that 95 % of the finals will keep when `more` streams join those there are, in seconds."""
        self._forget(now)
        modelled = self._modelled_p95(now, streams, more)
        measured = self.p95(now)
        if measured is None or modelled == math.inf:
            return modelled
        return measured + modelled - self._modelled_p95(now, streams, 0.0)

    def room(self, now: float, streams: float, target_s: float) -> int:
        """Return how many more streams keep the target, at most 1,000."""
        low, high = 0, 1000
        while low < high:
            middle = (low + high + 1) // 2
            if self.predicted_p95(now, streams, middle) <= target_s:
                low = middle
            else:
                high = middle - 1
        return low

    def _modelled_p95(self, now: float, streams: float, more: float) -> float:
        """Return the 95th percentile of wait and decode: finals first, on lanes that otherwise are at an interim."""
        demand = self._demand()
        used = max(self.share(now, Kind.FINAL), streams * demand / self.lanes) + more * demand / self.lanes
        if used >= _FULL:
            return math.inf
        finals = [step.took_s for step in self._steps if step.kind is Kind.FINAL]
        others = [step.took_s for step in self._steps if step.kind is not Kind.FINAL]
        longest_s = _p95(finals) if len(finals) >= _MEASURED_FROM else _STEP_S * (self.cost or 0.0)
        mean_s = sum(finals) / len(finals) if finals else longest_s / 2
        # A lane at an interim must finish it; of several lanes the first to do so counts.
        residual_s = (sum(others) / len(others) if others else mean_s) * (1 - math.pow(0.05, 1 / self.lanes))
        waits = _erlang_c(self.lanes, used)
        wait_s = max(0.0, math.log(waits / 0.05)) * mean_s / (self.lanes * (1 - used)) if waits > 0 else 0.0
        return longest_s + residual_s + wait_s

    def _demand(self) -> float:
        """Return the seconds of finals' work in a second of a stream's audio."""
        return (self._busy_s[Kind.FINAL] + self._prior * _PRIOR_S) / (self._heard_s + _PRIOR_S)

    def _span(self, now: float) -> float:
        return min(WINDOW_S, max(1.0, now - self._since)) if self._since is not None else WINDOW_S

    def _forget(self, now: float) -> None:
        before = now - WINDOW_S
        while self._steps and self._steps[0].at < before:
            step = self._steps.popleft()
            self._busy_s[step.kind] -= step.took_s
        while self._delays and self._delays[0][0] < before:
            self._delays.popleft()
        while self._heard and self._heard[0][0] < before:
            self._heard_s -= self._heard.popleft()[1]


def _p95(values: list[float]) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(0.95 * len(ordered)) - 1)]


def _erlang_c(servers: int, utilisation: float) -> float:
    """Return the probability that a job has to wait (Erlang's C formula), by the recurrence of his B formula."""
    offered, blocked = servers * utilisation, 1.0
    for number in range(1, servers + 1):
        blocked = offered * blocked / (number + offered * blocked)
    return blocked / (1 - utilisation * (1 - blocked)) if utilisation < 1 else 1.0
