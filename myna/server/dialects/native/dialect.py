"""The native live protocol (docs/protocol.md) as a dialect: `myna.wire` messages to commands, events to messages."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import chain
from typing import Literal, cast

from myna.inference.engines.kind import Model
from myna.runtime.errors import DialectError, Refusal
from myna.server.dialects.base import (
    CLOSE_CODES,
    POLICY_VIOLATION,
    Audio,
    Command,
    End,
    Farewell,
    Flush,
    Frame,
    KeepAlive,
    Open,
    PlainEntry,
    Refused,
    Reply,
    Resume,
)
from myna.server.dialects.defaults import SOFT_SHARE, default_policy
from myna.server.dialects.native.entries import rounded, speakers_message, word_entries
from myna.server.dialects.native.text import WATCH_S, ChannelTexts
from myna.server.dialects.parameters import Parameters, whole
from myna.server.dialects.speaker_limits import limits_of
from myna.server.dialects.spoken_formatting import asked, spoken
from myna.server.language_tags import spoken_language, unknown_language
from myna.server.serving import ModelWanted
from myna.server.settings import Settings
from myna.streaming import events
from myna.streaming.audio.raw import AudioError, Coded, Encoding, RawFormat
from myna.streaming.events import seconds
from myna.streaming.policy import MULTIPLE, Options, Policy
from myna.streaming.session.decode_window import fitted
from myna.streaming.session.jobs import EngineInfo
from myna.streaming.speakers.history import SpeakersRevised
from myna.streaming.speakers.labelling import SpeakerLimits
from myna.streaming.text.formatting import Formatting
from myna.streaming.text.joining import written_text
from myna.streaming.text.languages import main_language
from myna.wire import messages as wire
from myna.wire import strictjson
from myna.wire.quoting import quoted

_MESSAGES_UNACKNOWLEDGED, _BYTES_UNACKNOWLEDGED = 100, 160_000
"""Messages or bytes (about 5 s of audio) after which a client that keeps what it sends gets an acknowledgement."""
_CLOSE_CODES = {**CLOSE_CODES, "invalid_message": 1007, "undecodable_audio": 1003}


class NativeEntry(PlainEntry):
    """The entry at `wire.PATH`."""

    def __init__(self, name: str, settings: Settings, resume_prefix: str = "") -> None:
        self.name = name
        self._resume_prefix = resume_prefix
        self._settings = settings
        self._form = wire.Format.JSON
        self._resume: Resume | None = None
        self._speakers: SpeakerLimits | None = None

    def read(self, query: Collection[tuple[str, str]]) -> ModelWanted:
        """Parse the request's parameters; return the model it asks for. Raises `Refusal`."""
        parameters = {name: strictjson.well_formed(value) for name, value in query}
        form = parameters.get("format", self._form)
        if form not in list(wire.Format):
            known = ", ".join(wire.Format)
            raise Refusal(400, "unknown_format", f"format must be one of {known}, not {quoted(form)}")
        self._form = wire.Format(form)
        if token := parameters.get("resume"):
            after = parameters.get("after", "0")
            number = whole(after)
            if number is None:
                message = f"after must be the number of the last message received, not {quoted(after)}"
                raise Refusal(400, "bad_after", message)
            self._resume = Resume(token, number)
        diarize = parameters.get("diarize", "false").lower()
        if diarize not in ("true", "false"):
            raise Refusal(400, "bad_diarize", f"diarize must be true or false, not {quoted(diarize)}")
        given = Parameters(query, "bad_speakers")
        self._speakers = limits_of(given, wanted=diarize == "true", asking="diarize=true")
        return ModelWanted(parameters.get("model"), language=spoken_language(parameters.get("language")))

    def dialect(self, model: Model, engine: EngineInfo, diarizer: str = "") -> NativeDialect:
        """Return the translator. Options that the model lacks are refused at the `start` message."""
        del model, diarizer
        return NativeDialect(self._form, self._settings, engine, self._speakers, self._resume_prefix)

    @property
    def speakers(self) -> bool:
        """Whether the client wants the speakers of words."""
        return self._speakers is not None

    @property
    def resume(self) -> Resume | None:
        """The stream that the client resumes, if any."""
        return self._resume

    def refused(self, refusal: Refusal) -> Refused:
        """Return ``{"error": {"code", "message"}}``."""
        return Refused({"error": {"code": refusal.code, "message": refusal.message}})


class NativeDialect:
    """One connection's translator."""

    def __init__(
        self,
        form: wire.Format,
        settings: Settings,
        engine: EngineInfo,
        speakers: SpeakerLimits | None = None,
        resume_prefix: str = "",
    ) -> None:
        self._resume_prefix = resume_prefix
        self.idle_timeout_s = settings.idle_timeout_s
        self.resume_token: str | None = None
        self._resume_s = settings.resume_s
        self._number = 0
        self._received = 0  # the client's messages
        self._acknowledged = 0  # how many of them the client knows to have arrived
        self._unacknowledged_bytes = 0
        self._stream = ""
        self._form = form
        self._defaults = replace(default_policy(settings, engine), speakers=speakers, speakers_revised=True)
        self._engine = engine
        self._policy: Policy | None = None
        self._language = engine.languages[0] if len(engine.languages) == 1 else "und"
        self._texts = ChannelTexts(Formatting(fillers=True), held=False)
        self._flushes: dict[str, str | None] = {}
        self._flush_count = 0

    def begin(self) -> Sequence[Command]:
        """Return nothing: `start` opens the stream."""
        return ()

    def receive(self, frame: str | bytes) -> Sequence[Command]:
        """Return the commands in a client's frame. Raises `DialectError`."""
        commands: Sequence[Command]
        if self._policy is not None and self._form is wire.Format.JSON and isinstance(frame, bytes):
            commands = (Audio(frame),)  # the usual frame, which needs no message
        else:
            commands = self._commands(self._message(frame))
        self._received += 1
        self._unacknowledged_bytes += len(frame)
        far = (
            self._received - self._acknowledged >= _MESSAGES_UNACKNOWLEDGED
            or self._unacknowledged_bytes >= _BYTES_UNACKNOWLEDGED
        )
        if far and self.resume_token is not None:
            return [*commands, Reply(tuple(self._frames(wire.ProgressMessage(), replaces="progress")))]
        return commands

    def _message(self, frame: str | bytes) -> wire.AnyClientMessage:
        try:
            return wire.decode_client(frame, self._form)
        except wire.TooLargeError as error:
            raise DialectError("message_too_big", str(error)) from error
        except wire.WireError as error:
            raise DialectError("invalid_message", str(error)) from error

    def _commands(self, message: wire.AnyClientMessage) -> Sequence[Command]:
        if self._policy is None:
            if isinstance(message, wire.StartMessage):
                return [self._open(message)]
            if isinstance(message, wire.KeepAliveMessage):
                return [KeepAlive()]
            if isinstance(message, wire.CloseMessage):
                return [End()]
            raise DialectError("not_started", f"the first message must be 'start', not '{message.type}'")
        match message:
            case wire.AudioMessage(audio=data):
                return [Audio(data)]
            case wire.FinalizeMessage(id=flush_id):
                self._flush_count += 1
                token = str(self._flush_count)
                self._flushes[token] = flush_id
                return [Flush(token)]
            case wire.KeepAliveMessage():
                return [KeepAlive()]
            case wire.CloseMessage():
                return [End()]
            case wire.StartMessage():
                raise DialectError("already_started", "'start' was sent already")

    def opened(self, stream: str) -> Sequence[Frame]:
        """Return the `ready` message."""
        self._stream = stream
        return self._ready()

    def resumed(self) -> Sequence[Frame]:
        """Return another `ready` message, which tells the client what to send again."""
        return self._ready()

    def _ready(self) -> Sequence[Frame]:
        assert self._policy is not None
        return self._frames(
            wire.ReadyMessage(
                stream=self._stream,
                resume=self.resume_token,
                resume_within_s=self._resume_s if self.resume_token else 0.0,
                model=self._engine.name,
                language=self._language,
                endpointing_ms=self._policy.endpoint_ms or 0,
                max_utterance_s=self._policy.hard_s,
            )
        )

    def emit(self, event: events.Event) -> Sequence[Frame]:
        """Return the frames to send for an event."""
        told = [self._mark(channel, mark) for channel, mark in self._texts.settled(event)]
        return [*chain.from_iterable(told), *self._emit(event)]

    def _emit(self, event: events.Event) -> Sequence[Frame]:
        match event:
            case events.SpeechStarted(at=at, channel=channel):
                return self._frames(wire.SpeechStartedMessage(channel=channel, time=rounded(seconds(at))))
            case events.Interim(channel=channel, span=span):
                words, stable = self._texts.partial(event)
                partial = wire.PartialMessage(
                    channel=channel,
                    start=rounded(seconds(span.start)),
                    end=rounded(seconds(span.end)),
                    text=written_text(words),
                    words=word_entries(words),
                    stable=stable,
                )
                return self._frames(partial, replaces=f"partial {channel}")
            case events.Final(channel=channel, span=span, cause=cause):
                mark, words = self._texts.final(event)
                final = wire.FinalMessage(
                    channel=channel,
                    start=rounded(seconds(span.start)),
                    end=rounded(seconds(span.end)),
                    text=written_text(words),
                    words=word_entries(words),
                    language=found.code if (found := main_language(words)) else None,
                    cause=cast(
                        "Literal['endpoint', 'length', 'finalize', 'close']", cause.value
                    ),  # all its policies have
                )
                return [*self._mark(channel, mark), *self._frames(final)]
            case events.UtteranceEnd(channel=channel, last_word_end=end):
                return self._frames(wire.UtteranceEndMessage(channel=channel, last_word_end=rounded(end)))
            case events.Flushed(token=token, everywhere=True):
                return self._frames(wire.FinalizedMessage(id=self._flushes.pop(token)))
            case SpeakersRevised():
                return self._frames(speakers_message(event))
            case events.Failed(span=span, reason=reason):
                where = f"{seconds(span.start):.1f}-{seconds(span.end):.1f} s"
                return self._frames(
                    wire.ErrorMessage(code="decode_failed", message=f"{where} could not be decoded: {reason}")
                )
        return ()

    def closing(self, error: DialectError | None, heard_s: float) -> Farewell:
        """Return the `error` message, if there is one, and `closed`."""
        reason, code = (
            ("close", 1000) if error is None else (error.code, _CLOSE_CODES.get(error.code, POLICY_VIOLATION))
        )
        frames = () if error is None else self._frames(wire.ErrorMessage(code=error.code, message=error.message))
        closed = self._frames(wire.ClosedMessage(reason=reason, seconds=rounded(heard_s)))
        return Farewell((*frames, *closed), code, reason)

    def _frames(self, message: wire.AnyServerMessage, replaces: str | None = None) -> Sequence[Frame]:
        if self.resume_token is None:
            return [Frame(wire.encode(message, self._form), replaces)]
        self._number += 1
        self._acknowledged, self._unacknowledged_bytes = self._received, 0
        account = wire.Account(number=self._number, received=self._received)
        # A `ready` message belongs to one connection; it is not sent again.
        number = None if isinstance(message, wire.ReadyMessage) else self._number
        return [Frame(wire.encode(message, self._form, account), replaces, number)]

    def _mark(self, channel: int, mark: str) -> Sequence[Frame]:
        return self._frames(wire.MarkMessage(channel=channel, mark=mark)) if mark else ()

    def _open(self, start: wire.StartMessage) -> Open:
        known = self._engine.languages
        language = spoken_language(start.language)
        self._language = language or self._language
        if unknown_language(self._engine, [start.language]):
            raise DialectError(
                "unsupported_language",
                f"{self._engine.name} does not support the language {quoted(start.language)}. It supports: "
                + ", ".join(known),
            )
        if language == MULTIPLE and len(known) == 1:
            raise DialectError(
                "unsupported_language",
                f"{self._engine.name} supports one language, {known[0]}, and cannot follow a change of language.",
            )
        if start.keyterms and not self._engine.keyterms:
            raise DialectError(
                "unsupported_keyterms",
                f"{self._engine.name} does not support keyterms",
            )
        policy = self._defaults
        if start.endpointing_ms is not None:
            policy = replace(policy, endpoint_ms=start.endpointing_ms or None)
        if start.max_utterance_s is not None:
            policy = replace(policy, hard_s=start.max_utterance_s, soft_s=start.max_utterance_s * SOFT_SHARE)
        if not start.interim:
            policy = replace(policy, interim_every_s=None)
        formatting = _formatting(start, language, self._engine)
        self._texts = ChannelTexts(formatting, held=start.marks == "held")
        if start.marks == "held":
            policy = replace(policy, progress_s=WATCH_S)
        if formatting.rewrites:
            policy = replace(policy, speakers_revised=False)  # its words are those of the engine
        self._policy = fitted(policy, self._engine)
        if start.resume and self._resume_s:
            self.resume_token = self._resume_prefix + secrets.token_urlsafe(18)
        return Open(_audio(start), not start.multichannel, self._policy, Options(language, start.keyterms))


def _formatting(start: wire.StartMessage, language: str | None, engine: EngineInfo) -> Formatting:
    """Return how words are written. Raises `DialectError`."""
    formatting = asked(
        smart_format=start.smart_format,
        numerals=start.numerals,
        profanity_filter=start.profanity_filter,
        redact=start.redact,
    )
    try:
        return spoken(formatting, language, engine)
    except Refusal as refusal:
        raise DialectError("unsupported_redact", refusal.message) from refusal


def _audio(start: wire.StartMessage) -> RawFormat | Coded:
    if start.encoding is None:
        if start.sample_rate is not None:
            raise DialectError(
                "unsupported_audio",
                "sample_rate was given without encoding: raw audio needs both, a container neither",
            )
        return Coded()
    if start.sample_rate is None:
        raise DialectError(
            "unsupported_audio",
            f"encoding {start.encoding} needs a sample_rate (8000 to 48000)",
        )
    try:
        return RawFormat(Encoding(start.encoding), start.sample_rate, start.channels)
    except AudioError as error:
        raise DialectError("unsupported_audio", str(error)) from error
