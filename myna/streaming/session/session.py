"""One channel of a live stream, without I/O: audio and results go in, requests and events come out.

The Finals of a session tile its timeline. Results are taken in any order; events leave in the order of the timeline. What
happens to a decode on its way is not seen here: its job, audio and all, is kept until it is answered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from myna.streaming.session.decode_window import INTERIM_OVERLAP, DecodeWindow, fitted
from myna.streaming.session.credibility import doubts, is_sure
from myna.streaming.session.jobs import EngineInfo, InferenceJob, JobKind, Missing, Outcome, Transcript
from myna.streaming.events import (
    Cause,
    Configured,
    Event,
    Final,
    Progress,
    Span,
    SpeechStarted,
    SpeechStopped,
    Interim,
    Trigger,
    TurnEager,
    TurnResumed,
    Word,
    samples,
    seconds,
)
from myna.streaming.session.following import Following
from myna.streaming.session.hypothesis import agreed, in_order, new_words
from myna.streaming.session.pending import Barrier, Change, Decode, TurnEnd, Waiting
from myna.streaming.policy import Options, Policy
from myna.streaming.session.requests import Cancel, Detect, ReleaseUtterance, Request, Submit
from myna.streaming.speech.segmenter import WINDOW, ClosedSegment, Decision, Gap, Onset, Pause, Resumed, Segmenter
from myna.streaming.audio.buffer import AudioBuffer
from myna.streaming.session.timeline import Timeline
from myna.streaming.speech.turns import Eager, Over, TurnDetector

FIRST_INTERIM = samples(0.5)
"""Speech heard before the first interim transcript of an utterance: less gives guesses."""
RETRY = samples(0.25)
"""Speech after which another interim decode is due when the last one heard no word."""
_KEPT = 2 * WINDOW
"""Slack of the audio kept, for windows being rounded."""


class Session:
    """One channel. `name` must differ from every other live session's, since job ids are made of it."""

    def __init__(self, name: str, policy: Policy, options: Options, engine: EngineInfo, *, channel: int = 0) -> None:
        self._name = name
        self._channel = channel
        self._engine = engine
        self._policy = fitted(policy, engine)
        self._options = options
        self._turns = TurnDetector(self._policy.turns) if self._policy.turns else None
        self._progress_at = 0
        self._segmenter = Segmenter(self._policy)
        self._decode_window = DecodeWindow(self._policy, samples(engine.longest_segment_s), self._segmenter)
        self._buffer = AudioBuffer()
        self._asked = 0  # samples for which voice activity was asked
        self._barriers: deque[Barrier | Change] = deque()
        self._timeline = Timeline(channel)
        self._speculative: Decode | None = None
        self._interims: dict[str, Decode] = {}  # asked for, the newest last; a waiting one is superseded by the next
        self._interim_at = 0
        self._interim_repeated = False  # in the open segment
        self._follows = engine.incremental
        self._following = Following()
        self._interim_words: tuple[Word, ...] = ()
        self._speaking = False  # its start has been told, and its end has not
        self._complete = False  # nothing follows
        self._due = 0.0
        self._count = 0
        self._requests: list[Request] = []
        self._events: list[Event] = []

    @property
    def received(self) -> int:
        """Samples pushed so far."""
        return self._buffer.end

    @property
    def backlog(self) -> int:
        """Samples received that are neither accounted for by a Final nor part of the open segment."""
        oldest, position = self._timeline.oldest, self._segmenter.position
        return self.received - (position if oldest is None else min(oldest, position))

    @property
    def audio_held(self) -> int:
        """Samples of audio in memory."""
        return len(self._buffer)

    def push(self, pcm: bytes, due: float) -> None:
        """Take the next int16 samples; `due` is when their decode ought to start (see `InferenceJob.due`)."""
        self._buffer.append(pcm)
        self._due = due
        whole = (self.received - self._asked) // WINDOW * WINDOW
        if whole:
            self._requests.append(
                Detect(self._channel, self._asked, self._buffer.cut(Span(self._asked, self._asked + whole)))
            )
            self._asked += whole

    def flush(self, token: str) -> None:
        """Make everything received so far final, then acknowledge with the token."""
        self._reach(Barrier(self.received, Cause.FLUSH, token))

    def end(self) -> None:
        """Make everything received final; nothing may be pushed afterwards."""
        self._reach(Barrier(self.received, Cause.END))

    def discard(self, token: str) -> None:
        """Decode nothing of what is not final yet, then acknowledge with the token."""
        self._reach(Barrier(self.received, Cause.DISCARD, token))

    def end_turn(self) -> None:
        """End the turn here: the client says that it is over."""
        self._reach(Barrier(self.received, Cause.ENDPOINT, trigger=Trigger.CLIENT))

    def stall(self) -> None:
        """Take the absence of audio for silence: what was said so far is final, and its utterance over."""
        unheard = self.received - self._segmenter.position >= WINDOW
        if self._segmenter.in_utterance or unheard:
            self._reach(Barrier(self.received, Cause.ENDPOINT))

    def configure(self, policy: Policy, options: Options, token: str | None = None) -> None:
        """Cut by this policy, and decode with these options, what comes from here on; acknowledge with the token."""
        self._barriers.append(Change(self.received, policy, options, token))
        self._pass_reached()

    def on_vad(self, start: int, probabilities: Sequence[float]) -> None:
        """Take the probabilities asked for with the `Detect` that began at `start`; they must come in order."""
        if start != self._segmenter.position:
            raise ValueError(f"voice activity at sample {start} given, {self._segmenter.position} expected")
        for probability in probabilities:  # one by one: what is decided must not depend on how windows were batched
            self._pass_reached()
            self._decide(self._segmenter.feed(probability))
            self._consider_turn()
            self._tell_progress()
        self._pass_reached()
        self._maybe_interim()
        self._drain()

    def on_result(self, job_id: str, outcome: Outcome) -> None:
        """Take a decode's outcome, in any order; one that is no longer wanted is dropped."""
        if job_id in self._interims:
            interim = self._interims[job_id]
            for older in list(self._interims)[: list(self._interims).index(job_id) + 1]:
                del self._interims[older]
            self._on_interim(interim, outcome)
        elif self._speculative and self._speculative.job_id == job_id:
            self._speculative.outcome = outcome
            self._on_speculative(self._speculative, outcome)
        else:
            self._timeline.answer(job_id, outcome)
        self._drain()
        if self._turns is not None:
            self._consider_turn()
            self._drain()

    def take(self) -> tuple[list[Request], list[Event]]:
        """Return what has to be done and told since the last call."""
        requests, events = self._requests, self._events
        self._requests, self._events = [], []
        return requests, events

    def abandon(self) -> list[Request]:
        """Return the cancellations of everything asked for: nobody is listening any more."""
        decodes = [*self._timeline.decodes, self._speculative, *self._interims.values()]
        open_decodes = [decode for decode in decodes if decode and decode.outcome is None]
        cancels: list[Request] = [Cancel(decode.job_id) for decode in open_decodes]
        return [*cancels, ReleaseUtterance(self._name)] if self._following.number else cancels

    def _reach(self, barrier: Barrier) -> None:
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
            self._decide([self._segmenter.close(barrier.at, barrier.cause)])
        self._complete = barrier.cause is Cause.END
        if barrier.cause is Cause.DISCARD:
            self._leave_utterance()
            self._decode_window.not_before = barrier.at
            if self._turns is not None:
                self._turns.end()
        if barrier.cause is not Cause.ENDPOINT:
            self._timeline.append(barrier)
        elif self._turns is None:
            self._timeline.append(Gap())
        else:
            confidence = self._turns.confidence
            self._turns.end()
            self._timeline.append(TurnEnd(barrier.at, barrier.trigger, confidence))

    def _leave_utterance(self) -> None:
        """Take what is said from here on for the beginning of another."""
        self._segmenter.in_utterance = self._speaking = False

    def _adopt(self, change: Change) -> None:
        if change.options != self._options:
            self._options = change.options
            self._following.close()  # what the engine has followed it has followed with the old ones
        policy = fitted(change.policy, self._engine)
        if policy != self._policy:
            endless = self._policy.patience_s == 0
            if endless and policy.patience_s and self._segmenter.speech_start is None:
                self._leave_utterance()
            self._policy = policy
            self._segmenter.adopt(policy)
            self._decode_window.adopt(policy)
            if policy.turns is None or self._turns is None:
                self._turns = TurnDetector(policy.turns) if policy.turns else None
            else:
                self._turns.policy = policy.turns
        if change.token is not None:
            self._events.append(Configured(channel=self._channel, token=change.token))

    def _decide(self, decisions: Sequence[Decision]) -> None:
        for decision in decisions:
            match decision:
                case Onset(at):
                    self._interim_at = at + FIRST_INTERIM - self._interim_every()
                    self._speaking = True
                    self._events.append(SpeechStarted(channel=self._channel, at=at))
                case Pause(speech) if self._policy.live:
                    audio = self._decode_window.of_final(speech, self._buffer.start)
                    self._speculative = self._decode_final(speech, audio, self._due + self._segmenter.ahead_s)
                case Resumed():
                    self._on_resumed()
                case ClosedSegment():
                    self._on_closed(decision)
                case Gap():
                    self._timeline.append(decision)

    def _on_resumed(self) -> None:
        if self._turns is not None and self._turns.resume():
            self._events.append(TurnResumed(channel=self._channel, at=self._segmenter.position))
        speculative, waited = self._speculative, self._segmenter.position - self._interim_at
        due = self._policy.interim_every_s is not None and 2 * waited >= self._interim_every()
        if speculative and speculative.outcome is None and not self._interims and due:
            self._interims[speculative.job_id] = speculative  # under way already, and as good as a new interim
            self._speculative = None
            self._interim_at = speculative.audio.end
        else:
            self._drop_speculative()

    def _on_closed(self, closed: ClosedSegment) -> None:
        self._drop_interim()
        self._interim_repeated = False
        decode = None
        if closed.cause is Cause.ENDPOINT and self._speaking:
            self._speaking = False
            self._events.append(SpeechStopped(channel=self._channel, at=closed.span.end))
        if closed.speech and closed.cause is not Cause.DISCARD:
            audio = self._decode_window.of_final(closed.speech, self._buffer.start)
            if self._speculative and self._speculative.planned == audio:
                decode, self._speculative = self._speculative, None
            else:
                decode = self._decode_final(closed.speech, audio, self._due)
            self._decode_window.last_speech_end = closed.speech.end
        self._drop_speculative()
        self._following.close()
        self._timeline.append(Waiting(closed, decode))
        if self._turns is not None and closed.cause is Cause.LENGTH and closed.speech:
            self._bound_turn(self._turns, closed.speech, closed.span.end)

    def _bound_turn(self, turns: TurnDetector, speech: Span, at: int) -> None:
        """End the turn at `at`, where its segment with this speech was cut, if it has become too long."""
        if turns.is_too_long(speech, at):
            self._timeline.append(TurnEnd(at, Trigger.TIMEOUT, turns.confidence))
            turns.end()

    def _consider_turn(self) -> None:
        """End the turn, or say that it may be over, if the silence is long enough for what was said."""
        if self._turns is None or self._complete or not self._segmenter.in_utterance:
            return
        if not self._segmenter.silence:
            self._turns.confidence = 0.0
            return
        words = self._paused_words()
        said = None if words is None else [*self._timeline.turn_words, *words]
        match self._turns.look(self._segmenter.silence, said):
            case Eager(confidence):
                at = self._segmenter.position
                self._events.append(TurnEager(channel=self._channel, at=at, words=words or (), confidence=confidence))
            case Over(trigger, confidence):
                self._decide([self._segmenter.end_utterance()])
                # Without words in it a turn may be open still: what was heard as an interim may have been taken back.
                if trigger is not None or self._timeline.in_turn:
                    end = TurnEnd(self._segmenter.position, trigger or Trigger.CONFIDENCE, confidence)
                    self._timeline.append(end)

    def _paused_words(self) -> tuple[Word, ...] | None:
        """Return the words of the open segment, as they will be final if speech does not go on; None: not decoded yet."""
        if self._timeline.behind:
            return None
        start = self._segmenter.speech_start
        if start is None:
            return ()
        speculative = self._speculative
        if speculative is None or speculative.outcome is None:
            return None
        if speculative.words is None:
            speculative.words = self._words_if_over(start, speculative)
        return speculative.words

    def _words_if_over(self, start: int, speculative: Decode) -> tuple[Word, ...]:
        return self._timeline.words_of(Waiting(self._closed_here(start), speculative), self._policy.gate)

    def _closed_here(self, start: int) -> ClosedSegment:
        """Return the open segment, whose speech begins at `start`, as it would be if it ended here."""
        segmenter = self._segmenter
        so_far, speech = Span(segmenter.open_start, segmenter.position), Span(start, segmenter.speech_end)
        return ClosedSegment(so_far, speech, segmenter.voice, Cause.ENDPOINT, segmenter.pauses)

    def _on_speculative(self, speculative: Decode, outcome: Outcome) -> None:
        """Tell what the pause's decode heard, or repeat it at once if it is not credible."""
        start = self._segmenter.speech_start
        if start is not None and not self._timeline.behind:
            speculative.words = self._words_if_over(start, speculative)
            if doubts(self._closed_here(start), speculative, speculative.words, self._policy.gate):
                self._repeat(speculative, self._due + self._segmenter.ahead_s)
                return
        if isinstance(outcome, Transcript):
            self._tell(speculative.audio, outcome)

    def _repeat(self, decode: Decode, due: float) -> None:
        """Ask for a decode once more, in its other window."""
        assert decode.again is not None
        decode.repeat(self._submit(decode.again, decode.kind, due))

    def _tell_progress(self) -> None:
        every = self._policy.progress_s
        if every is not None and self._segmenter.position - self._progress_at >= samples(every):
            self._progress_at = self._segmenter.position
            confidence = self._turns.confidence if self._turns else 0.0
            self._events.append(Progress(channel=self._channel, at=self._progress_at, confidence=confidence))

    def _interim_every(self) -> int:
        return samples(self._policy.interim_every_s or 0.0)

    def _maybe_interim(self) -> None:
        started, now = self._segmenter.speech_start, self._segmenter.position
        if (
            self._policy.interim_every_s is None
            or started is None
            or self._speculative  # says the same, and is told as an interim too
            or self._timeline.behind
            or now - self._interim_at < self._interim_every()
            or now - started < FIRST_INTERIM
        ):
            return
        self._ask_interim(started, now)
        self._interim_at = now

    def _ask_interim(self, started: int, now: int) -> None:
        if not self._follows:
            audio = self._decode_window.of_interim(started, now, self._buffer.start)
            self._note_interim(Decode(audio, self._submit(audio, JobKind.INTERIM, self._due), JobKind.INTERIM))
            return
        following = self._following
        if following.start is None:
            following.begin(self._decode_window.of_utterance(started, now, self._buffer.start).start)
        number, held, fresh = following.step(now)
        job_id = self._submit(fresh, JobKind.INTERIM, self._due, utterance=number, held=held)
        self._note_interim(Decode(Span(fresh.start - held, fresh.end), job_id, JobKind.INTERIM))

    def _note_interim(self, interim: Decode) -> None:
        self._interims[interim.job_id] = interim

    def _on_interim(self, interim: Decode, outcome: Outcome) -> None:
        following = self._following
        if isinstance(outcome, Transcript):
            if interim.kind is JobKind.INTERIM and following.start is not None:
                following.heard = interim.audio.end
            if not self._repeats_interim(interim, outcome):
                self._tell(interim.audio, outcome)
        elif isinstance(outcome, Missing) and self._segmenter.speech_start is not None:
            following.missing(outcome.held)
            self._ask_interim(self._segmenter.speech_start, interim.audio.end)

    def _repeats_interim(self, interim: Decode, outcome: Transcript) -> bool:
        """Ask for an interim decode of sure speech once more if it fails its gate; return whether that was done.

        That is done once in a segment: where it was of no use, it will be of none later.
        """
        start, gate = self._segmenter.speech_start, self._policy.gate
        if start is None or self._interim_repeated or self._timeline.behind:
            return False
        if gate.passes(outcome.log_probability, self._segmenter.voice) or not is_sure(self._closed_here(start), gate):
            return False
        audio = self._decode_window.of_repeated_interim(start, interim.audio, self._buffer.start)
        if audio is None:
            return False
        self._interim_repeated = True
        self._note_interim(Decode(audio, self._submit(audio, JobKind.INTERIM, self._due), interim.kind))
        return True

    def _tell(self, audio: Span, transcript: Transcript) -> None:
        """Turn a decode of the open segment into an interim event."""
        if self._policy.interim_every_s is None or self._timeline.behind:
            return
        if not self._policy.gate.passes(transcript.log_probability, self._segmenter.voice):
            self._hear_again_soon(audio)
            return
        open_start = self._segmenter.open_start
        first_speech = self._segmenter.speech_start
        windowed = first_speech is not None and audio.start > first_speech
        seam = audio.start + INTERIM_OVERLAP if windowed else open_start
        settled = self._timeline.words
        kept = [w for w in self._interim_words if w.middle < seconds(seam)]
        heard = new_words(audio, transcript.words, [*settled, *kept], seconds(seam))
        floor = max(seconds(open_start), settled[-1].start if settled else 0.0)
        words = in_order([*kept, *heard], floor, seconds(max(audio.end, open_start)))
        if not words and not self._interim_words:
            self._hear_again_soon(audio)
            return
        stable = agreed(self._interim_words, words)
        self._interim_words = words
        span = Span(open_start, max(audio.end, open_start))
        self._events.append(Interim(channel=self._channel, span=span, words=words, stable=stable))
        if self._turns is not None:
            self._events += self._timeline.begin_turn(words)
        gap_ms = self._policy.gap_ms
        wordless = audio.end - samples(words[-1].end) if words else 0
        if gap_ms and wordless >= samples(gap_ms / 1000) and self._segmenter.in_speech:
            # Noise that sounds like speech to the VAD hides the silence; the words' own times show it.
            self._decide([self._segmenter.part(audio.end, Cause.GAP), Gap()])

    def _hear_again_soon(self, audio: Span) -> None:
        self._interim_at = min(self._interim_at, audio.end + RETRY - self._interim_every())

    def _drain(self) -> None:
        """Tell what is complete, then forget the audio nobody needs."""
        told = self._timeline.drain(self._policy.gate, turns=self._turns is not None)
        finals = [event for event in told if isinstance(event, Final)]
        if finals:
            self._interim_words = ()
        if self._turns is not None:
            self._turns.said(sum(len(final.words) for final in finals))
        self._events += told
        if self._timeline.doubted is not None:
            self._repeat(self._timeline.doubted, self._due)
        self._forget()

    def _decode_final(self, speech: Span, audio: Span, due: float) -> Decode:
        kind = JobKind.FINAL if self._policy.live else JobKind.FILE
        again = self._decode_window.of_repeat(speech, audio, self._buffer.start)
        return Decode(audio, self._submit(audio, kind, due), kind, again)

    def _submit(self, audio: Span, kind: JobKind, due: float, *, utterance: int = 0, held: int = 0) -> str:
        self._count += 1
        job_id = f"{self._name}/{self._count}"
        pcm = self._buffer.cut(audio)
        job = InferenceJob(job_id, self._name, kind, pcm, due, self._options, utterance, held)
        self._requests.append(Submit(job))
        return job_id

    def _drop_speculative(self) -> None:
        if self._speculative and self._speculative.outcome is None:
            self._requests.append(Cancel(self._speculative.job_id))
        self._speculative = None

    def _drop_interim(self) -> None:
        self._requests += [Cancel(job_id) for job_id in self._interims]
        self._interims.clear()

    def _forget(self) -> None:
        """Let go of audio and words that no decode can ask for any more."""
        first_speech = self._segmenter.speech_start
        needed = self._segmenter.position if first_speech is None else first_speech
        needed -= self._decode_window.reach + _KEPT
        for decode in [*self._timeline.decodes, self._speculative]:
            if decode:
                needed = min(needed, decode.earliest)
        if self._following.start is not None:
            needed = min(needed, self._following.start)
        self._buffer.drop_before(needed)
        self._timeline.forget(self._buffer.start)
