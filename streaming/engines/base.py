"""The port behind which recognisers live: jobs in, transcripts out. Stateless; what an engine can do is data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

from myna.streaming.events import Word
from myna.streaming.policy import Options


class Kind(IntEnum):
    """What a job is for; the lower the sooner."""

    FINAL = 0
    INTERIM = 1
    FILE = 2


@dataclass(frozen=True, slots=True)
class Job:
    """Audio to decode: `pcm` is int16 mono at 16 kHz, native byte order. `source` names the channel it belongs to.

    `epoch` counts the engine's lives as the front knows them; a result of an older one is dropped. `due` is the wall
    time, in the front's clock, at which the audio ought to have been decoded at once; the earliest is served first.
    """

    id: str
    source: str
    kind: Kind
    pcm: bytes
    due: float
    epoch: int = 0
    options: Options = field(default_factory=Options)

    @property
    def length(self) -> int:
        """Return the number of samples."""
        return len(self.pcm) // 2


@dataclass(frozen=True, slots=True)
class Transcript:
    """Words with times in seconds from the start of the job's audio; `log_probability` is the mean over the tokens."""

    words: tuple[Word, ...]
    log_probability: float


@dataclass(frozen=True, slots=True)
class JobError:
    """This one job failed; others of its batch did not."""

    reason: str


Outcome = Transcript | JobError


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine can do."""

    name: str
    languages: tuple[str, ...]
    longest_segment_s: float
    """Longest audio one job may hold."""
    smallest_endpoint_ms: int
    """Shorter silences than this cut words apart; a dialect takes shorter ones as this."""
    largest_batch: int = 1


class Engine(Protocol):
    """A loaded model on one lane. Built and called on one thread."""

    @property
    def info(self) -> EngineInfo:
        """Say what this engine can do."""
        ...

    def transcribe(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Decode a batch; the answers are in the order of the jobs."""
        ...


class EngineUnavailableError(Exception):
    """An engine cannot be loaded; the message tells a person what is missing and how to get it."""
