"""The messages between the front and an engine worker: typed msgpack over a local socket, each prefixed with its length."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Generic, TypeVar

import msgspec

from myna.streaming.session.jobs import EngineInfo, InferenceJob, JobError, Missing, Outcome, Transcript
from myna.streaming.speakers.runs import Voices

M = TypeVar("M")
_LENGTH = struct.Struct("<I")
STATUS_EVERY_S = 0.5
"""Interval of a worker's `Status` messages."""
LARGEST = 1 << 30
"""Limit on a message's length, in bytes. A thousand jobs of 30 s stay below it; only a broken peer exceeds it."""


class Hello(msgspec.Struct, frozen=True, array_like=True, tag="hello"):
    """Worker → front, once: the engines of all lanes are loaded.

    `memory` is the resident memory of the process plus the memory it has reserved on a GPU, in bytes. `cost` is the time
    in seconds that one second of audio took during warm-up; 0 means unknown.
    """

    info: EngineInfo
    lanes: int
    memory: int = 0
    cost: float = 0.0


class Unavailable(msgspec.Struct, frozen=True, array_like=True, tag="unavailable"):
    """Worker → front, in place of `Hello`: the engine cannot be loaded, for this reason."""

    reason: str


class Batch(msgspec.Struct, frozen=True, array_like=True, tag="batch"):
    """Front → worker: decode these jobs as one batch on this lane, which is idle."""

    lane: int
    jobs: tuple[InferenceJob, ...]


class Release(msgspec.Struct, frozen=True, array_like=True, tag="release"):
    """Front → worker: the current utterance of this channel is over; its state can be dropped."""

    source: str


class TranscriptResult(msgspec.Struct, frozen=True, array_like=True, tag="transcript"):
    """Worker → front: a job is decoded. `step_s` is the time its batch took, in seconds."""

    job_id: str
    outcome: Transcript
    step_s: float


class MissingResult(msgspec.Struct, frozen=True, array_like=True, tag="missing"):
    """Worker → front: the engine holds less of the job's utterance than the job assumes."""

    job_id: str
    outcome: Missing
    step_s: float


class VoicesResult(msgspec.Struct, frozen=True, array_like=True, tag="voices"):
    """Worker → front: the voices of a job's window."""

    job_id: str
    outcome: Voices
    step_s: float


class ErrorResult(msgspec.Struct, frozen=True, array_like=True, tag="error"):
    """Worker → front: the engine failed on this job."""

    job_id: str
    outcome: JobError
    step_s: float


class Status(msgspec.Struct, frozen=True, array_like=True, tag="status"):
    """Worker → front, every `STATUS_EVERY_S`: for each lane, the seconds spent on its current batch; 0 if it is idle."""

    busy_s: tuple[float, ...]


Result = TranscriptResult | MissingResult | VoicesResult | ErrorResult
Message = Hello | Unavailable | Batch | Release | Result | Status


def result(job_id: str, outcome: Outcome, step_s: float) -> Result:
    """Return the message that carries a job's outcome."""
    match outcome:
        case Transcript():
            return TranscriptResult(job_id, outcome, step_s)
        case Missing():
            return MissingResult(job_id, outcome, step_s)
        case Voices():
            return VoicesResult(job_id, outcome, step_s)
        case JobError():
            return ErrorResult(job_id, outcome, step_s)


def encode(message: msgspec.Struct) -> bytearray:
    """Return the message, of this module or another one's, as bytes, prefixed with its length."""
    data = bytearray(_LENGTH.size)
    _ENCODER.encode_into(message, data, _LENGTH.size)
    _LENGTH.pack_into(data, 0, len(data) - _LENGTH.size)
    return data


def _plain(value: object) -> float:
    """Return an engine's NumPy number, a subclass of float, as a float: msgspec encodes exact types only."""
    if isinstance(value, float):
        return float(value)
    raise TypeError(f"a worker message cannot hold {type(value).__name__}")


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_plain)
_DECODER: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


class MessageSplitter(Generic[M]):
    """Splits a stream of bytes, received in chunks of any size, into messages of the type that the decoder returns."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[M], largest: int = LARGEST) -> None:
        self._decoder = decoder
        self._largest = largest
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[M]:
        """Append received bytes and yield the messages they complete. Raises `ValueError` for malformed data."""
        self._bytes += data
        while len(self._bytes) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._bytes)
            if length > self._largest:
                raise ValueError(f"a message of {length} bytes exceeds the limit of {self._largest} bytes")
            end = _LENGTH.size + length
            if len(self._bytes) < end:
                return
            with memoryview(self._bytes) as view, view[_LENGTH.size : end] as packed:
                message = self._decode(packed)
            del self._bytes[:end]
            yield message

    def _decode(self, packed: memoryview) -> M:
        try:
            return self._decoder.decode(packed)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"malformed message: {error}") from error


class Unpacker(MessageSplitter[Message]):
    """Splits a stream of bytes into a worker's messages."""

    def __init__(self) -> None:
        super().__init__(_DECODER)
