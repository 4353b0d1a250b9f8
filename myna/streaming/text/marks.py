"""The marks of sentences and clauses at the ends of words. Pure."""

from __future__ import annotations

from myna.streaming.events import Word

SENTENCE_MARKS = ".?!…。？！"
"""The marks that end a sentence."""
_MARKS = f"{SENTENCE_MARKS},;:、，；："
_TITLES = frozenset({"mr", "mrs", "ms", "dr", "prof", "st"})
"""Abbreviations that never end a sentence."""
_ABBREVIATIONS = _TITLES | {"jr", "sr", "vs", "etc", "e.g", "i.e", "no", "vol", "fig", "inc", "ltd", "co"}
"""English words whose full stop may be their own."""


def ends_sentence(mark: str) -> bool:
    """Return whether these marks end a sentence; so does a text that ends with them."""
    return mark[-1:] in SENTENCE_MARKS if mark else False


def is_abbreviated(word: Word) -> bool:
    """Return whether the full stop of a word may belong to it: that of an abbreviation or an initial."""
    return word.bare in _ABBREVIATIONS or _is_initial(word)


def parted(word: Word) -> tuple[str, str]:
    """Return a word's text without the marks at its end, and the marks. The full stop of a title is part of it."""
    stem = word.text.rstrip(_MARKS)
    marks = word.text[len(stem) :]
    if not marks or not any(c.isalnum() for c in stem):
        return word.text, ""
    if marks.startswith(".") and (word.bare in _TITLES or (_is_initial(word) and word.bare != "i")):
        return stem + ".", marks[1:]
    return stem, marks


def _is_initial(word: Word) -> bool:
    return len(word.bare) == 1 and word.bare.isalpha() and word.text.endswith(".")
