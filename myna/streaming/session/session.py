"""One channel of a live stream, without I/O: audio and results go in, requests and events come out.

The Finals of a session tile its timeline. Results may arrive in any order; events leave in the order of the timeline. The
session does not see a worker fail: the caller keeps each job with its audio until the job is answered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from myna.streaming.audio.buffer import AudioBuffer
from myna.streaming.events import (
    Cause,
    Configured,
    Event,
    Final,
    Progress,
    Span,
    SpeechStarted,
    SpeechStopped,
    Trigger,
    TurnEager,
    samples,
)
from myna.streaming.policy import Options, Policy
from myna.streaming.session.decode_window import DecodeWindow, fitted_for
from myna.streaming.session.final_decodes import FinalDecodes
from myna.streaming.session.following import Following
from myna.streaming.session.interim_text import InterimText
from myna.streaming.session.interims import InterimScheduler
from myna.streaming.session.jobs import EngineInfo, Outcome, Transcript
from myna.streaming.session.languages import ChannelLanguage
from myna.streaming.session.pending import Barrier, Change, Waiting
from myna.streaming.session.requester import Requester
from myna.streaming.session.requests import Cancel, ReleaseUtterance, Request
from myna.streaming.session.speculation import Speculation
from myna.streaming.session.timeline import Timeline
from myna.streaming.session.turn_control import TurnControl
from myna.streaming.session.voices import ChannelSpeakers
from myna.streaming.speakers.history import SpeakersRevised
from myna.streaming.speakers.labelling import Distances
from myna.streaming.speech.segmenter import WINDOW, ClosedSegment, Decision, Gap, Onset, Pause, Resumed, Segmenter
from myna.streaming.speech.turns import Over

_KEPT = 2 * WINDOW
"""Extra audio kept, since cuts are rounded to windows."""


class Session:
    """One channel. `name` must be unique among the live sessions, since job ids are derived from it."""

    def __init__(
        self,
        name: str,
        policy: Policy,
        options: Options,
        engine: EngineInfo,
        *,
        channel: int = 0,
        distances: Distances | None = None,
    ) -> None:
        self._name = name
        self._channel = channel
        self._engine = engine
        self._policy = policy = fitted_for(policy, options, engine)
        self._buffer = AudioBuffer()
        self._segmenter = Segmenter(policy)
        self._language = ChannelLanguage()
        self._requester = Requester(name, self._buffer, options, self._language)
        self._speakers = ChannelSpeakers(self._requester, channel, distances, policy)
        self._timeline = Timeline(channel, self._speakers)
        self._window = DecodeWindow(policy, samples(engine.longest_segment_s), self._segmenter, self._buffer)
        self._following: Following | None = None
        if engine.incremental:
            self._following = Following(self._requester, self._window, self._segmenter, engine)
        self._interims = InterimScheduler(policy, self._requester, self._window, self._segmenter, self._following)
        self._interim_text = InterimText(channel, self._segmenter)
        self._finals = FinalDecodes(self._requester, self._window, self._following, live=policy.live)
        self._speculation = Speculation(policy.gate, self._requester, self._segmenter, self._timeline)
        self._turns = TurnControl(policy, channel, self._segmenter, self._timeline, self._speculation)
        self._barriers: deque[Barrier | Change] = deque()
        self._detected = 0  # the samples whose speech probabilities have been requested
        self._progress_at = 0
        self._speaking = False  # whether `SpeechStarted` has been emitted and `SpeechStopped` has not
        self._complete = False  # whether the end of the stream has been reached
        self._events: list[Event] = []

    @property
    def received(self) -> int:
        """Samples pushed so far."""
        return self._buffer.end

    @property
    def backlog(self) -> int:
        """The received samples that are neither covered by a Final nor part of the open segment."""
        oldest, position = self._timeline.oldest, self._segmenter.position
        return self._buffer.end - (position if oldest is None else min(oldest, position))

    @property
    def audio_held(self) -> int:
        """The samples of audio in memory."""
        return len(self._buffer)

    def push(self, pcm: bytes, due: float) -> None:
        """Take the next int16 samples; `due` is the wall time at which to decode them (see `InferenceJob.due`)."""
        self._buffer.append(pcm)
        self._requester.due = due
        end = self.received - (self.received - self._detected) % WINDOW
        if end > self._detected:
            self._requester.detect(self._channel, Span(self._detected, end))
            self._detected = end

    def flush(self, token: str) -> None:
        """Make everything received so far final, then acknowledge the token."""
        self._set_barrier(Barrier(self.received, Cause.FLUSH, token))

    def end(self) -> None:
        """Make everything received final; nothing may be pushed afterwards."""
        self._set_barrier(Barrier(self.received, Cause.END))

    def discard(self, token: str) -> None:
        """Discard everything received that is not final yet, then acknowledge the token."""
        self._set_barrier(Barrier(self.received, Cause.DISCARD, token))

    def end_turn(self) -> None:
        """End the turn here, at the client's request."""
        self._set_barrier(Barrier(self.received, Cause.ENDPOINT, trigger=Trigger.CLIENT))

    def stall(self) -> None:
        """End the utterance and make everything received final, since no audio arrives."""
        unprocessed = self.received - self._segmenter.position >= WINDOW
        if self._segmenter.in_utterance or unprocessed:
            self._set_barrier(Barrier(self.received, Cause.ENDPOINT))

    def configure(self, policy: Policy, options: Options, token: str | None = None) -> None:
        """Apply this policy and these options to the audio that follows; acknowledge the token."""
        self._barriers.append(Change(self.received, policy, options, token))
        self._pass_reached()

    def on_vad(self, start: int, probabilities: Sequence[float]) -> None:
        """Take the probabilities that answer the `Detect` at `start`. Answers must come in order."""
        if start != self._segmenter.position:
            raise ValueError(f"voice activity starts at sample {start}; expected sample {self._segmenter.position}")
        for probability in probabilities:  # one at a time: decisions must not depend on how windows were batched
            self._pass_reached()
            if decisions := self._segmenter.feed(probability):
                self._apply(decisions)
            if self._turns.enabled:
                self._consider_turn()
            self._emit_progress()
        self._pass_reached()
        if self._segmenter.speech_start is not None:
            self._speakers.keep_up(self._segmenter.speech_start, self._segmenter.position)
        if self._speculation.decode is None and not self._timeline.behind:  # a speculative decode is an interim, too
            self._interims.request_if_due()
        self._drain()

    def on_result(self, job_id: str, outcome: Outcome) -> None:
        """Take a decode's outcome, in any order. The outcome of a cancelled decode is ignored."""
        interim = None
        if self._speakers.answer(job_id, outcome):
            self._drain()
            return
        if isinstance(outcome, Transcript):
            outcome = self._requester.noted(outcome, interim=self._interims.awaits(job_id))
        if self._interims.awaits(job_id):
            interim = self._interims.answer(job_id, outcome, may_repeat=not self._timeline.behind)
        else:
            interim = self._on_final_decode(job_id, outcome)
        if interim:
            self._emit_interim(*interim)
        self._drain()
        if self._turns.enabled:
            self._consider_turn()
            self._drain()

    def on_reminder(self, number: int) -> None:
        """Take note that the words of a segment wait for its voices no longer (see `Remind`)."""
        self._speakers.give_up(number)
        self._drain()

    def on_revised(self, revision: SpeakersRevised) -> None:
        """Take the speakers of the whole stream (see `Revise`)."""
        self._speakers.revised(revision)
        self._drain()

    def take(self) -> tuple[list[Request], list[Event]]:
        """Return the requests and events since the last call."""
        events, self._events = self._events, []
        return self._requester.take(), events

    def abandon(self) -> list[Request]:
        """Return the requests that cancel everything outstanding, since the client has left."""
        decodes = [*self._timeline.decodes, self._speculation.decode, *self._interims.awaited]
        awaited = [decode for decode in decodes if decode and decode.outcome is None]
        cancels: list[Request] = [Cancel(decode.job_id) for decode in awaited]
        cancels += self._speakers.abandon()
        followed = self._following is not None and self._following.has_followed
        return [*cancels, ReleaseUtterance(self._name)] if followed else cancels

    def _on_final_decode(self, job_id: str, outcome: Outcome) -> tuple[Span, Transcript] | None:
        """Take the outcome of a final decode; return the audio and the transcript to emit as an interim, if there are any."""
        speculative = self._speculation.awaits(job_id)
        decode = self._speculation.decode if speculative else self._timeline.decode_of(job_id)
        if decode is None or (self._following is not None and self._following.answer(decode, outcome)):
            return None
        if speculative:
            return self._speculation.answer(outcome)
        decode.outcome = outcome
        return None

    def _set_barrier(self, barrier: Barrier) -> None:
        self._barriers.append(barrier)
        self._pass_reached()
        self._drain()

    def _pass_reached(self) -> None:
        while self._barriers and self._segmenter.position >= self._barriers[0].at // WINDOW * WINDOW:
            match self._barriers.popleft():
                case Barrier() as barrier:
                    self._pass(barrier)
                case Change() as change:
                    self._adopt(change)

    def _pass(self, barrier: Barrier) -> None:
        if barrier.at > self._segmenter.open_start or self._segmenter.speech_start is not None:
            self._apply([self._segmenter.close(barrier.at, barrier.cause)])
        self._complete = barrier.cause is Cause.END
        if barrier.cause is Cause.DISCARD:
            self._leave_utterance()
            self._window.not_before = barrier.at
            self._turns.forget()
            self._end_followed()
        ends_turn = barrier.cause is Cause.ENDPOINT
        self._timeline.append(self._turns.end_at(barrier) if ends_turn else barrier)

    def _leave_utterance(self) -> None:
        """Make the next speech begin another utterance."""
        self._segmenter.in_utterance = self._speaking = False

    def _end_followed(self) -> None:
        """Make the engine follow another utterance from the next step on."""
        if self._following is not None:
            self._following.end()

    def _adopt(self, change: Change) -> None:
        if change.options != self._requester.options:
            self._requester.options = change.options
            self._end_followed()  # the engine followed the utterance with the old options
        policy = fitted_for(change.policy, change.options, self._engine)
        if policy != self._policy:
            endless = self._policy.patience_s == 0
            if endless and policy.patience_s and self._segmenter.speech_start is None:
                self._leave_utterance()
            self._policy = policy
            for part in (self._segmenter, self._window, self._interims, self._turns):
                part.adopt(policy)
            self._speculation.gate = policy.gate
        if change.token is not None:
            self._events.append(Configured(channel=self._channel, token=change.token))

    def _apply(self, decisions: Sequence[Decision]) -> None:
        for decision in decisions:
            match decision:
                case Onset(at):
                    self._interims.begin(at)
                    self._speaking = True
                    self._events.append(SpeechStarted(channel=self._channel, at=at))
                case Pause(speech) if self._policy.live:
                    audio = self._finals.window(speech)
                    self._speculation.decode = self._finals.request(speech, audio, after_s=self._segmenter.ahead_s)
                    self._speakers.request_ahead(speech, self.received)
                case Resumed():
                    self._on_resumed()
                case ClosedSegment():
                    self._on_closed(decision)
                case Gap():
                    self._timeline.append(decision)

    def _on_resumed(self) -> None:
        self._events += self._turns.resume()
        decode = self._speculation.decode
        if decode and self._interims.adopt_decode(decode):
            self._speculation.release()
        else:
            self._speculation.drop()

    def _on_closed(self, closed: ClosedSegment) -> None:
        self._interims.close_segment()
        if closed.cause is Cause.ENDPOINT and self._speaking:
            self._speaking = False
            self._events.append(SpeechStopped(channel=self._channel, at=closed.span.end))
        decode = None
        if closed.speech and closed.cause is not Cause.DISCARD:
            audio = self._finals.window(closed.speech)
            decode = self._speculation.promote(audio) or self._finals.request(closed.speech, audio)
            self._window.last_speech_end = closed.speech.end
        if self._following is not None:
            self._following.close_segment()
        self._speculation.drop()
        voices = self._speakers.request(closed.speech, self.received) if closed.speech and decode else None
        self._timeline.append(Waiting(closed, decode, voices))
        if end := self._turns.end_if_too_long(closed):
            self._timeline.append(end)

    def _consider_turn(self) -> None:
        """End the turn, or emit that it may be over, if the silence is long enough for the words so far."""
        if self._complete:
            return
        match self._turns.assess():
            case TurnEager() as eager:
                self._events.append(eager)
            case Over() as over:
                self._apply([self._segmenter.end_utterance()])
                if end := self._turns.end(over, self._segmenter.open_start):
                    self._timeline.append(end)

    def _emit_progress(self) -> None:
        every = self._policy.progress_s
        if every is not None and self._segmenter.position - self._progress_at >= samples(every):
            self._progress_at = self._segmenter.position
            self._events.append(
                Progress(channel=self._channel, at=self._progress_at, confidence=self._turns.confidence)
            )

    def _emit_interim(self, audio: Span, transcript: Transcript) -> None:
        """Emit a decode of the open segment as an interim."""
        if self._policy.interim_every_s is None or self._timeline.behind:
            return
        interim = None
        if self._policy.gate.passes(transcript.log_probability, self._segmenter.voice):
            interim = self._interim_text.update(audio, transcript.words, self._timeline.words)
        if interim is None:
            self._interims.retry_soon(audio.end)
            return
        self._events.append(self._speakers.provisional(interim))
        if self._turns.enabled:
            self._events += self._timeline.begin_turn(interim.words)
        gap_ms = self._policy.gap_ms
        wordless = audio.end - samples(interim.words[-1].end) if interim.words else 0
        if gap_ms and wordless >= samples(gap_ms / 1000) and self._segmenter.in_speech:
            # The VAD takes noise for speech and does not detect the gap; the times of the words show it.
            self._apply([self._segmenter.part(audio.end, Cause.GAP), Gap()])

    def _drain(self) -> None:
        """Emit what is complete, then drop the audio that is not needed any more."""
        events = self._timeline.drain(self._policy.gate, turns=self._turns.enabled)
        finals = [event for event in events if isinstance(event, Final)]
        if finals:
            self._interim_text.clear()
        for final in finals:
            self._language.learn(final.words)
        self._turns.count(finals)
        self._events += events
        if self._timeline.to_repeat is not None:
            self._requester.repeat(self._timeline.to_repeat)
        self._speakers.remind(self._timeline.held)
        self._forget()

    def _forget(self) -> None:
        """Drop the audio and the words that no later decode can cover."""
        speech_start = self._segmenter.speech_start
        needed = self._segmenter.position if speech_start is None else speech_start
        needed -= max(self._window.reach, self._speakers.reach) + _KEPT
        for decode in [*self._timeline.decodes, self._speculation.decode]:
            if decode:
                needed = min(needed, decode.earliest)
        followed = self._following.retained_from() if self._following is not None else None
        if followed is not None:
            needed = min(needed, followed)
        self._buffer.drop_before(needed)
        self._timeline.forget(self._buffer.start)
