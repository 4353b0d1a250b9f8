"""What the front and a decoder process say to each other: a kind, a length and a body, over one local socket.

A process that is ready sends one byte, `HELLO`. The front sends `OPEN` once, then `DATA` and `FLUSH`, and `END` at last.
Each `READ` is answered by one `SAMPLES`, `REFUSED` or `FAILED`.
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
"""A message's kind, and the bytes of its body."""
LARGEST_ANSWER = 64 << 20
"""A longer answer is not a decoder's: ten seconds and a frame of twenty channels are 7 MB."""
STATUS = struct.Struct("<i")
"""What a lifeline says last: the exit code of its process, negative for the signal that ended it."""
PORTION_CPU_S = 10
"""CPU time, in seconds, that a portion (ten seconds of audio) may take; an honest one takes some hundredths."""
_CHANNELS = struct.Struct("<B")


class MessageKind(IntEnum):
    """Kinds of messages."""

    OPEN = 1
    """What is to be decoded, in JSON."""
    DATA = 2
    """Bytes of a stream."""
    END = 3
    """No bytes follow."""
    READ = 4
    """The next samples are wanted."""
    SAMPLES = 5
    """A portion of each channel; without channels, more bytes are needed or the end is reached."""
    REFUSED = 6
    """The audio cannot be decoded; the body says why, for the client."""
    FAILED = 7
    """The decoder has failed; the body is a trace, for the log."""
    FLUSH = 8
    """Everything heard in the bytes so far is wanted, also what filters keep back; bytes may follow."""


def message(kind: MessageKind, body: bytes = b"") -> bytes:
    """Return a message's bytes."""
    return HEAD.pack(kind, len(body)) + body


def samples_message(channels: list[bytes]) -> bytes:
    """Return the message that carries a portion of each channel."""
    return message(MessageKind.SAMPLES, _CHANNELS.pack(len(channels)) + b"".join(channels))


def samples_of(body: bytes) -> list[bytes]:
    """Return the portion of each channel. Raises `ValueError`."""
    count, pcm = body[0], body[1:]
    if not count:
        return []
    size, rest = divmod(len(pcm), count)
    if rest or size % 2:
        raise ValueError(f"{len(pcm)} bytes are no int16 samples of {count} channels")
    return [pcm[start : start + size] for start in range(0, len(pcm), size)]


@dataclass(frozen=True, slots=True)
class Media:
    """What is to be decoded: a file where there is a path, else a stream. `mix`: its channels become one."""

    audio: RawFormat | Coded
    mix: bool
    path: str | None = None

    def encoded(self) -> bytes:
        """Return this in JSON."""
        return json.dumps({"raw": isinstance(self.audio, RawFormat), **asdict(self)}).encode()

    @classmethod
    def of(cls, body: bytes) -> Media:
        """Return what `encoded` wrote down."""
        said = json.loads(body)
        audio = said["audio"]
        if said["raw"]:
            sound: RawFormat | Coded = RawFormat(Encoding(audio["encoding"]), audio["sample_rate"], audio["channels"])
        else:
            sound = Coded(Codec(audio["codec"]) if audio["codec"] else None, audio["channels"])
        return cls(sound, said["mix"], said["path"])

    @property
    def file(self) -> Path:
        """The file. There must be one."""
        assert self.path is not None
        return Path(self.path)
