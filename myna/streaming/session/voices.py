"""The speakers of one live channel: which voices are requested for a segment, and which labels its words get. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from myna.streaming.events import Event, Interim, Span, Word, samples
from myna.streaming.policy import Policy
from myna.streaming.session.jobs import Outcome
from myna.streaming.session.pending import PendingVoices
from myna.streaming.session.requester import Requester
from myna.streaming.session.requests import CancelVoices, Request
from myna.streaming.speakers.attribution import with_speakers
from myna.streaming.speakers.history import History, SpeakersRevised
from myna.streaming.speakers.labelling import Distances, SpeakerTurn
from myna.streaming.speakers.memory import SpeakerMemory
from myna.streaming.speakers.runs import LIVE_REACH, Voices, WindowPart, live_windows

_LONGEST_UNHEARD = samples(4.0)
"""Speech without a pause whose voices are requested before it ends. They take some 0.25 s of a core at 2 GHz."""
_WORTHWHILE = samples(2.0)
"""New speech at a later pause of a segment whose voices are requested before the segment is closed. Each request costs a
segmentation, so less waits for the end of the segment. The first pause is the last one of most short segments."""


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
        self._turns: list[SpeakerTurn] = []  # of the segments labelled last, for words across their ends
        self._open: PendingVoices | None = None  # those of the open segment that were requested at its pauses
        self._heard = 0  # the voices up to this sample have been requested

    @property
    def reach(self) -> int:
        """The audio before the start of a segment's speech that is heard with it, in samples."""
        return LIVE_REACH if self._memory else 0

    def request_ahead(self, speech: Span, received: int) -> None:
        """Request the voices of the open segment's speech up to its first pause, and to later ones after enough new speech.

        A pause ends a run, so nothing is heard twice if speech resumes.
        """
        if self._memory and (self._open is None or speech.end - self._heard >= _WORTHWHILE):
            self._extend(speech, received)

    def keep_up(self, speech_start: int, position: int) -> None:
        """Request the voices of speech that goes on without a pause, once there is much of it up to this sample.

        At the end of the segment little is left to be heard, so that its Final need not wait for it.
        """
        if self._memory and position - max(speech_start, self._heard) >= _LONGEST_UNHEARD:
            self._extend(Span(speech_start, position), position)

    def request(self, speech: Span, received: int) -> PendingVoices | None:
        """Return the voices of a closed segment's speech; what was not requested at its pauses is requested now.

        `received` samples have been received.
        """
        if self._memory is None:
            return None
        pending = self._extend(speech, received)
        self._open = None
        return pending

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
        told = self._turns
        if turns := self._remember(pending):
            self._turns = turns
        return with_speakers(words, [*told, *turns])

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
        self._open = None
        return [CancelVoices(job_id) for job_id in jobs]

    def _extend(self, speech: Span, received: int) -> PendingVoices:
        """Return the voices of the open segment, requested up to the end of this speech."""
        if self._open is None:
            self._open = PendingVoices(self._segments, set())
            self._segments += 1
        pending = self._open
        for window, wanted in live_windows(speech, received, self._heard):
            self._heard = window.start + wanted.end
            job_id = self._requester.voices(window, WindowPart(self._windows, window.start, wanted))
            self._windows += 1
            pending.open.add(job_id)
            self._pending[job_id] = pending
        return pending

    def _remember(self, pending: PendingVoices) -> list[SpeakerTurn]:
        """Label the runs that have been heard, and keep them; return their turns."""
        assert self._memory is not None
        runs, pending.runs = pending.runs, []
        turns = self._memory.label(runs) if runs else []
        if self._history:
            self._history.tell(runs, turns)
        if turns:
            self._last = max(turns, key=lambda turn: turn.span.end)
        return turns
