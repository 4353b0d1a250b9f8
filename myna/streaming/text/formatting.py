"""Formats recognised words for a client, live and in batch. Every word keeps its time. Pure.

Where several words become one ("twenty one dollars" → "$21") it begins with the first and ends with the last of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from myna.streaming.events import Word, bare_words
from myna.streaming.text import profanity
from myna.streaming.text.joining import joined
from myna.streaming.text.languages import runs
from myna.streaming.text.numerals import numbers
from myna.streaming.text.redaction import Redaction, redacted
from myna.streaming.text.written import written

MASK = "****"
"""Replaces a profane word."""
FILLERS = frozenset({"uh", "um"})
"""Removed unless the client wants them. Other disfluencies (uh-huh, mhmm) carry meaning and stay."""
_ENDS = ".?!"
_MARKS = {
    ("comma",): ",", ("period",): ".", ("full", "stop"): ".", ("question", "mark"): "?", ("exclamation", "mark"): "!",
    ("exclamation", "point"): "!", ("colon",): ":", ("semicolon",): ";", ("hyphen",): " -", ("dash",): " –",
    ("ellipsis",): "…", ("new", "line"): "\n", ("new", "paragraph"): "\n\n",
}  # fmt: skip
"""Spoken marks, each attached to the word before it."""
_OPENING = {("open", "parenthesis"): "(", ("open", "quote"): "“"}
_CLOSING = {("close", "parenthesis"): ")", ("close", "quote"): "”"}
_SPOKEN_MARKS: dict[str, list[tuple[tuple[str, ...], str, str]]] = {}
"""First word → the phrases that begin with it, each with its mark and its kind."""
for _kind, _table in (("mark", _MARKS), ("opening", _OPENING), ("closing", _CLOSING)):
    for _phrase, _mark in _table.items():
        _SPOKEN_MARKS.setdefault(_phrase[0], []).append((_phrase, _mark, _kind))


@dataclass(frozen=True, slots=True)
class Formatting:
    """The formatting that a client requests. `language` is an ISO 639-1 code, or empty if it is unknown."""

    language: str = "en"
    punctuate: bool = True
    """Keep the engine's case and punctuation."""
    smart: bool = False
    """Write numbers in digits, and money, percentages, times of day, telephone numbers and addresses as usual in writing."""
    numerals: bool = False
    measurements: bool = False
    """Abbreviate units after numbers: "ten kilometers" → "10 km"."""
    dictation: bool = False
    """Turn spoken marks ("comma", "new line") into marks. English only: elsewhere these words have other meanings."""
    fillers: bool = False
    """Keep "uh" and "um"."""
    profanity: bool = True
    """Keep profane words. Only English ones are masked; some of them are harmless words in other languages."""
    replacements: tuple[tuple[str, str], ...] = ()
    """Phrase → its replacement; an empty replacement deletes the phrase."""
    redactions: frozenset[Redaction] = frozenset()

    @property
    def punctuated(self) -> bool:
        """Whether words keep case and punctuation."""
        return self.punctuate or self.smart

    @property
    def rewrites(self) -> bool:
        """Whether formatted words may be others than the words that the engine wrote."""
        return bool(
            self.smart or self.numerals or self.measurements or self.dictation or self.replacements or self.redactions
        ) or not (self.fillers and self.profanity)


def formatted(words: Sequence[Word], wanted: Formatting, *, open_ended: bool = False) -> tuple[Word, ...]:
    """Return the formatted words; `open_ended`: more words of the same segment may follow (an interim).

    If the language of the formatting is unknown, each run of words is formatted by the language in which it was heard.
    """
    if wanted.language or not any(word.language for word in words):
        return _formatted(words, wanted, open_ended=open_ended)
    result: list[Word] = []
    for code, run in runs(words):
        rules = replace(wanted, language=code, fillers=wanted.fillers or code != "en")
        goes_on = open_ended or len(result) + len(run) < len(words)
        result += _formatted(run, rules, open_ended=goes_on)
    return tuple(result)


def _formatted(words: Sequence[Word], wanted: Formatting, *, open_ended: bool) -> tuple[Word, ...]:
    result = list(words)
    english = wanted.language in ("en", "")
    if not wanted.fillers:
        result = _without_fillers(result)
    if wanted.dictation and english:
        result = _dictated(result)
    if wanted.replacements:
        result = _all_replaced(result, wanted.replacements)
    if wanted.redactions:
        result = redacted(result, wanted.redactions, wanted.language, open_ended=open_ended)
    if wanted.smart or wanted.numerals or wanted.measurements:
        found = numbers(result, wanted.language)
        result = written(result, found, wanted.language, smart=wanted.smart, measurements=wanted.measurements)
    if not wanted.profanity and english:
        result = [_masked(word) if profanity.is_profane(word.bare) else word for word in result]
    return tuple(result)


def text_of(words: Sequence[Word], *, punctuated: bool) -> str:
    """Return the words as one text; without punctuation it is in lower case."""
    text = joined(word.text if punctuated else word.bare for word in words)
    return re.sub(r"(\n+) ", r"\1", text)


def _masked(word: Word) -> Word:
    lead, _, trail = word.parts
    return replace(word, text=lead + MASK + trail)


def _without_fillers(words: Sequence[Word]) -> list[Word]:
    kept: list[Word] = []
    begins = False  # whether a sentence began with the fillers removed last
    for word in words:
        if word.bare not in FILLERS:
            kept.append(replace(word, text=word.text[:1].upper() + word.text[1:]) if begins else word)
            begins = False
            continue
        begins = begins or word.text[:1].isupper()
        if word.text[-1] in _ENDS and kept and kept[-1].text[-1] not in _ENDS:
            kept[-1] = replace(kept[-1], text=kept[-1].text.rstrip(",;:") + word.text[-1])
    return kept


def _dictated(words: Sequence[Word]) -> list[Word]:
    said: list[Word] = []
    opening, capital, index = "", False, 0
    while index < len(words):
        size, mark, kind = _spoken_mark(words, index)
        if not size:
            word = words[index]
            text = word.text[:1].upper() + word.text[1:] if capital else word.text
            said.append(replace(word, text=opening + text))
            opening, capital, index = "", False, index + 1
            continue
        last = words[index + size - 1]
        if kind == "opening":
            opening += mark
        elif said:
            before = said[-1]
            stem = before.text if kind == "closing" or mark[0] in " \n" else before.text.rstrip(",.;:?!")
            said[-1] = replace(before, text=stem + mark, end=max(before.end, last.end))
        capital = capital or mark[0] in ".?!\n"
        index += size
    return said


def _spoken_mark(words: Sequence[Word], index: int) -> tuple[int, str, str]:
    for phrase, mark, kind in _SPOKEN_MARKS.get(words[index].bare, ()):
        if tuple(word.bare for word in words[index : index + len(phrase)]) == phrase:
            return len(phrase), mark, kind
    return 0, "", ""


def _all_replaced(words: list[Word], replacements: Sequence[tuple[str, str]]) -> list[Word]:
    """Return the words after each replacement in turn; a phrase is searched only if all its words occur."""
    there = {word.bare for word in words}
    for phrase, text in replacements:
        wanted = bare_words(phrase)
        if wanted and there.issuperset(wanted):
            words = _replaced(words, wanted, text)
            there = {word.bare for word in words}
    return words


def _replaced(words: Sequence[Word], wanted: Sequence[str], text: str) -> list[Word]:
    bares = [word.bare for word in words]
    result: list[Word] = []
    index = 0
    while index < len(words):
        if bares[index] == wanted[0] and tuple(bares[index : index + len(wanted)]) == tuple(wanted):
            if text:
                result.append(Word.joined(words[index : index + len(wanted)], text))
            index += len(wanted)
        else:
            result.append(words[index])
            index += 1
    return result
