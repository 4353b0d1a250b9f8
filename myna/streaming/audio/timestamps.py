"""Derives the silence between frames from their time stamps, so that words have the times of the medium."""

from __future__ import annotations

LEAST_HOLE_S = 0.1
"""A smaller gap between two frames is rounding or jitter of the time stamps, as for FFmpeg's `aresample=async=1`."""
LONGEST_HOLE_S = 1800.0
"""A longer gap is not silence: the time stamps restarted or are wrong."""
MOST_SILENCE_S = 3600.0
MOST_SILENCE_RATIO = 20.0
"""The limit of all gaps together: an hour, plus twenty times the audio, since Opus sends 20 ms in every 400 ms of silence."""
LONGEST_OVERLAP_S = 1.0
"""A larger overlap of two frames shows that the time stamps restarted."""


class Stamps:
    """Compares the time stamps of a stream's frames with the samples so far.

    Audio is never cut. If frames overlap, the audio is ahead of its stamps until a gap, or quiet frames, make up for it.
    """

    def __init__(self) -> None:
        self._offset: float | None = (
            None  # the position of stamp 0 in the stream; None: a container begins with the next frame
        )
        self._begin = 0.0
        self._filled = 0.0
        self.ahead = 0.0
        """The seconds by which the audio is ahead of its stamps."""

    def begin(self, position: float) -> None:
        """Take note that a container begins at this position in the stream, which is the position of its stamp 0."""
        self._offset, self._begin, self.ahead = None, position, 0.0

    def hole(self, stamp: float, position: float) -> float:
        """Return the seconds of silence before the frame with this stamp, given the audio's position in the stream."""
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
