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

_DANGLING = {
    "a", "an", "the", "and", "or", "but", "nor", "because", "although", "if", "than", "of", "from", "with", "into", "my",
    "your", "our", "their", "its", "i'm", "i'll", "i've", "we're", "we'll", "we've", "you're", "you'll", "you've", "they're",
    "they'll", "they've", "um", "uh", "er", "erm",
}  # fmt: skip
"""English words that do not end a sentence, whatever mark a model writes after them."""


def ends_sentence(mark: str) -> bool:
    """Return whether these marks end a sentence; so does a text that ends with them."""
    return mark[-1:] in SENTENCE_MARKS if mark else False


def may_end(word: Word) -> bool:
    """Return whether a sentence may end with this word: it is none of the English words that end none."""
    return word.bare not in _DANGLING or not (word.language is None or word.language.code == "en")


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
