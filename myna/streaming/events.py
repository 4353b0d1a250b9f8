"""The events of a live stream, and the basic types that all packages share.

Inside the core time is a count of samples at `SAMPLE_RATE`. Only words carry seconds, always from the start of the stream.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache

SAMPLE_RATE = 16_000
"""Samples per second of all decoded audio: the rate that Silero, Moonshine and Parakeet are trained on."""


def seconds(samples: int) -> float:
    """Convert a sample count at `SAMPLE_RATE` to seconds."""
    return samples / SAMPLE_RATE


def samples(duration_s: float) -> int:
    """Convert seconds to the nearest sample count at `SAMPLE_RATE`."""
    return round(duration_s * SAMPLE_RATE)


class Trigger(StrEnum):
    """What ended a turn: the end-of-turn confidence, a silence or another limit, or the client."""

    CONFIDENCE = "model"
    TIMEOUT = "timeout"
    CLIENT = "manual"


_AROUND = re.compile(r"^\W+|\W+$")
_TEXTS_KNOWN = 8192
"""The size of the cache of bare words: it holds a language's common words, each of which one result needs many times."""
_PHRASES_KNOWN = 1024
"""The size of the cache of phrases: clients search for the same phrases in every result."""


@dataclass(frozen=True, slots=True)
class SpokenLanguage:
    """The language that an engine heard: its ISO 639-1 code, and the probability that it was this one."""

    code: str
    probability: float


@dataclass(frozen=True, slots=True)
class Word:
    """One recognised word: its text as the engine writes it, its times in seconds, and a confidence between 0 and 1.

    `language` is None if the engine does not report languages, `speaker` if nobody asked for speakers or none is known;
    speakers are numbered from 0 as they first speak.
    """

    text: str
    start: float
    end: float
    confidence: float
    language: SpokenLanguage | None = None
    speaker: int | None = None
    speaker_confidence: float = 0.0

    @property
    def bare(self) -> str:
        """The text in lower case without the punctuation around it; a text of punctuation only is unchanged."""
        return _bare(self.text)

    @property
    def parts(self) -> tuple[str, str, str]:
        """The punctuation before the word, the word, and the punctuation after it. A text of punctuation only is all word."""
        core = _AROUND.sub("", self.text) or self.text
        lead, _, trail = self.text.partition(core)
        return lead, core, trail

    @staticmethod
    def joined(words: Sequence[Word], text: str) -> Word:
        """Return one word in place of several, with this text, their outer punctuation, their span and mean confidence."""
        confidence = sum(word.confidence for word in words) / len(words)
        written = words[0].parts[0] + text + words[-1].parts[2]
        return replace(words[0], text=written, end=words[-1].end, confidence=confidence)

    def shifted(self, offset_s: float) -> Word:
        """Return the same word `offset_s` seconds later."""
        return replace(self, start=self.start + offset_s, end=self.end + offset_s)

    @property
    def middle(self) -> float:
        """The middle of the word in seconds; a cut assigns the word to the side on which the middle lies."""
        return (self.start + self.end) / 2


@lru_cache(_TEXTS_KNOWN)
def _bare(text: str) -> str:
    return _AROUND.sub("", text).lower() or text


@lru_cache(_PHRASES_KNOWN)
def bare_words(phrase: str) -> tuple[str, ...]:
    """Return a phrase's words without the punctuation around them, in lower case."""
    return tuple(map(_bare, phrase.split()))


@dataclass(frozen=True, slots=True)
class Span:
    """A range of a channel's timeline in samples; `end` is excluded."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end:
            raise ValueError(f"a span needs 0 <= start <= end, not start {self.start} and end {self.end}")

    def __len__(self) -> int:
        return self.end - self.start


class Cause(StrEnum):
    """Why a segment was closed."""

    ENDPOINT = "endpoint"
    LENGTH = "length"
    FLUSH = "finalize"
    END = "close"
    GAP = "gap"
    """There was no word for `Policy.gap_ms`; only with a policy that sets it."""
    SILENCE = "silence"
    """There was only silence for `Policy.silence_s`; only with a policy that sets it."""
    DISCARD = "discard"
    """The client discarded the audio: the Final is empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """The base of all events. `seq` numbers the events of one stream from 0 without a gap."""

    channel: int = 0
    seq: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened(Event):
    """The first audio has arrived and has this many channels; precedes all other events of a channel."""

    channels: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechStarted(Event):
    """Speech began at sample `at`."""

    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechStopped(Event):
    """The utterance ended and was cut at sample `at`. Its last Final follows, once it is decoded."""

    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Interim(Event):
    """The words of the open segment so far, in place of the interim before. The first `stable` words have settled."""

    span: Span
    words: tuple[Word, ...]
    stable: int
    before: str | None = None
    """The mark before the first word, as that of a Final."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Final(Event):
    """The final words of a segment, possibly none. The Finals of a channel tile its timeline."""

    span: Span
    words: tuple[Word, ...]
    cause: Cause
    before: str | None = None
    """The mark before the first word, from a decode that covers the word before it as well; None: there is no such decode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(Event):
    """The engine could not decode this span. An empty Final follows, and the stream continues."""

    span: Span
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeated(Event):
    """The first decode of sure speech was not credible. `heard`: the Final that follows has words. For statistics only."""

    span: Span
    heard: bool
    unheard_s: float
    """The seconds of sure speech that stayed without words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UtteranceEnd(Event):
    """A silence of `Policy.gap_ms` (or the endpoint) has followed the last word; follows the Final with that word."""

    last_word_end: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress(Event):
    """The channel has been processed up to sample `at`; `confidence` is the end-of-turn confidence there."""

    at: int
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnStarted(Event):
    """A turn began at sample `at`; follows the Interim or Final with its first words."""

    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnEager(Event):
    """The turn may be over at sample `at`; `words` are those of its open segment. `TurnResumed` or `TurnEnded` follows."""

    at: int
    words: tuple[Word, ...]
    confidence: float
    before: str | None = None
    """The mark before the first word, as that of a Final."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnResumed(Event):
    """The turn of the last `TurnEager` continues at sample `at`."""

    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnEnded(Event):
    """The turn ended at sample `at`, by `trigger`; follows its last Final."""

    at: int
    trigger: Trigger
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Configured(Event):
    """The configuration with this token applies to the channel from here on."""

    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Flushed(Event):
    """Everything received before the flush with this token is final on this channel; emitted once per flushed channel."""

    token: str
    everywhere: bool = True
    """Whether this is the last of the flushed channels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended(Event):
    """The last event of a stream. `received` counts the samples of one channel."""

    received: int
