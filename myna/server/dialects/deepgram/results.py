"""Words, searches and times as Deepgram's results write them, live and for files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from myna.streaming.events import Word
from myna.streaming.text import search


def now() -> str:
    """Return the time as Deepgram writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def confidence_of(words: Sequence[Word]) -> float:
    """Return the mean confidence of the words, 0 if there are none."""
    return round(sum(word.confidence for word in words) / len(words), 4) if words else 0.0


def word_of(word: Word, *, punctuated: bool, with_language: bool = False) -> dict[str, object]:
    """Return a word as Deepgram writes it, with its language if that is wanted and known."""
    described: dict[str, object] = {
        "word": word.bare,
        "start": round(word.start, 3),
        "end": round(word.end, 3),
        "confidence": round(word.confidence, 4),
    }
    if punctuated:
        described["punctuated_word"] = word.text.strip()
    if with_language and word.language:
        described["language"] = word.language.code
    return described


def search_results(words: Sequence[Word], queries: Sequence[str]) -> list[dict[str, object]]:
    """Return where each of the queries was said."""
    found = search.hits(words, queries)
    return [{"query": query, "hits": list(map(_hit, hits))} for query, hits in zip(queries, found, strict=True)]


def _hit(hit: search.Hit) -> dict[str, object]:
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in asdict(hit).items()}
