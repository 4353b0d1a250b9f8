"""The port between a connection and its wire dialect: a stateful sans-I/O translator, one for each connection."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from myna.batch.callback import Callback
from myna.inference.engines.kind import Model
from myna.runtime.errors import DialectError, Refusal
from myna.server.serving import ModelWanted
from myna.streaming.audio.raw import Coded, RawFormat
from myna.streaming.events import Event
from myna.streaming.policy import Options, Policy
from myna.streaming.session.jobs import EngineInfo
from myna.wire import strictjson


@dataclass(frozen=True, slots=True)
class Open:
    """Command: open the stream. `mix`: the channels of the audio are mixed into one."""

    audio: RawFormat | Coded
    mix: bool
    policy: Policy
    options: Options

    @property
    def channels(self) -> int:
        """Channels that are transcribed separately, as the client has announced them; a container may have others."""
        return 1 if self.mix else self.audio.channels


@dataclass(frozen=True, slots=True)
class Audio:
    """Command: decode these bytes of audio."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Flush:
    """Command: make everything so far final, on all channels or on one, and acknowledge with the token."""

    token: str
    channel: int | None = None


@dataclass(frozen=True, slots=True)
class Discard:
    """Command: drop everything that is not final yet, and acknowledge with the token as for a flush."""

    token: str


@dataclass(frozen=True, slots=True)
class EndTurn:
    """Command: end the turn."""


@dataclass(frozen=True, slots=True)
class Configure:
    """Command: from now on decode with these options, and cut by this policy if there is one. Acknowledge with the token."""

    options: Options
    policy: Policy | None = None
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Reformat:
    """Command: from now on decode audio of this format."""

    audio: RawFormat


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """Command: do nothing; the client is still connected."""


@dataclass(frozen=True, slots=True)
class Stalled:
    """Command: no audio has arrived for a while. Make everything so far final, as at an endpoint; the stream stays open."""


@dataclass(frozen=True, slots=True)
class End:
    """Command: end the stream; no audio follows."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame to send. It takes the place of an unsent frame that `replaces` the same key.

    A frame with a `number` can be sent again to a client that lost its connection. Numbers increase.
    """

    payload: str | bytes
    replaces: str | None = None
    number: int | None = None


def json_frame(message: Mapping[str, object], replaces: str | None = None) -> Frame:
    """Return a message as JSON without spaces."""
    return Frame(strictjson.dumps(message, ascii_only=False), replaces)


@dataclass(frozen=True, slots=True)
class Reply:
    """Command: send these frames at once; the stream does not change."""

    frames: tuple[Frame, ...]


Command = Open | Audio | Flush | Discard | EndTurn | Configure | Reformat | KeepAlive | Stalled | Reply | End


@dataclass(frozen=True, slots=True)
class Farewell:
    """The last frames, and how the WebSocket is closed."""

    frames: tuple[Frame, ...]
    close_code: int
    reason: str


POLICY_VIOLATION = 1008
CLOSE_CODES = {
    "message_too_big": 1009,
    "slow_reader": 1013,
    "overloaded": 1013,
    "too_busy": 1013,
    "too_many_streams": 1013,
    "shutting_down": 1001,
    "internal_error": 1011,
}
"""The close code of an error, unless the vendor has its own; for any other error it is `POLICY_VIOLATION` (RFC 6455, 7.4.1,
and its registry)."""


LONGEST_CONTROL = 65_536
"""Characters or bytes of a control message, which is parsed on the event loop."""


def check_control(frame: str | bytes) -> None:
    """Check the size of a control message. Raises `DialectError`."""
    if len(frame) > LONGEST_CONTROL:
        what = "characters" if isinstance(frame, str) else "bytes"
        raise DialectError(
            "message_too_big", f"a control message must have at most {LONGEST_CONTROL} {what}, not {len(frame)}"
        )


@dataclass(frozen=True, slots=True)
class Refused:
    """A refusal in a dialect's own format: the JSON body and its headers."""

    body: Mapping[str, object]
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Resume:
    """A client's request to resume the stream of this token after the frame of this number, the last it has received."""

    token: str
    after: int


class Entry(Protocol):
    """The entry of a dialect: one request for a stream, up to its upgrade or its refusal."""

    name: str
    """Names the stream in logs and answers. It is unique."""

    def read(self, query: Collection[tuple[str, str]]) -> ModelWanted:
        """Parse the request's parameters; return the model it asks for. Raises `Refusal`."""
        ...

    def dialect(self, model: Model, engine: EngineInfo, diarizer: str = "") -> Dialect:
        """Return the translator of a stream that this model decodes. Raises `Refusal` for options that the model lacks.

        `diarizer` is the uuid of the model that tells its speakers apart; empty if none does.
        """
        ...

    @property
    def callback(self) -> Callback | None:
        """The address that results are sent to instead of the socket."""
        ...

    @property
    def channels(self) -> int:
        """Channels that the request announces to be transcribed separately; 1 if the client or its audio tells later."""
        ...

    @property
    def speakers(self) -> bool:
        """Whether the client wants the speakers of words."""
        ...

    @property
    def resume(self) -> Resume | None:
        """The stream that the client resumes, if any."""
        ...

    @property
    def takes_client_secrets(self) -> bool:
        """Whether the entry accepts client secrets: tokens for one session of one API."""
        ...

    def refused(self, refusal: Refusal) -> Refused:
        """Return the refusal in this dialect's format."""
        ...


class Dialect(Protocol):
    """Translates a client's frames to commands, and events to frames."""

    idle_timeout_s: float
    """Longest silence of the client."""
    resume_token: str | None
    """The token that resumes the stream after the connection is lost; None: the stream cannot be resumed."""

    def begin(self) -> Sequence[Command]:
        """Return the commands to carry out before the first frame."""
        ...

    def receive(self, frame: str | bytes) -> Iterable[Command]:
        """Return the commands in a client's frame. An iterator decodes a large frame step by step. Raises `DialectError`."""
        ...

    def opened(self, stream: str) -> Sequence[Frame]:
        """Return the frames to send when the stream is open."""
        ...

    def resumed(self) -> Sequence[Frame]:
        """Return the frames to send first to a client that resumes the stream."""
        ...

    def emit(self, event: Event) -> Sequence[Frame]:
        """Return the frames to send for an event."""
        ...

    def closing(self, error: DialectError | None, heard_s: float) -> Farewell:
        """Return the last frames after `heard_s` seconds of audio. `error`: why the stream ended early, if it did."""
        ...


class PlainEntry:
    """What most entries have in common: results go to the socket, and streams cannot be resumed."""

    @property
    def callback(self) -> Callback | None:
        """No address: results go to the socket."""
        return None

    @property
    def channels(self) -> int:
        """Channels that the request announces: one, unless the client tells later."""
        return 1

    @property
    def speakers(self) -> bool:
        """No: words have no speakers."""
        return False

    @property
    def resume(self) -> Resume | None:
        """No stream: every request opens a new one."""
        return None

    @property
    def takes_client_secrets(self) -> bool:
        """No: the entry accepts no client secrets."""
        return False


class Unresumable:
    """What the dialects have in common whose streams cannot be resumed."""

    resume_token: str | None = None

    def resumed(self) -> Sequence[Frame]:
        """Return nothing: the stream cannot be resumed."""
        return ()
