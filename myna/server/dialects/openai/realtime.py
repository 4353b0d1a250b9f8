"""OpenAI's Realtime API for transcription as a dialect: client events to commands, events of the stream to server events."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Iterator, Sequence

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
    Reformat,
    Reply,
    Unresumable,
    json_frame,
)
from myna.server.dialects.openai.errors import refused
from myna.server.dialects.openai.realtime_events import (
    decoded,
    decoded_slices,
    event_id_of,
    event_in,
    large_append_in,
)
from myna.server.dialects.openai.realtime_items import Item, ItemQueue
from myna.server.dialects.openai.realtime_session import LOGPROBS, RealtimeSession
from myna.server.dialects.openai.rest import heard_languages, logprobs
from myna.server.settings import Settings
from myna.streaming import events
from myna.streaming.audio.raw import Encoding
from myna.streaming.events import Cause, Word, seconds
from myna.streaming.session.jobs import EngineInfo
from myna.streaming.text.formatting import formatted
from myna.streaming.text.seams import MarksAtOnce
from myna.wire.quoting import quoted

SHORTEST_COMMIT_MS = 100
_BETA_FIELDS = "input_audio_"
"""Prefix of the session's fields in the API's first version. Clients of that version may send `session.update`, too."""
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
        self._items = ItemQueue()
        self._formatting = session.formatting(engine)
        self._seams = MarksAtOnce(self._formatting.language)
        self._speaking: Item | None = None  # not committed yet
        self._started_at = 0
        self._ended_by_client: Item | None = None  # its last words are not decoded yet
        self._previous: str | None = None
        self._tokens = 0

    def begin(self) -> Sequence[Command]:
        """Return the command that opens the stream; the client may change every option later."""
        session = self._session
        policy, options = session.policy(self._settings, self._engine), session.options(self._engine)
        return [Open(session.audio, mix=True, policy=policy, options=options)]

    def receive(self, frame: str | bytes) -> Iterable[Command]:
        """Return what a client's frame asks for. An invalid event is answered with `error`, and the stream goes on."""
        event_id: str | None = None
        try:
            if isinstance(frame, str) and len(frame) > LONGEST_CONTROL:
                event, audio = large_append_in(frame)
                return self._append_slowly(audio, event_id_of(event))
            event = event_in(frame)
            event_id = event_id_of(event)
            match event["type"]:
                case "session.update" | "transcription_session.update" as kind:
                    return self._update(event.get("session"), kind.removesuffix(".update"))
                case "input_audio_buffer.append":
                    return self._heard(decoded(event.get("audio")))
                case "input_audio_buffer.commit":
                    return self._commit()
                case "input_audio_buffer.clear":
                    return self._clear()
                case other:
                    known = ", ".join(_CLIENT_EVENTS)
                    raise refused(f"type {quoted(other)} is not supported. Supported types: {known}.", "type")
        except Refusal as refusal:
            return [Reply((self._error(refusal.code, refusal.message, refusal.param, event_id),))]

    def opened(self, stream: str) -> Sequence[Frame]:
        """Return `session.created`."""
        del stream
        return [self._session_frame("transcription_session.created" if self._beta else "session.created")]

    def emit(self, event: events.Event) -> Sequence[Frame]:
        """Return the server events for an event of the stream."""
        match event:
            case events.SpeechStarted(at=at):
                self._started_at = at
                return () if self._session.manual or self._speaking or self._ended_by_client else self._start()
            case events.SpeechStopped(at=at) if not (self._session.manual or self._ended_by_client):
                return self._stop(at)
            case events.Final(cause=cause):
                self._items.hear(formatted(self._seams.take(event), self._formatting))
                first, frames = self._items.first, self._deltas()
                if cause is Cause.ENDPOINT and first is not None and first.token is None and first.committed:
                    frames += self._complete()
                return frames
            case events.Failed(reason=reason) if self._items.first is not None:
                self._items.first.failure = reason
            case events.Flushed(token=token) if self._items.first is not None and self._items.first.token == token:
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
        options, formatting = session.options(self._engine), session.formatting(self._engine)
        commands: list[Command] = []
        if session.audio != self._session.audio:
            commands.append(Reformat(session.audio))
        commands.append(Configure(options, session.policy(self._settings, self._engine)))
        self._session, self._formatting = session, formatting
        self._beta = beta
        return [*commands, Reply((self._session_frame(f"{kind}.updated"),))]

    def _append_slowly(self, audio: str, event_id: str | None) -> Iterator[Command]:
        """Decode a large append in slices, so that other connections have their turns. Take all of it or nothing."""
        pieces = []
        try:
            for piece in decoded_slices(audio):
                pieces.append(piece)
                yield KeepAlive()
        except Refusal as refusal:
            yield Reply((self._error(refusal.code, refusal.message, refusal.param, event_id),))
            return
        yield from self._heard(b"".join(pieces))

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
        item.token = self._token()  # the commit ends it, not an endpoint that was detected before
        if not self._session.manual:
            self._ended_by_client = item
            return [Reply(frames), EndTurn(), Flush(item.token)]
        return [Reply(frames), Flush(item.token)]

    def _clear(self) -> Sequence[Command]:
        self._committed_ms = self._appended_ms
        if self._speaking is not None:
            self._items.remove(self._speaking)
            self._speaking = None
        token = self._token()
        self._items.add(Item("", token, wanted=False))
        return [Reply((self._frame("input_audio_buffer.cleared"),)), Discard(token)]

    def _start(self) -> list[Frame]:
        start_ms = max(0, round(1000 * seconds(self._started_at)) - self._session.prefix_ms)
        self._speaking = item = self._new_item(start_ms)
        return [self._frame("input_audio_buffer.speech_started", audio_start_ms=start_ms, item_id=item.id)]

    def _stop(self, at: int) -> Sequence[Frame]:
        frames = [] if self._speaking else self._start()  # the speech began before voice activity detection was on
        item = self._speaking
        assert item is not None
        item.end_ms = self._committed_ms = round(1000 * seconds(at))
        stopped = self._frame("input_audio_buffer.speech_stopped", audio_end_ms=item.end_ms, item_id=item.id)
        return [*frames, stopped, *self._committed(item)]

    def _new_item(self, begin_ms: float) -> Item:
        item = Item(_new_id("item"), transcribed=self._session.transcription is not None, begin_ms=begin_ms)
        self._items.add(item)
        return item

    def _committed(self, item: Item) -> list[Frame]:
        """Commit an item; return the events that say so, and the deltas of what is decoded already."""
        self._items.commit(item)
        self._speaking = None
        previous, self._previous = self._previous, item.id
        where = {"previous_item_id": previous}
        content = {"type": "input_audio", "transcript": None}
        described = {
            "id": item.id, "object": "realtime.item", "type": "message", "status": "completed", "role": "user",
            "content": [content],
        }  # fmt: skip
        frames = [self._frame("input_audio_buffer.committed", item_id=item.id, **where)]
        if self._beta:
            frames.append(self._frame("conversation.item.created", item=described, **where))
        else:
            frames += [self._frame(f"conversation.item.{kind}", item=described, **where) for kind in ("added", "done")]
        if item is self._items.first:
            frames += self._deltas()
        return frames

    def _deltas(self) -> list[Frame]:
        """Return the events with the pieces of the first item that the client has not been sent."""
        unsent = self._items.unsent()
        if unsent is None:
            return []
        item, pieces = unsent
        about = {"item_id": item.id, "content_index": 0}
        return [
            self._frame(f"{_TRANSCRIPTION}delta", **about, delta=text, **self._logprobs(words, text))
            for text, words in pieces
        ]

    def _complete(self) -> list[Frame]:
        """Return the event with the whole transcript of the first item, and the deltas of the next."""
        item = self._items.complete()
        if item is self._ended_by_client:
            self._ended_by_client = None
        if not (item.wanted and item.transcribed):
            return []
        about = {"item_id": item.id, "content_index": 0}
        if item.failure is not None and not item.pieces:
            error = {"type": "server_error", "code": "transcription_failed", "message": item.failure, "param": None}
            return [self._frame(f"{_TRANSCRIPTION}failed", **about, error=error)]
        usage = {"type": "duration", "seconds": math.ceil(max(0.0, item.end_ms - item.begin_ms) / 1000)}
        confidences = self._logprobs(item.words, item.text)
        more = {"usage": usage, **confidences, **heard_languages(item.words)}
        completed = self._frame(f"{_TRANSCRIPTION}completed", **about, transcript=item.text, **more)
        return [completed, *self._deltas()]

    def _logprobs(self, words: Sequence[Word], text: str) -> dict[str, object]:
        if LOGPROBS not in self._session.include:
            return {}
        return {"logprobs": logprobs(words, first=not text.startswith(" "))}

    def _session_frame(self, kind: str) -> Frame:
        return self._frame(kind, session=self._session.described(self._id, beta=self._beta))

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
