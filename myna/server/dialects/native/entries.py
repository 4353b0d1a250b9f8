"""The words and turns of the native protocol's messages."""

from __future__ import annotations

from collections.abc import Sequence

from myna.streaming.events import Word, seconds
from myna.streaming.speakers.history import SpeakersRevised
from myna.wire import messages as wire


def word_entries(words: Sequence[Word]) -> tuple[wire.WordEntry, ...]:
    """Return words as messages have them."""
    return tuple(
        wire.WordEntry(
            word=word.bare,
            punctuated_word=word.text,
            start=rounded(word.start),
            end=rounded(word.end),
            confidence=rounded(word.confidence),
            speaker=word.speaker,
        )
        for word in words
    )


def speakers_message(revision: SpeakersRevised) -> wire.SpeakersMessage:
    """Return the message for the speakers of a whole channel."""
    return wire.SpeakersMessage(
        channel=revision.channel,
        since=rounded(seconds(revision.since)),
        count=revision.count,
        turns=tuple(
            wire.TurnEntry(
                start=rounded(seconds(turn.span.start)),
                end=rounded(seconds(turn.span.end)),
                speaker=turn.speaker,
                confidence=rounded(turn.confidence),
            )
            for turn in revision.turns
        ),
        words=revision.words,
    )


def rounded(value: float) -> float:
    """Return a time to the millisecond: the times of words are not known more exactly."""
    return round(value, 3)
