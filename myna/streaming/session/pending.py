"""The pending state of a session: awaited decodes, segments without a Final yet, and barriers set by the client."""

from __future__ import annotations

from dataclasses import dataclass

from myna.streaming.events import Cause, Span, Trigger, Word
from myna.streaming.policy import Options, Policy
from myna.streaming.session.jobs import JobKind, Outcome
from myna.streaming.speech.segmenter import ClosedSegment


@dataclass(slots=True)
class FollowedUtterance:
    """An utterance that the engine follows from sample `start` on. As far as is known, it has the audio up to `heard`."""

    number: int
    start: int
    heard: int
    ended: bool = False
    """Whether no further step may be requested."""


@dataclass(slots=True)
class Decode:
    """A requested decode of `audio`, with its outcome once it is answered."""

    audio: Span
    job_id: str
    kind: JobKind
    other_window: Span | None = None
    """The window in which to repeat the decode if its outcome is not credible; None: it cannot be repeated, or has been."""
    utterance: FollowedUtterance | None = None
    """The followed utterance of which the decode is a step; None: it stands alone."""
    outcome: Outcome | None = None
    words: tuple[Word, ...] | None = None
    """The words of the segment if it ended here; computed on first use."""
    first_attempt: tuple[Span, Outcome] | None = None
    """The window and the outcome of the first attempt, once the decode is repeated."""

    def repeat(self, job_id: str) -> None:
        """Replace the answered job with another one, in the other window.

        A followed utterance whose words are not credible ends: the decoder would go on from the state that led to them.
        """
        assert self.other_window is not None
        assert self.outcome is not None
        if self.utterance is not None:
            self.utterance.ended, self.utterance = True, None
        self.first_attempt = self.audio, self.outcome
        self.audio, self.other_window = self.other_window, None
        self.job_id, self.outcome, self.words = job_id, None, None

    @property
    def first_window(self) -> Span:
        """The window of the first attempt."""
        return self.first_attempt[0] if self.first_attempt else self.audio

    @property
    def earliest(self) -> int:
        """The first sample of all its windows, and of its utterance, which an engine that lost it needs again.

        The final words after it show which words of the decode are new.
        """
        starts = [self.first_window.start, self.audio.start, (self.other_window or self.audio).start]
        return min(starts) if self.utterance is None else min(*starts, self.utterance.start)

    @property
    def attempts(self) -> list[tuple[Span, Outcome | None]]:
        """The windows and outcomes so far, in order."""
        return [*([self.first_attempt] if self.first_attempt else []), (self.audio, self.outcome)]


@dataclass(slots=True)
class Waiting:
    """A closed segment whose Final is not emitted yet. Without a decode the Final is empty."""

    closed: ClosedSegment
    decode: Decode | None


@dataclass(frozen=True, slots=True)
class Barrier:
    """A point before which everything becomes final, with `cause`. After that the token, if there is one, is acknowledged.

    A barrier with the cause ENDPOINT also ends the turn, with `trigger`.
    """

    at: int
    cause: Cause
    token: str | None = None
    trigger: Trigger = Trigger.TIMEOUT


@dataclass(frozen=True, slots=True)
class Change:
    """A point from which another policy and other options apply. The token is acknowledged when it is reached."""

    at: int
    policy: Policy
    options: Options
    token: str | None


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """The end of a turn, emitted once everything before it is final."""

    at: int
    trigger: Trigger
    confidence: float
