"""Case and marks where one final follows another. Pure.

An engine writes a full stop where its audio ends, although the speaker may only pause. The decode of the next segment covers
the words before the seam as well, and shows which mark stands there (`Final.before`). A text that can wait for it uses
`HeldMarks`. A final that is told at once cannot wait; `MarksAtOnce` writes it so that it can go on. With both, a final begins
in upper case after a sentence mark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from myna.streaming.events import Cause, Final, Word, samples, seconds
from myna.streaming.text.marks import ends_sentence, may_end, parted

REST_S = 1.2
"""After a pause of this length, in seconds, or before another speaker, the mark that the engine wrote first stands. After a
shorter one it is that of the decode with the words on both sides. Any length from 0.9 to 1.3 is as good: docs/accuracy.md."""
_SURE = 0.9
"""The confidence of the last word from which a sentence mark is told at once after a short silence. Found with `_SETTLED_S`;
see docs/accuracy.md."""
_SETTLED_S = 0.45
"""The silence, in seconds, from which a sentence mark is told at once whatever the last word is."""
_OPEN = frozenset({Cause.ENDPOINT, Cause.GAP, Cause.SILENCE})
"""Causes of a final whose decode covers nothing of what the speaker says next."""
_CAPITAL_NOUNS = frozenset({"de", "lb"})
"""Languages that write nouns in upper case: the first word of a segment keeps its case."""
_MOST_NAMES = 1000
"""How many names a channel remembers; the one that was written longest ago is forgotten first."""


def mark_before(heard: Sequence[Word], words: Sequence[Word]) -> str | None:
    """Return the mark that a decode with the words `heard` writes before the `words`, the last of them or nearly so.

    Empty: there is none. None: the decode has no word before them, or they are of another decode.
    """
    texts, count = [word.text for word in words], len(words)
    for first in range(len(heard) - count, 0, -1):
        if count and [word.text for word in heard[first : first + count]] == texts:
            return parted(heard[first - 1])[1]
    return None


def marked(word: Word, mark: str) -> Word:
    """Return a word with a mark after it."""
    return replace(word, text=word.text + mark)


class _Seam:
    """The end of one channel's text so far. `language` is that of words whose language the engine does not report."""

    def __init__(self, language: str = "") -> None:
        self._language = language
        self._last: Word | None = None
        self._names: dict[
            str, None
        ] = {}  # bare words that the engine wrote in upper case inside a sentence, newest last

    def _goes_on(self, words: Sequence[Word]) -> bool:
        """Return whether the words may continue the sentence: the same speaker goes on soon."""
        if self._last is None or words[0].start - self._last.end >= REST_S:
            return False
        return words[0].speaker == self._last.speaker or None in (words[0].speaker, self._last.speaker)

    def _begun(self, words: Sequence[Word], mark: str, before: str | None) -> list[Word]:
        """Return words that follow the last one and this mark, with the case of the first as people write it."""
        first = words[0]
        if self._last is None:
            return [*words]
        if ends_sentence(mark):
            first = _capitalised(first)
        elif before is None and self._goes_on(words) and not self._is_name(first):
            first = _in_lower_case(first)  # its decode began with it
        return [first, *words[1:]]

    def _note(self, words: Sequence[Word]) -> None:
        self._last = words[-1]
        for before, word in pairwise(words):
            if word.parts[1][:1].isupper() and not ends_sentence(before.text):
                self._names.pop(word.bare, None)
                self._names[word.bare] = None
        while len(self._names) > _MOST_NAMES:
            del self._names[next(iter(self._names))]

    def _is_name(self, word: Word) -> bool:
        """Return whether a word keeps its capital inside a sentence."""
        core = word.parts[1]
        language = word.language.code if word.language else self._language
        usual = core[1:].islower() or (len(core) == 1 and core not in ("I", "O"))
        return word.bare in self._names or not usual or core.startswith(("I'", "I’")) or language in _CAPITAL_NOUNS


class MarksAtOnce(_Seam):
    """One channel's finals as they are told at once.

    A sentence mark at an endpoint is told if the engine is sure of the last word or the silence is long, unless the word is
    one that ends no sentence. Otherwise the final ends without the mark, since no later text can remove it.
    """

    def take(self, final: Final) -> tuple[Word, ...]:
        """Return the words of the next final as they are told."""
        told = [*self.peek(final.words, final.before)]
        if not told:
            return ()
        stem, mark = parted(told[-1])
        silence_s = seconds(final.span.end) - told[-1].end
        if ends_sentence(mark) and final.cause in _OPEN and not _is_end(told[-1], silence_s):
            told[-1] = replace(told[-1], text=stem)
        self._note(told)
        return tuple(told)

    def peek(self, words: Sequence[Word], before: str | None = None) -> tuple[Word, ...]:
        """Return the words of an interim that follow the told ones."""
        if not words or self._last is None:
            return tuple(words)
        return tuple(self._begun(words, parted(self._last)[1], before))


class HeldMarks(_Seam):
    """One channel's finals, each without the mark at its end until it is known: at the next final, or at `release`."""

    def __init__(self, language: str = "") -> None:
        super().__init__(language)
        self._mark = ""  # after the last word
        self._told = True  # whether the mark has been returned

    @property
    def held(self) -> str:
        """The mark that the engine wrote after the last word, until it is known which one stands there."""
        return "" if self._told else self._mark

    @property
    def rests_at(self) -> int | None:
        """The sample up to which silence settles the mark; None: no mark is held."""
        return samples(self._last.end + REST_S) if self._last is not None and self.held else None

    def take(self, final: Final) -> tuple[str, tuple[Word, ...]]:
        """Return the mark that completes the words before, and the words of this final without the mark at their end."""
        if not final.words:
            return "", ()
        mark, told = self.peek(final.words, final.before)
        stem, self._mark = parted(told[-1])
        self._told = False
        words = (*told[:-1], replace(told[-1], text=stem))
        self._note(words)
        return mark, words

    def peek(self, words: Sequence[Word], before: str | None) -> tuple[str, tuple[Word, ...]]:
        """Return the mark that completes the words before, and the words that follow them, without taking note of either."""
        mark = self._mark
        if words and not self._told and before is not None and self._goes_on(words):
            mark = before
        return "" if self._told else mark, tuple(self._begun(words, mark, before) if words else ())

    def release(self) -> str:
        """Return the held mark, which no later words change."""
        mark, self._told = self.held, True
        return mark


def _is_end(word: Word, silence_s: float) -> bool:
    """Return whether a sentence mark is told at once after this word and this silence."""
    return silence_s >= REST_S or (may_end(word) and (silence_s >= _SETTLED_S or word.confidence >= _SURE))


def _capitalised(word: Word) -> Word:
    lead, core, trail = word.parts
    return replace(word, text=lead + core[:1].upper() + core[1:] + trail) if core.islower() else word


def _in_lower_case(word: Word) -> Word:
    lead, core, trail = word.parts
    return replace(word, text=lead + core[:1].lower() + core[1:] + trail)
