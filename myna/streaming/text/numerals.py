"""Finds spoken numbers among words and writes them in digits. Pure.

text2num finds numbers in the languages it supports. This module joins the numbers that text2num leaves apart: digits read out
one by one, and years in two halves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from text_to_num import find_numbers

from myna.streaming.events import Word

LANGUAGES = ("da", "de", "en", "es", "fr", "it", "nl", "pt")
"""The languages that text2num supports."""
SMALL = 3
"""A single number up to this stays in words ("one of us", "the first"): text2num's own default."""
_SPELLED = 3
"""The fewest digits read out one by one that form one number."""
_APART_S = 1.5
"""Numbers further apart than this are separate."""


@dataclass(frozen=True, slots=True)
class Number:
    """Words `start` to `end` (excluded) are a number, written `text`; `spelled`: its digits were read out one by one."""

    start: int
    end: int
    text: str
    ordinal: bool = False
    spelled: bool = False

    @property
    def digits(self) -> int:
        """The number of digits."""
        return sum(c.isdigit() for c in self.text)

    @property
    def is_small(self) -> bool:
        """Whether the number stays in words, unless its context requires digits."""
        return not self.spelled and self.digits == 1 and int(self.text[0]) <= SMALL


class _Token:
    """A word in the interface that text2num expects."""

    def __init__(self, text: str, *, separated: bool, taken: bool) -> None:
        self._text = text
        self._separated = separated
        self._taken = taken

    def text(self) -> str:
        return self._text

    def nt_separated(self, previous: _Token) -> bool:
        del previous
        return self._separated

    def not_a_number_part(self) -> bool:
        return self._taken


def numbers(words: Sequence[Word], language: str) -> list[Number]:
    """Return the numbers among the words, in order: spoken ones, and those that the engine wrote in digits."""
    bares = [word.bare for word in words]
    written = [_is_written(bare) for bare in bares]
    found = [Number(i, i + 1, bare) for i, bare in enumerate(bares) if written[i]]
    if language in LANGUAGES:
        tokens = [
            _Token(
                _digit_said(bares, i) if language == "en" else bare,
                separated=i > 0 and _separated(words[i - 1], words[i]),
                taken=written[i] or (i > 0 and written[i - 1]),
            )
            for i, bare in enumerate(bares)
        ]
        found += [
            Number(n.start, n.end, n.text, n.is_ordinal, spelled=len(n.text) == n.end - n.start)
            for n in find_numbers(tokens, language, 0.0)
            if not _is_percent(bares, n.start)
        ]
    return _years(_joined(sorted(found, key=lambda n: n.start)))


_PERCENT = {("pour", "cent"), ("por", "ciento"), ("por", "cento"), ("per", "cento")}


def _is_percent(bares: Sequence[str], start: int) -> bool:
    """Return whether a hundred that begins here is part of "percent" ("por ciento")."""
    return start > 0 and (bares[start - 1], bares[start]) in _PERCENT


def _is_written(bare: str) -> bool:
    return bare[:1].isdigit() and all(c.isdigit() or c in ".,:/-" for c in bare)


def _separated(before: Word, word: Word) -> bool:
    return not before.text[-1:].isalnum() or word.start - before.end > _APART_S


_ZEROS = {"o", "oh"}
_DIGITS = {"zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"}


def _digit_said(bares: Sequence[str], index: int) -> str:
    """Return the word in the form that text2num knows: "oh" next to a digit is "zero"."""
    beside = {*bares[max(0, index - 1) : index], *bares[index + 1 : index + 2]}
    return "zero" if bares[index] in _ZEROS and beside & (_DIGITS | _ZEROS) else bares[index]


def _joined(found: list[Number]) -> list[Number]:
    """Join digits that were read out one by one."""
    runs: list[list[Number]] = []
    for number in found:
        last = runs[-1][-1] if runs else None
        if last and last.spelled and number.spelled and last.end == number.start:
            runs[-1].append(number)
        else:
            runs.append([number])
    joined = []
    for run in runs:
        if sum(number.digits for number in run) >= _SPELLED and all(number.spelled for number in run):
            text = "".join(number.text for number in run)
            joined.append(Number(run[0].start, run[-1].end, text, spelled=True))
        else:
            joined += [Number(n.start, n.end, n.text, n.ordinal) for n in run]
    return joined


def _years(found: list[Number]) -> list[Number]:
    """Join the halves of years: nineteen eighty-four, twenty twenty-four."""
    joined: list[Number] = []
    for number in found:
        last = joined[-1] if joined else None
        halves = last and last.end == number.start and not (last.ordinal or last.spelled or number.ordinal)
        if last and halves and _is_half(last.text, 11, 20) and _is_half(number.text, 10, 99):
            joined[-1] = Number(last.start, number.end, last.text + number.text)
        else:
            joined.append(number)
    return joined


def _is_half(text: str, low: int, high: int) -> bool:
    return len(text) == 2 and text.isdecimal() and low <= int(text) <= high


def runs_of_digits(found: Sequence[Number]) -> list[tuple[int, int, int]]:
    """Return the first word, the last word (excluded) and the number of digits of each run of adjacent numbers."""
    starts: list[int] = []
    for i, number in enumerate(found):
        adjacent = i > 0 and found[i - 1].end == number.start
        starts.append(starts[-1] if adjacent else i)
    runs = []
    for _, group in groupby(range(len(found)), key=lambda i: starts[i]):
        members = [found[i] for i in group]
        runs.append((members[0].start, members[-1].end, sum(number.digits for number in members)))
    return runs
