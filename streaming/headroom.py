"""What an engine's work costs, and how many more streams it can take before finals come late. Pure; time is handed in.

The mandatory work is that of finals: interims thin out, and files wait. How much of it a second of audio asks for is learned
from the work itself, so that it holds whatever the machine, the model, the speakers and the clients' settings are.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass

from myna.streaming.engines.base import Kind

WINDOW_S = 30.0
"""What happened longer ago says nothing about now: about five utterances of each stream."""
_SPEECH_COSTS = 4.5
"""A second of a live stream costs about so many times what a second of silence cost when the engine was warmed up: speech
has words to be decoded, and finals hear their context again."""
_SETTLE_S = 8.0
"""Finals come about so long after the first of their audio: work is held against the audio that came so much earlier."""
_NOTED_EVERY_S = 0.25
_PRIOR_S = 60.0
"""The first estimate weighs as much as so many seconds of audio."""
_STEP_S = 12.0
"""Audio of the longest finals, before any has been decoded."""
_MEASURED_FROM = 8
"""Finals within the window from which their measured delay is believed."""
_AHEAD_S = 1.0
"""A final decoded longer before it is due could have waited: it is of a client that sends faster than real time."""
_FULL = 0.85
"""Utilisation by finals alone beyond which nobody is let in, whatever the formula says: speakers come in crowds."""
_UNPROVEN = 0.55
"""The same while the lanes have not been seen nearly that busy: a full machine decodes more slowly than an idle one."""
_PROVEN = 0.6
"""The share of a load that has to have been seen before it counts as proven."""
_COST_WEIGHT = 0.05
"""Of the newest batch in the running mean of what a second of audio costs."""


@dataclass(frozen=True, slots=True)
class _Step:
    at: float
    took_s: float
    final: bool
    mandatory: bool


@dataclass(frozen=True, slots=True)
class _Out:
    """A final that has come: so long after it was due, having been asked for so long before that."""

    at: float
    late_s: float
    lead_s: float


class Headroom:
    """One model's. `lanes` work at the same time; `cost` is the first estimate of a second of audio, 0 if there is none."""

    def __init__(self, lanes: int, cost: float) -> None:
        self.lanes = lanes
        self.cost = cost
        """Seconds a lane needs for a second of audio: a running mean."""
        self.streams = 0.0
        """Live channels there are."""
        self._prior = _SPEECH_COSTS * cost
        self._steps: deque[_Step] = deque()
        self._finals: deque[_Out] = deque()
        self._audio_s = 0.0  # all that streams have ever sent
        self._audio: deque[tuple[float, float]] = deque()  # (time, how much that was then)

    def join(self, channels: float) -> None:
        """So many channels have come, or, if negative, have gone."""
        self.streams += channels

    def heard(self, now: float, audio_s: float) -> None:
        """Streams have sent so much audio."""
        self._audio_s += audio_s
        if not self._audio or now - self._audio[-1][0] >= _NOTED_EVERY_S:
            self._audio.append((now, self._audio_s))
            while len(self._audio) > 2 and self._audio[1][0] < now - WINDOW_S - _SETTLE_S:
                self._audio.popleft()

    def step_done(self, now: float, kind: Kind, audio_s: float, took_s: float, ahead_s: float = 0.0) -> None:
        """A lane has decoded a batch of so much audio, whose earliest job is not due for another `ahead_s`."""
        if audio_s > 0:
            newest = took_s / audio_s
            self.cost += _COST_WEIGHT * (newest - self.cost) if self.cost else newest
        final = kind is Kind.FINAL
        self._steps.append(_Step(now, took_s, final, final and ahead_s <= _AHEAD_S))
        self._forget(now)

    def final_out(self, now: float, late_s: float, lead_s: float) -> None:
        """A final has come so long after it was due, and had been asked for so long before that."""
        self._finals.append(_Out(now, max(0.0, late_s), min(max(0.0, lead_s), _AHEAD_S)))
        self._forget(now)

    def p95(self, now: float) -> float | None:
        """Return the delay that 95 % of the latest finals kept; None if there were too few."""
        self._forget(now)
        if len(self._finals) < _MEASURED_FROM:
            return None
        return _p95([final.late_s for final in self._finals])

    def predicted_p95(self, now: float, more: float) -> float:
        """Return the delay that 95 % of the finals will keep when `more` streams join those there are, in seconds."""
        self._forget(now)
        load = (self.streams + more) * self._demand(now) / self.lanes
        seen = sum(step.took_s for step in self._steps if step.mandatory) / (self.lanes * WINDOW_S)
        if load >= (_FULL if seen >= _PROVEN * load else _UNPROVEN):
            return math.inf
        measured = self.p95(now)
        if measured is None:
            return self._modelled_p95(load)
        return max(0.0, self._modelled_p95(load) + measured - self._modelled_p95(min(seen, load)))

    def room(self, now: float, target_s: float) -> int:
        """Return how many more streams keep the target, at most 1,000."""
        low, high = 0, 1000
        while low < high:
            middle = (low + high + 1) // 2
            if self.predicted_p95(now, middle) <= target_s:
                low = middle
            else:
                high = middle - 1
        return low

    def _modelled_p95(self, load: float) -> float:
        """Return the 95th percentile of wait and decode: finals first, on lanes that otherwise are at an interim."""
        finals = [step.took_s for step in self._steps if step.mandatory]
        others = [step.took_s for step in self._steps if not step.mandatory]
        longest_s = _p95(finals) if len(finals) >= _MEASURED_FROM else _STEP_S * self.cost
        mean_s = sum(finals) / len(finals) if finals else longest_s / 2
        # A lane at an interim must finish it; of several lanes the first to do so counts.
        residual_s = (sum(others) / len(others) if others else mean_s) * (1 - math.pow(0.05, 1 / self.lanes))
        waits = _erlang_c(self.lanes, load)
        wait_s = max(0.0, math.log(waits / 0.05)) * mean_s / (self.lanes * (1 - load)) if waits > 0 else 0.0
        lead_s = sum(final.lead_s for final in self._finals) / len(self._finals) if self._finals else 0.0
        return max(0.0, longest_s + residual_s + wait_s - lead_s)

    def _demand(self, now: float) -> float:
        """Return the seconds of finals' work that a stream in real time asks for in a second: so much for its audio.

        It does not matter here how fast the audio came: clients that send files tell as much as those that speak.
        """
        settled = now - _SETTLE_S
        heard_s = self._heard_until(settled) - self._heard_until(settled - WINDOW_S)
        busy_s = sum(step.took_s for step in self._steps if step.final)
        return (busy_s + self._prior * _PRIOR_S) / (heard_s + _PRIOR_S)

    def _heard_until(self, when: float) -> float:
        index = bisect_right(self._audio, when, key=lambda point: point[0])
        if index:
            return self._audio[index - 1][1]
        return self._audio[0][1] if self._audio else 0.0

    def _forget(self, now: float) -> None:
        """Let go of what lies before the window."""
        before = now - WINDOW_S
        while self._steps and self._steps[0].at < before:
            self._steps.popleft()
        while self._finals and self._finals[0].at < before:
            self._finals.popleft()


def _p95(values: list[float]) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(0.95 * len(ordered)) - 1)]


def _erlang_c(servers: int, utilisation: float) -> float:
    """Return the probability that a job has to wait (Erlang's C formula), by the recurrence of his B formula."""
    offered, blocked = servers * utilisation, 1.0
    for number in range(1, servers + 1):
        blocked = offered * blocked / (number + offered * blocked)
    return blocked / (1 - utilisation * (1 - blocked)) if utilisation < 1 else 1.0
