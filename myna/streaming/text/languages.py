"""Which languages words were heard in. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from myna.streaming.events import SpokenLanguage, Word


def languages_of(words: Iterable[Word]) -> list[str]:
    """Return the languages of the words, the one with the most words first."""
    counts = Counter(word.language.code for word in words if word.language)
    return [code for code, _ in counts.most_common()]


def main_language(words: Sequence[Word]) -> SpokenLanguage | None:
    """Return the language of the most words, with its mean probability over all words; None if no language is known."""
    found = languages_of(words)
    if not found:
        return None
    heard = [word.language for word in words if word.language and word.language.code == found[0]]
    return SpokenLanguage(found[0], sum(language.probability for language in heard) / len(words))


def runs(words: Sequence[Word]) -> Iterator[tuple[str, list[Word]]]:
    """Yield the words in runs of one language, each with its code; empty: unknown."""
    for code, run in groupby(words, lambda word: word.language.code if word.language else ""):
        yield code, list(run)
