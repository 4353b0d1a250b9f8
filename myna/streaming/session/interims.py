"""When the open segment is decoded for an interim transcript, and which of these decodes are awaited. Pure."""

from __future__ import annotations

from myna.streaming.events import Span, samples
from myna.streaming.policy import Policy
from myna.streaming.session.credibility import is_sure
from myna.streaming.session.decode_window import DecodeWindow
from myna.streaming.session.following import Following
from myna.streaming.session.jobs import JobKind, Outcome, Transcript
from myna.streaming.session.pending import Decode
from myna.streaming.session.requester import Requester
from myna.streaming.speech.segmenter import Segmenter

FIRST_INTERIM = samples(0.5)
"""Speech before the first interim decode of an utterance: a decode of less is a guess."""
RETRY = samples(0.25)
"""Speech after which another interim decode is due when the last one contained no word."""


class InterimScheduler:
    """Requests one channel's interim decodes. An answered decode supersedes all earlier ones.

    With `following` they are steps of the open utterance: each job sends only the audio that the engine does not hold yet.
    """

    def __init__(
        self,
        policy: Policy,
        requester: Requester,
        window: DecodeWindow,
        segmenter: Segmenter,
        following: Following | None,
    ) -> None:
        self._requester = requester
        self._window = window
        self._segmenter = segmenter
        self._following = following
        self._awaited: dict[str, Decode] = {}  # by job id, the newest last
        self._decoded_until = 0  # where the audio of the last interim decode ends, or where it is taken to end
        self._repeated = False  # whether an interim decode of the open segment has been repeated
        self.adopt(policy)

    def adopt(self, policy: Policy) -> None:
        """Use this policy for later decodes."""
        self._enabled = policy.interim_every_s is not None
        self._every = samples(policy.interim_every_s or 0.0)
        self._gate = policy.gate

    @property
    def awaited(self) -> list[Decode]:
        """The decodes that have not been answered, oldest first."""
        return list(self._awaited.values())

    def begin(self, speech_start: int) -> None:
        """Schedule the first interim decode of an utterance."""
        self._decoded_until = speech_start + FIRST_INTERIM - self._every

    def request_if_due(self) -> None:
        """Request an interim decode if the open segment has enough speech that no interim decode covers."""
        start, now = self._segmenter.speech_start, self._segmenter.position
        enough = now - self._decoded_until >= self._every
        if self._enabled and start is not None and enough and now - start >= FIRST_INTERIM:
            self._request(start, now)
            self._decoded_until = now

    def adopt_decode(self, decode: Decode) -> bool:
        """Take over the decode of a pause that speech ended, if half of the interim interval has passed; return whether."""
        waited = self._segmenter.position - self._decoded_until
        if decode.outcome is not None or self._awaited or not self._enabled or 2 * waited < self._every:
            return False
        self._awaited[decode.job_id] = decode
        self._decoded_until = decode.audio.end
        return True

    def awaits(self, job_id: str) -> bool:
        """Return whether a job is an interim decode that has not been answered."""
        return job_id in self._awaited

    def answer(self, job_id: str, outcome: Outcome, *, may_repeat: bool) -> tuple[Span, Transcript] | None:
        """Take the outcome of an awaited decode; return the audio and the transcript to emit as an interim, if there are any.

        Earlier decodes are no longer awaited. `may_repeat` allows a second decode in another window.
        """
        job_ids = list(self._awaited)
        superseded = [self._awaited.pop(older) for older in job_ids[: job_ids.index(job_id) + 1]]
        decode = superseded[-1]
        if self._following is not None and self._following.answer(decode, outcome):
            self._awaited = {decode.job_id: decode, **self._awaited}
        if not isinstance(outcome, Transcript) or (may_repeat and self._repeats(decode, outcome)):
            return None
        return decode.audio, outcome

    def retry_soon(self, audio_end: int) -> None:
        """Make the next decode due `RETRY` after the end of one that gave no words to emit."""
        self._decoded_until = min(self._decoded_until, audio_end + RETRY - self._every)

    def close_segment(self) -> None:
        """Cancel the awaited decodes: the segment has been cut."""
        for decode in self._awaited.values():
            self._requester.cancel(decode)
        self._awaited.clear()
        self._repeated = False

    def _request(self, start: int, now: int) -> None:
        if self._following is not None:
            decode = self._following.step(start, self._following.covered(start, now), JobKind.INTERIM)
        else:
            decode = self._requester.decode(self._window.of_interim(start, now), JobKind.INTERIM)
        self._awaited[decode.job_id] = decode

    def _repeats(self, decode: Decode, outcome: Transcript) -> bool:
        """Repeat a decode of sure speech that fails the gate, in another window; return whether it is repeated.

        At most one decode of a segment is repeated: if that does not help, another repetition does not either.
        """
        segment = self._segmenter.open_segment
        if segment is None or segment.speech is None or self._repeated:
            return False
        if self._gate.passes(outcome.log_probability, segment.voice) or not is_sure(segment, self._gate):
            return False
        audio = self._window.of_repeated_interim(segment.speech.start, decode.audio)
        if audio is None:
            return False
        self._repeated = True
        repeat = self._requester.decode(audio, JobKind.INTERIM)
        repeat.kind = decode.kind
        self._awaited[repeat.job_id] = repeat
        return True
