"""The speakers of one live channel: which voices are requested for a segment, and which labels its words get. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from myna.streaming.events import Event, Interim, Span, Word
from myna.streaming.policy import Policy
from myna.streaming.session.jobs import Outcome
from myna.streaming.session.pending import PendingVoices
from myna.streaming.session.requester import Requester
from myna.streaming.session.requests import CancelVoices, Request
from myna.streaming.speakers.attribution import with_speakers
from myna.streaming.speakers.history import History, SpeakersRevised
from myna.streaming.speakers.labelling import Distances, SpeakerTurn
from myna.streaming.speakers.memory import SpeakerMemory
from myna.streaming.speakers.runs import WINDOW, Voices, WindowPart, live_windows


class ChannelSpeakers:
    """Requests the voices of each segment, and labels its words in the order of the segments. A label never changes.

    Without `distances`, or limits in the policy, it does nothing and words have no speakers.
    """

    def __init__(self, requester: Requester, channel: int, distances: Distances | None, policy: Policy) -> None:
        self._requester = requester
        self._channel = channel
        self._within_s = policy.speakers_within_s
        self._memory = SpeakerMemory(distances, policy.speakers) if distances and policy.speakers else None
        self._history: History | None = None
        if distances and policy.speakers and policy.speakers_revised:
            self._history = History(channel, distances, policy.speakers)
        self._concluding: int | None = None  # the number of the reminder at the end of the stream
        self._waited = False  # whether the end of the stream waits for voices no longer
        self._requested_revision = False
        self.revision: list[Event] = []
        """The speakers of the whole stream, once `conclude` has been true; nothing if nobody asked."""
        self._reminded = -1  # the last segment for whose voices a reminder has been requested
        self._pending: dict[str, PendingVoices] = {}  # by job
        self._segments = 0
        self._windows = 0
        self._last: SpeakerTurn | None = None
        self._ahead: tuple[Span, PendingVoices] | None = None  # requested at a pause that may not last

    @property
    def reach(self) -> int:
        """The audio before the end of a segment's speech that is heard with it, in samples."""
        return WINDOW if self._memory else 0

    def request_ahead(self, speech: Span, received: int) -> None:
        """Request the voices of the open segment's speech at a pause, as if the pause will last."""
        self.drop_ahead()
        if self._memory:
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

    def request(self, speech: Span, received: int) -> PendingVoices | None:
        """Return the voices of a closed segment's speech, requested unless they were at its pause.

        `received` samples have been received.
        """
        if self._ahead is not None and self._ahead[0] == speech:
            _, pending = self._ahead
            self._ahead = None
            return pending
        self.drop_ahead()
        return self._requested(speech, received) if self._memory else None

    def remind(self, pending: PendingVoices | None) -> None:
        """Have the segment that waits for these voices only be reminded to wait no longer; once for each segment."""
        if pending is not None and pending.number > self._reminded:
            self._reminded = pending.number
            self._requester.remind(self._channel, pending.number, self._within_s)

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
        """Wait no longer for the voices of a segment, or of all segments at the end of the stream."""
        self._waited = self._waited or number == self._concluding
        for pending in self._pending.values():
            if pending.number == number:
                pending.given_up = True

    def labelled(self, pending: PendingVoices, words: Sequence[Word]) -> tuple[Word, ...]:
        """Return the final words of a segment with their speakers. Segments come in order."""
        if self._history:
            self._history.write(words)
        if pending.open:
            return tuple(words)
        return with_speakers(words, self._remember(pending))

    def conclude(self) -> bool:
        """Label the speakers of the whole stream, after its last segment; return whether that is done.

        Voices that come too late for their words are waited for once more, as long as a Final waits.
        """
        if self._history is None or self.revision:
            return True
        if self._pending and not self._waited:
            if self._concluding is None:
                self._concluding = self._segments
                self._requester.remind(self._channel, self._concluding, self._within_s)
        elif not self._requested_revision:
            self._requested_revision = True
            self._requester.revise(self._history.past())
        return False

    def revised(self, revision: SpeakersRevised) -> None:
        """Take the speakers of the whole stream."""
        self.revision = [revision]

    def provisional(self, interim: Interim) -> Interim:
        """Return an interim whose words have the last label."""
        if self._last is None:
            return interim
        speaker, sure = self._last.speaker, self._last.confidence / 2
        words = (replace(word, speaker=speaker, speaker_confidence=sure) for word in interim.words)
        return replace(interim, words=tuple(words))

    def abandon(self) -> list[Request]:
        """Return the requests that cancel what has not been answered, and forget it."""
        jobs = list(self._pending)
        self._pending.clear()
        self._ahead = None
        return [CancelVoices(job_id) for job_id in jobs]

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
        assert self._memory is not None
        turns = self._memory.label(pending.runs)
        if self._history:
            self._history.tell(pending.runs, turns)
        if turns:
            self._last = max(turns, key=lambda turn: turn.span.end)
        return turns
