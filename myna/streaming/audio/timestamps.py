"""Media's time stamps → how much silence stands before a frame, so that words get the media's times."""

from __future__ import annotations

LEAST_HOLE_S = 0.1
"""A smaller gap between two frames is rounding or jitter of the stamps, as it is for FFmpeg's `aresample=async=1`."""
LONGEST_HOLE_S = 1800.0
"""A longer one is no silence: stamps began anew, or lie."""
MOST_SILENCE_S = 3600.0
MOST_SILENCE_RATIO = 20.0
"""All holes together: an hour, and twenty times what was heard, as Opus sends 20 ms in 400 while nobody speaks."""
LONGEST_OVERLAP_S = 1.0
"""A frame that should have come earlier than this tells that stamps began anew."""


class Stamps:
    """Compares the stamps of a stream's frames with the samples that there have been.

    What was heard is never cut: where frames overlap, the sound is ahead of its stamps until a hole, or quiet,
    makes up for it.
    """

    def __init__(self) -> None:
        self._offset: float | None = (
            None  # where the stamp 0 lies in the stream; None: a part begins with the next frame
        )
        self._begin = 0.0
        self._filled = 0.0
        self.ahead = 0.0
        """Seconds that the sound is ahead of its stamps."""

    def begin(self, position: float) -> None:
        """Take note that a container begins at this position in the stream; its stamp 0 is there."""
        self._offset, self._begin, self.ahead = None, position, 0.0

    def hole(self, stamp: float, position: float) -> float:
        """Return the seconds of silence before the frame of this stamp, if the sound has come to this position."""
        first = self._offset is None
        offset = self._begin if self._offset is None else self._offset
        missing = offset + stamp - position
        if missing > LONGEST_HOLE_S or missing < -LONGEST_OVERLAP_S or self._is_too_much(missing, position):
            offset, missing = position - stamp, 0.0
        self._offset = offset
        self.ahead = max(0.0, -missing)
        if missing < (0.0 if first else LEAST_HOLE_S):
            return 0.0
        self._filled += missing
        return missing

    def _is_too_much(self, missing: float, position: float) -> bool:
        heard = position - self._filled
        return self._filled + missing > MOST_SILENCE_S + MOST_SILENCE_RATIO * heard
