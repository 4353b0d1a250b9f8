"""A decode job, its outcomes, and the capabilities that an engine declares."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from myna.streaming.events import Word
from myna.streaming.policy import Options, PlausibilityGate
from myna.streaming.speakers.runs import Voices, WindowPart


class JobKind(IntEnum):
    """The purpose of a job. A lower value has priority."""

    FINAL = 0
    INTERIM = 1
    FILE = 2


@dataclass(frozen=True, slots=True)
class InferenceJob:
    """Audio to decode: `pcm` is int16 mono at 16 kHz, native byte order. `source` names the channel it belongs to.

    A job may be the next step of an utterance that the engine follows: `utterance` is the utterance's number (0: the job
    stands alone), and `held` counts its samples before `pcm`, which the engine is expected to hold. The transcript covers the
    utterance from sample `since` on. A final step also decodes the audio for which an interim step awaits what follows;
    afterwards the utterance may go on as if there had been no final step.

    `due` is the wall time, by the clock of the front process, at which the decode should begin. The scheduler serves the
    earliest first.
    """

    id: str
    source: str
    kind: JobKind
    pcm: bytes
    due: float
    options: Options = field(default_factory=Options)
    utterance: int = 0
    held: int = 0
    since: int = 0
    window: WindowPart | None = None
    """For a job whose answer is `Voices`: which part of its audio counts."""
    draft: tuple[int, ...] = ()
    """`Transcript.tokens` of earlier decodes of some of the same speech, the newest first. Results do not depend on it."""

    @property
    def length(self) -> int:
        """The number of samples of the audio, including those the engine holds."""
        return self.held + len(self.pcm) // 2

    @property
    def work(self) -> int:
        """The number of samples that the engine encodes, at most. An engine that flushes finals encodes each sample once."""
        return len(self.pcm) // 2 if self.utterance and self.kind is JobKind.FINAL else self.length


@dataclass(frozen=True, slots=True)
class Transcript:
    """The words of a decode, with times in seconds from the start of what it covers, and the mean token log-probability.

    A decode covers the job's audio; that of an utterance's step, the utterance from sample `InferenceJob.since` on.
    """

    words: tuple[Word, ...]
    log_probability: float
    language: str = ""
    """The ISO 639-1 code of the language that was heard; empty: the engine does not know."""
    language_probability: float = 0.0
    end_of_utterance_s: float | None = None
    """Where the engine heard that the speaker has finished, in seconds like the words; None: it did not, a word follows, or
    the engine cannot tell."""
    tokens: tuple[int, ...] = ()
    """The words as the engine's own tokens, for `InferenceJob.draft` of later jobs; empty: the engine uses no drafts."""


@dataclass(frozen=True, slots=True)
class JobError:
    """A failure of this job alone; the other jobs of its batch are not affected."""

    reason: str


@dataclass(frozen=True, slots=True)
class Missing:
    """The engine holds only the first `held` samples of the utterance: the audio after them must be sent again."""

    held: int


Outcome = Transcript | JobError | Missing | Voices


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """The capabilities of an engine."""

    name: str
    languages: tuple[str, ...]
    longest_segment_s: float
    """The longest audio that one job may hold."""
    smallest_endpoint_ms: int
    """The shortest endpoint: shorter silences also occur inside words. A shorter endpoint is raised to this."""
    largest_batch: int = 1
    most_padding: float = 0.0
    """The largest share of a batch that may be padding; the scheduler batches jobs of similar length accordingly."""
    best_segment_s: float = 12.0
    """The length at which speech without a pause is cut, unless the client sets another."""
    context_s: float = 10.0
    """The longest useful context, audio decoded before a segment."""
    interim_window_s: float = 3600.0
    """The most audio that an interim decode encodes, however long its utterance is; 0: equal parts of any utterance."""
    incremental: bool = False
    """Whether the engine follows an utterance, so that interim jobs are its steps; see `InferenceJob.utterance`."""
    flushed_finals: bool = False
    """Whether final jobs may be steps of a followed utterance, too: the engine encodes each sample once, and the final step
    gives the same words as a decode of the whole utterance. Implies `incremental`."""
    keyterms: bool = False
    """Whether the engine can boost words and phrases for one stream."""
    detects_language: bool = False
    """Whether the engine reports the language of each decode, and finds it where the job names none."""
    translates: bool = False
    """Whether the engine can translate speech into English."""
    prompts: bool = False
    """Whether the engine takes a text that precedes the speech."""
    voice_distances: tuple[float, float] = (0.0, 0.0)
    """Of an engine whose answers are `Voices`: cosine distances that part speakers, in wideband and narrowband speech."""
    gpu: bool = False
    """Whether the engine computes on a GPU. The others share the cores of the machine."""
    gate: PlausibilityGate = field(default_factory=PlausibilityGate)
    """The limits within which the engine's transcripts are plausible."""
    version: str = ""
    mode: str = "offline"
    """`offline`: the model was trained on whole utterances; `streaming`: on a limited view of the future."""
    uuid: str = ""
