"""OpenAI's Realtime API for transcription at `/v1/realtime` as a dialect: its events to commands, ours to its."""

from __future__ import annotations

import base64
import binascii
import math
import re
import secrets
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from myna.inference.engines.catalogue import Model
from myna.runtime.errors import DialectError, Refusal
from myna.server.dialects.base import (
    CLOSE_CODES,
    LONGEST_CONTROL,
    POLICY_VIOLATION,
    Audio,
    Command,
    Configure,
    Discard,
    EndTurn,
    Farewell,
    Flush,
    Frame,
    KeepAlive,
    Open,
    PlainEntry,
    Reformat,
    Refused,
    Reply,
    Unresumable,
    json_frame,
)
from myna.server.dialects.openai.errors import error_body, refused
from myna.server.dialects.openai.models import PUBLIC_MODELS
from myna.server.dialects.openai.realtime_session import LOGPROBS, RealtimeSession
from myna.server.dialects.openai.rest import logprobs
from myna.server.dialects.parameters import Parameters
from myna.server.keys import Authentication, credential
from myna.server.serving import ModelWanted
from myna.server.settings import Settings
from myna.streaming import events
from myna.streaming.audio.raw import Encoding
from myna.streaming.events import Cause, Word, seconds
from myna.streaming.session.jobs import EngineInfo
from myna.wire import strictjson
from myna.wire.quoting import quoted

PATH = "/v1/realtime"
LONGEST_APPEND = 15 << 20
"""Bytes of audio in one append: OpenAI's own limit."""
LONGEST_EVENT_ID = 512
"""Characters of an event's id: OpenAI's own limit. A longer one is not sent back with an error."""
_SLICE = 131_072
"""Characters of base64 that are decoded at once: half a millisecond of the event loop. A multiple of 4."""
_AUDIO = re.compile(r'"audio"\s*:\s*"')
SHORTEST_COMMIT_MS = 100
_CONVERSATION_MODELS = re.compile(r"gpt-(4o-)?(mini-)?realtime(?!-whisper).*|gpt-4o-mini-realtime.*")
_BETA_FIELDS = "input_audio_"
"""Begins the fields of a session in the shapes of the API's first version, whose conversations take `session.update`, too."""
_TRANSCRIPTION = "conversation.item.input_audio_transcription."
_CLIENT_EVENTS = (
    "session.update", "transcription_session.update", "input_audio_buffer.append", "input_audio_buffer.commit",
    "input_audio_buffer.clear",
)  # fmt: skip
_SERVER_ERRORS = ("internal_error", "shutting_down", "overloaded", "too_busy")
_ERROR_TYPES = {
    **dict.fromkeys(_SERVER_ERRORS, "server_error"),
    "too_many_streams": "rate_limit_error", "unauthorized": "authentication_error",
}  # fmt: skip


class RealtimeEntry(PlainEntry):
    """The way in at `PATH`. `granted`: the session of the client's secret; `beta`: it speaks the API's first version."""

    def __init__(self, name: str, settings: Settings, granted: Mapping[str, Any] | None, *, beta: bool) -> None:
        self.name = name
        self._settings = settings
        self._granted = granted
        self._beta = beta
        self._asked: str | None = None

    def read(self, query: Collection[tuple[str, str]]) -> ModelWanted:
        """Take the request's parameters; return the model asked for. Raises `Refusal`."""
        given = Parameters(query, "invalid_value")
        self._asked = given.text("model")
        if (intent := given.text("intent") or "transcription") != "transcription":
            raise refused(
                f"intent must be transcription, not {quoted(intent)}: this server transcribes, and does not speak.",
                "intent",
            )
        if self._asked is None or _CONVERSATION_MODELS.fullmatch(
            self._asked
        ):  # a session's, not what transcribes in it
            self._asked = (self._begun(RealtimeSession()).transcription or {}).get("model")
        return ModelWanted.of(self._asked, PUBLIC_MODELS)

    def dialect(self, model: Model, engine: EngineInfo) -> RealtimeDialect:
        """Return the translator. Raises `Refusal` if the model cannot do what the client's secret asks."""
        names = frozenset(name for name in (model.name, engine.name, self._asked) if name)
        session = self._begun(RealtimeSession(transcription={"model": self._asked or model.name}), names)
        session.options(engine)
        return RealtimeDialect(session, self._settings, engine, names, beta=self._beta)

    def _begun(self, session: RealtimeSession, names: frozenset[str] | None = None) -> RealtimeSession:
        """Return the session as the client's secret, if there is one, lets it begin."""
        if self._granted is None:
            return session
        return session.patched(self._granted["patch"], beta=self._granted["beta"], models=names)

    @property
    def takes_client_secrets(self) -> bool:
        """Whether a client secret lets a client in: it was made for this."""
        return True

    def refused(self, refusal: Refusal) -> Refused:
        """Return the refusal as OpenAI's clients read it."""
        return Refused(error_body(refusal))


def entry_of(
    name: str, settings: Settings, headers: Mapping[str, str], authentication: Authentication
) -> RealtimeEntry:
    """Return the entry of a request with these headers. One of them may say that the client uses the first version."""
    beta = "realtime=v1" in headers.get("OpenAI-Beta", "") or "openai-beta.realtime-v1" in headers.get(
        "Sec-WebSocket-Protocol", ""
    )
    return RealtimeEntry(name, settings, authentication.session(credential(headers)), beta=beta)


@dataclass(slots=True)
class _Item:
    """A stretch of speech on its way to its transcript. `token`: of the client's commit; None: voice activity ends it."""

    id: str
    token: str | None = None
    committed: bool = False
    wanted: bool = True
    """False: its audio was cleared, and nothing is told of it."""
    transcribed: bool = True
    pieces: list[tuple[str, Sequence[Word]]] = field(default_factory=list)
    told: int = 0
    """How many of the pieces."""
    begin_ms: float = 0.0
    end_ms: float = 0.0
    failure: str | None = None

    @property
    def text(self) -> str:
        return "".join(piece for piece, _ in self.pieces)


class RealtimeDialect(Unresumable):
    """One connection's translator."""

    def __init__(
        self, session: RealtimeSession, settings: Settings, engine: EngineInfo, names: frozenset[str], *, beta: bool
    ) -> None:
        self.idle_timeout_s = settings.realtime_idle_timeout_s
        self._id = _new_id("sess")
        self._session = session
        self._settings = settings
        self._engine = engine
        self._names = names
        self._beta = beta
        self._appended_ms = 0.0
        self._committed_ms = 0.0  # or cleared
        self._items: deque[_Item] = deque()  # in the order of their audio; the first gets what is decoded
        self._speaking: _Item | None = None  # not committed yet
        self._loose: list[tuple[str, Sequence[Word]]] = []  # decoded before anybody has said to what it belongs
        self._started_at = 0
        self._ended_by_client: _Item | None = None  # its last words have not come
        self._previous: str | None = None
        self._tokens = 0

    def begin(self) -> Sequence[Command]:
        """Return the opening; a client may change everything later."""
        session = self._session
        policy, options = session.policy(self._settings, self._engine), session.options(self._engine)
        return [Open(session.audio, mix=True, policy=policy, options=options)]

    def receive(self, frame: str | bytes) -> Iterable[Command]:
        """Return what a client's frame asks for; what it gets wrong costs it no more than an `error`."""
        event_id: str | None = None
        try:
            if isinstance(frame, str) and len(frame) > LONGEST_CONTROL:
                message, audio = _large_append(frame)
                return self._append_slowly(audio, _event_id(message))
            message = _message(frame)
            event_id = _event_id(message)
            match message["type"]:
                case "session.update" | "transcription_session.update" as kind:
                    return self._update(message.get("session"), kind.removesuffix(".update"))
                case "input_audio_buffer.append":
                    return self._append(message.get("audio"))
                case "input_audio_buffer.commit":
                    return self._commit()
                case "input_audio_buffer.clear":
                    return self._clear()
                case other:
                    known = ", ".join(_CLIENT_EVENTS)
                    raise refused(f"type {quoted(other)} is not supported; there are: {known}.", "type")
        except Refusal as refusal:
            return [Reply((self._error(refusal.code, refusal.message, refusal.param, event_id),))]

    def opened(self, stream: str) -> Sequence[Frame]:
        """Return `session.created`."""
        del stream
        return [self._session_frame("transcription_session.created" if self._beta else "session.created")]

    def emit(self, event: events.Event) -> Sequence[Frame]:
        """Return what is sent for an event."""
        match event:
            case events.SpeechStarted(at=at):
                self._started_at = at
                return () if self._session.manual or self._speaking or self._ended_by_client else self._start()
            case events.SpeechStopped(at=at) if not (self._session.manual or self._ended_by_client):
                return self._stop(at)
            case events.Final(words=words, cause=cause):
                self._hear(words)
                frames = self._deltas()
                if (
                    cause is Cause.ENDPOINT
                    and self._items
                    and self._items[0].token is None
                    and self._items[0].committed
                ):
                    frames += self._complete()
                return frames
            case events.Failed(reason=reason) if self._items:
                self._items[0].failure = reason
            case events.Flushed(token=token) if self._items and self._items[0].token == token:
                return self._complete()
        return ()

    def closing(self, error: DialectError | None, heard_s: float) -> Farewell:
        """Return the `error` that ended the session, if one did."""
        del heard_s
        if error is None:
            return Farewell((), 1000, "")
        frame = self._error(error.code, error.message, None, None)
        return Farewell((frame,), CLOSE_CODES.get(error.code, POLICY_VIOLATION), error.message)

    def _update(self, patch: object, kind: str) -> Sequence[Command]:
        beta = kind != "session" or (isinstance(patch, dict) and any(name.startswith(_BETA_FIELDS) for name in patch))
        session = self._session.patched(patch, beta=beta, models=self._names)
        options = session.options(self._engine)
        commands: list[Command] = []
        if session.audio != self._session.audio:
            commands.append(Reformat(session.audio))
        commands.append(Configure(options, session.policy(self._settings, self._engine)))
        self._session = session
        self._beta = beta
        return [*commands, Reply((self._session_frame(f"{kind}.updated"),))]

    def _append_slowly(self, audio: str, event_id: str | None) -> Iterator[Command]:
        """Decode a large append in slices, others having their turns between them; all of it is taken or nothing."""
        try:
            if 3 * len(audio) // 4 > LONGEST_APPEND:
                raise refused(f"audio must be at most {LONGEST_APPEND} bytes, not {3 * len(audio) // 4}.", "audio")
            if "\\" in audio:
                audio = audio.replace("\\/", "/")  # some encoders write slashes in JSON so
            pieces = []
            for start in range(0, len(audio), _SLICE):
                last = start + _SLICE >= len(audio)
                pieces.append(_decoded(audio[start : start + _SLICE], last=last))
                yield KeepAlive()
        except Refusal as refusal:
            yield Reply((self._error(refusal.code, refusal.message, refusal.param, event_id),))
            return
        yield from self._heard(b"".join(pieces))

    def _append(self, audio: object) -> Sequence[Command]:
        if not isinstance(audio, str):
            raise refused("audio must be a text in base64.", "audio")
        return self._heard(_decoded(audio, last=True))

    def _heard(self, data: bytes) -> Sequence[Command]:
        if not data:
            return [KeepAlive()]
        form = self._session.audio
        self._appended_ms += 1000 * len(data) / form.sample_rate / (2 if form.encoding is Encoding.LINEAR16 else 1)
        return [Audio(data)]

    def _commit(self) -> Sequence[Command]:
        waiting_ms = self._appended_ms - self._committed_ms
        if waiting_ms < SHORTEST_COMMIT_MS:
            raise refused(
                f"Error committing input audio buffer: buffer too small. Expected at least {SHORTEST_COMMIT_MS}ms of audio,"
                f" but buffer only has {waiting_ms:.2f}ms of audio.",
                code="input_audio_buffer_commit_empty",
            )
        item = self._speaking or self._new_item(self._committed_ms)
        item.end_ms = self._committed_ms = self._appended_ms
        frames = tuple(self._committed(item))
        item.token = self._token()  # it ends here, not at an endpoint before, where voice activity may be by now
        if not self._session.manual:
            self._ended_by_client = item
            return [Reply(frames), EndTurn(), Flush(item.token)]
        return [Reply(frames), Flush(item.token)]

    def _clear(self) -> Sequence[Command]:
        self._committed_ms = self._appended_ms
        if self._speaking is not None:
            self._items.remove(self._speaking)
            self._speaking = None
        self._items.append(_Item("", self._token(), wanted=False))
        return [Reply((self._frame("input_audio_buffer.cleared"),)), Discard(self._items[-1].token or "")]

    def _start(self) -> list[Frame]:
        start_ms = max(0, round(1000 * seconds(self._started_at)) - self._session.prefix_ms)
        self._speaking = item = self._new_item(start_ms)
        return [self._frame("input_audio_buffer.speech_started", audio_start_ms=start_ms, item_id=item.id)]

    def _stop(self, at: int) -> Sequence[Frame]:
        frames = [] if self._speaking else self._start()  # it began before voice activity counted
        item = self._speaking
        assert item is not None
        item.end_ms = self._committed_ms = round(1000 * seconds(at))
        stopped = self._frame("input_audio_buffer.speech_stopped", audio_end_ms=item.end_ms, item_id=item.id)
        return [*frames, stopped, *self._committed(item)]

    def _new_item(self, begin_ms: float) -> _Item:
        item = _Item(_new_id("item"), transcribed=self._session.transcription is not None, begin_ms=begin_ms)
        self._items.append(item)
        return item

    def _committed(self, item: _Item) -> list[Frame]:
        """Say that an item is complete, and what has been decoded of it."""
        item.committed, self._speaking = True, None
        previous, self._previous = self._previous, item.id
        where = {"previous_item_id": previous}
        content = {"type": "input_audio", "transcript": None}
        told = {
            "id": item.id, "object": "realtime.item", "type": "message", "status": "completed", "role": "user",
            "content": [content],
        }  # fmt: skip
        frames = [self._frame("input_audio_buffer.committed", item_id=item.id, **where)]
        if self._beta:
            frames.append(self._frame("conversation.item.created", item=told, **where))
        else:
            frames += [self._frame(f"conversation.item.{kind}", item=told, **where) for kind in ("added", "done")]
        if item is self._items[0]:
            item.pieces += self._loose
            self._loose = []
            frames += self._deltas()
        return frames

    def _hear(self, words: Sequence[Word]) -> None:
        if not words:
            return
        pieces = self._items[0].pieces if self._items else self._loose
        text = " ".join(word.text for word in words)
        pieces.append((f" {text}" if pieces else text, words))

    def _deltas(self) -> list[Frame]:
        """Tell what the first item has got and not told yet, if it may be told of."""
        item = self._items[0] if self._items else None
        if item is None or not (item.committed and item.wanted and item.transcribed):
            return []
        fresh, item.told = item.pieces[item.told :], len(item.pieces)
        return [
            self._frame(
                f"{_TRANSCRIPTION}delta", item_id=item.id, content_index=0, delta=text, **self._logprobs(words, text)
            )
            for text, words in fresh
        ]

    def _complete(self) -> list[Frame]:
        """Tell the whole of the first item; the next gets what is decoded from here on."""
        item = self._items.popleft()
        if item is self._ended_by_client:
            self._ended_by_client = None
        if not (item.wanted and item.transcribed):
            return []
        about = {"item_id": item.id, "content_index": 0}
        if item.failure is not None and not item.pieces:
            error = {"type": "server_error", "code": "transcription_failed", "message": item.failure, "param": None}
            return [self._frame(f"{_TRANSCRIPTION}failed", **about, error=error)]
        usage = {"type": "duration", "seconds": math.ceil(max(0.0, item.end_ms - item.begin_ms) / 1000)}
        words = [word for _, part in item.pieces for word in part]
        done = self._frame(
            f"{_TRANSCRIPTION}completed", **about, transcript=item.text, usage=usage, **self._logprobs(words, item.text)
        )
        return [done, *self._deltas()]

    def _logprobs(self, words: Sequence[Word], text: str) -> dict[str, object]:
        if LOGPROBS not in self._session.include:
            return {}
        return {"logprobs": logprobs(words, first=not text.startswith(" "))}

    def _session_frame(self, kind: str) -> Frame:
        return self._frame(kind, session=self._session.told(self._id, beta=self._beta))

    def _token(self) -> str:
        self._tokens += 1
        return str(self._tokens)

    def _error(self, code: str, message: str, param: str | None, event_id: str | None) -> Frame:
        kind = _ERROR_TYPES.get(code, "invalid_request_error")
        error = {"type": kind, "code": code, "message": message, "param": param, "event_id": event_id}
        return self._frame("error", error=error)

    def _frame(self, kind: str, **fields: object) -> Frame:
        return json_frame({"type": kind, "event_id": _new_id("event"), **fields})


def _new_id(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(12)}"


def _decoded(audio: str, *, last: bool) -> bytes:
    """Return the bytes of a text in base64, or of a slice of one that is not its `last`. Raises `Refusal`."""
    try:
        data = base64.b64decode(audio, validate=True)
    except (binascii.Error, ValueError) as error:
        raise refused(f"audio is no base64: {error}.", "audio") from error
    if not last and "=" in audio:
        raise refused("audio is no base64: there is padding within.", "audio")
    return data


def _large_append(frame: str) -> tuple[Mapping[str, Any], str]:
    """Return a large event without its audio, and the audio: only an append may be large. Raises `Refusal`."""
    found = _AUDIO.search(frame, 0, LONGEST_CONTROL)
    begin = found.end() if found else 0
    end = max(begin, frame.find('"', begin))
    if len(frame) - (end - begin) > LONGEST_CONTROL:
        raise refused(
            f"An event without audio has at most {LONGEST_CONTROL} characters; this one has {len(frame)}.",
            code="event_too_large",
        )
    message = _message(frame[:begin] + frame[end:])
    if message["type"] != "input_audio_buffer.append" or message.get("audio") != "":
        raise refused("Of the events only input_audio_buffer.append may be so large, by its audio.", "type")
    return message, frame[begin:end]


def _event_id(message: Mapping[str, Any]) -> str | None:
    """Return the id that an error of the event is sent back with."""
    given = message.get("event_id")
    return given if isinstance(given, str) and len(given) <= LONGEST_EVENT_ID else None


def _message(frame: str | bytes) -> Mapping[str, Any]:
    if isinstance(frame, bytes):
        raise refused("Events are texts; audio goes into input_audio_buffer.append.")
    try:
        message = strictjson.loads(frame)
    except (ValueError, RecursionError) as error:
        raise refused("The event is no JSON.", code="invalid_json") from error
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise refused('An event is a JSON object with a "type".', "type")
    return message
