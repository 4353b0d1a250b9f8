"""What an engine's work costs, and how many more streams it can take before finals come late. Pure; time is handed in.

The mandatory work is that of finals: interims thin out, and files wait. How much of it a second of audio asks for is learned
from the work itself, so that it holds whatever the machine, the model, the speakers and the clients' settings are.

What the last half minute shows comes first. Where it shows too little there are two estimates, and the better one holds: a
measurement of silence, repeated while there is little to do, and the number of channels that were once served at a time. A
machine that was slow once is therefore not taken to be slow for ever.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass

from myna.inference.scheduling.claims import Claim, Claims
from myna.streaming.session.jobs import JobKind

WINDOW_S = 30.0
"""What happened longer ago says nothing about now: about five utterances of each stream."""
_SPEECH_COSTS = 4.5
"""A second of a live stream costs about so many times what a second of silence cost when the engine was warmed up: speech
has words to be decoded, and finals hear their context again."""
_SETTLE_S = 8.0
"""Finals come about so long after the first of their audio: work is held against the audio that came so much earlier."""
_NOTED_EVERY_S = 0.25
_PRIOR_S = 60.0
"""An estimate weighs as much as so many seconds of audio in the window."""
_STEP_S = 12.0
"""Audio of the longest finals, before any has been decoded."""
MEASURED_S = 5.0
"""Seconds of silence by whose decode the cost of a second is measured: about a segment."""
_MEASUREMENTS = 3
"""The lowest of so many measurements counts: whatever else the machine does makes a decode slower, never faster."""
_ALIKE = 0.9
"""Numbers of channels that are that close, one to the other, are as good as the same."""
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
_ODD = 10.0
"""A batch that took more than so many times the mean counts as so many: one that met a swap storm says little of the next."""


@dataclass(frozen=True, slots=True)
class _Step:
    at: float
    took_s: float
    final: bool
    mandatory: bool


@dataclass(frozen=True, slots=True)
class _Out:
    """When a final came, how late it was, and how long before it was due it had been asked for; in seconds."""

    at: float
    late_s: float
    lead_s: float


@dataclass(frozen=True, slots=True)
class _Served:
    """So many speaking channels were there at a time, and 95 % of their finals kept this delay."""

    channels: float
    p95_s: float


class Capacity:
    """One model's. `lanes` work at the same time; `cost` is a first measurement of a second of silence, 0: there is none."""

    def __init__(self, lanes: int, cost: float) -> None:
        self.lanes = lanes
        """Lanes of the workers that live."""
        self.cost = _sane(cost)
        """Seconds a lane needs for a second of audio: a running mean."""
        self.claims = Claims()
        """Of the live streams."""
        self._measured: deque[float] = deque(maxlen=_MEASUREMENTS)
        self._measured_at = -math.inf
        self._steps: deque[_Step] = deque()
        self._finals: deque[_Out] = deque()
        self._audio_s = 0.0  # all that speaking channels have ever sent
        self._audio: deque[tuple[float, float]] = deque()  # (time, how much that was then)
        self._served: list[_Served] = []
        self._served_at = -math.inf
        if self.cost:
            self._measured.append(self.cost)

    @property
    def streams(self) -> int:
        """Live channels there are."""
        return self.claims.channels

    def measured(self, now: float, cost: float) -> None:
        """A second of silence has cost so much, on every lane at once, beside what else was decoded; 0: that is not known."""
        if cost := _sane(cost):
            self._measured.append(cost)
        self._measured_at = now

    def unmeasured_s(self, now: float) -> float:
        """Return how long ago the cost was last measured; infinity if only when the engine was loaded."""
        return now - self._measured_at

    def heard(self, now: float, claim: Claim, audio_s: float) -> None:
        """A stream has sent so much audio, all its channels together; quiet ones ask for nothing and do not count."""
        self._audio_s += audio_s * claim.speaking(now) / claim.channels
        if not self._audio or now - self._audio[-1][0] >= _NOTED_EVERY_S:
            self._audio.append((now, self._audio_s))
            while len(self._audio) > 2 and self._audio[1][0] < now - WINDOW_S - _SETTLE_S:
                self._audio.popleft()

    def step_done(self, now: float, kind: JobKind, audio_s: float, took_s: float, ahead_s: float = 0.0) -> None:
        """A lane has decoded a batch of so much audio, whose earliest job is not due for another `ahead_s`."""
        took_s = _sane(took_s)
        if audio_s > 0:
            newest = took_s / audio_s
            self.cost += _COST_WEIGHT * (min(newest, _ODD * self.cost) - self.cost) if self.cost else newest
        final = kind is JobKind.FINAL
        self._steps.append(_Step(now, took_s, final, final and ahead_s <= _AHEAD_S))
        self._forget(now)

    def final_out(self, now: float, late_s: float, lead_s: float) -> None:
        """A final has come so long after it was due, and had been asked for so long before that."""
        self._finals.append(_Out(now, max(0.0, late_s), min(max(0.0, lead_s), _AHEAD_S)))
        self._forget(now)
        self._note_served(now)

    def p95(self, now: float) -> float | None:
        """Return the delay that 95 % of the latest finals kept; None if there were too few."""
        self._forget(now)
        if len(self._finals) < _MEASURED_FROM:
            return None
        return _p95([final.late_s for final in self._finals])

    def predicted_p95(self, now: float, more: float, owner: str | None = None) -> float:
        """Return the delay that 95 % of the finals will keep when `more` channels of this owner join, in seconds."""
        self._forget(now)
        return self._predicted(now, self.claims.weight(now, owner) + more)

    def room(self, now: float, target_s: float) -> int:
        """Return how many more channels keep the target, at most 1,000."""
        self._forget(now)
        there = self.claims.weight(now)
        low, high = 0, 1000
        while low < high:
            middle = (low + high + 1) // 2
            if self._predicted(now, there + middle) <= target_s:
                low = middle
            else:
                high = middle - 1
        return low

    def _predicted(self, now: float, channels: float) -> float:
        if not self.lanes:
            return math.inf
        measured = self.p95(now)
        expected = self._expected(now, channels, measured)
        if measured is not None:
            return expected
        latest_s = max((final.late_s for final in self._finals), default=0.0)
        served = [one.p95_s for one in self._served if one.channels >= channels and one.p95_s >= latest_s]
        return min([expected, *served])

    def _expected(self, now: float, channels: float, measured: float | None) -> float:
        load = channels * self._demand(now) / self.lanes
        seen = self._seen()
        if load >= (_FULL if seen >= _PROVEN * load else _UNPROVEN):
            return math.inf
        if measured is None:
            return self._modelled_p95(load)
        return max(0.0, self._modelled_p95(load) + measured - self._modelled_p95(min(seen, load)))

    @property
    def _base(self) -> float:
        """What a second of silence costs, as far as is known."""
        return min(self._measured, default=self.cost)

    def _seen(self) -> float:
        """Return the utilisation by finals within the window."""
        return sum(step.took_s for step in self._steps if step.mandatory) / (self.lanes * WINDOW_S)

    def _modelled_p95(self, load: float) -> float:
        """Return the 95th percentile of wait and decode: finals first, on lanes that otherwise are at an interim."""
        finals = [step.took_s for step in self._steps if step.mandatory]
        others = [step.took_s for step in self._steps if not step.mandatory]
        longest_s = _p95(finals) if len(finals) >= _MEASURED_FROM else max([_STEP_S * self._base, *finals])
        mean_s = sum(finals) / len(finals) if finals else longest_s / 2
        # A lane at an interim must finish it; of several lanes the first to do so counts.
        residual_s = (sum(others) / len(others) if others else mean_s) * (1 - math.pow(0.05, 1 / self.lanes))
        waits = _erlang_c(self.lanes, load)
        wait_s = max(0.0, math.log(waits / 0.05)) * mean_s / (self.lanes * (1 - load)) if waits > 0 else 0.0
        lead_s = sum(final.lead_s for final in self._finals) / len(self._finals) if self._finals else 0.0
        return max(0.0, longest_s + residual_s + wait_s - lead_s)

    def _demand(self, now: float) -> float:
        """Return the seconds of finals' work that a speaking channel in real time asks for in a second.

        It does not matter here how fast the audio came: clients that send files tell as much as those that speak.
        """
        busy_s = sum(step.took_s for step in self._steps if step.final)
        return (busy_s + _SPEECH_COSTS * self._base * _PRIOR_S) / (self._heard_s(now) + _PRIOR_S)

    def _heard_s(self, now: float) -> float:
        """Return the audio within the window whose finals have come."""
        settled = now - _SETTLE_S
        return self._heard_until(settled) - self._heard_until(settled - WINDOW_S)

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

    def _note_served(self, now: float) -> None:
        """Keep how many channels there are with the delay of their finals: the newest of what is alike, and no worse one."""
        if now - self._served_at < _NOTED_EVERY_S or (p95_s := self.p95(now)) is None:
            return
        self._served_at, channels = now, self._heard_s(now) / WINDOW_S
        if channels < 1:
            return
        self._served = [
            one
            for one in self._served
            if not _ALIKE * channels <= one.channels <= channels / _ALIKE
            and (one.channels > channels or one.p95_s < p95_s)
        ]
        self._served.append(_Served(channels, p95_s))


def _sane(seconds: float) -> float:
    """Return a duration that can be reckoned with: 0 for one that is none."""
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0


def _p95(values: list[float]) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(0.95 * len(ordered)) - 1)]


def _erlang_c(servers: int, utilisation: float) -> float:
    """Return the probability that a job has to wait (Erlang's C formula), by the recurrence of his B formula."""
    offered, blocked = servers * utilisation, 1.0
    for number in range(1, servers + 1):
        blocked = offered * blocked / (number + offered * blocked)
    return blocked / (1 - utilisation * (1 - blocked)) if utilisation < 1 else 1.0
