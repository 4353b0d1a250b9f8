"""The language of a channel whose client names none. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from myna.streaming.events import SpokenLanguage, Word
from myna.streaming.policy import MULTIPLE, Options
from myna.streaming.session.jobs import Transcript

_FORGETS = 0.7
"""Share of the evidence that stays at each final: a speaker who changes language for good is followed after three finals."""


class ChannelLanguage:
    """Stamps words with the language that the engine heard, and tells the engine which language to expect.

    A single short utterance is a weak sign of its language ("no", "okay"). So the language of the finals so far is expected,
    and the engine hears another one only if that is sure. A stream whose languages change expects none.
    """

    def __init__(self) -> None:
        self._evidence: dict[str, float] = {}  # language → seconds of speech times probability

    def options(self, asked: Options) -> Options:
        """Return the options of the next job for a client that asked for these."""
        if asked.language == MULTIPLE:
            return replace(asked, language=None)
        if asked.language is not None or not self._evidence:
            return asked
        return replace(asked, expected=max(self._evidence, key=self._evidence.__getitem__))

    def stamped(self, transcript: Transcript) -> Transcript:
        """Return the transcript with its language in each word."""
        if not transcript.language or not transcript.words:
            return transcript
        spoken = SpokenLanguage(transcript.language, transcript.language_probability)
        return replace(transcript, words=tuple(replace(word, language=spoken) for word in transcript.words))

    def learn(self, words: Sequence[Word]) -> None:
        """Take the words of a final as evidence."""
        if not any(word.language for word in words):
            return
        self._evidence = {code: _FORGETS * weight for code, weight in self._evidence.items()}
        for word in words:
            if word.language:
                weight = (word.end - word.start) * word.language.probability
                self._evidence[word.language.code] = self._evidence.get(word.language.code, 0.0) + weight
