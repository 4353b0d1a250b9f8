"""The pending state of a session: awaited decodes, segments without a Final yet, and barriers set by the client."""

from __future__ import annotations

from dataclasses import dataclass, field

from myna.streaming.events import Cause, Span, Trigger, Word
from myna.streaming.policy import Options, Policy
from myna.streaming.session.jobs import JobKind, Outcome
from myna.streaming.speakers.runs import Run
from myna.streaming.speech.segmenter import ClosedSegment


@dataclass(slots=True)
class FollowedUtterance:
    """An utterance that the engine follows from sample `start` on. As far as is known, it has the audio up to `heard`."""

    number: int
    start: int
    heard: int
    ended: bool = False
    """Whether no further step may be requested."""


@dataclass(frozen=True, slots=True)
class Retries:
    """Where a decode is repeated, in order, while its words are not credible: each window covers the segment's speech.

    The last two windows cover it together if there is a `split`: one ends after this sample, the other begins at it.
    """

    windows: tuple[Span, ...] = ()
    split: int | None = None


NEVER = Retries()
"""The retries of a decode that is not repeated."""


@dataclass(slots=True)
class Decode:
    """A requested decode of `audio`, with its outcome once it is answered."""

    audio: Span
    job_id: str
    kind: JobKind
    retries: Retries = NEVER
    utterance: FollowedUtterance | None = None
    """The followed utterance of which the decode is a step; None: it stands alone."""
    outcome: Outcome | None = None
    words: tuple[Word, ...] | None = None
    """The words of the segment if it ended here; computed on first use."""
    before: list[tuple[Span, Outcome]] = field(default_factory=list)
    """The windows and outcomes of the attempts before this one, in order."""

    def repeat(self, job_id: str) -> None:
        """Replace the answered job with another one, in the next window.

        A followed utterance whose words are not credible ends: the decoder would go on from the state that led to them.
        """
        assert self.next_window is not None
        assert self.outcome is not None
        if self.utterance is not None:
            self.utterance.ended, self.utterance = True, None
        window = self.next_window
        self.before.append((self.audio, self.outcome))
        self.audio, self.job_id, self.outcome, self.words = window, job_id, None, None

    @property
    def next_window(self) -> Span | None:
        """The window of the next attempt; None: there is none."""
        windows, made = self.retries.windows, len(self.before)
        return windows[made] if made < len(windows) else None

    @property
    def first_window(self) -> Span:
        """The window of the first attempt."""
        return self.before[0][0] if self.before else self.audio

    @property
    def earliest(self) -> int:
        """The first sample of all its windows, and of its utterance, which an engine that lost it needs again.

        The final words after it show which words of the decode are new.
        """
        starts = [self.first_window.start, *(window.start for window in self.retries.windows)]
        return min(starts) if self.utterance is None else min(*starts, self.utterance.start)

    @property
    def attempts(self) -> list[tuple[Span, Outcome | None]]:
        """The windows and outcomes so far, in order."""
        return [*self.before, (self.audio, self.outcome)]

    @property
    def whole(self) -> list[tuple[Span, Outcome | None]]:
        """The attempts at the whole segment."""
        return self.attempts if self.retries.split is None else self.attempts[: len(self.retries.windows) - 1]

    @property
    def halves(self) -> list[tuple[Span, Outcome | None]]:
        """The attempts at the two parts of the segment; empty until there are both."""
        split = self.retries.split is not None and len(self.before) == len(self.retries.windows)
        return self.attempts[-2:] if split else []


@dataclass(slots=True)
class PendingVoices:
    """The voices of a closed segment: `open` are the jobs that have not been answered."""

    number: int
    open: set[str]
    runs: list[Run] = field(default_factory=list)
    given_up: bool = False
    """Whether the segment's words wait for the voices no longer."""

    @property
    def ready(self) -> bool:
        """Whether nothing more is waited for."""
        return self.given_up or not self.open


@dataclass(slots=True)
class Waiting:
    """A closed segment whose Final is not emitted yet. Without a decode the Final is empty.

    With `voices`, its words are labelled with their speakers.
    """

    closed: ClosedSegment
    decode: Decode | None
    voices: PendingVoices | None = None


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
