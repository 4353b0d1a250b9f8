"""The audio of one connection: a session per channel, barriers across the channels, and the numbering of events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from myna.streaming.events import SAMPLE_RATE, Configured, Ended, Event, Flushed, Opened, seconds
from myna.streaming.policy import Options, Policy
from myna.streaming.session.jobs import EngineInfo, Outcome
from myna.streaming.session.requests import Request
from myna.streaming.session.session import Session
from myna.streaming.speakers.history import SpeakersRevised
from myna.streaming.speakers.labelling import Distances


class Stream:
    """A live stream, sans-I/O: samples, voice activity and results in, requests and numbered events out.

    `name` must be unique among the live streams. `distances` are those of the engine that hears
    voices; without them, words have no speakers.
    """

    def __init__(
        self, name: str, policy: Policy, options: Options, engine: EngineInfo, distances: Distances | None = None
    ) -> None:
        self.name = name
        self._distances = distances
        self._policy, self._options, self._engine = policy, options, engine
        self._sessions: list[Session] = []
        self._open_tokens: dict[str, int] = {}  # token → channels that have not acknowledged it
        self._ended = 0
        self._number = 0
        self._due = float("-inf")
        self._early: list[Event] = []

    @property
    def received(self) -> int:
        """The samples received so far, per channel."""
        return self._sessions[0].received if self._sessions else 0

    @property
    def channels(self) -> int:
        """The number of channels; 0 until audio has arrived."""
        return len(self._sessions)

    @property
    def backlog_s(self) -> float:
        """The seconds of audio that wait for voice activity or for their Final, on the channel with the most."""
        if len(self._sessions) == 1:  # most streams, at every frame
            return self._sessions[0].backlog / SAMPLE_RATE
        return seconds(max((session.backlog for session in self._sessions), default=0))

    @property
    def audio_held(self) -> int:
        """The samples of audio in memory, over all channels."""
        return sum(session.audio_held for session in self._sessions)

    def push(self, channels: Sequence[bytes], arrived: float) -> None:
        """Take the next int16 samples at 16 kHz of each channel; `arrived` is the wall time at which they arrived."""
        if not self._sessions:
            self._early.append(Opened(channels=len(channels)))
        while len(self._sessions) < len(channels):
            channel = len(self._sessions)
            session = Session(
                f"{self.name}/{channel}",
                self._policy,
                self._options,
                self._engine,
                channel=channel,
                distances=self._distances,
            )
            self._sessions.append(session)
        # Audio sent faster than real time falls due at no more than twice real time, so that its sender cannot crowd out
        # live streams (docs/architecture.md).
        self._due = max(arrived, self._due + len(channels[0]) / 2 / SAMPLE_RATE / 2)
        for session, pcm in zip(self._sessions, channels, strict=True):
            session.push(pcm, self._due)

    def flush(self, token: str, channel: int | None = None) -> None:
        """Make everything received final on every channel, or on one; each channel acknowledges the token."""
        if not self._sessions:
            self._early.append(Flushed(token=token, channel=channel or 0))
            return
        asked = self._sessions if channel is None else self._sessions[channel : channel + 1]
        self._open_tokens[token] = len(asked)
        for session in asked:
            session.flush(token)

    def stall(self) -> None:
        """Make everything received final, as an endpoint does: the client is connected but sends no audio."""
        for session in self._sessions:
            session.stall()

    def discard(self, token: str) -> None:
        """Discard everything received that is not final yet; each channel acknowledges the token as for a flush."""
        if not self._sessions:
            self._early.append(Flushed(token=token))
            return
        self._open_tokens[token] = len(self._sessions)
        for session in self._sessions:
            session.discard(token)

    def end_turn(self) -> None:
        """End the turn of every channel at the audio received last."""
        for session in self._sessions:
            session.end_turn()

    def configure(self, options: Options, policy: Policy | None = None, token: str | None = None) -> None:
        """Apply these options, and the policy if there is one, to the audio that follows; acknowledge the token."""
        self._options, self._policy = options, policy or self._policy
        if token is not None and not self._sessions:
            self._early.append(Configured(token=token))
            return
        if token is not None:
            self._open_tokens[token] = len(self._sessions)
        for session in self._sessions:
            session.configure(self._policy, options, token)

    def end(self) -> None:
        """Take note that no audio follows."""
        if not self._sessions:
            self._early.append(Ended(received=0))
        for session in self._sessions:
            session.end()

    def on_vad(self, channel: int, start: int, probabilities: Sequence[float]) -> None:
        """Take the speech probabilities that answer a `Detect`."""
        self._sessions[channel].on_vad(start, probabilities)

    def on_result(self, job_id: str, outcome: Outcome) -> None:
        """Take a decode's outcome."""
        channel = int(job_id.rsplit("/", 2)[1])
        self._sessions[channel].on_result(job_id, outcome)

    def on_reminder(self, channel: int, number: int) -> None:
        """Take note that the time of a `Remind` is over."""
        self._sessions[channel].on_reminder(number)

    def on_revised(self, revision: SpeakersRevised) -> None:
        """Take the speakers of a whole channel."""
        self._sessions[revision.channel].on_revised(revision)

    def abandon(self) -> list[Request]:
        """Return the requests that cancel everything outstanding, since the client has left."""
        return [request for session in self._sessions for request in session.abandon()]

    def take(self) -> tuple[list[Request], list[Event]]:
        """Return the requests and events since the last call."""
        requests: list[Request] = []
        events, self._early = self._early, []
        for session in self._sessions:
            session_requests, session_events = session.take()
            requests += session_requests
            events += session_events
        return requests, [replace(event, seq=self._next()) for event in map(self._completed, events) if event]

    def _completed(self, event: Event) -> Event | None:
        """Mark whether a `Flushed` is the last channel's; hold back `Ended` and `Configured` until the last channel's."""
        match event:
            case Flushed(token=token) if not self._is_last(token):
                return replace(event, everywhere=False)
            case Configured(token=token) if not self._is_last(token):
                return None
            case Ended() if self._sessions:
                self._ended += 1
                return event if self._ended == len(self._sessions) else None
        return event

    def _is_last(self, token: str) -> bool:
        """Count one more channel's acknowledgement of the token; return whether it is the last."""
        left = self._open_tokens.pop(token, 1) - 1
        if left:
            self._open_tokens[token] = left
        return not left

    def _next(self) -> int:
        number = self._number
        self._number += 1
        return number
