"""The interim words of the open segment: new words are joined to those that the newest decode no longer covers. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from myna.streaming.events import Interim, Span, Word, seconds
from myna.streaming.session.decode_window import INTERIM_OVERLAP
from myna.streaming.session.hypothesis import agreed, in_order, new_words
from myna.streaming.speech.segmenter import Segmenter
from myna.streaming.text.seams import mark_before


class InterimText:
    """One channel's interim words. The leading words that two consecutive interims share are stable."""

    def __init__(self, channel: int, segmenter: Segmenter) -> None:
        self._channel = channel
        self._segmenter = segmenter
        self._words: tuple[Word, ...] = ()
        self._before: str | None = None  # the mark before the first word

    def update(self, audio: Span, heard: Sequence[Word], final: Sequence[Word]) -> Interim | None:
        """Return the interim that follows from a decode of `audio` with the words `heard`; None: there is no word yet.

        `final` are the channel's final words, as far back as the decode may contain them.
        """
        open_start, speech_start = self._segmenter.open_start, self._segmenter.speech_start
        windowed = speech_start is not None and audio.start > speech_start
        seam = audio.start + INTERIM_OVERLAP if windowed else open_start
        kept = [word for word in self._words if word.middle < seconds(seam)]
        new = new_words(audio, heard, [*final, *kept], seconds(seam))
        if not kept:
            self._before = mark_before(heard, new)
        span = Span(open_start, max(audio.end, open_start))
        earliest_s = max(seconds(open_start), final[-1].start if final else 0.0)
        words = in_order([*kept, *new], earliest_s, seconds(span.end))
        if not words and not self._words:
            return None
        stable = agreed(self._words, words)
        self._words = words
        return Interim(channel=self._channel, span=span, words=words, stable=stable, before=self._before)

    def clear(self) -> None:
        """Forget the words: a Final contains them."""
        self._words = ()
