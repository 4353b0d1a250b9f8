"""The messages between a front and the engine process: typed msgpack over a socket, each prefixed with its length.

A front attaches and then opens models, each under a number that it chooses, the lease. Jobs name their lease; streams that
join name the leases that they use. The link ends with its connection: the engine process then drops everything of that front.
A front that connects again opens its leases, joins its streams and submits its unanswered jobs once more.

Nothing in the messages depends on both ends using one clock or file system, except that a model's `source` is resolved by the
engine process.
"""

from __future__ import annotations

import msgspec

from myna.inference.engines.kind import Model
from myna.inference.workers.ipc import Result
from myna.streaming.session.jobs import EngineInfo, InferenceJob

VERSION = 1
STATE_EVERY_S = 0.5
"""Interval of `EngineState`."""
BUFFER_BYTES = 1 << 21
"""Limit of a stream reader's buffer: several jobs of 12 s. The default would stop the transport within each of them."""
LARGEST_ATTACH = 4096
"""Limit on the length of the first message, which is decoded before the front is known."""


class Attach(msgspec.Struct, frozen=True, array_like=True, tag="attach"):
    """Front → engine, first: the version of this protocol, the token that both were given, and the front's name."""

    version: int
    token: str
    front: str


class OpenModel(msgspec.Struct, frozen=True, array_like=True, tag="open"):
    """Front → engine: load this model, unless it is loaded, and keep it until `CloseModel`."""

    lease: int
    model: Model


class CloseModel(msgspec.Struct, frozen=True, array_like=True, tag="close"):
    """Front → engine: the front does not use the model any more."""

    lease: int


class JoinStream(msgspec.Struct, frozen=True, array_like=True, tag="join"):
    """Front → engine: admit a live stream.

    `key` is the name of its API key and `key_streams` that key's own limit; `key` is None on a server without keys. A stream
    that joins `again` was admitted before this connection was made, and is not refused.
    """

    stream: str
    lease: int
    speakers: int | None
    channels: int
    key: str | None
    key_streams: int | None
    peer: str
    again: bool


class ResizeStream(msgspec.Struct, frozen=True, array_like=True, tag="resize"):
    """Front → engine: the stream has this many channels."""

    stream: str
    channels: int


class StreamAway(msgspec.Struct, frozen=True, array_like=True, tag="away"):
    """Front → engine: the client of the stream has lost its connection, or is back."""

    stream: str
    away: bool


class LeaveStream(msgspec.Struct, frozen=True, array_like=True, tag="leave"):
    """Front → engine: the stream has ended."""

    stream: str


class AudioHeard(msgspec.Struct, frozen=True, array_like=True, tag="heard"):
    """Front → engine: seconds of audio received since the last of these messages, by stream."""

    seconds: dict[str, float]


class SubmitJob(msgspec.Struct, frozen=True, array_like=True, tag="submit"):
    """Front → engine: decode this job. It is due in `lead_s` seconds, which replace `InferenceJob.due`."""

    lease: int
    job: InferenceJob
    lead_s: float


class CancelJob(msgspec.Struct, frozen=True, array_like=True, tag="cancel"):
    """Front → engine: discard this job."""

    job_id: str


class ReleaseSource(msgspec.Struct, frozen=True, array_like=True, tag="release"):
    """Front → engine: the utterance of this channel has ended."""

    lease: int
    source: str


class Attached(msgspec.Struct, frozen=True, array_like=True, tag="attached"):
    """Engine → front: the answer to `Attach`. `refused` says why the connection is closed; None: the front may go on."""

    version: int
    refused: str | None


class ModelOpened(msgspec.Struct, frozen=True, array_like=True, tag="opened"):
    """Engine → front: the model is loaded."""

    lease: int
    info: EngineInfo
    lanes: int


class ModelRefused(msgspec.Struct, frozen=True, array_like=True, tag="unopened"):
    """Engine → front: the model cannot be loaded. `retry_s`: it may be loaded later; None: it is unusable."""

    lease: int
    reason: str
    retry_s: int | None


class StreamJoined(msgspec.Struct, frozen=True, array_like=True, tag="joined"):
    """Engine → front: the stream is admitted, or has the channels it asked for."""

    stream: str


class StreamRefused(msgspec.Struct, frozen=True, array_like=True, tag="full"):
    """Engine → front: there is no room for the stream, or for its further channels."""

    stream: str
    status: int
    code: str
    message: str
    retry_s: int | None


class PlaceLost(msgspec.Struct, frozen=True, array_like=True, tag="given-up"):
    """Engine → front: the stream, whose client is away, has lost its place to another stream."""

    stream: str


class JobsReplaced(msgspec.Struct, frozen=True, array_like=True, tag="replaced"):
    """Engine → front: these jobs get no result, since newer interims of their channels replaced them."""

    job_ids: tuple[str, ...]


class EngineState(msgspec.Struct, frozen=True, array_like=True, tag="state"):
    """Engine → front, every `STATE_EVERY_S`.

    `models` holds name and uuid of each model in memory, `models_failing` why some cannot decode, `failing` the parts of the
    engine process that do not work, with reasons.
    """

    models: tuple[tuple[str, str], ...]
    models_failing: str | None
    failing: dict[str, str]


ToEngine = (
    Attach | OpenModel | CloseModel | JoinStream | ResizeStream | StreamAway | LeaveStream | AudioHeard | SubmitJob
    | CancelJob | ReleaseSource
)  # fmt: skip
ToFront = (
    Attached | ModelOpened | ModelRefused | StreamJoined | StreamRefused | PlaceLost | JobsReplaced | EngineState | Result
)  # fmt: skip

ATTACH_DECODER: msgspec.msgpack.Decoder[Attach] = msgspec.msgpack.Decoder(Attach)
TO_ENGINE_DECODER: msgspec.msgpack.Decoder[ToEngine] = msgspec.msgpack.Decoder(ToEngine)
TO_FRONT_DECODER: msgspec.msgpack.Decoder[ToFront] = msgspec.msgpack.Decoder(ToFront)
