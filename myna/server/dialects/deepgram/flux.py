"""Deepgram's turn-taking API, Flux, at `/v2/listen` as a dialect: turns that start, may end, resume and end."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from myna.inference.engines.kind import Model
from myna.runtime.errors import DialectError, Refusal
from myna.server.dialects.base import (
    CLOSE_CODES,
    POLICY_VIOLATION,
    Audio,
    Command,
    Configure,
    End,
    EndTurn,
    Farewell,
    Frame,
    KeepAlive,
    Open,
    PlainEntry,
    Refused,
    Reply,
    Unresumable,
    check_control,
    json_frame,
)
from myna.server.dialects.deepgram.errors import refused_stream
from myna.server.dialects.deepgram.flux_request import FluxRequest, parse
from myna.server.dialects.deepgram.flux_settings import FluxSettings
from myna.server.dialects.deepgram.models import PUBLIC_MODELS
from myna.server.dialects.defaults import default_policy
from myna.server.serving import ModelWanted
from myna.server.settings import Settings
from myna.streaming import events
from myna.streaming.events import Trigger, Word, samples, seconds
from myna.streaming.policy import Policy
from myna.streaming.session.decode_window import fitted
from myna.streaming.session.jobs import EngineInfo
from myna.streaming.text.formatting import formatted, text_of
from myna.streaming.text.languages import languages_of
from myna.streaming.text.seams import HeldMarks, marked
from myna.wire import strictjson
from myna.wire.quoting import quoted

PATH = "/v2/listen"
UPDATE_S = 0.25
"""Seconds of audio between two `Update` messages."""
_UPDATE_WORDS = 500
"""An `Update` holds all words of its turn. In a turn of more words the interval grows in proportion."""
INTERIM_S = 0.5
"""Seconds between two interim decodes: voice agents need words sooner than readers do."""
_ERROR_CODES = {"invalid_message": "UNPARSABLE_CLIENT_MESSAGE", "unauthorized": "INVALID_AUTH"}


class FluxEntry(PlainEntry):
    """The entry at `PATH`; `name` is the request id."""

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self._settings = settings
        self._request: FluxRequest | None = None

    def read(self, query: Collection[tuple[str, str]]) -> ModelWanted:
        """Parse the request's parameters; return the model it asks for. Raises `Refusal`."""
        self._request = parse(query)
        return ModelWanted.of(self._request.model, PUBLIC_MODELS, self._request.language)

    def dialect(self, model: Model, engine: EngineInfo, diarizer: str = "") -> FluxDialect:
        """Return the translator. Raises `Refusal` for options that the model lacks."""
        del model, diarizer
        assert self._request is not None
        return FluxDialect(self.name, self._request, self._settings, engine)

    def refused(self, refusal: Refusal) -> Refused:
        """Return the refusal in Deepgram's error format."""
        return refused_stream(refusal, self.name)


class FluxDialect(Unresumable):
    """One connection's translator."""

    def __init__(self, request_id: str, request: FluxRequest, settings: Settings, engine: EngineInfo) -> None:
        self.idle_timeout_s = settings.idle_timeout_s
        self._request_id = request_id
        self._request = request
        self._engine = engine
        self._defaults = replace(
            default_policy(settings, engine),
            endpoint_ms=None,
            interim_every_s=INTERIM_S,
            progress_s=UPDATE_S,
        )
        self._now = FluxSettings.of(request, engine)
        self._pending: FluxSettings | None = None
        self._sequence = 0
        self._turn = 0
        self._turn_start = 0
        self._in_turn = False
        self._heard = 0
        self._said: list[Word] = []  # without the mark that is held
        self._seams = HeldMarks(self._now.formatting.language)
        self._open: tuple[Word, ...] = ()
        self._before: str | None = None  # the mark before the open words
        self._eager: str | None = None
        self._update_due = 0  # sample before which no `Update` is sent
        self._state_sent = False  # whether a state of the turn has been sent since the last `Update`

    def begin(self) -> Sequence[Command]:
        """Return the command that opens the stream; the address has every option."""
        return [Open(self._request.audio, mix=True, policy=self._policy(self._now), options=self._now.options())]

    def receive(self, frame: str | bytes) -> Sequence[Command]:
        """Return the commands in a client's frame. Raises `DialectError`."""
        if isinstance(frame, bytes):
            return [Audio(frame)] if frame else [KeepAlive()]
        check_control(frame)
        try:
            message = strictjson.loads(frame)
            kind = message["type"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise _unparsable('a text message is a JSON object with a "type"') from error
        match kind:
            case "CloseStream":
                return [End()]
            case "ForceEndTurn":
                return [EndTurn()]
            case "Configure":
                return self._configure(message)
            case "KeepAlive":  # not part of this API; clients of Deepgram's other API send it
                return [KeepAlive()]
        known = "CloseStream, Configure, ForceEndTurn"
        raise _unparsable(f"the message type {quoted(kind)} is not supported; supported types: {known}")

    def opened(self, stream: str) -> Sequence[Frame]:
        """Return `Connected`."""
        del stream
        return [self._frame("Connected")]

    def emit(self, event: events.Event) -> Sequence[Frame]:
        """Return the messages to send for an event."""
        match event:
            case events.Interim(span=span):
                self._open, self._before = event.words, event.before
                self._heard = max(self._heard, span.end)
            case events.Final(span=span):
                self._complete(*self._seams.take(event))
                self._open = ()
                self._heard = max(self._heard, span.end)
            case events.TurnStarted(at=at):
                self._in_turn, self._turn_start = True, at
                return [self._turn_info("StartOfTurn", 0.0)]
            case events.TurnEager(at=at, confidence=confidence):
                self._open, self._before, self._heard = event.words, event.before, max(self._heard, at)
                frame = self._turn_info("EagerEndOfTurn", confidence)
                self._eager = self._transcript()
                return [frame]
            case events.TurnResumed(at=at):
                self._heard, self._eager = max(self._heard, at), None
                return [self._turn_info("TurnResumed", 0.0)]
            case events.TurnEnded():
                return self._end_turn(event)
            case events.Progress(at=at, confidence=confidence):
                self._heard = max(self._heard, at)
                return self._update(confidence)
            case events.Configured() if self._pending is not None:
                self._now, self._pending = self._pending, None
                return [self._frame("ConfigureSuccess", self._now.described())]
            case events.Ended() if self._in_turn:
                self._state_sent, self._update_due = False, 0
                return self._update(0.0)
        return ()

    def closing(self, error: DialectError | None, heard_s: float) -> Farewell:
        """Return the `Error` that ended the stream, if one did. An open turn is not ended."""
        del heard_s
        if error is None:
            return Farewell((), 1000, "")
        code = _ERROR_CODES.get(error.code, error.code.upper())
        frame = self._frame("Error", {"code": code, "description": error.message})
        return Farewell((frame,), CLOSE_CODES.get(error.code, POLICY_VIOLATION), error.message)

    def _policy(self, now: FluxSettings) -> Policy:
        return fitted(replace(self._defaults, turns=now.turns), self._engine)

    def _end_turn(self, event: events.TurnEnded) -> Sequence[Frame]:
        frames = []
        self._heard = max(self._heard, event.at)
        self._complete(self._seams.release(), ())
        changed = self._eager is not None and self._eager != self._transcript()
        if changed and event.trigger is not Trigger.CLIENT:
            frames.append(self._turn_info("TurnResumed", 0.0))
        frames.append(self._turn_info("EndOfTurn", event.confidence, trigger=event.trigger.value))
        self._turn += 1
        self._turn_start = event.at
        self._in_turn, self._eager = False, None
        self._said.clear()
        self._open = ()
        return frames

    def _update(self, confidence: float) -> Sequence[Frame]:
        if self._state_sent:
            self._state_sent = False
            return ()
        if self._heard < self._update_due:
            return ()
        count = len(self._said) + len(self._open)
        if count > _UPDATE_WORDS:
            self._update_due = self._heard + samples(UPDATE_S * count / _UPDATE_WORDS)
        return [self._turn_info("Update", confidence)]

    def _words(self) -> Sequence[Word]:
        if not self._in_turn:
            return ()
        mark, following = self._seams.peek(self._open, self._before)
        said = [*self._said[:-1], marked(self._said[-1], mark)] if self._said else []
        return formatted([*said, *following], self._now.formatting, open_ended=False)

    def _complete(self, mark: str, words: Sequence[Word]) -> None:
        """Complete the turn's words with this mark, and add words."""
        if self._said:
            self._said[-1] = marked(self._said[-1], mark)
        self._said += words

    def _transcript(self) -> str:
        return text_of(self._words(), punctuated=True)

    def _turn_info(self, event: str, confidence: float, **more: object) -> Frame:
        self._state_sent = event != "Update"
        words = self._words()
        message: dict[str, object] = {
            "event": event,
            "turn_index": self._turn,
            "audio_window_start": round(seconds(self._turn_start), 3),
            "audio_window_end": round(seconds(max(self._heard, self._turn_start)), 3),
            "transcript": text_of(words, punctuated=True),
            "words": [_word(word) for word in words],
            "end_of_turn_confidence": round(confidence, 4),
            **more,
        }
        if self._now.multilingual:
            found = list(self._engine.languages) if len(self._engine.languages) == 1 else languages_of(words)
            if found:
                message["languages"] = found
            if self._now.language_hints:
                message["languages_hinted"] = list(self._now.language_hints)
        return self._frame("TurnInfo", message)

    def _configure(self, message: Mapping[str, Any]) -> Sequence[Command]:
        if self._pending is not None:
            return [self._failure("CONFIGURE_ALREADY_PENDING", "Another Configure message is still pending.")]
        try:
            wanted = self._now.changed(message)
            options = wanted.options()
        except Refusal as refusal:
            return [self._failure(f"CONFIGURE_{refusal.code.upper()}", refusal.message)]
        self._pending = wanted
        return [Configure(options, self._policy(wanted), token="configure")]  # noqa: S106 - no password

    def _failure(self, code: str, description: str) -> Reply:
        failure = {"code": code, "error_code": code, "description": description}
        return Reply((self._frame("ConfigureFailure", failure),))

    def _frame(self, kind: str, fields: Mapping[str, object] | None = None) -> Frame:
        """Return a message with its sequence number, and with the request id unless it is an error."""
        numbered: dict[str, object] = {"type": kind, "sequence_id": self._sequence}
        if kind != "Error":
            numbered["request_id"] = self._request_id
        self._sequence += 1
        return json_frame({**numbered, **(fields or {})})


def _unparsable(message: str) -> DialectError:
    return DialectError("invalid_message", message)


def _word(word: Word) -> dict[str, object]:
    return {
        "word": word.text.strip(),
        "confidence": round(word.confidence, 4),
        "start": round(word.start, 3),
        "end": round(word.end, 3),
    }
