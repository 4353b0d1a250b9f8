"""What a session has decoded by a model, what comes back, and what the model says that it can do."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from myna.streaming.events import Word
from myna.streaming.policy import Options


class JobKind(IntEnum):
    """What a job is for; the lower the sooner."""

    FINAL = 0
    INTERIM = 1
    FILE = 2


@dataclass(frozen=True, slots=True)
class InferenceJob:
    """Audio to decode: `pcm` is int16 mono at 16 kHz, native byte order. `source` names the channel it belongs to.

    An interim job may be the next step of an utterance that the engine follows: `utterance` numbers it (0: the job stands
    alone), and `held` counts the samples of it before `pcm`, which the engine ought to hold already.

    `due` is the wall time, in the front's clock, at which the audio ought to have been decoded at once; the earliest is
    served first.
    """

    id: str
    source: str
    kind: JobKind
    pcm: bytes
    due: float
    options: Options = field(default_factory=Options)
    utterance: int = 0
    held: int = 0

    @property
    def length(self) -> int:
        """Return the number of samples from the start of what is decoded."""
        return self.held + len(self.pcm) // 2


@dataclass(frozen=True, slots=True)
class Transcript:
    """Words with times in seconds from the start of the job's audio; `log_probability` is the mean over the tokens."""

    words: tuple[Word, ...]
    log_probability: float


@dataclass(frozen=True, slots=True)
class JobError:
    """This one job failed; others of its batch did not."""

    reason: str


@dataclass(frozen=True, slots=True)
class Missing:
    """The engine holds less of the utterance than the job took for granted: ask again with the audio from `held` on."""

    held: int


Outcome = Transcript | JobError | Missing


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
    most_padding: float = 0.0
    """Share of a batch's audio that may be padding; the scheduler puts only jobs of like length together."""
    best_segment_s: float = 12.0
    """Speech without a pause is cut at this length, unless the client asks otherwise."""
    context_s: float = 10.0
    """Audio before a segment that is worth decoding with it."""
    interim_window_s: float = 3600.0
    """An interim encodes at most so much of its utterance, however long that is; 0: equal parts, whatever the length."""
    incremental: bool = False
    """Whether interims are steps of an utterance the engine follows; see `InferenceJob.utterance`."""
    keyterms: bool = False
    """Whether words can be made likelier for one stream."""
    version: str = ""
    mode: str = "offline"
    """`offline`: the model was trained on whole utterances; `streaming`: on a limited view of the future."""
    uuid: str = ""
