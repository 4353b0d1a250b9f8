"""What front and engine worker say to each other: a few typed messages, length-prefixed msgpack on one local socket."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import msgpack

from myna.streaming.engines.base import EngineInfo, Job, JobError, Kind, Missing, Outcome, Transcript
from myna.streaming.events import Word
from myna.streaming.policy import Options

_LENGTH = struct.Struct("<I")
LARGEST = 64 * 1024 * 1024
"""A longer message is a broken peer: an hour of one channel's PCM is no job for one decode."""


@dataclass(frozen=True, slots=True)
class Hello:
    """Worker → front, once, when its engines are loaded. `memory` is what they take, in bytes: of the process and a GPU."""

    info: EngineInfo
    lanes: int
    memory: int = 0


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Worker → front instead of `Hello`: the engine cannot be loaded, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Submission:
    """Front → worker: decode this."""

    job: Job


@dataclass(frozen=True, slots=True)
class Cancellation:
    """Front → worker: forget this job if it still waits."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Release:
    """Front → worker: no more of this channel's utterance will come."""

    source: str


@dataclass(frozen=True, slots=True)
class Result:
    """Worker → front: a job's outcome, with the seconds its step took."""

    job_id: str
    epoch: int
    outcome: Outcome
    step_s: float


Message = Hello | Unavailable | Submission | Cancellation | Release | Result


def encode(message: Message) -> bytes:
    """Return the message as bytes, its length first."""
    match message:
        case Submission(job):
            body: object = [
                "submit", job.id, job.source, int(job.kind), job.pcm, job.due, job.epoch, asdict(job.options),
                job.utterance, job.held,
            ]  # fmt: skip
        case Cancellation(job_id):
            body = ["cancel", job_id]
        case Release(source):
            body = ["release", source]
        case Result(job_id, epoch, Missing(held), step_s):
            body = ["missing", job_id, epoch, held, step_s]
        case Result(job_id, epoch, Transcript(words, log_probability), step_s):
            flat = [(w.text, w.start, w.end, w.confidence) for w in words]
            body = ["transcript", job_id, epoch, flat, log_probability, step_s]
        case Result(job_id, epoch, JobError(reason), step_s):
            body = ["error", job_id, epoch, reason, step_s]
        case Hello(info, lanes, memory):
            body = ["hello", asdict(info), lanes, memory]
        case Unavailable(reason):
            body = ["unavailable", reason]
    packed: bytes = msgpack.packb(body)
    return _LENGTH.pack(len(packed)) + packed


def _decode(packed: bytes) -> Message:
    match msgpack.unpackb(packed, use_list=False):
        case ("submit", job_id, source, kind, pcm, due, epoch, options, utterance, held):
            return Submission(Job(job_id, source, Kind(kind), pcm, due, epoch, Options(**options), utterance, held))
        case ("cancel", job_id):
            return Cancellation(job_id)
        case ("release", source):
            return Release(source)
        case ("missing", job_id, epoch, held, step_s):
            return Result(job_id, epoch, Missing(held), step_s)
        case ("transcript", job_id, epoch, words, log_probability, step_s):
            return Result(job_id, epoch, Transcript(tuple(Word(*w) for w in words), log_probability), step_s)
        case ("error", job_id, epoch, reason, step_s):
            return Result(job_id, epoch, JobError(reason), step_s)
        case ("hello", info, lanes, memory):
            return Hello(EngineInfo(**info), lanes, memory)
        case ("unavailable", reason):
            return Unavailable(reason)
        case other:
            raise ValueError(f"no message of the engine link: {str(other)[:100]}")


class Unpacker:
    """Bytes in whatever pieces they come → messages."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """Take bytes, yield the messages they complete. Raises `ValueError` for anything else."""
        self._bytes += data
        while len(self._bytes) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._bytes)
            if length > LARGEST:
                raise ValueError(f"a message of {length} bytes on the engine link; at most {LARGEST} are allowed")
            if len(self._bytes) < _LENGTH.size + length:
                return
            packed = bytes(self._bytes[_LENGTH.size : _LENGTH.size + length])
            del self._bytes[: _LENGTH.size + length]
            yield _decode(packed)
