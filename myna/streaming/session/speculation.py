"""The decode of a pause, made as if the segment ended there, so that its Final is ready at the endpoint. Pure."""

from __future__ import annotations

from myna.streaming.events import Span, Word
from myna.streaming.policy import PlausibilityGate
from myna.streaming.session.jobs import Outcome, Transcript
from myna.streaming.session.pending import Decode, Waiting
from myna.streaming.session.requester import Requester
from myna.streaming.session.timeline import Timeline
from myna.streaming.speech.segmenter import Segmenter


class Speculation:
    """One channel's speculative decode: requested at a pause, promoted at the endpoint, dropped if speech resumes."""

    def __init__(self, gate: PlausibilityGate, requester: Requester, segmenter: Segmenter, timeline: Timeline) -> None:
        self.gate = gate
        self.decode: Decode | None = None
        """The decode of the current pause, awaited or answered; None: there is none."""
        self._requester = requester
        self._segmenter = segmenter
        self._timeline = timeline

    @property
    def words(self) -> tuple[Word, ...] | None:
        """The final words of the open segment if speech does not resume; None: they are not decoded yet."""
        if self._timeline.behind:
            return None
        if self._segmenter.speech_start is None:
            return ()
        decode = self.decode
        if decode is None or decode.outcome is None:
            return None
        if decode.words is None:
            segment = self._segmenter.open_segment
            assert segment is not None
            decode.words = self._timeline.words_of(Waiting(segment, decode), self.gate)
        return decode.words

    @property
    def finished(self) -> bool:
        """Whether the engine heard that the speaker has finished."""
        outcome = self.decode.outcome if self.decode else None
        return isinstance(outcome, Transcript) and outcome.end_of_utterance_s is not None

    def awaits(self, job_id: str) -> bool:
        """Return whether a job is the speculative decode."""
        return self.decode is not None and self.decode.job_id == job_id

    def answer(self, outcome: Outcome) -> tuple[Span, Transcript] | None:
        """Take the decode's outcome; return the audio and the transcript to emit as an interim, if there are any.

        A decode whose words are not credible is repeated at once.
        """
        decode = self.decode
        assert decode is not None
        decode.outcome = outcome
        segment = self._segmenter.open_segment
        if segment is not None and not self._timeline.behind:
            waiting = Waiting(segment, decode)
            words = self._timeline.words_of(waiting, self.gate)
            if self._timeline.needs_repeat(waiting, words, self.gate):
                self._requester.repeat(decode, after_s=self._segmenter.ahead_s)
                return None
            decode.words = words
        return (decode.audio, outcome) if isinstance(outcome, Transcript) else None

    def promote(self, audio: Span) -> Decode | None:
        """Return the decode as the final decode of a segment whose decode window is `audio`; None: it has another window."""
        if self.decode is None or self.decode.first_window != audio:
            return None
        return self.release()

    def release(self) -> Decode | None:
        """Hand the decode to another owner."""
        decode, self.decode = self.decode, None
        return decode

    def drop(self) -> None:
        """Cancel the decode: speech has resumed, or the segment was cut elsewhere."""
        if self.decode is not None:
            self._requester.cancel(self.decode)
        self.decode = None
