"""The requests that a session makes of its caller: voice activity and decodes."""

from __future__ import annotations

from dataclasses import dataclass

from myna.streaming.session.jobs import InferenceJob
from myna.streaming.speakers.history import Past


@dataclass(frozen=True, slots=True)
class Detect:
    """Compute the speech probabilities of these int16 samples: a whole number of windows, the first at sample `start`."""

    channel: int
    start: int
    pcm: bytes


@dataclass(frozen=True, slots=True)
class Submit:
    """Decode the job's audio."""

    job: InferenceJob


@dataclass(frozen=True, slots=True)
class Cancel:
    """Cancel this job: its result is not needed any more."""

    job_id: str


@dataclass(frozen=True, slots=True)
class ReleaseUtterance:
    """Release the utterance that the engine follows for this channel."""

    source: str


@dataclass(frozen=True, slots=True)
class SubmitVoices:
    """Hear the voices of the job's audio."""

    job: InferenceJob


@dataclass(frozen=True, slots=True)
class CancelVoices:
    """Cancel this job for voices."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Remind:
    """Call `on_reminder` with this number after `after_s` seconds: the words of a segment wait for its voices no longer."""

    channel: int
    number: int
    after_s: float


@dataclass(frozen=True, slots=True)
class Revise:
    """Call `on_revised` with `past.revised()`, which may take two seconds of CPU time."""

    past: Past


Request = Detect | Submit | Cancel | ReleaseUtterance | SubmitVoices | CancelVoices | Remind | Revise
