"""Formats words as subtitles: cues of up to two lines that end at a silence or the end of a sentence. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from myna.batch.transcript import ends_sentence
from myna.streaming.events import Word
from myna.streaming.text.joining import joined, separator

LINE = 42
"""Characters per line: about the figure of both the BBC's and Netflix's subtitle guidelines."""
LONGEST_S = 7.0
"""Longest duration of a cue (Netflix: 7 s)."""
SHORTEST_S = 1.0
"""Shortest duration of a cue, unless the next one starts earlier: shorter cues cannot be read."""
GAP_S = 0.7
"""Silence that ends a cue."""


@dataclass(frozen=True, slots=True)
class Cue:
    """One subtitle: its start and end in seconds, and one or two lines."""

    start: float
    end: float
    lines: tuple[str, ...]


def cues(words: Sequence[Word]) -> list[Cue]:
    """Return the cues for words in order."""
    parts = list(_parts(words))
    found = []
    for index, part in enumerate(parts):
        following = parts[index + 1][0].start if index + 1 < len(parts) else float("inf")
        end = min(max(part[-1].end, part[0].start + SHORTEST_S), following)
        found.append(Cue(part[0].start, max(end, part[0].start), _lines([word.text.strip() for word in part])))
    return found


def srt(words: Sequence[Word]) -> str:
    """Return SubRip subtitles."""
    blocks = [
        f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n" + "\n".join(cue.lines) + "\n"
        for number, cue in enumerate(cues(words), start=1)
    ]
    return "\n".join(blocks)


def vtt(words: Sequence[Word]) -> str:
    """Return WebVTT subtitles (W3C)."""
    blocks = [
        f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n" + "\n".join(map(_escaped, cue.lines)) + "\n"
        for cue in cues(words)
    ]
    return "WEBVTT\n\n" + "\n".join(blocks)


def _parts(words: Sequence[Word]) -> Iterator[list[Word]]:
    part: list[Word] = []
    for word in words:
        if part and _full(part, word):
            yield part
            part = []
        part.append(word)
    if part:
        yield part


def _full(part: Sequence[Word], word: Word) -> bool:
    length = sum(len(w.text) + len(separator(w.text, word.text)) for w in part)
    return (
        length + len(word.text) > 2 * LINE
        or word.end - part[0].start > LONGEST_S
        or word.start - part[-1].end >= GAP_S
        or (ends_sentence(part[-1], word) and length >= LINE / 2)
    )


def _lines(texts: list[str]) -> tuple[str, ...]:
    """Return the words in one line or, if they do not fit, in two lines of similar length."""
    text = joined(texts)
    if len(text) <= LINE or len(texts) == 1:
        return (text,)
    best = min(range(1, len(texts)), key=lambda i: abs(len(joined(texts[:i])) - len(joined(texts[i:]))))
    return joined(texts[:best]), joined(texts[best:])


def _clock(seconds: float, mark: str) -> str:
    whole = round(seconds * 1000)
    hours, rest = divmod(whole, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02}:{minutes:02}:{rest // 1000:02}{mark}{rest % 1000:03}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
