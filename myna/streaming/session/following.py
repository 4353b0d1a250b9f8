"""How much of the open utterance an engine that follows utterances has received. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from myna.streaming.events import Span


@dataclass(slots=True)
class Following:
    """The open utterance of one channel."""

    number: int = 0
    """The number of the last utterance begun; 0: there has been none."""
    start: int | None = None
    """The first sample of the open utterance; None: no utterance is open."""
    heard: int = 0
    """The sample up to which the engine has the utterance."""

    def begin(self, start: int) -> None:
        """Open the next utterance at sample `start`."""
        self.number += 1
        self.start = self.heard = start

    def close(self) -> None:
        """End the open utterance; the next one has another number."""
        self.start = None

    def missing(self, held: int) -> None:
        """Take note that the engine holds only the first `held` samples of the utterance."""
        self.heard = (self.start or 0) + held

    def step(self, now: int) -> tuple[int, int, Span]:
        """Return the utterance number, the samples held and the span to send, for a step up to `now`."""
        assert self.start is not None
        return self.number, self.heard - self.start, Span(self.heard, max(now, self.heard))
