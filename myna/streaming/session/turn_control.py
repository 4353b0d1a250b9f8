"""Decides where one channel's turns end, if its policy has turns. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from myna.streaming.events import Cause, Final, Trigger, TurnEager, TurnResumed
from myna.streaming.policy import Policy
from myna.streaming.session.pending import Barrier, TurnEnd
from myna.streaming.session.speculation import Speculation
from myna.streaming.session.timeline import Timeline, mark_of_seam
from myna.streaming.speech.segmenter import ClosedSegment, Gap, Segmenter
from myna.streaming.speech.turns import Eager, Over, TurnDetector


class TurnControl:
    """Applies the turn detector to the silence and words of the open segment. Without a turn policy there are no turns."""

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
        """Whether the policy has turns."""
        return self._detector is not None

    @property
    def confidence(self) -> float:
        """The confidence that the turn is over; 0 without turns."""
        return self._detector.confidence if self._detector else 0.0

    def adopt(self, policy: Policy) -> None:
        """Use this policy from here on."""
        if policy.turns is None or self._detector is None:
            self._detector = TurnDetector(policy.turns) if policy.turns else None
        else:
            self._detector.policy = policy.turns

    def assess(self) -> TurnEager | Over | None:
        """Return `Over` if the turn is over, `TurnEager` if it may be, after the silence so far."""
        if self._detector is None or not self._segmenter.in_utterance:
            return None
        if not self._segmenter.silence:
            self._detector.confidence = 0.0
            return None
        words = self._speculation.words
        said = None if words is None else [*self._timeline.turn_words, *words]
        verdict = self._detector.assess(self._segmenter.silence, said, finished=self._speculation.finished)
        if isinstance(verdict, Eager):
            at, confidence = self._segmenter.position, verdict.confidence
            before = mark_of_seam(self._speculation.decode, words or ())
            return TurnEager(channel=self._channel, at=at, words=words or (), confidence=confidence, before=before)
        return verdict

    def end(self, over: Over, at: int) -> TurnEnd | None:
        """Return the end, at sample `at`, of a turn that is over; None: there was sound without a word, and no turn.

        A turn may be open without a final word: an interim contained words that no Final confirmed.
        """
        if over.trigger is None and not self._timeline.in_turn:
            return None
        return TurnEnd(at, over.trigger or Trigger.CONFIDENCE, over.confidence)

    def end_at(self, barrier: Barrier) -> TurnEnd | Gap:
        """End the turn at a barrier and return its end; without turns return a `Gap`."""
        if self._detector is None:
            return Gap()
        end = TurnEnd(barrier.at, barrier.trigger, self._detector.confidence)
        self._detector.end()
        return end

    def end_if_too_long(self, closed: ClosedSegment) -> TurnEnd | None:
        """End the turn where a segment was cut by length if it exceeds the policy's bounds; return its end."""
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
        """Take note that speech has resumed; return a `TurnResumed` if a `TurnEager` has been emitted."""
        if self._detector is None or not self._detector.resume():
            return []
        return [TurnResumed(channel=self._channel, at=self._segmenter.position)]

    def count(self, finals: Sequence[Final]) -> None:
        """Add the words of these Finals to the turn's length."""
        if self._detector is not None:
            self._detector.count_words(sum(len(final.words) for final in finals))
