"""What an engine that follows utterances has heard of the open one. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from myna.streaming.events import Span


@dataclass(slots=True)
class Following:
    """The open utterance of a channel: its number (0: there has been none), where it begins, how far it was heard."""

    number: int = 0
    start: int | None = None
    """None: no utterance is open."""
    heard: int = 0

    def begin(self, start: int) -> None:
        """Open the next utterance."""
        self.number += 1
        self.start = self.heard = start

    def close(self) -> None:
        """End the open utterance; the next has another number."""
        self.start = None

    def missing(self, held: int) -> None:
        """The engine holds only so many samples of the utterance."""
        self.heard = (self.start or 0) + held

    def step(self, now: int) -> tuple[int, int, Span]:
        """Return utterance number, samples held, and the span to send, for a step up to `now`."""
        assert self.start is not None
        return self.number, self.heard - self.start, Span(self.heard, max(now, self.heard))
