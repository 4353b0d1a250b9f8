"""What a session asks of the outside: voice activity and decodes."""

from __future__ import annotations

from dataclasses import dataclass

from myna.streaming.session.jobs import InferenceJob


@dataclass(frozen=True, slots=True)
class Detect:
    """Request: speech probabilities for these int16 samples, a whole number of windows that begin at sample `start`."""

    channel: int
    start: int
    pcm: bytes


@dataclass(frozen=True, slots=True)
class Submit:
    """Request: decode this."""

    job: InferenceJob


@dataclass(frozen=True, slots=True)
class Cancel:
    """Request: the result of this job is no longer wanted."""

    job_id: str


@dataclass(frozen=True, slots=True)
class ReleaseUtterance:
    """Request: the engine need not follow this channel's utterance any further."""

    source: str


Request = Detect | Submit | Cancel | ReleaseUtterance
