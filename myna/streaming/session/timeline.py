"""The queue of a channel's closed segments and the marks between them, until their events can be emitted. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from myna.streaming.events import (
    Cause,
    Ended,
    Event,
    Failed,
    Final,
    Flushed,
    Repeated,
    TurnEnded,
    TurnStarted,
    UtteranceEnd,
    Word,
    samples,
    seconds,
)
from myna.streaming.policy import PlausibilityGate
from myna.streaming.session.credibility import MOST_RETRIES, is_sure, needs_repeat, unheard, words_of
from myna.streaming.session.jobs import JobError, Missing, Transcript
from myna.streaming.session.pending import Barrier, Decode, PendingVoices, TurnEnd, Waiting
from myna.streaming.session.voices import ChannelSpeakers
from myna.streaming.speech.segmenter import Gap
from myna.streaming.text.seams import mark_before

_IN_VAIN = 3
"""After this many segments in a row in which no retry was credible, a segment is decoded twice at most, until one is."""


class Timeline:
    """One channel's timeline. An item's events are emitted once every decode before it is answered."""

    def __init__(self, channel: int, speakers: ChannelSpeakers) -> None:
        self._channel = channel
        self._speakers = speakers
        self.held: PendingVoices | None = None
        """The voices for which the oldest segment waits, although its words are known."""
        self._items: deque[Waiting | Barrier | TurnEnd | Gap] = deque()
        self.words: deque[Word] = deque()
        """The final words, as far back as a later decode may cover them."""
        self.in_turn = False
        """Whether `TurnStarted` has been emitted and `TurnEnded` has not."""
        self.to_repeat: Decode | None = None
        """The decode of the oldest waiting segment, if it must be repeated before anything more is emitted."""
        self._turn_start = 0
        self._in_vain = 0  # consecutive segments whose retries gave no credible words
        self._uttered = False  # whether words have been emitted that no `UtteranceEnd` has followed

    @property
    def behind(self) -> bool:
        """Whether a closed segment waits for its words, so that later words cannot be joined to it yet."""
        return self.oldest is not None

    @property
    def oldest(self) -> int | None:
        """The first sample of the oldest segment that waits for its words; None: no segment waits."""
        for item in self._items:
            if isinstance(item, Waiting):
                return item.closed.span.start
        return None

    @property
    def decodes(self) -> list[Decode]:
        """The decodes of the waiting segments."""
        return [item.decode for item in self._items if isinstance(item, Waiting) and item.decode]

    @property
    def turn_words(self) -> list[Word]:
        """The final words of the open turn that are still kept."""
        return [word for word in self.words if word.start >= seconds(self._turn_start)]

    def append(self, item: Waiting | Barrier | TurnEnd | Gap) -> None:
        """Add the next item."""
        self._items.append(item)

    def decode_of(self, job_id: str) -> Decode | None:
        """Return the decode with this job for which a segment waits; None: no segment does."""
        return next((decode for decode in self.decodes if decode.job_id == job_id), None)

    def begin_turn(self, words: Sequence[Word]) -> list[Event]:
        """Return a `TurnStarted` if these words are the first of a turn."""
        if self.in_turn or not words:
            return []
        self.in_turn = True
        return [TurnStarted(channel=self._channel, at=samples(words[0].start))]

    def drain(self, gate: PlausibilityGate, *, turns: bool) -> list[Event]:
        """Return the events that are ready. `gate` judges the decodes; `turns` says whether turns are reported."""
        events: list[Event] = []
        self.to_repeat = self.held = None
        while self._items:
            match self._items[0]:
                case Waiting(decode=Decode(outcome=None)):
                    break
                case Waiting() as segment:
                    words = self.words_of(segment, gate)
                    if segment.decode and self.needs_repeat(segment, words, gate):
                        self.to_repeat = segment.decode
                        break
                    if segment.voices and words and not segment.voices.ready:
                        self.held = segment.voices
                        break
                    events += self._finish(segment, words, gate, turns=turns)
                case Gap():
                    if self._uttered:
                        self._uttered = False
                        events.append(UtteranceEnd(channel=self._channel, last_word_end=self.words[-1].end))
                case TurnEnd() as end:
                    self._turn_start = end.at
                    if self.in_turn:
                        self.in_turn = False
                        events.append(
                            TurnEnded(channel=self._channel, at=end.at, trigger=end.trigger, confidence=end.confidence)
                        )
                case Barrier(cause=Cause.END) if not self._speakers.conclude():
                    break
                case Barrier(at=at, cause=Cause.END):
                    events += self._speakers.revision
                    events.append(Ended(channel=self._channel, received=at))
                case Barrier(token=token):
                    assert token is not None
                    events.append(Flushed(channel=self._channel, token=token))
            self._items.popleft()
        return events

    def forget(self, before: int) -> None:
        """Drop the words that end before this sample, except the last word."""
        while len(self.words) > 1 and self.words[0].end < seconds(before):
            self.words.popleft()

    def words_of(self, segment: Waiting, gate: PlausibilityGate) -> tuple[Word, ...]:
        """Return the words of a segment, provided that everything before it is final."""
        return words_of(segment.closed, segment.decode, gate, self.words) if segment.decode else ()

    def needs_repeat(self, segment: Waiting, words: Sequence[Word], gate: PlausibilityGate) -> bool:
        """Return whether to repeat the decode of a segment with these words, provided that everything before it is final."""
        most = MOST_RETRIES if self._in_vain < _IN_VAIN else 1
        return segment.decode is not None and needs_repeat(segment.closed, segment.decode, words, gate, most)

    def _finish(self, segment: Waiting, words: tuple[Word, ...], gate: PlausibilityGate, *, turns: bool) -> list[Event]:
        closed, decode = segment.closed, segment.decode
        events: list[Event] = []
        match decode and decode.outcome:
            case JobError(reason) if not words:
                events.append(Failed(channel=self._channel, span=closed.span, reason=reason))
            case Missing():
                raise AssertionError("a final decode needs audio that is not in memory")
        if decode and isinstance(decode.outcome, Transcript):
            left = unheard(closed, words) if is_sure(closed, gate) else 0
            if decode.before or left:
                self._in_vain = self._in_vain + 1 if left else 0
                events.append(
                    Repeated(channel=self._channel, span=closed.span, heard=bool(words), unheard_s=seconds(left))
                )
        before = mark_of_seam(decode, words)
        if segment.voices:
            words = self._speakers.labelled(segment.voices, words)
        self.words.extend(words)
        self._uttered = self._uttered or bool(words)
        events.append(Final(channel=self._channel, span=closed.span, words=words, cause=closed.cause, before=before))
        return [*events, *self.begin_turn(words)] if turns else events


def mark_of_seam(decode: Decode | None, words: Sequence[Word]) -> str | None:
    """Return the mark that a segment's decode writes before its words; None: the decode does not cover the word before."""
    heard = [outcome.words for _, outcome in decode.attempts if isinstance(outcome, Transcript)] if decode else []
    found = (mark_before(attempt, words) for attempt in reversed(heard))
    return next((mark for mark in found if mark is not None), None)
