"""The transcript of a file: words in segments, and the division into utterances, sentences and paragraphs. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from myna.streaming.events import Word
from myna.streaming.speakers.attribution import with_speakers
from myna.streaming.speakers.labelling import SpeakerTurn
from myna.streaming.text.joining import written_text
from myna.streaming.text.marks import is_abbreviated

UTTERANCE_GAP_S = 0.8
"""Default silence between two utterances, as in Deepgram."""
_PARAGRAPH_GAP_S = 2.0
"""Silence after a sentence that starts a new paragraph."""
_LONGEST_PARAGRAPH = 100
"""Words in a paragraph after which the next sentence starts a new one."""
_SENTENCE_GAP_S = 1.5
"""Silence that ends a sentence without punctuation."""
_ENDS = (".", "?", "!", "…", "。", "？", "！")
_CLOSING = "\"'”’)]»"


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment of one channel, decoded at once: its start and end in seconds, and its words."""

    start: float
    end: float
    words: tuple[Word, ...]


@dataclass(frozen=True, slots=True)
class Channel:
    """One channel of a file. Each segment has words; segments are in order. `turns` are those of its speakers, if wanted."""

    segments: tuple[Segment, ...] = ()
    turns: tuple[SpeakerTurn, ...] = ()
    known: Mapping[int, int] = field(default_factory=dict)
    """Speaker → index of its voice among the known ones."""

    @property
    def words(self) -> tuple[Word, ...]:
        """All words in order."""
        return tuple(word for segment in self.segments for word in segment.words)

    def written(self, write: Callable[[Sequence[Word]], tuple[Word, ...]]) -> Channel:
        """Return the channel with `write` applied to the words of each segment."""
        return replace(self, segments=tuple(Segment(s.start, s.end, write(s.words)) for s in self.segments))

    def spoken_by(self, turns: Sequence[SpeakerTurn], known: Mapping[int, int]) -> Channel:
        """Return the channel with these turns and known speakers, and in each word its speaker."""
        told = iter(with_speakers(self.words, turns))
        segments = tuple(replace(s, words=tuple(next(told) for _ in s.words)) for s in self.segments)
        return Channel(segments, tuple(turns), known)


@dataclass(frozen=True, slots=True)
class FileTranscript:
    """The transcript of a whole file. `failed` lists the spans that could not be decoded, with reasons."""

    duration_s: float
    channels: tuple[Channel, ...]
    failed: tuple[str, ...] = field(default=())
    diarizer: str = ""
    """The uuid of the model that told the speakers apart; empty if none did."""

    def written(self, write: Callable[[Sequence[Word]], tuple[Word, ...]]) -> FileTranscript:
        """Return the transcript with `write` applied to the words of each segment."""
        return replace(self, channels=tuple(channel.written(write) for channel in self.channels))

    @property
    def text(self) -> str:
        """The words of all channels, channel after channel."""
        return written_text(self.words)

    @property
    def words(self) -> tuple[Word, ...]:
        """The words of all channels, channel after channel."""
        return tuple(word for channel in self.channels for word in channel.words)


Words = tuple[Word, ...]


def utterances(words: Sequence[Word], gap_s: float = UTTERANCE_GAP_S) -> Iterator[Words]:
    """Yield the words of one speaker between silences of at least this length."""
    return _parted(words, lambda part, word: word.start - part[-1].end >= gap_s or another_speaks(part, word))


def speeches(words: Sequence[Word]) -> Iterator[Words]:
    """Yield the words of one speaker after another; words without a speaker belong to the speaker before them."""
    return _parted(words, another_speaks)


def sentences(words: Sequence[Word]) -> Iterator[Words]:
    """Yield sentences: they end with a punctuation mark or, without one, before a long silence or another speaker."""

    def ends(part: Sequence[Word], word: Word) -> bool:
        long = word.start - part[-1].end >= _SENTENCE_GAP_S
        return ends_sentence(part[-1], word) or long or another_speaks(part, word)

    return _parted(words, ends)


def paragraphs(words: Sequence[Word]) -> Iterator[tuple[Words, ...]]:
    """Yield paragraphs of sentences: one starts after a long silence, with another speaker, or when the last is long."""
    open_paragraph: list[Words] = []
    speaker: int | None = None
    for sentence in sentences(words):
        size = sum(map(len, open_paragraph))
        before, speaker = speaker, speaker_of(sentence, speaker)
        if open_paragraph and (
            sentence[0].start - open_paragraph[-1][-1].end >= _PARAGRAPH_GAP_S
            or size >= _LONGEST_PARAGRAPH
            or before not in (None, speaker)
        ):
            yield tuple(open_paragraph)
            open_paragraph = []
        open_paragraph.append(sentence)
    if open_paragraph:
        yield tuple(open_paragraph)


def another_speaks(part: Sequence[Word], word: Word) -> bool:
    """Return whether a word has another speaker than the last known one of the words before it."""
    return word.speaker is not None and speaker_of(reversed(part), word.speaker) != word.speaker


def speaker_of(words: Iterable[Word], otherwise: int | None = None) -> int | None:
    """Return the first speaker among the words, or `otherwise` if none of them has one."""
    return next((word.speaker for word in words if word.speaker is not None), otherwise)


def ends_sentence(word: Word, following: Word | None = None) -> bool:
    """Return whether a sentence ends with this word."""
    if not word.text.rstrip(_CLOSING).endswith(_ENDS):
        return False
    return not is_abbreviated(word) or following is None or word.text.rstrip(_CLOSING).endswith(("?", "!"))


def _parted(words: Sequence[Word], parts: Callable[[Sequence[Word], Word], bool]) -> Iterator[Words]:
    part: list[Word] = []
    for word in words:
        if part and parts(part, word):
            yield tuple(part)
            part = []
        part.append(word)
    if part:
        yield tuple(part)
