"""Which decodes of one channel are steps of an utterance that the engine follows. Pure.

An engine that follows utterances is sent each sample once. Without flushed finals, an utterance is the open segment with its
context, and only interims are its steps.

With flushed finals, finals are its steps, too, and an utterance goes on over the end of a segment: over a cut inside speech,
and over a pause shorter than the policy's context gap. Its decodes are then those of one pass over all of that audio, and no
context is encoded again. Once it is as long as the longest job, the next segment begins another one, with context. This
bounds the audio kept for an engine that has lost it.
"""

from __future__ import annotations

from myna.streaming.events import Span, samples
from myna.streaming.session.decode_window import SURE_CONTEXT, DecodeWindow
from myna.streaming.session.jobs import EngineInfo, JobKind, Missing, Outcome, Transcript
from myna.streaming.session.pending import NEVER, Decode, FollowedUtterance, Retries
from myna.streaming.session.requester import Requester
from myna.streaming.speech.segmenter import Segmenter


class Following:
    """The utterances of one channel that the engine follows."""

    def __init__(self, requester: Requester, window: DecodeWindow, segmenter: Segmenter, engine: EngineInfo) -> None:
        self.flushed = engine.flushed_finals
        """Whether finals are steps."""
        self._requester = requester
        self._window = window
        self._segmenter = segmenter
        self._longest = samples(engine.longest_segment_s)
        self._number = 0
        self._open: FollowedUtterance | None = None
        self._between = False  # whether the segment of the last step has been closed

    @property
    def has_followed(self) -> bool:
        """Whether the engine may hold an utterance of this channel."""
        return self._number > 0

    def retained_from(self) -> int | None:
        """Return the first sample of the utterance that may go on; None: the next step begins another one."""
        speech_start, now = self._segmenter.speech_start, self._segmenter.position
        next_speech = now if speech_start is None else speech_start
        if self._open is not None and self._between and not self._goes_on(self._open, next_speech):
            self.end()
        return None if self._open is None or self._open.ended else self._open.start

    def covered(self, speech_start: int, end: int) -> Span:
        """Return what a step up to `end` covers: the speech, and the context with whose words it is joined."""
        start = self._utterance(speech_start, end).start
        return Span(max(start, speech_start - SURE_CONTEXT) if self.flushed else start, end)

    def step(
        self,
        speech_start: int,
        audio: Span,
        kind: JobKind,
        *,
        after_s: float = 0.0,
        retries: Retries = NEVER,
    ) -> Decode:
        """Request the next step of the utterance with this speech."""
        utterance = self._utterance(speech_start, audio.end)
        return self._requester.decode_step(utterance, audio, kind, after_s=after_s, retries=retries)

    def answer(self, decode: Decode, outcome: Outcome) -> bool:
        """Take a decode's outcome; return whether its audio is sent again because the engine holds less than assumed."""
        utterance = decode.utterance
        if utterance is None:
            return False
        if isinstance(outcome, Transcript):
            utterance.heard = max(utterance.heard, decode.audio.end)
        if not isinstance(outcome, Missing):
            return False
        utterance.heard = utterance.start + outcome.held
        if not self._requester.holds(utterance.heard):  # of an interim that is not needed any more
            return False
        self._requester.send_step(decode)
        return True

    def close_segment(self) -> None:
        """Take note that the open segment has been closed."""
        self._between = True
        if not self.flushed:
            self.end()

    def end(self) -> None:
        """Begin another utterance with the next step."""
        if self._open is not None:
            self._open.ended = True
            self._open = None

    def _utterance(self, speech_start: int, now: int) -> FollowedUtterance:
        """Return the utterance of this speech: the open one, if it goes on, or a new one."""
        known = self._open
        if known is None or known.ended or (self._between and not self._goes_on(known, speech_start)):
            self.end()
            self._number += 1
            start = self._window.of_utterance(speech_start, now, flushed=self.flushed).start
            known = self._open = FollowedUtterance(self._number, start, start)
        self._between = False
        return known

    def _goes_on(self, utterance: FollowedUtterance, speech_start: int) -> bool:
        """Return whether speech that begins here, or later, continues the utterance."""
        return self._window.is_close(speech_start) and speech_start - utterance.start < self._longest
