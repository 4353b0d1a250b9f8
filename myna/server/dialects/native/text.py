"""The words of the native protocol's finals and partials as they are written, and the marks that are told after them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from myna.streaming import events
from myna.streaming.events import Word
from myna.streaming.text.formatting import Formatting, formatted
from myna.streaming.text.seams import HeldMarks, MarksAtOnce

WATCH_S = 0.3
"""Seconds of audio after which a held mark is looked at again."""


class ChannelTexts:
    """The texts of one stream's channels. `held`: the mark at the end of a final is told once it is known."""

    def __init__(self, formatting: Formatting, *, held: bool) -> None:
        self._formatting = formatting
        self._at_once = defaultdict[int, MarksAtOnce](lambda: MarksAtOnce(formatting.language))
        self._marks = defaultdict[int, HeldMarks](lambda: HeldMarks(formatting.language))
        self._held = held
        self._speaking: set[int] = set()
        self._stopped = defaultdict[int, int](int)  # channel → where its last utterance ended, in samples
        self._covered = defaultdict[int, int](int)  # channel → where its last final ended

    def partial(self, event: events.Interim) -> tuple[tuple[Word, ...], int]:
        """Return the words of a partial, and how many of them have settled."""
        if self._held:
            _, words = self._marks[event.channel].peek(event.words, event.before)
        else:
            words = self._at_once[event.channel].peek(event.words, event.before)
        shown = formatted(words, self._formatting, open_ended=True)
        settled = formatted(words[: event.stable], self._formatting, open_ended=True)
        stable = 0
        for one, other in zip(settled, shown, strict=False):
            if one.text != other.text or one.end != other.end:
                break
            stable += 1
        return shown, stable

    def final(self, event: events.Final) -> tuple[str, tuple[Word, ...]]:
        """Return the mark that completes the channel's last final, and the words of this one."""
        mark, words = (
            self._marks[event.channel].take(event) if self._held else ("", self._at_once[event.channel].take(event))
        )
        self._covered[event.channel] = event.span.end
        return mark, formatted(words, self._formatting)

    def settled(self, event: events.Event) -> Sequence[tuple[int, str]]:
        """Return the channels whose mark is known with this event, each with its mark."""
        match event:
            case events.SpeechStarted(channel=channel):
                self._speaking.add(channel)
            case events.SpeechStopped(channel=channel, at=at):
                self._speaking.discard(channel)
                self._stopped[channel] = at
            case events.Progress(channel=channel, at=at) if not self._expects_words(channel):
                rests_at = self._marks[channel].rests_at
                if rests_at is not None and at >= rests_at:
                    return self._released([channel])
            case events.Flushed(channel=channel):
                return self._released([channel])
            case events.Ended():
                return self._released(sorted(self._marks))
        return ()

    def _expects_words(self, channel: int) -> bool:
        """Return whether somebody speaks, or has spoken and the final is not decoded yet."""
        return channel in self._speaking or self._covered[channel] < self._stopped[channel]

    def _released(self, channels: Sequence[int]) -> list[tuple[int, str]]:
        marks = [(channel, self._marks[channel].release()) for channel in channels]
        return [(channel, mark) for channel, mark in marks if mark]
