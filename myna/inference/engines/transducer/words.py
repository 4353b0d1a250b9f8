"""Converts a transducer's tokens to words with times and confidences. Pure."""

from __future__ import annotations

import math
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from myna.inference.engines.byte_pairs import WORD_START
from myna.streaming.events import Word
from myna.streaming.session.jobs import Transcript

_ENDS = ("<EOU>", "<EOB>")
"""Pieces that some models write where the speaker has finished: after an utterance, and after a mere "uh-huh" (NeMo's
`audio_to_eou_label_lhotse.py`)."""


@dataclass(slots=True)
class Tokens:
    """The tokens of a decode, one entry per token: its id, encoder frame, duration in frames, and probability."""

    ids: list[int] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    durations: list[int] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(
            self.ids + other.ids,
            self.frames + other.frames,
            self.durations + other.durations,
            self.probabilities + other.probabilities,
        )

    def of(self, indices: Sequence[int]) -> Tokens:
        """Return the tokens at these places."""
        columns = (self.ids, self.frames, self.durations, self.probabilities)
        return Tokens(*([column[index] for index in indices] for column in columns))  # type: ignore[arg-type]

    def mean_log_probability(self) -> float:
        """Return the mean over the tokens; 0 if there are none, which passes every plausibility gate."""
        if not self.ids:
            return 0.0
        return sum(math.log(max(p, 1e-9)) for p in self.probabilities) / len(self.ids)


class Vocabulary:
    """The tokenizer's pieces; `spell` turns ids into text."""

    def __init__(self, pieces: Sequence[str], spell: Callable[[list[int]], str]) -> None:
        self._begins = [piece.startswith(WORD_START) for piece in pieces]
        self._unspoken = [piece != "" and unicodedata.category(piece[0]).startswith("P") for piece in pieces]
        self._ends = {number for number, piece in enumerate(pieces) if piece.strip(WORD_START) in _ENDS}
        self._spell = spell
        self._spelt: dict[tuple[int, ...], str] = {}

    def between(self, tokens: Tokens, start: float, end: float) -> Tokens:
        """Return the tokens of the words that begin in encoder frames from `start` on and before `end`."""
        first, last = (self._word_from(tokens, bisect_left(tokens.frames, frame)) for frame in (start, end))
        return tokens if (first, last) == (0, len(tokens.ids)) else tokens.of(range(first, last))

    def _word_from(self, tokens: Tokens, index: int) -> int:
        """Return the index of the first token from `index` on that begins a word."""
        while 0 < index < len(tokens.ids) and not self._begins[tokens.ids[index]]:
            index += 1
        return index

    def transcript(self, tokens: Tokens, frame_s: float, since_s: float = 0.0) -> Transcript:
        """Return the words of the tokens, with times in seconds from `since_s` on. An encoder frame lasts `frame_s`."""
        spoken = self._without_ends(tokens)
        words = tuple(word.shifted(-since_s) for word in self.words(spoken, frame_s))
        ended_s = None
        if tokens.ids and tokens.ids[-1] in self._ends:
            ended_s = tokens.frames[-1] * frame_s - since_s
        return Transcript(words, spoken.mean_log_probability(), end_of_utterance_s=ended_s)

    def _without_ends(self, tokens: Tokens) -> Tokens:
        """Return the tokens that are spoken."""
        if self._ends.isdisjoint(tokens.ids):
            return tokens
        return tokens.of([index for index, token in enumerate(tokens.ids) if token not in self._ends])

    def words(self, tokens: Tokens, frame_s: float) -> tuple[Word, ...]:
        """Return the words, as written, with times in seconds from frame 0. An encoder frame lasts `frame_s`.

        A word ends with its last token, punctuation excepted: it may be predicted long after. A word's confidence is that
        of its least certain token, as in NeMo's default aggregation.
        """
        if not tokens.ids:
            return ()
        heads = [i for i, token in enumerate(tokens.ids) if i == 0 or self._begins[token]]
        words = []
        for head, behind in zip(heads, [*heads[1:], len(tokens.ids)], strict=True):
            if text := self._text(tuple(tokens.ids[head:behind])):
                last = behind - 1
                while last > head and self._unspoken[tokens.ids[last]]:
                    last -= 1
                start = tokens.frames[head] * frame_s
                end = (tokens.frames[last] + tokens.durations[last]) * frame_s
                words.append(Word(text, start, max(start, end), min(tokens.probabilities[head:behind])))
        return tuple(words)

    def _text(self, ids: tuple[int, ...]) -> str:
        text = self._spelt.get(ids)
        if text is None:
            if len(self._spelt) > 50_000:  # a stream of noise must not exhaust memory
                self._spelt.clear()
            text = self._spelt[ids] = self._spell(list(ids)).strip()
        return text
