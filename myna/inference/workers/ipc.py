"""What front and engine worker say to each other: a few typed messages, length-prefixed msgpack on one local socket."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import msgpack

from myna.streaming.events import Word
from myna.streaming.policy import Options
from myna.streaming.session.jobs import EngineInfo, InferenceJob, JobError, JobKind, Missing, Outcome, Transcript

_LENGTH = struct.Struct("<I")
STATUS_EVERY_S = 0.5
"""A worker says so often how its lanes are doing; one that is silent for longer hangs as a whole."""
LARGEST = 1 << 30
"""A longer message is a broken peer: a thousand jobs of half a minute fit in."""


@dataclass(frozen=True, slots=True)
class Hello:
    """Worker → front, once, when its engines are loaded. `memory` is what they take, in bytes: of the process and a GPU.

    `cost` is what a second of audio cost when the engine was warmed up, in seconds; 0: that is not known.
    """

    info: EngineInfo
    lanes: int
    memory: int = 0
    cost: float = 0.0


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Worker → front instead of `Hello`: the engine cannot be loaded, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Front → worker: decode these at once on this lane, which is free."""

    lane: int
    jobs: tuple[InferenceJob, ...]


@dataclass(frozen=True, slots=True)
class Release:
    """Front → worker: no more of this channel's utterance will come."""

    source: str


@dataclass(frozen=True, slots=True)
class Result:
    """Worker → front: a job's outcome, with the seconds its step took."""

    job_id: str
    outcome: Outcome
    step_s: float


@dataclass(frozen=True, slots=True)
class Status:
    """Worker → front, every `STATUS_EVERY_S`: for each lane how many seconds it has been at its batch; 0: it is free."""

    busy_s: tuple[float, ...]


Message = Hello | Unavailable | Batch | Release | Result | Status


def encode(message: Message) -> bytes:
    """Return the message as bytes, its length first."""
    match message:
        case Batch(lane, jobs):
            body: object = ["batch", lane, [_packed(job) for job in jobs]]
        case Release(source):
            body = ["release", source]
        case Result(job_id, Missing(held), step_s):
            body = ["missing", job_id, held, step_s]
        case Result(job_id, Transcript(words, log_probability), step_s):
            flat = [(w.text, w.start, w.end, w.confidence) for w in words]
            body = ["transcript", job_id, flat, log_probability, step_s]
        case Result(job_id, JobError(reason), step_s):
            body = ["error", job_id, reason, step_s]
        case Status(busy_s):
            body = ["status", busy_s]
        case Hello(info, lanes, memory, cost):
            body = ["hello", asdict(info), lanes, memory, cost]
        case Unavailable(reason):
            body = ["unavailable", reason]
    packed: bytes = msgpack.packb(body)
    return _LENGTH.pack(len(packed)) + packed


def _packed(job: InferenceJob) -> list[object]:
    options = asdict(job.options)
    return [job.id, job.source, int(job.kind), job.pcm, job.due, options, job.utterance, job.held]


def _job(packed: tuple[Any, ...]) -> InferenceJob:
    job_id, source, kind, pcm, due, options, utterance, held = packed
    return InferenceJob(job_id, source, JobKind(kind), pcm, due, Options(**options), utterance, held)


def _decode(packed: bytes) -> Message:
    try:
        return _message(msgpack.unpackb(packed, use_list=False))
    except (TypeError, OverflowError) as error:
        raise ValueError(f"no message of the engine link: {error}") from error


def _message(unpacked: Any) -> Message:
    match unpacked:
        case ("batch", lane, jobs):
            return Batch(lane, tuple(map(_job, jobs)))
        case ("release", source):
            return Release(source)
        case ("missing", job_id, held, step_s):
            return Result(job_id, Missing(held), step_s)
        case ("transcript", job_id, words, log_probability, step_s):
            return Result(job_id, Transcript(tuple(Word(*w) for w in words), log_probability), step_s)
        case ("error", job_id, reason, step_s):
            return Result(job_id, JobError(reason), step_s)
        case ("status", busy_s):
            return Status(busy_s)
        case ("hello", info, lanes, memory, cost):
            return Hello(EngineInfo(**info), lanes, memory, cost)
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
