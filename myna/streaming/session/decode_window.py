"""The audio that a decode covers: the speech, its edges, and the context before it. Pure.

A cut close to speech costs words on both sides unless the decode of each side covers part of the other. So the decode of a
segment begins at a quiet point in the audio before it. The words of that context are dropped (see `hypothesis.seam_index`).
"""

from __future__ import annotations

from dataclasses import replace

from myna.streaming.audio.buffer import AudioBuffer
from myna.streaming.events import Span, samples, seconds
from myna.streaming.policy import MULTIPLE, Options, Policy
from myna.streaming.session.jobs import EngineInfo
from myna.streaming.session.pending import Retries
from myna.streaming.speech.segmenter import Segmenter

BEYOND = samples(1.0)
"""Audio decoded beyond a cut inside speech, so that the decode covers the whole last word before the cut."""
SURE_CONTEXT = samples(3.0)
"""Context of a segment of any length: without it words at the seam are lost."""
_ECHO = samples(0.25)
"""A decode without context begins at least this long after the speech before it, of which voice activity may miss the end."""
LEAST_CONTEXT = samples(0.5)
"""Shorter context would only add part of a word."""
INTERIM_CONTEXT = samples(2.0)
"""Context of an interim decode. A final decode may have more; an interim is soon replaced."""
_LEAD_SHARE = 1 / 4
"""The longest lead (silence before the speech), as a share of the longest audio the engine takes."""
_SHIFT = samples(0.1)
"""A repeated decode begins at least this much earlier or later: a smaller shift hardly changes an engine's output."""
_MOST_WHOLE = 2
"""The most repeated decodes of a whole segment, before it is decoded in two parts."""
_DIVISIBLE = samples(2.0)
"""Shorter speech is not split: each part would hold a word or two."""
_BEYOND_SPLIT = samples(0.5)
"""Audio decoded beyond a split, so that the decode of the first part covers the whole last word before it."""
INTERIM_OVERLAP = samples(1.0)
"""The words in this first part of a windowed interim decode are not used: the window may begin inside a word."""


def fitted(policy: Policy, engine: EngineInfo) -> Policy:
    """Return the policy with the engine's gate, its durations limited to what the engine supports."""
    lead_s = min(policy.lead_s, engine.longest_segment_s * _LEAD_SHARE)
    hard_s = min(policy.hard_s, engine.longest_segment_s - lead_s - seconds(BEYOND))
    endpoint_ms = policy.endpoint_ms and max(policy.endpoint_ms, engine.smallest_endpoint_ms)
    return replace(
        policy,
        lead_s=lead_s,
        hard_s=hard_s,
        soft_s=min(policy.soft_s, hard_s),
        endpoint_ms=endpoint_ms,
        gap_ms=policy.gap_ms and max(policy.gap_ms, engine.smallest_endpoint_ms),
        context_s=min(policy.context_s, engine.context_s),
        gate=engine.gate,
    )


def fitted_for(policy: Policy, options: Options, engine: EngineInfo) -> Policy:
    """Return the policy within the engine's limits. An engine that finds the language of each decode finds one in it: where
    the language changes, a segment is decoded without the speech before it."""
    if options.language == MULTIPLE and engine.detects_language:
        policy = replace(policy, context_s=0.0)
    return fitted(policy, engine)


class DecodeWindow:
    """Chooses the spans that one channel's decodes cover; `longest` is the most samples that one job may hold."""

    def __init__(self, policy: Policy, longest: int, segmenter: Segmenter, buffer: AudioBuffer) -> None:
        self._longest = longest
        self._segmenter = segmenter
        self._buffer = buffer
        self.last_speech_end: int | None = None
        """The end of the speech in the last closed segment."""
        self.not_before = 0
        """No decode covers audio before this sample: the client discarded it."""
        self.adopt(policy)

    def adopt(self, policy: Policy) -> None:
        """Use this policy for later decodes."""
        self._lead = samples(policy.lead_s)
        self._context = samples(policy.context_s)
        self._context_gap = samples(policy.context_gap_s)
        self._enough = samples(policy.enough_s)
        self._interim_window = samples(policy.interim_window_s)

    @property
    def reach(self) -> int:
        """The most samples before the open speech that a decode may cover."""
        return max(self._context, self._lead)

    def of_final(self, speech: Span) -> Span:
        """Return the span of the final decode of `speech`."""
        end = self.end_of_final(speech)
        return Span(self._start(speech.start, end, self._context), end)

    def end_of_final(self, speech: Span, *, to_the_end: bool = False) -> int:
        """Return where the final decode of `speech` ends; `to_the_end`: of a cut inside speech, only where the audio ends."""
        newest = max(self._segmenter.position, speech.end)
        if self._segmenter.speech_start == speech.end:  # the cut is inside speech
            return newest if to_the_end else min(speech.end + BEYOND, newest)
        return min(speech.end + self._segmenter.pause, newest)  # as the speculative decode, so that it can be promoted

    def of_retries(self, speech: Span, audio: Span) -> Retries:
        """Return where a decode of `speech` is repeated after a first one of `audio`.

        First in other windows: if the first decode had context, without it; otherwise with more or less silence before the
        speech. Then in two parts, split at the quietest point of the middle third.
        """
        whole = self._other_windows(speech, audio)[:_MOST_WHOLE]
        if len(speech) < _DIVISIBLE:
            return Retries(tuple(whole))
        third = len(speech) // 3
        split = self._segmenter.quietest(speech.start + third, speech.end - third)
        first = Span(self._without_context(speech.start, audio.end), min(split + _BEYOND_SPLIT, audio.end))
        return Retries((*whole, first, Span(split, audio.end)), split)

    def _other_windows(self, speech: Span, audio: Span) -> list[Span]:
        """Return the windows for a decode of `speech` that begin at least `_SHIFT` from each other and from `audio`."""
        earliest = self._earliest(audio.end)
        near, shifted = self._without_context(speech.start, audio.end), audio.start + _SHIFT
        far = speech.start - 2 * self._lead
        if self.last_speech_end is not None:
            far = max(far, self.last_speech_end)
        had_context = audio.start < speech.start - self._lead
        starts = [audio.start]
        for start in (near, shifted) if had_context else (far, near, shifted):
            if earliest <= start < audio.end and all(abs(start - other) >= _SHIFT for other in starts):
                starts.append(start)
        return [Span(start, audio.end) for start in starts[1:]]

    def _without_context(self, speech_start: int, end: int) -> int:
        """Return where a decode up to `end` begins that covers this speech and nothing before it."""
        earliest = self._earliest(end)
        return self._segmenter.quietest(max(earliest, speech_start - self._lead), max(earliest, speech_start))

    def _earliest(self, end: int) -> int:
        """Return the first sample that a decode up to `end` may cover."""
        return max(self._buffer.start, end - self._longest, self.not_before)

    def of_repeated_interim(self, speech_start: int, audio: Span) -> Span | None:
        """Return the span of a second interim decode after a first one of `audio`; None: there is no other window."""
        if audio.start > speech_start:  # the first one covered only the end of long speech
            start = self._segmenter.quietest(audio.start + INTERIM_OVERLAP // 2, audio.start + INTERIM_OVERLAP)
            return Span(start, audio.end) if start < audio.end else None
        others = self._other_windows(Span(speech_start, audio.end), audio)
        return others[0] if others else None

    def of_interim(self, speech_start: int, now: int) -> Span:
        """Return the span of an interim decode: the open speech, or the last seconds of long speech."""
        start = self.of_utterance(speech_start, now).start
        if now - start > self._interim_window:
            latest = now - self._interim_window
            start = self._segmenter.quietest(latest, latest + INTERIM_OVERLAP // 2)
        return Span(start, now)

    def of_utterance(self, speech_start: int, now: int, *, flushed: bool = False) -> Span:
        """Return the span of the open utterance up to `now`, for an engine that follows it; `flushed`: finals are steps."""
        return Span(
            self._start(speech_start, now, min(self._context, SURE_CONTEXT) if flushed else INTERIM_CONTEXT), now
        )

    def is_close(self, at: int) -> bool:
        """Return whether speech at this sample would be decoded with the speech before it."""
        return self._context >= LEAST_CONTEXT and self._is_near(at)

    def _is_near(self, at: int) -> bool:
        return self.last_speech_end is not None and at - self.last_speech_end < self._context_gap

    def _start(self, speech_start: int, end: int, context: int) -> int:
        earliest = self._earliest(end)
        context = min(context, max(SURE_CONTEXT, self._enough - (end - speech_start)), speech_start - earliest)
        near = self._is_near(speech_start)
        if near and context >= LEAST_CONTEXT:
            return self._segmenter.quietest(speech_start - context, speech_start - context // 2)
        start = max(speech_start - self._lead, earliest)
        if self.last_speech_end is not None and not near:
            start = max(start, min(self.last_speech_end + _ECHO, speech_start))
        return start
