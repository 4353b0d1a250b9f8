"""The words and turns in the messages of the native protocol."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class WordEntry(BaseModel):
    """A word in lower case without punctuation, the same word as written, its times and a confidence between 0 and 1."""

    model_config = ConfigDict(frozen=True)

    word: str
    punctuated_word: str
    start: float
    end: float
    confidence: float
    speaker: int | None = None
    """The number of the speaker, from 0 as they first speak; None: not known, or not wanted."""


class TurnEntry(BaseModel):
    """A stretch of one speaker, its times, and the probability that it is this one."""

    model_config = ConfigDict(frozen=True)

    start: float
    end: float
    speaker: int
    confidence: float
