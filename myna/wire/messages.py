"""The messages of the native live protocol and their two codecs, JSON and msgpack. Server and clients share these classes.

docs/protocol.md describes the protocol; a test compares it with this module. Times are seconds from the start of the stream.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal, TypeVar

import msgpack
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from myna.wire import strictjson
from myna.wire.entries import TurnEntry as TurnEntry
from myna.wire.entries import WordEntry as WordEntry
from myna.wire.quoting import quoted, shortened

PATH = "/v1/stream"
_LONGEST_REASON = 300
"""The most characters of the reason for refusing a message: it may quote the client."""
_Message = TypeVar("_Message")


class Format(StrEnum):
    """The encoding of messages. JSON sends control as text frames and audio as binary frames; msgpack is all binary."""

    JSON = "json"
    MSGPACK = "msgpack"


LONGEST_CONTROL = 65_536
"""The most bytes (in JSON: characters) of a client's message without its audio."""
_MOST_FIELDS = 32
"""The most fields of a client's message; `start`, the largest message, has ten."""
_AUDIO_WITHIN = 1024
"""The audio of a large message must begin within this many bytes."""
_NO_AUDIO = msgpack.packb(b"")
_LARGE_AUDIO = msgpack.packb("audio") + b"\xc6"
"""The key of a large message's audio, and the type byte of binary data above 65,535 bytes; four bytes of length follow."""


class WireError(ValueError):
    """A frame is not a message of the protocol; the text gives the reason."""


class TooLargeError(WireError):
    """A message has more than `LONGEST_CONTROL` bytes besides audio."""


class _ClientMessage(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _ServerMessage(BaseModel):
    model_config = ConfigDict(frozen=True)  # a client ignores fields that a newer server adds


class StartMessage(_ClientMessage):
    """The first message. Without `encoding` the audio must be in a container (WAV, FLAC, MP3, Ogg, WebM, MP4)."""

    type: Literal["start"] = "start"
    encoding: Literal["linear16", "float32", "mulaw", "alaw"] | None = None
    sample_rate: int | None = None
    channels: int = 1
    multichannel: bool = False
    """Transcribe every channel separately; otherwise the channels are mixed."""
    language: Annotated[str, Field(max_length=100)] | None = None
    keyterms: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=200)], ...], Field(max_length=100, strict=False)
    ] = ()
    """Words and phrases to boost, if the model supports it."""
    interim: bool = True
    endpointing_ms: Annotated[int, Field(ge=0, le=10_000)] | None = None
    """The silence that ends an utterance; 0: none does; absent: the server's default."""
    max_utterance_s: Annotated[float, Field(ge=2, le=60)] | None = None
    """The length at which speech without a pause is cut; absent, or above the model's limit: the server's default."""
    resume: bool = False
    """Whether the client resumes the stream if it loses its connection."""
    marks: Literal["told", "held"] = "told"
    """`held`: finals come without the mark at their end, and a `mark` follows once it is known."""
    smart_format: bool = False
    """Write numbers in digits, and money, percentages and other figures as usual in writing."""
    numerals: bool = False
    """Write numbers in digits."""
    profanity_filter: bool = False
    """Mask profane English words."""
    redact: Annotated[
        tuple[Literal["numbers", "aggressive_numbers", "pci", "ssn"], ...], Field(max_length=4, strict=False)
    ] = ()
    """Kinds of numbers to replace by `[REDACTED]`."""


class AudioMessage(_ClientMessage):
    """Audio in msgpack. In JSON a binary frame is audio, and this message is not used."""

    type: Literal["audio"] = "audio"
    audio: bytes


class FinalizeMessage(_ClientMessage):
    """Make everything sent so far final; the server acknowledges with this id."""

    type: Literal["finalize"] = "finalize"
    id: Annotated[str, Field(max_length=200)] | None = None


class KeepAliveMessage(_ClientMessage):
    """Keep the stream open while the client sends no audio."""

    type: Literal["keepalive"] = "keepalive"


class CloseMessage(_ClientMessage):
    """End the audio. The server sends the remaining results and `closed`, then closes the connection."""

    type: Literal["close"] = "close"


AnyClientMessage = StartMessage | AudioMessage | FinalizeMessage | KeepAliveMessage | CloseMessage


class ReadyMessage(_ServerMessage):
    """The stream is open with these settings."""

    type: Literal["ready"] = "ready"
    stream: str
    resume: str | None = None
    """The token with which the client can resume the stream; None: it cannot."""
    resume_within_s: float = 0.0
    """How long the server keeps the stream for a client that lost its connection."""
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
    """The words of the open segment so far, in place of the last partial. The first `stable` words have settled."""

    type: Literal["partial"] = "partial"
    channel: int
    start: float
    end: float
    text: str
    words: tuple[WordEntry, ...]
    stable: int


class FinalMessage(_ServerMessage):
    """The final words of a segment, possibly none. The finals of a channel follow each other without gap or overlap."""

    type: Literal["final"] = "final"
    channel: int
    start: float
    end: float
    text: str
    words: tuple[WordEntry, ...]
    language: str | None = None
    """The language in which most of the words were heard; None: the model does not report it, or there is no word."""
    cause: Literal["endpoint", "length", "finalize", "close"]


class MarkMessage(_ServerMessage):
    """The mark after the last word of the channel's finals, to be added to it; only in streams with `marks` held."""

    type: Literal["mark"] = "mark"
    channel: int
    mark: str


class UtteranceEndMessage(_ServerMessage):
    """The endpointing silence has followed speech; this message follows the utterance's last final."""

    type: Literal["utterance_end"] = "utterance_end"
    channel: int
    last_word_end: float


class FinalizedMessage(_ServerMessage):
    """Everything sent before the `finalize` with this id is final."""

    type: Literal["finalized"] = "finalized"
    id: str | None


class ProgressMessage(_ServerMessage):
    """The server has received messages and has no results to send; only in streams that can be resumed."""

    type: Literal["progress"] = "progress"


class SpeakersMessage(_ServerMessage):
    """The speakers of a channel, labelled once more at the end of the stream as those of a file; after its last final.

    A client that kept the words of the channel's finals replaces the speakers of the last `len(words)` of them by `words`.
    """

    type: Literal["speakers"] = "speakers"
    channel: int
    since: float
    """The time from which the labels are new: 0, or later in a stream with more speech than the server keeps."""
    count: int
    """The number of speakers in `turns`."""
    turns: tuple[TurnEntry, ...]
    """Who spoke when. Turns of different speakers may overlap."""
    words: tuple[int | None, ...]
    """The speakers of the channel's final words, one for each word; None: not known."""


class ErrorMessage(_ServerMessage):
    """An error. After `decode_failed` the stream stays open; after any other error `closed` follows."""

    type: Literal["error"] = "error"
    code: str
    message: str


class ClosedMessage(_ServerMessage):
    """The last message: the reason for closing, and the seconds of audio processed."""

    type: Literal["closed"] = "closed"
    reason: str
    seconds: float


AnyServerMessage = (
    ReadyMessage
    | SpeechStartedMessage
    | PartialMessage
    | FinalMessage
    | MarkMessage
    | UtteranceEndMessage
    | FinalizedMessage
    | SpeakersMessage
    | ProgressMessage
    | ErrorMessage
    | ClosedMessage
)


class Account(BaseModel):
    """The position of both sides, in every message of the server in a stream that can be resumed."""

    model_config = ConfigDict(frozen=True)

    number: int
    """The number of this message in its stream. Numbers increase, with gaps where a message was superseded."""
    received: int
    """The number of client messages, including audio frames, that the server had taken when it wrote this message."""


_CLIENT: TypeAdapter[AnyClientMessage] = TypeAdapter(Annotated[AnyClientMessage, Field(discriminator="type")])
_ACCOUNT = TypeAdapter(Account)
_SERVER: TypeAdapter[AnyServerMessage] = TypeAdapter(Annotated[AnyServerMessage, Field(discriminator="type")])


def encode(message: AnyClientMessage | AnyServerMessage, form: Format, account: Account | None = None) -> str | bytes:
    """Return the message as a text frame (JSON) or a binary frame (msgpack), with its account if one is given."""
    if form is Format.JSON:
        written = message.model_dump_json()
        return written if account is None else f"{written[:-1]},{account.model_dump_json()[1:]}"
    packed: bytes = msgpack.packb(message.model_dump() | ({} if account is None else account.model_dump()))
    return packed


def decode_client(frame: str | bytes, form: Format) -> AnyClientMessage:
    """Return a client's message; a binary frame in JSON is audio. Raises `WireError` and `TooLargeError`."""
    if form is Format.JSON and isinstance(frame, bytes):
        return AudioMessage.model_construct(audio=frame)
    parsed = _parsed_around_audio(frame) if len(frame) > LONGEST_CONTROL else _parsed(frame, form)
    if len(parsed) > _MOST_FIELDS:
        raise WireError(f"a message may have at most {_MOST_FIELDS} fields; this one has {len(parsed)}")
    message = _validated(_CLIENT, parsed)
    if form is Format.JSON and isinstance(message, AudioMessage):
        raise WireError("with format=json audio must be sent as binary frames, not as an 'audio' message")
    return message


def decode_server(frame: str | bytes, form: Format) -> tuple[AnyServerMessage, Account | None]:
    """Return a server's message, and its account if it has one. Raises `WireError`."""
    parsed = _parsed(frame, form)
    account = _validated(_ACCOUNT, parsed) if "number" in parsed else None
    return _validated(_SERVER, parsed), account


def _parsed_around_audio(frame: str | bytes) -> Any:
    """Return a large msgpack message. Only its audio may be large; only the bytes around the audio are parsed."""
    at = frame.find(_LARGE_AUDIO, 0, _AUDIO_WITHIN) if isinstance(frame, bytes) else -1
    begin = at + len(_LARGE_AUDIO) + 4
    length = int.from_bytes(frame[begin - 4 : begin]) if isinstance(frame, bytes) and at >= 0 else 0
    if isinstance(frame, str) or len(frame) - length > LONGEST_CONTROL:
        raise TooLargeError(
            f"a message may have at most {LONGEST_CONTROL} bytes besides audio; this one has {len(frame)}"
        )
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
            raise WireError("with format=msgpack every frame must be binary; this one is text")
        try:
            parsed = msgpack.unpackb(frame, use_list=True, strict_map_key=True)
        except Exception as error:
            reason = shortened(str(error), _LONGEST_REASON) or type(error).__name__
            raise WireError(f"the message is not msgpack: {reason}") from error
    if not isinstance(parsed, dict):
        raise WireError(f"a message must be an object with a 'type', not {type(parsed).__name__}")
    return parsed


def _validated(adapter: TypeAdapter[_Message], parsed: Any) -> _Message:
    try:
        return adapter.validate_python(parsed)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = shortened(".".join(str(part) for part in first["loc"])) or "message"
        if first["type"] == "extra_forbidden":
            raise WireError(f"unknown field {where}") from error
        given = (
            ""
            if first["type"] in ("missing", "union_tag_invalid", "union_tag_not_found")
            else f", not {quoted(first['input'])}"
        )
        raise WireError(f"{where}: {shortened(first['msg'], _LONGEST_REASON)}{given}") from error
