"""Deepgram's live API at `/v1/listen` as a dialect: client messages to commands, events to server messages."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from myna.batch.callback import Callback
from myna.inference.engines.kind import Model
from myna.runtime.errors import DialectError, Refusal
from myna.server.dialects.base import (
    Audio,
    Command,
    Configure,
    End,
    Farewell,
    Flush,
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
from myna.server.dialects.deepgram.listen_request import ListenRequest, checked_keyterms, parse
from myna.server.dialects.deepgram.models import PUBLIC_MODELS, model_metadata, models_used
from myna.server.dialects.deepgram.results import confidence_of, now, search_results, word_of
from myna.server.dialects.spoken_formatting import spoken
from myna.server.serving import ModelWanted
from myna.server.settings import Settings
from myna.streaming import events
from myna.streaming.audio.raw import RawFormat
from myna.streaming.events import Word, seconds
from myna.streaming.policy import MULTIPLE
from myna.streaming.session.jobs import EngineInfo
from myna.streaming.text.formatting import formatted, text_of
from myna.streaming.text.languages import languages_of
from myna.streaming.text.seams import MarksAtOnce
from myna.wire import strictjson
from myna.wire.quoting import quoted

PATH = "/v1/listen"
_CLOSES = {
    "idle": (
        1011,
        "Deepgram did not receive audio data or a text message within the timeout window. See https://dpgr.am/net0001",
    ),
    "undecodable_audio": (1008, "DATA-0000"),
    "message_too_big": (1009, "message too big"),
    "shutting_down": (1001, "the server is stopping"),
    "slow_reader": (1013, "the client does not read what it is sent"),
    "overloaded": (1013, "the server cannot keep up with this audio"),
    "too_busy": (1013, "the server is too busy for so many channels"),
    "too_many_streams": (1013, "the key may not have so many channels at a time"),
    "unauthorized": (1008, "INVALID_AUTH"),
}
"""The close code and reason of an error, as Deepgram's clients know them; for any other error the code is 1011."""
_FEATURES = {
    "punctuate": "punctuate", "smart_format": "smart", "numerals": "numerals", "dictation": "dictation",
    "filler_words": "fillers",
}  # fmt: skip
"""Features that `Configure` can switch, by their names in `Formatting`; `profanity_filter` is another, inverted."""
_LONGEST_ECHO = 1000
"""Characters of an invalid message that its error repeats."""


class DeepgramEntry(PlainEntry):
    """The entry at `PATH`; `name` is the request id."""

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self._settings = settings
        self._request: ListenRequest | None = None

    def read(self, query: Collection[tuple[str, str]]) -> ModelWanted:
        """Parse the request's parameters; return the model it asks for. Raises `Refusal`."""
        self._request = parse(query)
        return ModelWanted.of(self._request.model, PUBLIC_MODELS, self._request.language)

    def dialect(self, model: Model, engine: EngineInfo, diarizer: str = "") -> DeepgramDialect:
        """Return the translator. Raises `Refusal` for options that the model lacks."""
        assert self._request is not None
        return DeepgramDialect(self.name, self._request, self._settings, model, engine, diarizer)

    @property
    def callback(self) -> Callback | None:
        """The address that results are sent to instead of the socket."""
        return None if self._request is None else self._request.callback

    @property
    def speakers(self) -> bool:
        """Whether the client wants the speakers of words."""
        return self._request is not None and self._request.diarizer is not None

    @property
    def channels(self) -> int:
        """Channels that the request announces to be transcribed separately; 1 if the container tells."""
        return 1 if self._request is None else self._request.channels or 1

    def refused(self, refusal: Refusal) -> Refused:
        """Return ``{"err_code", "err_msg", "request_id"}``; the header ``dg-error`` repeats the message."""
        return refused_stream(refusal, self.name)


class DeepgramDialect(Unresumable):
    """One connection's translator."""

    def __init__(
        self,
        request_id: str,
        request: ListenRequest,
        settings: Settings,
        model: Model,
        engine: EngineInfo,
        diarizer: str,
    ) -> None:
        self.idle_timeout_s = settings.deepgram_idle_timeout_s
        self._request_id = request_id
        self._request = request
        self._engine = engine
        self._options = request.options(engine)
        self._policy = request.policy(settings, engine)
        self._formatting = spoken(request.formatting, request.language, engine)
        self._channels = request.channels or 1
        self._created = now()
        self._digest = hashlib.sha256()
        self._heard = False
        self._flushes: dict[str, int | None] = {}  # token → the channel asked for
        self._flush_count = 0
        self._opened = False
        self._finalized: set[int] = set()  # channels whose open flush has produced a final already
        self._ends: dict[int, float] = {}  # channel → where its last final ended
        self._seams = defaultdict[int, MarksAtOnce](lambda: MarksAtOnce(self._formatting.language))
        self._model = model_metadata(model, engine)
        self._diarizer = diarizer
        self._metadata = {"request_id": request_id, **self._model}

    def begin(self) -> Sequence[Command]:
        """Return the command that opens the stream; the address has every option."""
        return [Open(self._request.audio, not self._request.multichannel, self._policy, self._options)]

    def receive(self, frame: str | bytes) -> Sequence[Command]:
        """Return the commands in a client's frame. Raises `DialectError`."""
        if isinstance(frame, bytes):
            if not frame:
                return [End()]  # older clients end a stream so
            self._heard = True
            self._digest.update(frame)
            return [Audio(frame)]
        check_control(frame)
        try:
            message = strictjson.loads(frame)
            kind = message["type"]
        except (ValueError, TypeError, KeyError, RecursionError):
            return [self._schema_error(frame, 'a text message is a JSON object with a "type"')]
        match kind:
            case "KeepAlive":
                return [KeepAlive()]
            case "CloseStream":
                return [End()]
            case "Finalize":
                return self._finalize(frame, message.get("channel"))
            case "Configure":
                return self._configure(frame, message)
        known = "KeepAlive, Finalize, CloseStream, Configure"
        return [
            self._schema_error(frame, f"the message type {quoted(kind)} is not supported; supported types: {known}")
        ]

    def opened(self, stream: str) -> Sequence[Frame]:
        """Return nothing: Deepgram sends no first message."""
        del stream
        return ()

    def emit(self, event: events.Event) -> Sequence[Frame]:
        """Return the messages to send for an event."""
        match event:
            case events.Opened(channels=channels):
                self._channels, self._opened = channels, True
            case events.SpeechStarted(at=at, channel=channel) if self._request.vad_events:
                return [json_frame({"type": "SpeechStarted", "channel": [channel], "timestamp": _seconds(at)})]
            case events.Interim(channel=channel, span=span):
                words = self._seams[channel].peek(event.words, event.before)
                return [self._results(channel, span, words, is_final=False)]
            case events.Final(channel=channel, span=span, cause=cause):
                self._ends[channel] = _seconds(span.end)
                if cause is events.Cause.FLUSH:
                    self._finalized.add(channel)
                words = self._seams[channel].take(event)
                return [self._results(channel, span, words, is_final=True, cause=cause)]
            case events.UtteranceEnd(channel=channel, last_word_end=end) if self._request.utterance_end_ms:
                index = [channel, self._channels]
                return [json_frame({"type": "UtteranceEnd", "channel": index, "last_word_end": round(end, 3)})]
            case events.Flushed():
                return self._flushed(event)
        return ()

    def closing(self, error: DialectError | None, heard_s: float) -> Farewell:
        """Return the `Metadata` message, which is the last."""
        code, reason = (1000, "") if error is None else _CLOSES.get(error.code, (1011, error.message))
        metadata: dict[str, Any] = {
            "type": "Metadata",
            "transaction_key": "deprecated",
            "request_id": self._request_id,
            "sha256": self._digest.hexdigest(),
            "created": self._created,
            "duration": round(heard_s, 3),
            "channels": self._channels_heard(),
        }
        if self._heard:
            metadata |= models_used(self._model)
        return Farewell((json_frame(metadata),), code, reason)

    def _channels_heard(self) -> int:
        if not self._heard:
            return 0
        audio = self._request.audio
        return audio.channels if isinstance(audio, RawFormat) else self._channels

    def _finalize(self, frame: str, channel: int | None) -> Sequence[Command]:
        one = isinstance(channel, int) and not isinstance(channel, bool) and channel in range(self._channels)
        if not (one or channel is None):
            last = self._channels - 1
            return [
                self._schema_error(frame, f"Finalize: channel must be a number from 0 to {last}, not {quoted(channel)}")
            ]
        self._flush_count += 1
        token = str(self._flush_count)
        self._flushes[token] = channel
        return [Flush(token, channel)]

    def _flushed(self, event: events.Flushed) -> Sequence[Frame]:
        """Return an empty final for a flush that produced none: clients wait for one."""
        asked = self._flushes.pop(event.token) if event.everywhere else self._flushes[event.token]
        if event.channel in self._finalized:
            self._finalized.remove(event.channel)
            return ()
        one = self._opened or asked is not None  # before any audio, one event stands for all channels
        channels = [event.channel] if one else range(self._channels)
        return [self._results(each, None, (), is_final=True, cause=events.Cause.FLUSH) for each in channels]

    def _configure(self, frame: str, message: dict[str, object]) -> Sequence[Command]:
        features, terms = message.get("features"), message.get("keyterms")
        if features is not None and not (
            isinstance(features, dict)
            and all(isinstance(value, bool) for name, value in features.items() if name != "redact")
        ):
            return [self._schema_error(frame, "Configure: features must be an object of names with true or false")]
        if terms is not None and not (isinstance(terms, list) and all(isinstance(term, str) for term in terms)):
            return [self._schema_error(frame, "Configure: keyterms must be a list of texts, or null")]
        if (features or {}).get("redact") or message.get("redact"):
            description = "redact is a parameter of the address and cannot be changed later."
            return [self._configure_failure("CONFIGURE_REDACT_NOT_SUPPORTED", description)]
        reply: dict[str, object] = {"type": "ConfigureSuccess", "request_id": self._request_id}
        commands: list[Command] = []
        if terms is not None:
            if terms and not self._engine.keyterms:
                description = f"The model {self._engine.name} does not support keyterms."
                return [self._configure_failure("CONFIGURE_KEYTERMS_NOT_SUPPORTED", description)]
            try:
                self._options = replace(self._options, keyterms=checked_keyterms(terms))
            except Refusal as refusal:
                return [self._configure_failure("CONFIGURE_KEYTERM_LIMIT_EXCEEDED", refusal.message)]
            commands.append(Configure(self._options))
            reply["keyterms"] = terms
        for name, value in (features or {}).items():
            if name in _FEATURES:
                wanted = replace(self._formatting, **{_FEATURES[name]: value})
                self._formatting = spoken(wanted, self._request.language, self._engine)
            elif name == "profanity_filter":
                self._formatting = replace(self._formatting, profanity=not value)
        return [*commands, Reply((json_frame(reply),))]

    def _configure_failure(self, code: str, description: str) -> Reply:
        failure = {"type": "ConfigureFailure", "request_id": self._request_id, "code": code, "description": description}
        return Reply((json_frame(failure),))

    def _schema_error(self, frame: str, description: str) -> Reply:
        error = {
            "type": "Error",
            "variant": "SchemaError",
            "description": description,
            "message": frame[:_LONGEST_ECHO],
        }
        return Reply((json_frame(error),))

    def _results(
        self,
        channel: int,
        span: events.Span | None,
        words: Sequence[Word],
        *,
        is_final: bool,
        cause: events.Cause | None = None,
    ) -> Frame:
        start = _seconds(span.start) if span else self._ends.get(channel, 0.0)
        end = _seconds(span.end) if span else start
        shown = formatted(words, self._formatting, open_ended=not is_final)
        punctuated = self._formatting.punctuated
        alternative: dict[str, object] = {
            "transcript": text_of(shown, punctuated=punctuated),
            "confidence": confidence_of(shown),
        }
        changing = self._request.language == MULTIPLE
        if changing and (found := languages_of(shown)):
            alternative["languages"] = found
        if changing and self._request.language_hints:
            alternative["languages_hinted"] = list(self._request.language_hints)
        alternative["words"] = [
            word_of(word, punctuated=punctuated, with_language=changing, live=True) for word in shown
        ]
        transcript: dict[str, object] = {"alternatives": [alternative]}
        if self._request.search:
            transcript["search"] = search_results(shown, self._request.search)
        message = {
            "type": "Results",
            "channel_index": [channel, self._channels],
            "duration": round(end - start, 3),
            "start": start,
            "is_final": is_final,
            "speech_final": cause is events.Cause.ENDPOINT,
            "channel": transcript,
            "metadata": self._metadata | self._diarized(shown),
            "from_finalize": cause is events.Cause.FLUSH,
        }
        return json_frame(message, replaces=None if is_final else f"interim {channel}")

    def _diarized(self, words: Sequence[Word]) -> dict[str, object]:
        """Return what the metadata of a result whose words have speakers has besides."""
        if all(word.speaker is None for word in words):
            return {}
        return {"diarize_info": {"model_uuid": self._diarizer, "arch": "v1"}}


def _seconds(sample: int) -> float:
    return round(seconds(sample), 3)
