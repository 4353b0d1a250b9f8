"""A channel's audio, as far back as anything may still ask for it."""

from __future__ import annotations

from myna.streaming.events import SAMPLE_RATE, Span


class AudioBuffer:
    """Int16 audio from sample `start` to sample `end` of the timeline."""

    def __init__(self) -> None:
        self._pcm = bytearray()
        self.start = 0

    def __len__(self) -> int:
        return len(self._pcm) // 2

    @property
    def end(self) -> int:
        """The sample behind the last one held."""
        return self.start + len(self)

    def append(self, pcm: bytes) -> None:
        """Take the next samples."""
        self._pcm += pcm

    def cut(self, span: Span) -> bytes:
        """Return the samples of a span, which must be held."""
        return bytes(self._pcm[2 * (span.start - self.start) : 2 * (span.end - self.start)])

    def drop_before(self, sample: int) -> None:
        """Let go of what lies before, in steps of a second: cutting off the front moves all of the rest."""
        if sample - self.start > SAMPLE_RATE:
            del self._pcm[: 2 * (sample - self.start)]
            self.start = sample
