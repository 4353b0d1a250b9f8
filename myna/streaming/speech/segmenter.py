"""Decides from speech probabilities where speech starts, pauses and resumes, and where a segment is cut. Pure.

A *segment* is what one Final commits: the segments of a channel tile its timeline. An *endpoint* is a fact: a silence of
`Policy.endpoint_ms`. A *decode* covers more than its segment; the session decides how much, and the segmenter gives it the
quietest point of a range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from myna.streaming.events import SAMPLE_RATE, Cause, Span
from myna.streaming.policy import Policy

WINDOW = 512
"""Samples of one voice-activity window: Silero's window at 16 kHz (32 ms)."""

HYSTERESIS = 0.15
"""Speech pauses when the probability falls this far below the onset threshold: Silero's own default."""
ONSET_WINDOWS = 2
"""Consecutive windows of speech that start speech: a single one is often a click."""

LONGEST_PAUSE = 7 * WINDOW
"""The longest silence (224 ms) before a pause is announced, so that its final is decoded before the endpoint. Speech resumes
after most shorter silences. A short endpoint announces its pause sooner."""
_PAUSE_SHARE = 0.6
"""The pause of a short endpoint is announced after this share of it."""
_AHEAD_S = 0.3
"""Without an endpoint, the decode of a pause falls due this long after the pause, like an interim decode."""
_TURN_PAUSE = 5 * WINDOW
"""With turns, a pause is announced after 160 ms: its words decide whether the turn is over, at the earliest 0.49 s after the
last word. That costs hardly more decoding, since a decode that speech overtakes serves as an interim. At 128 ms words are
lost (docs/turns.md)."""
_TURN_AHEAD_S = 0.1
"""With turns, the decode of a pause falls due this long after the pause."""
SHORTEST_PAUSE = 3 * WINDOW
"""The silence (96 ms) to which the pause required for a cut shrinks as the segment approaches its hard length."""
PAUSE_WITHOUT_ENDPOINT = SAMPLE_RATE
"""The pause required for a cut at the soft length, if the policy has no endpoint."""

_SMOOTHING = 2
"""Windows on either side over which a probability is averaged: 160 ms in all, about a syllable."""
_EARLIEST_CUT = 0.4
"""A forced cut lies after this share of the hard length: shorter segments cost more words than they save."""
_EARLIEST_PAUSE = 0.3
"""A file may be cut in a pause after this share of the hard length."""
_LATEST_CUT = 10 * WINDOW
"""A forced cut leaves at least 320 ms of audio after it, so that the decode covers the word at the cut."""
_SILENCE_LEFT = SAMPLE_RATE
"""A cut in silence leaves this much silence after it, so that the decode of the next words has audio before their onset."""
_HISTORY = 40 * SAMPLE_RATE
"""The history of probabilities in which quiet points are searched: longer than any segment with its context."""


@dataclass(frozen=True, slots=True)
class Onset:
    """Speech began at sample `at`."""

    at: int


@dataclass(frozen=True, slots=True)
class Pause:
    """Speech stopped at `speech.end`. It may resume."""

    speech: Span


@dataclass(frozen=True, slots=True)
class Resumed:
    """Speech resumed after a pause."""


@dataclass(frozen=True, slots=True)
class ClosedSegment:
    """A segment was cut. `speech` is the part to decode (None: there is none).

    `voice` is the mean speech probability of the surer half of its windows. `pauses` are the announced silences inside the
    segment and after its speech.
    """

    span: Span
    speech: Span | None
    voice: float
    cause: Cause
    pauses: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True)
class Gap:
    """There was no speech for the policy's gap (or endpoint). The speech before it has been closed."""


Decision = Onset | Pause | Resumed | ClosedSegment | Gap


class Segmenter:
    """Cuts one channel into segments. It must be fed every window once, in order; it returns the decisions made so far."""

    def __init__(self, policy: Policy) -> None:
        self.adopt(policy)
        self._gap_ahead = False  # whether speech has been heard since the last gap
        self._history: list[float] = []
        self._history_start = 0
        self._run = 0
        self._voiced = False
        self._paused = False
        self._pauses: list[Span] = []
        self.open_start = 0
        """The start of the open segment: the end of the last closed one."""
        self.speech_start: int | None = None
        """The start of speech in the open segment; None: it has no speech yet."""
        self.speech_end = 0
        """The end of the last window of speech, in this segment or before."""
        self.in_utterance = False
        """Whether there has been speech since the last endpoint."""
        self.position = 0
        """The samples fed so far."""

    def adopt(self, policy: Policy) -> None:
        """Use this policy from here on."""
        self._onset, self._offset = policy.onset, max(policy.onset - HYSTERESIS, policy.onset / 2)
        self._endpoint = None if policy.endpoint_ms is None else policy.endpoint_ms * SAMPLE_RATE // 1000
        self._gap = self._endpoint if policy.gap_ms is None else policy.gap_ms * SAMPLE_RATE // 1000
        self._silence = None if policy.silence_s is None else round(policy.silence_s * SAMPLE_RATE)
        self._whole = not policy.live
        self._soft = round(policy.soft_s * SAMPLE_RATE)
        self._hard = round(policy.hard_s * SAMPLE_RATE)
        self.pause = _TURN_PAUSE if policy.turns else LONGEST_PAUSE
        """The silence after which a pause is announced."""
        self.ahead_s = _TURN_AHEAD_S if policy.turns else _AHEAD_S
        """The seconds from an announced pause to its endpoint; without endpoints, to the time its decode falls due."""
        if self._endpoint is not None:
            share = round(self._endpoint * _PAUSE_SHARE) // WINDOW
            self.pause = min(LONGEST_PAUSE, max(ONSET_WINDOWS, share) * WINDOW)
            self.ahead_s = (self._endpoint - self.pause) / SAMPLE_RATE

    def feed(self, probability: float) -> list[Decision]:
        """Take the next window's speech probability; return the decisions that follow from it, in order."""
        self._history.append(probability)
        self.position += WINDOW
        decisions = self._listen(probability) if self.speech_start is None else self._follow(probability)
        if closed := self._due_cut():
            decisions.append(closed)
        decisions += self._due_gap()
        if closed := self._due_silence():
            decisions.append(closed)
        self._forget()
        return decisions

    def close(self, at: int, cause: Cause) -> ClosedSegment:
        """Cut the open segment at `at`, for a flush, a discard or the end, or as an endpoint when audio stops arriving."""
        if cause is Cause.ENDPOINT:
            self.in_utterance = self._gap_ahead = False
        speech = None
        if self.speech_start is not None:
            ended = (
                self._whole and self.silence >= PAUSE_WITHOUT_ENDPOINT
            )  # a file may end in silence: it is not decoded
            speech = Span(self.speech_start, self.speech_end if ended else max(at, self.speech_start))
        return self._close(max(at, self.open_start), speech, cause)

    def end_utterance(self) -> ClosedSegment:
        """Cut at the current position, as an endpoint does."""
        speech = None if self.speech_start is None else Span(self.speech_start, self.speech_end)
        self.in_utterance = False
        at = max(self.position, self.open_start)  # a flush may have cut up to a window after the last one fed
        return self._close(at, speech, Cause.ENDPOINT)

    def part(self, at: int, cause: Cause) -> ClosedSegment:
        """Cut at `at` inside speech."""
        assert self.speech_start is not None
        closed = self._close(at, Span(self.speech_start, at), cause)
        self.speech_start = at
        return closed

    @property
    def in_speech(self) -> bool:
        """Whether the last window was speech of the open segment."""
        return self.speech_start is not None and self._voiced

    @property
    def silence(self) -> int:
        """The samples since the last window of speech."""
        return self.position - self.speech_end

    @property
    def pauses(self) -> tuple[Span, ...]:
        """The announced silences of the open segment; the last one may be unfinished."""
        lasting = [Span(self.speech_end, self.position)] if self._paused and self.position > self.speech_end else []
        return (*self._pauses, *lasting)

    @property
    def voice(self) -> float:
        """The mean speech probability of the surer half of the open segment's windows."""
        if self.speech_start is None:
            return 0.0
        return self._strength(Span(self.speech_start, max(self.speech_start, self.speech_end)), self._pauses)

    @property
    def open_segment(self) -> ClosedSegment | None:
        """The open segment as an endpoint would close it here; None: it has no speech."""
        if self.speech_start is None:
            return None
        span, speech = Span(self.open_start, self.position), Span(self.speech_start, self.speech_end)
        return ClosedSegment(span, speech, self.voice, Cause.ENDPOINT, self.pauses)

    def quietest(self, start: int, end: int) -> int:
        """Return the sample from `start` to `end` around which speech is least probable; of several the last."""
        first = max(0, (start - self._history_start) // WINDOW)
        last = min(len(self._history), max(first + 1, (end - self._history_start) // WINDOW))
        best, lowest = first, 2.0
        for index in range(first, last):
            around = self._history[max(0, index - _SMOOTHING) : index + _SMOOTHING + 1]
            smoothed = sum(around) / max(1, len(around))
            if smoothed <= lowest:
                best, lowest = index, smoothed
        return min(max(self._history_start + best * WINDOW + WINDOW // 2, start), end)

    def _listen(self, probability: float) -> list[Decision]:
        self._run = self._run + 1 if probability >= self._onset else 0
        if self._run < ONSET_WINDOWS:
            return []
        self.speech_start = max(self.position - self._run * WINDOW, self.open_start)
        self.speech_end = self.position
        self._voiced, self._paused, self._gap_ahead = True, False, True
        if self.in_utterance:
            return [Resumed()]
        self.in_utterance = True
        return [Onset(self.speech_start)]

    def _follow(self, probability: float) -> list[Decision]:
        assert self.speech_start is not None
        self._voiced = probability >= self._onset or (self._voiced and probability >= self._offset)
        if self._voiced:
            silent_from, self.speech_end = self.speech_end, self.position
            if self._paused:
                self._pauses.append(Span(silent_from, self.position - WINDOW))
                self._paused = False
                return [Resumed()]
        elif not self._paused and self.silence >= self.pause:
            self._paused = True
            return [Pause(Span(self.speech_start, self.speech_end))]
        return []

    def _due_cut(self) -> ClosedSegment | None:
        if not self.in_utterance:
            return None
        silence = self.silence
        if self._endpoint is not None and silence >= self._endpoint:
            return self.end_utterance()
        if self.speech_start is None:
            return None
        length = self.position - self.speech_start
        if self._whole and length < self._hard:
            length -= silence  # the soft length of a file is one of speech alone
        elif self._whole and (longest := self._longest_pause()):
            return self._part_at(longest)
        if length >= self._soft and silence >= self._sufficient_pause(length):
            return self._close(self.position, Span(self.speech_start, self.speech_end), Cause.LENGTH)
        if length >= self._hard:
            earliest = self.speech_start + round(self._hard * _EARLIEST_CUT)
            return self.part(self.quietest(earliest, self.position - _LATEST_CUT), Cause.LENGTH)
        return None

    def _longest_pause(self) -> Span | None:
        """Return the longest announced pause of the open segment, of several the last; None: there is none late enough."""
        assert self.speech_start is not None
        earliest = self.speech_start + round(self._hard * _EARLIEST_PAUSE)
        late = [pause for pause in self.pauses if pause.start >= earliest]
        return max(reversed(late), key=len, default=None)

    def _part_at(self, pause: Span) -> ClosedSegment:
        """Cut in the middle of this pause of the open segment, or here if it lasts."""
        assert self.speech_start is not None
        speech = Span(self.speech_start, pause.start)
        if pause.end == self.position:
            return self._close(self.position, speech, Cause.LENGTH)
        closed = self._close((pause.start + pause.end) // 2, speech, Cause.LENGTH)
        self.speech_start = pause.end
        return closed

    def _due_gap(self) -> list[Decision]:
        if self._gap is None or not self._gap_ahead or self.silence < self._gap:
            return []
        self._gap_ahead = False
        decisions: list[Decision] = []
        if self.speech_start is not None:
            decisions.append(self._close(self.position, Span(self.speech_start, self.speech_end), Cause.GAP))
        if self._endpoint is None:
            self.in_utterance = False
        return [*decisions, Gap()]

    def _due_silence(self) -> ClosedSegment | None:
        if self._silence is None or self.speech_start is not None or self._run:
            return None
        if self.position - max(self.open_start, self.speech_end) < self._silence:
            return None
        return self._close(self.position - _SILENCE_LEFT, None, Cause.SILENCE)

    def _sufficient_pause(self, length: int) -> int:
        longest = PAUSE_WITHOUT_ENDPOINT if self._endpoint is None else self._endpoint
        if self._whole and length < self._hard:
            return longest
        share = 1.0 if length >= self._hard else (length - self._soft) / (self._hard - self._soft)
        return round(longest + share * (min(SHORTEST_PAUSE, longest) - longest))

    def _close(self, at: int, speech: Span | None, cause: Cause) -> ClosedSegment:
        if self._paused and at > self.speech_end:
            self._pauses.append(Span(self.speech_end, at))
        pauses = tuple(pause for pause in self._pauses if pause.start < at)
        voice = 0.0
        if speech:
            voice = self._strength(Span(speech.start, max(speech.start, min(speech.end, self.speech_end))), pauses)
        closed = ClosedSegment(Span(self.open_start, at), speech, voice, cause, pauses)
        self._pauses = [pause for pause in self._pauses if pause.start >= at]
        self.open_start = at
        self.speech_start = None
        self._run = 0
        self._paused = False
        return closed

    def _strength(self, speech: Span, pauses: Sequence[Span]) -> float:
        """Return the mean probability of the surer half of the windows. Pauses do not count: they are no sign of noise."""
        first, last = self._windows(speech)
        silent = {index for pause in pauses for index in range(*self._windows(pause))}
        heard = sorted(self._history[index] for index in range(first, max(first + 1, last)) if index not in silent)
        surer = heard[len(heard) // 2 :]
        return sum(surer) / len(surer) if surer else 0.0

    def _windows(self, span: Span) -> tuple[int, int]:
        """Return the first window of a span and the one after its last, limited to the history."""
        ends = (min(max(0, (at - self._history_start) // WINDOW), len(self._history)) for at in (span.start, span.end))
        first, last = ends
        return first, last

    def _forget(self) -> None:
        surplus = len(self._history) - _HISTORY // WINDOW
        if surplus > 256:  # in steps, so that the list is not shifted for every window
            del self._history[:surplus]
            self._history_start += surplus * WINDOW
