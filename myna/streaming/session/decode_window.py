"""What a decode covers: the speech, its edges, and as much of what came before as helps. Pure.

A cut close to speech costs words on both sides unless each side is heard with the other. So a segment is decoded with
the audio before it, from a quiet point on; its words are dropped again (see `hypothesis.seam_index`).
"""

from __future__ import annotations

from dataclasses import replace

from myna.streaming.audio.buffer import AudioBuffer
from myna.streaming.session.jobs import EngineInfo
from myna.streaming.events import Span, samples, seconds
from myna.streaming.policy import Policy
from myna.streaming.speech.segmenter import Segmenter

BEYOND = samples(1.0)
"""Audio heard beyond a cut inside speech, so that the last word before it is heard whole."""
SURE_CONTEXT = samples(3.0)
"""Context that a segment of any length is given: without it words at the seam are lost."""
ENOUGH = samples(10.0)
"""Audio with which a decode is as good as it gets: a short segment is given more context than a long one."""
LEAST_CONTEXT = samples(0.5)
"""Less context than this only adds a broken word."""
INTERIM_CONTEXT = samples(2.0)
"""Left context of an interim decode: a final may hear more, this one is soon replaced."""
_LEAD_SHARE = 1 / 4
"""Of the longest audio the engine takes, the silence before the speech has at most so much."""
_SHIFT = samples(0.1)
"""A decode that is repeated begins at least so much sooner or later: less hardly changes what an engine hears."""
INTERIM_OVERLAP = samples(1.0)
"""How far into its audio a windowed interim decode is not yet believed."""


def fitted(policy: Policy, engine: EngineInfo) -> Policy:
    """Return the policy within what the engine can do and has use for."""
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
    )


class DecodeWindow:
    """The spans decodes of one channel cover; `longest` is the most samples the engine takes at once."""

    def __init__(self, policy: Policy, longest: int, segmenter: Segmenter, buffer: AudioBuffer) -> None:
        self._longest = longest
        self._segmenter = segmenter
        self._buffer = buffer
        self.last_speech_end: int | None = None
        """Where the speech of the last segment closed ends."""
        self.not_before = 0
        """No decode covers what lies before this sample: nobody wants it to be heard."""
        self.adopt(policy)

    def adopt(self, policy: Policy) -> None:
        """Cover what this policy says from here on."""
        self._lead = samples(policy.lead_s)
        self._context = samples(policy.context_s)
        self._context_gap = samples(policy.context_gap_s)
        self._interim_window = samples(policy.interim_window_s)

    @property
    def reach(self) -> int:
        """Samples before the open speech that a decode may still ask for."""
        return max(self._context, self._lead)

    def of_final(self, speech: Span) -> Span:
        """Return what the final decode of `speech` covers."""
        inside = self._segmenter.speech_start == speech.end  # cut inside speech, which goes on
        tail = BEYOND if inside else self._segmenter.pause  # a pause's whole silence: it is what is decoded ahead
        end = min(speech.end + tail, max(self._segmenter.position, speech.end))
        return Span(self._start(speech.start, end, self._context), end)

    def of_repeat(self, speech: Span, audio: Span) -> Span | None:
        """Return what a second decode of `speech` covers, the first having covered `audio`; None: there is no other window.

        Without context it cannot begin inside a word of that. Where the first one had none, more or less silence goes before.
        """
        earliest = max(self._buffer.start, audio.end - self._longest, self.not_before)
        near = self._segmenter.quietest(max(earliest, speech.start - self._lead), max(earliest, speech.start))
        far = speech.start - 2 * self._lead
        if self.last_speech_end is not None:
            far = max(far, self.last_speech_end)
        had_context = audio.start < speech.start - self._lead
        for start in (near, audio.start + _SHIFT) if had_context else (far, near, audio.start + _SHIFT):
            if earliest <= start < audio.end and abs(start - audio.start) >= _SHIFT:
                return Span(start, audio.end)
        return None

    def of_repeated_interim(self, speech_start: int, audio: Span) -> Span | None:
        """Return what a second interim decode covers, the first having covered `audio`; None: there is no other window."""
        if audio.start > speech_start:  # the last seconds of long speech
            start = self._segmenter.quietest(audio.start + INTERIM_OVERLAP // 2, audio.start + INTERIM_OVERLAP)
            return Span(start, audio.end) if start < audio.end else None
        return self.of_repeat(Span(speech_start, audio.end), audio)

    def of_interim(self, speech_start: int, now: int) -> Span:
        """Return what an interim decode covers: the open speech, or of long speech the last seconds."""
        start = self.of_utterance(speech_start, now).start
        if now - start > self._interim_window:
            latest = now - self._interim_window
            start = self._segmenter.quietest(latest, latest + INTERIM_OVERLAP // 2)
        return Span(start, now)

    def of_utterance(self, speech_start: int, now: int) -> Span:
        """Return what an engine that follows the open speech is to hear of it so far; it begins where it begins."""
        return Span(self._start(speech_start, now, INTERIM_CONTEXT), now)

    def _start(self, speech_start: int, end: int, context: int) -> int:
        earliest = max(self._buffer.start, end - self._longest, self.not_before)
        context = min(context, max(SURE_CONTEXT, ENOUGH - (end - speech_start)), speech_start - earliest)
        close = self.last_speech_end is not None and speech_start - self.last_speech_end < self._context_gap
        if close and context >= LEAST_CONTEXT:
            return self._segmenter.quietest(speech_start - context, speech_start - context // 2)
        return max(speech_start - self._lead, earliest)
