"""A channel's audio, as far back as a later decode may need it."""

from __future__ import annotations

from myna.streaming.events import SAMPLE_RATE, Span


class AudioBuffer:
    """Holds int16 audio from sample `start` to sample `end` of the timeline."""

    def __init__(self) -> None:
        self._pcm = bytearray()
        self.start = 0
        """The first sample held."""
        self.end = 0
        """The sample after the last one held."""

    def __len__(self) -> int:
        return self.end - self.start

    def append(self, pcm: bytes) -> None:
        """Take the next samples."""
        self._pcm += pcm
        self.end += len(pcm) // 2

    def cut(self, span: Span) -> bytes:
        """Return the samples of a span, which must be held."""
        return bytes(self._pcm[2 * (span.start - self.start) : 2 * (span.end - self.start)])

    def drop_before(self, sample: int) -> None:
        """Drop the audio before `sample`, in steps of at least a second: a deletion at the front moves all of the rest."""
        if sample - self.start > SAMPLE_RATE:
            del self._pcm[: 2 * (sample - self.start)]
            self.start = sample
