"""What a session has still to do: decodes it waits for, segments that are not final, points that its client has set."""

from __future__ import annotations

from dataclasses import dataclass

from myna.streaming.session.jobs import JobKind, Outcome
from myna.streaming.events import Cause, Span, Trigger, Word
from myna.streaming.policy import Options, Policy
from myna.streaming.speech.segmenter import ClosedSegment


@dataclass(slots=True)
class Decode:
    """A decode asked for, and its outcome once there is one."""

    audio: Span
    job_id: str
    kind: JobKind
    other_window: Span | None = None
    """The window in which it is repeated should its outcome not be credible; None: it is not, or has been."""
    outcome: Outcome | None = None
    words: tuple[Word, ...] | None = None
    """What it says, were its segment to end here; once somebody has asked."""
    first_attempt: tuple[Span, Outcome] | None = None
    """What it covered at first and what came of that, where it has been repeated."""

    def repeat(self, job_id: str) -> None:
        """Wait for the outcome of another job, in the other window."""
        assert self.other_window is not None
        assert self.outcome is not None
        self.first_attempt = self.audio, self.outcome
        self.audio, self.other_window = self.other_window, None
        self.job_id, self.outcome, self.words = job_id, None, None

    @property
    def first_window(self) -> Span:
        """What it covered at first."""
        return self.first_attempt[0] if self.first_attempt else self.audio

    @property
    def earliest(self) -> int:
        """The first sample of all its windows: the final words from there on tell which of its own are new."""
        return min(self.first_window.start, self.audio.start, (self.other_window or self.audio).start)

    @property
    def attempts(self) -> list[tuple[Span, Outcome | None]]:
        """What it has covered and what came of that, in order."""
        return [*([self.first_attempt] if self.first_attempt else []), (self.audio, self.outcome)]


@dataclass(slots=True)
class Waiting:
    """A segment that is cut but not final yet; without a decode it is empty."""

    closed: ClosedSegment
    decode: Decode | None


@dataclass(frozen=True, slots=True)
class Barrier:
    """Everything before sample `at` becomes final for this cause; then the token is acknowledged, if there is one.

    An endpoint also ends the turn, for the `trigger`.
    """

    at: int
    cause: Cause
    token: str | None = None
    trigger: Trigger = Trigger.TIMEOUT


@dataclass(frozen=True, slots=True)
class Change:
    """From sample `at` on, another policy and other options hold; then the token is acknowledged."""

    at: int
    policy: Policy
    options: Options
    token: str | None


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """A turn is over once everything before it is final."""

    at: int
    trigger: Trigger
    confidence: float
