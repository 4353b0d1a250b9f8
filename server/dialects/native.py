"""The native live protocol (docs/protocol.md) as a dialect: `streaming.wire` messages to commands, events to messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, cast

from myna.server.config import Settings
from myna.server.dialects.base import (
    Audio,
    Command,
    DialectError,
    End,
    Flush,
    Frame,
    KeepAlive,
    Open,
)
from myna.streaming import events, wire
from myna.streaming.audio import AudioError, Encoding, RawFormat
from myna.streaming.coverage import fitted
from myna.streaming.engines.base import EngineInfo
from myna.streaming.events import seconds
from myna.streaming.policy import Options, Policy

INVALID_PAYLOAD = 1007
POLICY_VIOLATION = 1008
_SOFT_SHARE = 2 / 3
"""Of the longest utterance: from there on short pauses suffice for a cut (8 of 12 s by default)."""


class NativeDialect:
    """One connection's translator."""

    def __init__(self, form: wire.Format, settings: Settings, engine: EngineInfo) -> None:
        self._form = form
        self._defaults = defaults(settings, engine)
        self._engine = engine
        self._policy: Policy | None = None
        self._language = engine.languages[0] if len(engine.languages) == 1 else "und"
        self._flushes: dict[str, str | None] = {}
        self._flush_count = 0

    def receive(self, frame: str | bytes) -> Sequence[Command]:
        """Return what a client's frame asks for. Raises `DialectError`."""
        try:
            message = wire.decode_client(frame, self._form)
        except wire.WireError as error:
            raise DialectError("invalid_message", str(error), INVALID_PAYLOAD) from error
        if self._policy is None:
            if isinstance(message, wire.Start):
                return [self._open(message)]
            if isinstance(message, wire.KeepAlive):
                return [KeepAlive()]
            if isinstance(message, wire.Close):
                return [End()]
            raise DialectError(
                "not_started", f"the first message must be 'start', not '{message.type}'", POLICY_VIOLATION
            )
        match message:
            case wire.Audio(audio=data):
                return [Audio(data)]
            case wire.Finalize(id=flush_id):
                self._flush_count += 1
                token = str(self._flush_count)
                self._flushes[token] = flush_id
                return [Flush(token)]
            case wire.KeepAlive():
                return [KeepAlive()]
            case wire.Close():
                return [End()]
            case wire.Start():
                raise DialectError("already_started", "'start' was sent before; one is enough", POLICY_VIOLATION)

    def opened(self, stream: str) -> Sequence[Frame]:
        """Return the `ready` message."""
        assert self._policy is not None
        return self._frames(
            wire.Ready(
                stream=stream,
                model=self._engine.name,
                language=self._language,
                endpointing_ms=self._policy.endpoint_ms or 0,
                max_utterance_s=self._policy.hard_s,
            )
        )

    def emit(self, event: events.Event) -> Sequence[Frame]:
        """Return what is sent for an event."""
        match event:
            case events.SpeechStarted(at=at, channel=channel):
                return self._frames(wire.SpeechStarted(channel=channel, time=_round(seconds(at))))
            case events.Tentative(channel=channel, span=span, words=words, stable=stable):
                partial = wire.Partial(
                    channel=channel,
                    start=_round(seconds(span.start)),
                    end=_round(seconds(span.end)),
                    text=_text(words),
                    words=_words(words),
                    stable=stable,
                )
                return self._frames(partial, replaces=f"partial {channel}")
            case events.Final(channel=channel, span=span, words=words, cause=cause):
                final = wire.Final(
                    channel=channel,
                    start=_round(seconds(span.start)),
                    end=_round(seconds(span.end)),
                    text=_text(words),
                    words=_words(words),
                    cause=cast(
                        "Literal['endpoint', 'length', 'finalize', 'close']", cause.value
                    ),  # all its policies have
                )
                return self._frames(final)
            case events.UtteranceEnd(channel=channel, last_word_end=end):
                return self._frames(wire.UtteranceEnd(channel=channel, last_word_end=_round(end)))
            case events.Flushed(token=token, everywhere=True):
                return self._frames(wire.Finalized(id=self._flushes.pop(token)))
            case events.Failed(span=span, reason=reason):
                where = f"{seconds(span.start):.1f}-{seconds(span.end):.1f} s"
                return self._frames(wire.Error(code="decode_failed", message=f"{where} could not be decoded: {reason}"))
        return ()

    def failing(self, error: DialectError) -> Sequence[Frame]:
        """Return the `error` message."""
        return self._frames(wire.Error(code=error.code, message=error.message))

    def closing(self, reason: str, heard_s: float) -> Sequence[Frame]:
        """Return the `closed` message."""
        return self._frames(wire.Closed(reason=reason, seconds=_round(heard_s)))

    def _frames(self, message: wire.AnyServerMessage, replaces: str | None = None) -> Sequence[Frame]:
        return [Frame(wire.encode(message, self._form), replaces)]

    def _open(self, start: wire.Start) -> Open:
        known = self._engine.languages
        if start.language is not None:
            self._language = start.language.split("-")[0].lower()
        if known and self._language not in (*known, "und"):
            raise DialectError(
                "unsupported_language",
                f"{self._engine.name} does not know the language {start.language!r}; it knows: " + ", ".join(known),
                POLICY_VIOLATION,
            )
        if start.keyterms and not self._engine.keyterms:
            raise DialectError(
                "unsupported_keyterms",
                f"{self._engine.name} cannot make words likelier: leave keyterms out",
                POLICY_VIOLATION,
            )
        policy = self._defaults
        if start.endpointing_ms is not None:
            policy = replace(policy, endpoint_ms=start.endpointing_ms or None)
        if start.max_utterance_s is not None:
            policy = replace(policy, hard_s=start.max_utterance_s, soft_s=start.max_utterance_s * _SOFT_SHARE)
        if not start.interim:
            policy = replace(policy, interim_every_s=None)
        self._policy = fitted(policy, self._engine)
        return Open(_raw_format(start), not start.multichannel, self._policy, Options(start.language, start.keyterms))


def defaults(settings: Settings, engine: EngineInfo) -> Policy:
    """Return the policy of a client that asks for nothing in particular."""
    longest_s = settings.max_utterance_s or engine.best_segment_s
    return Policy(
        endpoint_ms=settings.endpointing_ms or None,
        hard_s=longest_s,
        soft_s=longest_s * _SOFT_SHARE,
        context_s=settings.context_s,
        interim_every_s=settings.interim_every_s,
    )


def _raw_format(start: wire.Start) -> RawFormat | None:
    if start.encoding is None:
        if start.sample_rate is not None:
            raise DialectError(
                "unsupported_audio",
                "sample_rate was given without encoding; for raw audio give both, for a container neither",
                POLICY_VIOLATION,
            )
        return None
    if start.sample_rate is None:
        raise DialectError(
            "unsupported_audio",
            f"encoding {start.encoding} needs a sample_rate (8000 to 48000)",
            POLICY_VIOLATION,
        )
    try:
        return RawFormat(Encoding(start.encoding), start.sample_rate, start.channels)
    except AudioError as error:
        raise DialectError("unsupported_audio", str(error), POLICY_VIOLATION) from error


def _text(words: Sequence[events.Word]) -> str:
    return " ".join(word.text for word in words)


def _words(words: Sequence[events.Word]) -> tuple[wire.Word, ...]:
    return tuple(
        wire.Word(
            word=word.bare,
            punctuated_word=word.text,
            start=_round(word.start),
            end=_round(word.end),
            confidence=_round(word.confidence),
        )
        for word in words
    )


def _round(value: float) -> float:
    """Return milliseconds' precision: a sample is finer than any word's time is known."""
    return round(value, 3)
