"""The messages between the server and a decoder process: a kind, a length and a body, over one local socket.

A process that is ready sends one byte, `HELLO`. The server sends `OPEN` once, then `DATA` and `FLUSH`, and `END` last. The
process answers each `READ` with one `SAMPLES`, `ENCODED`, `REFUSED` or `FAILED`.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass
from enum import IntEnum
from pathlib import Path

from myna.streaming.audio.raw import Codec, Coded, Encoding, RawFormat

HELLO = b"."
HEAD = struct.Struct("<BI")
"""The kind of a message and the number of bytes of its body."""
LARGEST_ANSWER = 64 << 20
"""The most bytes of a valid answer: ten seconds and a frame of twenty channels are 7 MB."""
STATUS = struct.Struct("<i")
"""The last message on a lifeline: the exit code of its process, or the negative number of the signal that ended it."""
PORTION_CPU_S = 10
"""The most CPU time, in seconds, for a portion (ten seconds of audio); a normal one takes some hundredths of a second."""
_CHANNELS = struct.Struct("<B")
_PLACE = struct.Struct("<Q")


class MessageKind(IntEnum):
    """The kinds of messages."""

    OPEN = 1
    """A `Media` in JSON."""
    DATA = 2
    """The next bytes of a stream."""
    END = 3
    """No more bytes follow."""
    READ = 4
    """The server requests the next samples."""
    SAMPLES = 5
    """A portion of each channel; no channels: more bytes are needed, or the end is reached."""
    REFUSED = 6
    """The audio cannot be decoded; the body is the reason, for the client."""
    FAILED = 7
    """The decoder has failed; the body is a traceback, for the log."""
    FLUSH = 8
    """The server requests all audio of the bytes so far, including buffers of filters; bytes may follow."""
    ENCODED = 9
    """A piece of the file that is made, after its place in that file; an empty piece: the file is complete."""


def message(kind: MessageKind, body: bytes = b"") -> bytes:
    """Return the bytes of a message."""
    return HEAD.pack(kind, len(body)) + body


def samples_message(channels: list[bytes]) -> bytes:
    """Return the message that carries a portion of each channel."""
    return message(MessageKind.SAMPLES, _CHANNELS.pack(len(channels)) + b"".join(channels))


def samples_of(body: bytes) -> list[bytes]:
    """Return the portion of each channel. Raises `ValueError` if the body is invalid."""
    count, pcm = body[0], body[1:]
    if not count:
        return []
    size, rest = divmod(len(pcm), count)
    if rest or size % 2:
        raise ValueError(f"{len(pcm)} bytes cannot be int16 samples of {count} channels")
    return [pcm[start : start + size] for start in range(0, len(pcm), size)]


def encoded_message(place: int, piece: bytes) -> bytes:
    """Return the message that carries a piece of a file."""
    return message(MessageKind.ENCODED, _PLACE.pack(place) + piece)


def encoded_of(body: bytes) -> tuple[int, bytes]:
    """Return the place of a piece in its file, and the piece. Raises `ValueError` if the body is invalid."""
    if len(body) < _PLACE.size:
        raise ValueError(f"{len(body)} bytes cannot be a place and a piece")
    return _PLACE.unpack_from(body)[0], body[_PLACE.size :]


@dataclass(frozen=True, slots=True)
class Media:
    """The audio to decode: a file if there is a path, otherwise a stream. `mix`: its channels are mixed into one.

    With `pad_ms`, a file is not decoded to samples but encoded anew, after this much silence.
    """

    audio: RawFormat | Coded
    mix: bool
    path: str | None = None
    pad_ms: int | None = None

    def encoded(self) -> bytes:
        """Return the JSON form."""
        return json.dumps({"raw": isinstance(self.audio, RawFormat), **asdict(self)}).encode()

    @classmethod
    def of(cls, body: bytes) -> Media:
        """Return the media whose JSON form `encoded` returned."""
        fields = json.loads(body)
        audio = fields["audio"]
        if fields["raw"]:
            sound: RawFormat | Coded = RawFormat(Encoding(audio["encoding"]), audio["sample_rate"], audio["channels"])
        else:
            sound = Coded(Codec(audio["codec"]) if audio["codec"] else None, audio["channels"])
        return cls(sound, fields["mix"], fields["path"], fields["pad_ms"])

    @property
    def file(self) -> Path:
        """The path of the file; the media must be a file."""
        assert self.path is not None
        return Path(self.path)
