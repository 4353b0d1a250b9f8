"""The native live protocol: its messages and their two codecs, JSON and msgpack. Server and client both use these classes.

docs/protocol.md is the prose; a test compares the two. Times are seconds from the start of the stream.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal, TypeVar

import msgpack
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from myna.wire import strictjson
from myna.wire.quoting import quoted, shortened

PATH = "/v1/stream"
_LONGEST_REASON = 300
"""Characters of what is wrong with a message: it may name what the client sent."""
_Message = TypeVar("_Message")


class Format(StrEnum):
    """How messages are written. In JSON, control is text frames and audio is binary frames; in msgpack all is binary."""

    JSON = "json"
    MSGPACK = "msgpack"


LONGEST_CONTROL = 65_536
"""Bytes, or in JSON characters, of a client's message without its audio."""
_MOST_FIELDS = 32
"""Of a client's message; `start`, the largest, has ten."""
_AUDIO_WITHIN = 1024
"""Bytes of a large message within which its audio begins."""
_NO_AUDIO = msgpack.packb(b"")
_LARGE_AUDIO = msgpack.packb("audio") + b"\xc6"
"""The key of a large message's audio, and what begins binary data of more than 65,535 bytes; four bytes of length follow."""


class WireError(ValueError):
    """A frame is no message of the protocol; the text says what is wrong with it."""


class TooLargeError(WireError):
    """A message has more than `LONGEST_CONTROL` bytes besides audio."""


class _ClientMessage(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _ServerMessage(BaseModel):
    model_config = ConfigDict(frozen=True)  # a client ignores what a newer server adds


class StartMessage(_ClientMessage):
    """First message. Without `encoding` the audio is a container (WAV, FLAC, MP3, Ogg, WebM, MP4) and describes itself."""

    type: Literal["start"] = "start"
    encoding: Literal["linear16", "float32", "mulaw", "alaw"] | None = None
    sample_rate: int | None = None
    channels: int = 1
    multichannel: bool = False
    """Transcribe every channel by itself; otherwise they are mixed."""
    language: Annotated[str, Field(max_length=100)] | None = None
    keyterms: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=200)], ...], Field(max_length=100, strict=False)
    ] = ()
    """Words and phrases to be made likelier, where the model can."""
    interim: bool = True
    endpointing_ms: Annotated[int, Field(ge=0, le=10_000)] | None = None
    """Silence that ends an utterance; 0: never; absent: the server's default."""
    max_utterance_s: Annotated[float, Field(ge=2, le=60)] | None = None
    """Speech without a pause is cut at this length; absent, or more than the model takes: the server's default."""
    resume: bool = False
    """The client will come back for the stream if it loses its connection."""


class AudioMessage(_ClientMessage):
    """Audio in msgpack; in JSON a binary frame is audio and this message is not used."""

    type: Literal["audio"] = "audio"
    audio: bytes


class FinalizeMessage(_ClientMessage):
    """Make everything sent so far final, and acknowledge it with this id."""

    type: Literal["finalize"] = "finalize"
    id: Annotated[str, Field(max_length=200)] | None = None


class KeepAliveMessage(_ClientMessage):
    """The client is there though it sends no audio."""

    type: Literal["keepalive"] = "keepalive"


class CloseMessage(_ClientMessage):
    """No audio follows; the server sends what is left, `closed`, and closes."""

    type: Literal["close"] = "close"


AnyClientMessage = StartMessage | AudioMessage | FinalizeMessage | KeepAliveMessage | CloseMessage


class WordEntry(BaseModel):
    """A word, bare and in lower case and as written, with its times and a confidence between 0 and 1."""

    model_config = ConfigDict(frozen=True)

    word: str
    punctuated_word: str
    start: float
    end: float
    confidence: float


class ReadyMessage(_ServerMessage):
    """The stream is open, on these terms."""

    type: Literal["ready"] = "ready"
    stream: str
    resume: str | None = None
    """The token to come back with; None: the client cannot."""
    resume_within_s: float = 0.0
    """How long the stream waits for its client."""
    model: str
    language: str
    endpointing_ms: int
    max_utterance_s: float


class SpeechStartedMessage(_ServerMessage):
    """Speech began."""

    type: Literal["speech_started"] = "speech_started"
    channel: int
    time: float


class PartialMessage(_ServerMessage):
    """The open segment so far; replaces the partial before it. The first `stable` words have settled, none is final."""

    type: Literal["partial"] = "partial"
    channel: int
    start: float
    end: float
    text: str
    words: tuple[WordEntry, ...]
    stable: int


class FinalMessage(_ServerMessage):
    """A segment for good. The finals of a channel follow each other without gap or overlap; one may be empty."""

    type: Literal["final"] = "final"
    channel: int
    start: float
    end: float
    text: str
    words: tuple[WordEntry, ...]
    cause: Literal["endpoint", "length", "finalize", "close"]


class UtteranceEndMessage(_ServerMessage):
    """The endpointing silence followed speech; comes after the utterance's last final."""

    type: Literal["utterance_end"] = "utterance_end"
    channel: int
    last_word_end: float


class FinalizedMessage(_ServerMessage):
    """Everything sent before the `finalize` of this id is final."""

    type: Literal["finalized"] = "finalized"
    id: str | None


class ProgressMessage(_ServerMessage):
    """Nothing has happened but that the client's messages have come; only where it can resume."""

    type: Literal["progress"] = "progress"


class ErrorMessage(_ServerMessage):
    """Something is wrong. Only `decode_failed` leaves the stream open; after any other `closed` follows."""

    type: Literal["error"] = "error"
    code: str
    message: str


class ClosedMessage(_ServerMessage):
    """The last message: why, and how many seconds of audio were heard."""

    type: Literal["closed"] = "closed"
    reason: str
    seconds: float


AnyServerMessage = (
    ReadyMessage
    | SpeechStartedMessage
    | PartialMessage
    | FinalMessage
    | UtteranceEndMessage
    | FinalizedMessage
    | ProgressMessage
    | ErrorMessage
    | ClosedMessage
)


class Account(BaseModel):
    """Where the two sides are: in every message of the server, where the client can come back for its stream."""

    model_config = ConfigDict(frozen=True)

    number: int
    """Of this message in its stream; later ones have greater numbers, with gaps where a message was superseded."""
    received: int
    """How many messages of the client, audio frames and all, the server had taken when it wrote this."""


_CLIENT: TypeAdapter[AnyClientMessage] = TypeAdapter(Annotated[AnyClientMessage, Field(discriminator="type")])
_ACCOUNT = TypeAdapter(Account)
_SERVER: TypeAdapter[AnyServerMessage] = TypeAdapter(Annotated[AnyServerMessage, Field(discriminator="type")])


def encode(message: AnyClientMessage | AnyServerMessage, form: Format, account: Account | None = None) -> str | bytes:
    """Return the message as a text frame (JSON) or a binary frame (msgpack), with its account if there is one."""
    if form is Format.JSON:
        written = message.model_dump_json()
        return written if account is None else f"{written[:-1]},{account.model_dump_json()[1:]}"
    packed: bytes = msgpack.packb(message.model_dump() | ({} if account is None else account.model_dump()))
    return packed


def decode_client(frame: str | bytes, form: Format) -> AnyClientMessage:
    """Return the message a client sent; a binary frame in JSON is audio. Raises `WireError`, `TooLargeError`."""
    if form is Format.JSON and isinstance(frame, bytes):
        return AudioMessage.model_construct(audio=frame)
    parsed = _parsed_around_audio(frame) if len(frame) > LONGEST_CONTROL else _parsed(frame, form)
    if len(parsed) > _MOST_FIELDS:
        raise WireError(f"a message has at most {_MOST_FIELDS} fields, not {len(parsed)}")
    message = _validated(_CLIENT, parsed)
    if form is Format.JSON and isinstance(message, AudioMessage):
        raise WireError("in JSON, audio is sent as binary frames, not as an 'audio' message")
    return message


def decode_server(frame: str | bytes, form: Format) -> tuple[AnyServerMessage, Account | None]:
    """Return the message a server sent, and its account if it has one. Raises `WireError`."""
    parsed = _parsed(frame, form)
    account = _validated(_ACCOUNT, parsed) if "number" in parsed else None
    return _validated(_SERVER, parsed), account


def _parsed_around_audio(frame: str | bytes) -> Any:
    """Return a large msgpack message: only its audio may make it large, and only what is around that is parsed."""
    at = frame.find(_LARGE_AUDIO, 0, _AUDIO_WITHIN) if isinstance(frame, bytes) else -1
    begin = at + len(_LARGE_AUDIO) + 4
    length = int.from_bytes(frame[begin - 4 : begin]) if isinstance(frame, bytes) and at >= 0 else 0
    if isinstance(frame, str) or len(frame) - length > LONGEST_CONTROL:
        raise TooLargeError(f"a message has at most {LONGEST_CONTROL} bytes besides audio; this one has {len(frame)}")
    around = _parsed(frame[: begin - 5] + _NO_AUDIO + frame[begin + length :], Format.MSGPACK)
    return {**around, "audio": frame[begin : begin + length]}


def _parsed(frame: str | bytes, form: Format) -> Any:
    if form is Format.JSON:
        try:
            parsed = strictjson.loads(frame)
        except (ValueError, RecursionError) as error:
            raise WireError(f"the message is not JSON: {error}") from error
    else:
        if isinstance(frame, str):
            raise WireError("with format=msgpack every frame is binary; this one was text")
        try:
            parsed = msgpack.unpackb(frame, use_list=True, strict_map_key=True)
        except Exception as error:
            said = shortened(str(error), _LONGEST_REASON) or type(error).__name__
            raise WireError(f"the message is not msgpack: {said}") from error
    if not isinstance(parsed, dict):
        raise WireError(f"a message is an object with a 'type', not {type(parsed).__name__}")
    return parsed


def _validated(adapter: TypeAdapter[_Message], parsed: Any) -> _Message:
    try:
        return adapter.validate_python(parsed)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = shortened(".".join(str(part) for part in first["loc"])) or "message"
        given = (
            ""
            if first["type"] in ("missing", "union_tag_invalid", "union_tag_not_found")
            else f", not {quoted(first['input'])}"
        )
        raise WireError(f"{where}: {shortened(first['msg'], _LONGEST_REASON)}{given}") from error
