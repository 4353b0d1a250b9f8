"""Estimates a model's cost and how many more streams it can serve before finals are late. Pure: the caller passes the time.

Only finals are mandatory work: under load, interims are skipped and files wait. The cost of finals per second of audio is
learned from the decoded batches, so that the estimate fits any machine, model, speaker and client setting.

The last 30 s decide. If they hold too few finals, the better of two estimates decides: a measurement on silence, which is
repeated while the load is low, and the largest number of channels that was served in time before. A machine that was slow
once is therefore not assumed to stay slow.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass

from myna.inference.scheduling.claims import Claim, Claims
from myna.streaming.session.jobs import JobKind

WINDOW_S = 30.0
"""Window of the statistics: about five utterances of each stream. Older work says nothing about the current load."""
_SPEECH_COSTS = 4.5
"""Cost of a second of live speech as a multiple of the cost of a second of silence: speech has words to decode, and each
final decodes its context again."""
_SETTLE_S = 8.0
"""Typical time from the first audio of a final to its result. Decode time is compared with the audio of this much earlier."""
_NOTED_EVERY_S = 0.25
"""Resolution at which received audio and served channels are recorded."""
_PRIOR_S = 60.0
"""Weight of the estimate from silence, in seconds of audio within the window."""
_STEP_S = 12.0
"""Assumed audio of the longest finals before any final has been decoded."""
MEASURED_S = 5.0
"""Length of the silence that a measurement decodes: about one segment."""
_MEASUREMENTS = 3
"""The lowest of this many measurements counts: other load on the machine makes a decode slower, never faster."""
_ALIKE = 0.9
"""Two numbers of channels whose ratio is at least this count as equal."""
_MEASURED_FROM = 8
"""Number of finals within the window from which their measured delay is used."""
_AHEAD_S = 1.0
"""A final decoded earlier than this before its due time could have waited: its client sends faster than real time."""
_FULL = 0.85
"""Utilisation by finals above which no stream is admitted, whatever the model predicts: speakers arrive in bursts."""
_UNPROVEN = 0.55
"""The same limit for a load well above any seen within the window: a full machine decodes more slowly than an idle one."""
_PROVEN = 0.6
"""A load counts as proven if at least this share of it was seen within the window."""
_COST_WEIGHT = 0.05
"""Weight of the newest batch in the running mean of the cost of a second of audio."""
_ODD = 10.0
"""Upper limit on a batch's cost in the running mean, as a multiple of that mean: one batch slowed by swapping predicts
nothing about the next."""


@dataclass(frozen=True, slots=True)
class _DecodedBatch:
    at: float
    took_s: float
    final: bool
    mandatory: bool


@dataclass(frozen=True, slots=True)
class _CompletedFinal:
    """A completed final: its lateness and its lead time, which is how long before its due time it was submitted."""

    at: float
    late_s: float
    lead_s: float


@dataclass(frozen=True, slots=True)
class _Served:
    """A load that was served: the number of speaking channels and the 95th percentile of their finals' delay."""

    channels: float
    p95_s: float


@dataclass(frozen=True, slots=True)
class Beside:
    """Finals of other models that use the same cores, as shares of all cores: those within the window, and further ones."""

    seen: float = 0.0
    more: float = 0.0


ALONE = Beside()


class Capacity:
    """The load and the room of one model. `cost` is a first measurement on silence, in seconds per second; 0: none."""

    def __init__(self, lanes: int, cost: float) -> None:
        self.lanes = lanes
        """Lanes of the workers that are up; they decode in parallel."""
        self.cost = _sane(cost)
        """Seconds of lane time per second of audio: a running mean."""
        self.claims = Claims()
        """The claims of the live streams."""
        self._measured: deque[float] = deque(maxlen=_MEASUREMENTS)
        self._measured_at = -math.inf
        self._steps: deque[_DecodedBatch] = deque()
        self._finals: deque[_CompletedFinal] = deque()
        self._audio_s = 0.0  # sent by speaking channels since the start
        self._audio: deque[tuple[float, float]] = deque()  # (time, `_audio_s` at that time)
        self._served: list[_Served] = []
        self._served_at = -math.inf
        if self.cost:
            self._measured.append(self.cost)

    @property
    def streams(self) -> int:
        """Number of live channels."""
        return self.claims.channels

    def measured(self, now: float, cost: float) -> None:
        """Record a measurement: the cost of a second of silence with all lanes busy; 0: the measurement failed."""
        if cost := _sane(cost):
            self._measured.append(cost)
        self._measured_at = now

    def unmeasured_s(self, now: float) -> float:
        """Return the time since the last measurement; infinity if there was none since the engine was loaded."""
        return now - self._measured_at

    def heard(self, now: float, claim: Claim, audio_s: float) -> None:
        """Record audio received from a stream, summed over its channels. Quiet channels need no decoding and do not count."""
        self._audio_s += audio_s * claim.speaking(now) / claim.channels
        if not self._audio or now - self._audio[-1][0] >= _NOTED_EVERY_S:
            self._audio.append((now, self._audio_s))
            while len(self._audio) > 2 and self._audio[1][0] < now - WINDOW_S - _SETTLE_S:
                self._audio.popleft()

    def step_done(self, now: float, kind: JobKind, audio_s: float, took_s: float, ahead_s: float = 0.0) -> None:
        """Record a decoded batch. `ahead_s` is the time left until its earliest job is due."""
        took_s = _sane(took_s)
        if audio_s > 0:
            newest = took_s / audio_s
            self.cost += _COST_WEIGHT * (min(newest, _ODD * self.cost) - self.cost) if self.cost else newest
        final = kind is JobKind.FINAL
        self._steps.append(_DecodedBatch(now, took_s, final, final and ahead_s <= _AHEAD_S))
        self._forget(now)

    def final_out(self, now: float, late_s: float, lead_s: float) -> None:
        """Record a completed final: its lateness and its lead time."""
        self._finals.append(_CompletedFinal(now, max(0.0, late_s), min(max(0.0, lead_s), _AHEAD_S)))
        self._forget(now)
        self._note_served(now)

    def p95(self, now: float) -> float | None:
        """Return the 95th percentile of the delay of the finals within the window; None if there were too few."""
        self._forget(now)
        if len(self._finals) < _MEASURED_FROM:
            return None
        return _p95([final.late_s for final in self._finals])

    def predicted_p95(self, now: float, more: float, owner: str | None = None, beside: Beside = ALONE) -> float:
        """Return the predicted 95th percentile of the finals' delay, in seconds, if `more` channels of this owner join.

        `beside` is what other models take of the same cores.
        """
        self._forget(now)
        return self._predicted(now, self.claims.weight(now, owner) + more, beside)

    def busy(self, now: float) -> float:
        """Return how many lanes finals have kept busy within the window, on average."""
        self._forget(now)
        return self._seen() * self.lanes

    def demand(self, now: float) -> float:
        """Return the lane time for finals, in seconds, that a speaking channel is expected to need per second of audio."""
        self._forget(now)
        return self._demand(now)

    def room(self, now: float, target_s: float, beside: Beside = ALONE) -> int:
        """Return how many more channels the model can serve within the target delay, at most 1,000."""
        self._forget(now)
        there = self.claims.weight(now)
        low, high = 0, 1000
        while low < high:
            middle = (low + high + 1) // 2
            if self._predicted(now, there + middle, beside) <= target_s:
                low = middle
            else:
                high = middle - 1
        return low

    def _predicted(self, now: float, channels: float, beside: Beside) -> float:
        if not self.lanes:
            return math.inf
        measured = self.p95(now)
        expected = self._expected(now, channels, measured, beside)
        if measured is not None:
            return expected
        latest_s = max((final.late_s for final in self._finals), default=0.0)
        served = [one.p95_s for one in self._served if one.channels >= channels and one.p95_s >= latest_s]
        return min([expected, *served])

    def _expected(self, now: float, channels: float, measured: float | None, beside: Beside) -> float:
        seen = self._seen() + beside.seen
        load = channels * self._demand(now) / self.lanes + beside.seen + beside.more
        if load >= (_FULL if seen >= _PROVEN * load else _UNPROVEN):
            return math.inf
        if measured is None:
            return self._modelled_p95(load)
        return max(0.0, self._modelled_p95(load) + measured - self._modelled_p95(min(seen, load)))

    @property
    def _base(self) -> float:
        """The best estimate of the cost of a second of silence."""
        return min(self._measured, default=self.cost)

    def _seen(self) -> float:
        """Return the utilisation of the lanes by finals within the window."""
        return sum(step.took_s for step in self._steps if step.mandatory) / (self.lanes * WINDOW_S)

    def _modelled_p95(self, load: float) -> float:
        """Return the 95th percentile of wait plus decode time: finals go first, but idle lanes may be decoding interims."""
        finals = [step.took_s for step in self._steps if step.mandatory]
        others = [step.took_s for step in self._steps if not step.mandatory]
        longest_s = _p95(finals) if len(finals) >= _MEASURED_FROM else max([_STEP_S * self._base, *finals])
        mean_s = sum(finals) / len(finals) if finals else longest_s / 2
        # A lane must finish its interim first; the final takes whichever lane finishes first.
        residual_s = (sum(others) / len(others) if others else mean_s) * (1 - math.pow(0.05, 1 / self.lanes))
        waits = _erlang_c(self.lanes, load)
        wait_s = max(0.0, math.log(waits / 0.05)) * mean_s / (self.lanes * (1 - load)) if waits > 0 else 0.0
        lead_s = sum(final.lead_s for final in self._finals) / len(self._finals) if self._finals else 0.0
        return max(0.0, longest_s + residual_s + wait_s - lead_s)

    def _demand(self, now: float) -> float:
        """Return the lane time for finals, in seconds, that a speaking channel needs per second of audio.

        The rate at which the audio arrived does not matter: streamed files count like live speech.
        """
        busy_s = sum(step.took_s for step in self._steps if step.final)
        return (busy_s + _SPEECH_COSTS * self._base * _PRIOR_S) / (self._heard_s(now) + _PRIOR_S)

    def _heard_s(self, now: float) -> float:
        """Return the audio within the window whose finals are complete, in seconds."""
        settled = now - _SETTLE_S
        return self._heard_until(settled) - self._heard_until(settled - WINDOW_S)

    def _heard_until(self, when: float) -> float:
        index = bisect_right(self._audio, when, key=lambda point: point[0])
        if index:
            return self._audio[index - 1][1]
        return self._audio[0][1] if self._audio else 0.0

    def _forget(self, now: float) -> None:
        """Drop records older than the window."""
        before = now - WINDOW_S
        while self._steps and self._steps[0].at < before:
            self._steps.popleft()
        while self._finals and self._finals[0].at < before:
            self._finals.popleft()

    def _note_served(self, now: float) -> None:
        """Record the current number of channels and their delay in place of similar and of worse records."""
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
    """Return the duration; 0 if it is negative, infinite or not a number."""
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0


def _p95(values: list[float]) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(0.95 * len(ordered)) - 1)]


def _erlang_c(servers: int, utilisation: float) -> float:
    """Return the probability that a job has to wait: Erlang's C formula, by the recurrence of the B formula."""
    offered, blocked = servers * utilisation, 1.0
    for number in range(1, servers + 1):
        blocked = offered * blocked / (number + offered * blocked)
    return blocked / (1 - utilisation * (1 - blocked)) if utilisation < 1 else 1.0
