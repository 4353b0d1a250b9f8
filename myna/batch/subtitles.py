"""Formats words for readers: as text, or as subtitles of up to two lines that end at a silence or a sentence's end. Pure.

Where words have speakers, each line of text and each cue has the words of one speaker, who is named as in `speaker_name`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from myna.batch.transcript import Words, ends_sentence, speaker_of, speeches
from myna.streaming.events import Word
from myna.streaming.text.joining import joined, separator, written_text
from myna.wire.speaker_names import speaker_name

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
    """One subtitle: its start and end in seconds, one or two lines, and the number of its speaker, if there is one."""

    start: float
    end: float
    lines: tuple[str, ...]
    speaker: int | None = None


def named_text(words: Sequence[Word]) -> str:
    """Return the words as text. Where they have speakers, each one begins a line with a name."""
    return "".join(
        written_text(speech) + "\n" if (speaker := speaker_of(speech)) is None
        else f"{speaker_name(speaker)}: {written_text(speech)}\n"
        for speech in speeches(words)
    )  # fmt: skip


def cues(words: Sequence[Word], *, prefixed: bool = False) -> list[Cue]:
    """Return the cues for words in order. `prefixed`: a name precedes the first words of each speaker."""
    parts = list(_parts(words, prefixed=prefixed))
    found = []
    for index, (prefix, part, speaker) in enumerate(parts):
        following = parts[index + 1][1][0].start if index + 1 < len(parts) else float("inf")
        end = min(max(part[-1].end, part[0].start + SHORTEST_S), following)
        texts = [word.text.strip() for word in part]
        found.append(
            Cue(part[0].start, max(end, part[0].start), _lines([prefix, *texts] if prefix else texts), speaker)
        )
    return found


def srt(words: Sequence[Word]) -> str:
    """Return SubRip subtitles."""
    blocks = [
        f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n" + "\n".join(cue.lines) + "\n"
        for number, cue in enumerate(cues(words, prefixed=True), start=1)
    ]
    return "\n".join(blocks)


def vtt(words: Sequence[Word]) -> str:
    """Return WebVTT subtitles (W3C). A speaker's words are in a voice tag."""
    blocks = [
        f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n{_voice(cue)}"
        + "\n".join(map(_escaped, cue.lines))
        + "\n"
        for cue in cues(words)
    ]
    return "WEBVTT\n\n" + "\n".join(blocks)


def _parts(words: Sequence[Word], *, prefixed: bool) -> Iterator[tuple[str, Words, int | None]]:
    """Yield the words of each cue, the name before them, and their speaker."""
    for speech in speeches(words):
        speaker = speaker_of(speech)
        prefix = f"{speaker_name(speaker)}:" if prefixed and speaker is not None else ""
        part: list[Word] = []
        for word in speech:
            if part and _full(prefix, part, word):
                yield prefix, tuple(part), speaker
                prefix, part = "", []
            part.append(word)
        yield prefix, tuple(part), speaker


def _full(prefix: str, part: Sequence[Word], word: Word) -> bool:
    length = len(prefix) + sum(len(w.text) + len(separator(w.text, word.text)) for w in part)
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


def _voice(cue: Cue) -> str:
    return "" if cue.speaker is None else f"<v {speaker_name(cue.speaker)}>"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
