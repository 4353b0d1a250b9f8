"""What a session has still to do: decodes it waits for, segments that are not final, points that its client has set."""

from __future__ import annotations

from dataclasses import dataclass

from myna.streaming.engines.base import Kind, Outcome
from myna.streaming.events import Cause, Span, Trigger, Word
from myna.streaming.policy import Options, Policy
from myna.streaming.segmenter import Closed


@dataclass(slots=True)
class Decode:
    """A decode asked for, and its outcome once there is one."""

    audio: Span
    job_id: str
    kind: Kind
    outcome: Outcome | None = None
    words: tuple[Word, ...] | None = None
    """What it says, were its segment to end here; once somebody has asked."""


@dataclass(slots=True)
class Waiting:
    """A segment that is cut but not final yet; without a decode it is empty."""

    closed: Closed
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
