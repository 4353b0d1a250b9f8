"""What can happen to a live stream, and the few types every room shares.

Inside the core time is a count of samples at `SAMPLE_RATE`; only words carry seconds, always from the start of the stream.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

SAMPLE_RATE = 16_000
"""Samples per second everywhere behind the audio decoder: what Silero, Moonshine and Parakeet are trained on."""


def seconds(samples: int) -> float:
    """Convert a sample count at `SAMPLE_RATE` to seconds."""
    return samples / SAMPLE_RATE


def samples(duration_s: float) -> int:
    """Convert seconds to the nearest sample count at `SAMPLE_RATE`."""
    return round(duration_s * SAMPLE_RATE)


class Trigger(StrEnum):
    """What ended a turn: how sure it was, too long a silence, or the client."""

    CONFIDENCE = "model"
    TIMEOUT = "timeout"
    CLIENT = "manual"


_AROUND = re.compile(r"^\W+|\W+$")
_TEXTS_KNOWN = 8192
"""Word texts whose parts are remembered: a language's common words, each looked at many times for one result."""
_PHRASES_KNOWN = 1024
"""Phrases whose words are remembered: clients look for the same ones in every result."""


@dataclass(frozen=True, slots=True)
class Word:
    """One recognised word: as the engine writes it, its times in seconds, and a confidence between 0 and 1."""

    text: str
    start: float
    end: float
    confidence: float

    @property
    def bare(self) -> str:
        """The word without the punctuation around it, in lower case; what is punctuation only stays as it is."""
        return _bare(self.text)

    @property
    def parts(self) -> tuple[str, str, str]:
        """The punctuation before the word, the word, the punctuation behind it; what is punctuation only is all word."""
        core = _AROUND.sub("", self.text) or self.text
        lead, _, trail = self.text.partition(core)
        return lead, core, trail

    @staticmethod
    def joined(words: Sequence[Word], text: str) -> Word:
        """Return one word, written `text`, in place of several: with their punctuation, their time, their mean confidence."""
        confidence = sum(word.confidence for word in words) / len(words)
        written = words[0].parts[0] + text + words[-1].parts[2]
        return Word(written, words[0].start, words[-1].end, confidence)

    def shifted(self, offset_s: float) -> Word:
        """Return the same word `offset_s` seconds later."""
        return Word(self.text, self.start + offset_s, self.end + offset_s, self.confidence)

    @property
    def middle(self) -> float:
        """The point that decides on which side of a cut the word falls."""
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
    """A stretch of the channel's timeline in samples, end excluded."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end:
            raise ValueError(f"a span runs forward from zero, not from {self.start} to {self.end}")

    def __len__(self) -> int:
        return self.end - self.start


class Cause(StrEnum):
    """Why a segment was closed."""

    ENDPOINT = "endpoint"
    LENGTH = "length"
    FLUSH = "finalize"
    END = "close"
    GAP = "gap"
    """No word for `Policy.gap_ms`; only of a policy that sets it."""
    SILENCE = "silence"
    """Nothing but silence for `Policy.silence_s`; only of a policy that sets it."""
    DISCARD = "discard"
    """The client wants nothing of it: the Final is empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of everything a stream tells; `seq` counts the events of one stream from 0 without a gap."""

    channel: int = 0
    seq: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened(Event):
    """The first audio has come, and is of so many channels; before any other event of a channel."""

    channels: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechStarted(Event):
    """Speech began at sample `at`."""

    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechStopped(Event):
    """The utterance is over and cut at sample `at`; told when that is decided, before its last Final is decoded."""

    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Interim(Event):
    """What the open segment sounds like so far; replaces the interim before it. The first `stable` words have settled."""

    span: Span
    words: tuple[Word, ...]
    stable: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Final(Event):
    """A segment's words for good. The Finals of a channel tile its timeline; one may be empty."""

    span: Span
    words: tuple[Word, ...]
    cause: Cause


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(Event):
    """The engine could not decode this span; an empty Final follows, the stream goes on."""

    span: Span
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeated(Event):
    """Sure speech was not heard credibly at first; `heard`: its Final, which follows, has words. For statistics only."""

    span: Span
    heard: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class UtteranceEnd(Event):
    """So much silence (`Policy.gap_ms`, or the endpoint) has followed a word; comes after the Final that holds the word."""

    last_word_end: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress(Event):
    """The channel has been heard up to sample `at`; `confidence`: that its speaker has finished a turn."""

    at: int
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnStarted(Event):
    """A turn began at sample `at`; comes behind the Interim or Final that holds its first words."""

    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnEager(Event):
    """The turn may be over at sample `at`, its open segment being `words`; ends as it is, or is resumed."""

    at: int
    words: tuple[Word, ...]
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnResumed(Event):
    """The turn that may have been over goes on, at sample `at`."""

    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnEnded(Event):
    """The turn is over at sample `at`; comes behind its last Final. `trigger`: what ended it."""

    at: int
    trigger: Trigger
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Configured(Event):
    """From here on the channel follows what it was configured to with this token."""

    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Flushed(Event):
    """Everything received before the flush with this token is final on this channel; told once for each it was asked of."""

    token: str
    everywhere: bool = True
    """Whether this was the last of the channels it was asked of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended(Event):
    """Nothing follows. `received` counts samples of one channel."""

    received: int
