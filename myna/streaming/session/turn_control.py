"""One channel's turns: whether the policy asks for them, and where they end. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from myna.streaming.events import Cause, Final, Trigger, TurnEager, TurnResumed
from myna.streaming.policy import Policy
from myna.streaming.session.pending import Barrier, TurnEnd
from myna.streaming.session.speculation import Speculation
from myna.streaming.session.timeline import Timeline
from myna.streaming.speech.segmenter import ClosedSegment, Gap, Segmenter
from myna.streaming.speech.turns import Eager, Over, TurnDetector


class TurnControl:
    """Runs the turn detector over the open segment's silence and words; without a turn policy it does nothing."""

    def __init__(
        self, policy: Policy, channel: int, segmenter: Segmenter, timeline: Timeline, speculation: Speculation
    ) -> None:
        self._channel = channel
        self._segmenter = segmenter
        self._timeline = timeline
        self._speculation = speculation
        self._detector = TurnDetector(policy.turns) if policy.turns else None

    @property
    def enabled(self) -> bool:
        """Whether utterances end as turns."""
        return self._detector is not None

    @property
    def confidence(self) -> float:
        """The probability that the speaker has finished; 0 without turns."""
        return self._detector.confidence if self._detector else 0.0

    def adopt(self, policy: Policy) -> None:
        """Follow this policy from here on."""
        if policy.turns is None or self._detector is None:
            self._detector = TurnDetector(policy.turns) if policy.turns else None
        else:
            self._detector.policy = policy.turns

    def assess(self) -> TurnEager | Over | None:
        """Return whether the turn is over, or may be, after the silence so far."""
        if self._detector is None or not self._segmenter.in_utterance:
            return None
        if not self._segmenter.silence:
            self._detector.confidence = 0.0
            return None
        words = self._speculation.words
        said = None if words is None else [*self._timeline.turn_words, *words]
        verdict = self._detector.assess(self._segmenter.silence, said)
        if isinstance(verdict, Eager):
            at, confidence = self._segmenter.position, verdict.confidence
            return TurnEager(channel=self._channel, at=at, words=words or (), confidence=confidence)
        return verdict

    def end(self, over: Over, at: int) -> TurnEnd | None:
        """Return the end, at sample `at`, of the turn that `assess` found to be over; None: there was sound without a word.

        A turn without final words may still be open: an interim reported words that no final confirmed.
        """
        if over.trigger is None and not self._timeline.in_turn:
            return None
        return TurnEnd(at, over.trigger or Trigger.CONFIDENCE, over.confidence)

    def end_at(self, barrier: Barrier) -> TurnEnd | Gap:
        """Return what follows an endpoint that was set from outside: the turn's end, or without turns a gap."""
        if self._detector is None:
            return Gap()
        end = TurnEnd(barrier.at, barrier.trigger, self._detector.confidence)
        self._detector.end()
        return end

    def end_if_too_long(self, closed: ClosedSegment) -> TurnEnd | None:
        """Return the end of the turn where a segment was cut by length, if the turn has reached the policy's bounds."""
        detector = self._detector
        if detector is None or closed.cause is not Cause.LENGTH or not closed.speech:
            return None
        if not detector.is_too_long(closed.speech, closed.span.end):
            return None
        end = TurnEnd(closed.span.end, Trigger.TIMEOUT, detector.confidence)
        detector.end()
        return end

    def forget(self) -> None:
        """Forget the open turn: its audio is discarded."""
        if self._detector is not None:
            self._detector.end()

    def resume(self) -> list[TurnResumed]:
        """Take note that speech goes on; return the event if the turn was reported as possibly over."""
        if self._detector is None or not self._detector.resume():
            return []
        return [TurnResumed(channel=self._channel, at=self._segmenter.position)]

    def count(self, finals: Sequence[Final]) -> None:
        """Count the words of these finals towards the turn's length."""
        if self._detector is not None:
            self._detector.count_words(sum(len(final.words) for final in finals))
