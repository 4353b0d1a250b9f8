"""The speakers of one live channel: which voices are requested for a segment, and which labels its words get. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from myna.streaming.events import Span, Word
from myna.streaming.session.jobs import Outcome
from myna.streaming.session.pending import PendingVoices
from myna.streaming.session.requester import Requester
from myna.streaming.speakers.attribution import with_speakers
from myna.streaming.speakers.labelling import Distances, SpeakerLimits, SpeakerTurn
from myna.streaming.speakers.memory import SpeakerMemory
from myna.streaming.speakers.runs import WINDOW, Voices, WindowPart, live_windows

REACH = WINDOW
"""Audio before the end of a segment's speech that is heard with it, in samples."""


class ChannelSpeakers:
    """Requests the voices of each segment, and labels its words in the order of the segments. A label never changes."""

    def __init__(self, requester: Requester, distances: Distances, limits: SpeakerLimits) -> None:
        self._requester = requester
        self._memory = SpeakerMemory(distances, limits)
        self._pending: dict[str, PendingVoices] = {}  # by job
        self._segments = 0
        self._windows = 0
        self._last: SpeakerTurn | None = None
        self._ahead: tuple[Span, PendingVoices] | None = None  # requested at a pause that may not last

    def request_ahead(self, speech: Span, received: int) -> None:
        """Request the voices of the open segment's speech at a pause, as if the pause will last."""
        self.drop_ahead()
        self._ahead = speech, self._requested(speech, received)

    def drop_ahead(self) -> None:
        """Cancel what was requested at a pause: speech has resumed."""
        if self._ahead is None:
            return
        _, pending = self._ahead
        self._ahead = None
        for job_id in pending.open:
            del self._pending[job_id]
            self._requester.cancel_voices(job_id)

    def request(self, speech: Span, received: int) -> PendingVoices:
        """Return the voices of a closed segment's speech, requested unless they were at its pause.

        `received` samples have been received.
        """
        if self._ahead is not None and self._ahead[0] == speech:
            _, pending = self._ahead
            self._ahead = None
            return pending
        self.drop_ahead()
        return self._requested(speech, received)

    def answer(self, job_id: str, outcome: Outcome) -> bool:
        """Take the outcome of a job; return whether it was one for voices. A window that failed has no runs."""
        pending = self._pending.pop(job_id, None)
        if pending is None:
            return False
        pending.open.discard(job_id)
        if isinstance(outcome, Voices):
            pending.runs += outcome.runs
        if pending.given_up and not pending.open:  # too late for its words, but not for the memory of its voices
            self._remember(pending)
        return True

    def give_up(self, number: int) -> None:
        """Wait no longer for the voices of a segment."""
        for pending in self._pending.values():
            if pending.number == number:
                pending.given_up = True

    def labelled(self, pending: PendingVoices, words: Sequence[Word]) -> tuple[Word, ...]:
        """Return the final words of a segment with their speakers. Segments come in order."""
        if pending.open:
            return tuple(words)
        return with_speakers(words, self._remember(pending))

    def provisional(self, words: Sequence[Word]) -> tuple[Word, ...]:
        """Return the words of an interim with the last label."""
        if self._last is None:
            return tuple(words)
        last = self._last
        return tuple(replace(w, speaker=last.speaker, speaker_confidence=last.confidence / 2) for w in words)

    def abandon(self) -> list[str]:
        """Return the jobs that have not been answered, and forget them."""
        jobs = list(self._pending)
        self._pending.clear()
        self._ahead = None
        return jobs

    def _requested(self, speech: Span, received: int) -> PendingVoices:
        pending = PendingVoices(self._segments, set())
        self._segments += 1
        for window, wanted in live_windows(speech, received):
            job_id = self._requester.voices(window, WindowPart(self._windows, window.start, wanted))
            self._windows += 1
            pending.open.add(job_id)
            self._pending[job_id] = pending
        return pending

    def _remember(self, pending: PendingVoices) -> list[SpeakerTurn]:
        turns = self._memory.label(pending.runs)
        if turns:
            self._last = max(turns, key=lambda turn: turn.span.end)
        return turns
