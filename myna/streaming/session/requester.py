"""The requests of one channel, collected until they are taken: speech probabilities, decodes and their cancellations."""

from __future__ import annotations

from myna.streaming.audio.buffer import AudioBuffer
from myna.streaming.events import Span
from myna.streaming.policy import Options
from myna.streaming.session.jobs import InferenceJob, JobKind, Transcript
from myna.streaming.session.languages import ChannelLanguage
from myna.streaming.session.pending import NEVER, Decode, FollowedUtterance, Retries
from myna.streaming.session.requests import Cancel, Detect, Remind, Request, Revise, Submit, SubmitVoices
from myna.streaming.speakers.history import Past
from myna.streaming.speakers.runs import WindowPart


class Requester:
    """Cuts audio out of the channel's buffer, numbers the jobs, and keeps the requests in order.

    `name` is the channel's; job ids are made of it, so it must differ from every other live channel's.
    """

    def __init__(self, name: str, buffer: AudioBuffer, options: Options, language: ChannelLanguage) -> None:
        self.options = options
        """The client's options for every job from here on."""
        self._language = language
        self.due = 0.0
        """The wall time at which the newest audio should be decoded (see `InferenceJob.due`)."""
        self._name = name
        self._drafts: dict[
            bool, tuple[int, ...]
        ] = {}  # the tokens of the last interim and final transcripts, newest last
        self._buffer = buffer
        self._jobs = 0
        self._requests: list[Request] = []

    def holds(self, sample: int) -> bool:
        """Return whether the audio from this sample on is in memory."""
        return sample >= self._buffer.start

    def detect(self, channel: int, windows: Span) -> None:
        """Request speech probabilities for a whole number of windows."""
        self._requests.append(Detect(channel, windows.start, self._buffer.cut(windows)))

    def decode(self, audio: Span, kind: JobKind, *, after_s: float = 0.0, retries: Retries = NEVER) -> Decode:
        """Request a decode of `audio`, due `after_s` seconds later than the newest audio.

        `retries` are where the decode is repeated while its words are not credible.
        """
        return Decode(audio, self._submit(audio, kind, self.due + after_s), kind, retries)

    def decode_step(
        self,
        utterance: FollowedUtterance,
        audio: Span,
        kind: JobKind,
        *,
        after_s: float = 0.0,
        retries: Retries = NEVER,
    ) -> Decode:
        """Request a decode of `audio` as the next step of a followed utterance, with what the engine lacks of it."""
        decode = Decode(audio, "", kind, retries, utterance)
        self.send_step(decode, after_s=after_s)
        return decode

    def send_step(self, decode: Decode, *, after_s: float = 0.0) -> None:
        """Submit a step with the audio that the engine lacks: the first time, or again because it lacks more than assumed."""
        utterance = decode.utterance
        assert utterance is not None
        held, since = utterance.heard - utterance.start, decode.audio.start - utterance.start
        fresh = Span(utterance.heard, max(utterance.heard, decode.audio.end))
        decode.job_id = self._submit(
            fresh, decode.kind, self.due + after_s, utterance=utterance.number, held=held, since=since
        )

    def voices(self, audio: Span, part: WindowPart) -> str:
        """Request the voices of `audio`; return the job's id."""
        self._jobs += 1
        job_id = f"{self._name}/{self._jobs}"
        kind, pcm = JobKind.FINAL, self._buffer.cut(audio)
        self._requests.append(SubmitVoices(InferenceJob(job_id, job_id, kind, pcm, self.due, window=part)))
        return job_id

    def remind(self, channel: int, number: int, after_s: float) -> None:
        """Request a reminder that a segment's words wait for its voices no longer."""
        self._requests.append(Remind(channel, number, after_s))

    def revise(self, past: Past) -> None:
        """Request the speakers of a whole stream."""
        self._requests.append(Revise(past))

    def repeat(self, decode: Decode, *, after_s: float = 0.0) -> None:
        """Request a decode once more, in its next window."""
        assert decode.next_window is not None
        decode.repeat(self._submit(decode.next_window, decode.kind, self.due + after_s))

    def cancel(self, decode: Decode) -> None:
        """Cancel a decode, unless it has been answered."""
        if decode.outcome is None:
            self._requests.append(Cancel(decode.job_id))

    def noted(self, transcript: Transcript, *, interim: bool) -> Transcript:
        """Return a transcript with the channel's language, and use its tokens in the drafts of later jobs."""
        if transcript.tokens:
            self._drafts.pop(interim, None)
            self._drafts[interim] = transcript.tokens
        return self._language.stamped(transcript)

    def take(self) -> list[Request]:
        """Return the requests made since the last call."""
        requests, self._requests = self._requests, []
        return requests

    def _submit(
        self, audio: Span, kind: JobKind, due: float, *, utterance: int = 0, held: int = 0, since: int = 0
    ) -> str:
        self._jobs += 1
        job_id = f"{self._name}/{self._jobs}"
        pcm = self._buffer.cut(audio)
        options = self._language.options(self.options)
        draft = tuple(token for tokens in reversed(self._drafts.values()) for token in tokens)
        job = InferenceJob(job_id, self._name, kind, pcm, due, options, utterance, held, since, draft=draft)
        self._requests.append(Submit(job))
        return job_id
