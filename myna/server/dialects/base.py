"""What a connection and a wire dialect say to each other. A dialect is a stateful sans-I/O translator, one a connection."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from myna.batch.callback import Callback
from myna.inference.engines.catalogue import Model
from myna.runtime.errors import DialectError, Refusal
from myna.server.serving import ModelWanted
from myna.streaming.audio.raw import Coded, RawFormat
from myna.streaming.events import Event
from myna.streaming.policy import Options, Policy
from myna.streaming.session.jobs import EngineInfo
from myna.wire import strictjson


@dataclass(frozen=True, slots=True)
class Open:
    """Command: begin. `mix`: the channels of the audio become one."""

    audio: RawFormat | Coded
    mix: bool
    policy: Policy
    options: Options

    @property
    def channels(self) -> int:
        """Channels that are transcribed separately, as far as the client has announced them: a container will say."""
        return 1 if self.mix else self.audio.channels


@dataclass(frozen=True, slots=True)
class Audio:
    """Command: these bytes are audio."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Flush:
    """Command: make everything so far final, on one channel if it is named, and acknowledge with the token."""

    token: str
    channel: int | None = None


@dataclass(frozen=True, slots=True)
class Discard:
    """Command: what is not final yet is not wanted; acknowledge with the token, as a flush."""

    token: str


@dataclass(frozen=True, slots=True)
class EndTurn:
    """Command: the turn is over."""


@dataclass(frozen=True, slots=True)
class Configure:
    """Command: decode with these options, and cut by this policy if there is one, from now on; acknowledge with the token."""

    options: Options
    policy: Policy | None = None
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Reformat:
    """Command: audio is of this kind from now on."""

    audio: RawFormat


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """Command: none; the client is there."""


@dataclass(frozen=True, slots=True)
class Stalled:
    """Command: no audio has come for a while; make what was heard final, as an endpoint does. The stream goes on."""


@dataclass(frozen=True, slots=True)
class End:
    """Command: no audio follows."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame to send. One that `replaces` a key makes an unsent one of the same key superfluous.

    Frames with a `number`, which only grows, can be sent again to a client that lost its connection.
    """

    payload: str | bytes
    replaces: str | None = None
    number: int | None = None


def json_frame(message: Mapping[str, object], replaces: str | None = None) -> Frame:
    """Return a message in JSON, without spaces; a text frame can carry it whatever it holds."""
    return Frame(strictjson.dumps(message, ascii_only=False), replaces)


@dataclass(frozen=True, slots=True)
class Reply:
    """Command: send these at once; the stream is not touched."""

    frames: tuple[Frame, ...]


Command = Open | Audio | Flush | Discard | EndTurn | Configure | Reformat | KeepAlive | Stalled | Reply | End


@dataclass(frozen=True, slots=True)
class Farewell:
    """What is sent last, and how the WebSocket is closed."""

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
"""How the WebSocket is closed for an error where a vendor has no code of its own; of any other error `POLICY_VIOLATION`
(RFC 6455, 7.4.1, and its registry)."""


LONGEST_CONTROL = 65_536
"""Characters or bytes of a client's message that is no audio: what is in it is parsed at once, on the event loop."""


def check_control(frame: str | bytes) -> None:
    """Refuse a message that is no audio and larger than control messages are. Raises `DialectError`."""
    if len(frame) > LONGEST_CONTROL:
        what = "characters" if isinstance(frame, str) else "bytes"
        raise DialectError(
            "message_too_big", f"a message that is no audio had {len(frame)} {what}; {LONGEST_CONTROL} are possible"
        )


@dataclass(frozen=True, slots=True)
class Refused:
    """A refusal in a dialect's own shape: the JSON body and its headers."""

    body: Mapping[str, object]
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Resume:
    """A client comes back for its stream, which it knows by this token; the last frame it got had this number."""

    token: str
    after: int


class Entry(Protocol):
    """A dialect's way in: one request for a stream, from its address to its upgrade or its refusal."""

    name: str
    """Names the stream, in logs and answers; no other has it."""

    def read(self, query: Collection[tuple[str, str]]) -> ModelWanted:
        """Take the request's parameters; return the model asked for. Raises `Refusal`."""
        ...

    def dialect(self, model: Model, engine: EngineInfo) -> Dialect:
        """Return the translator for a stream that this model decodes. Raises `Refusal` if it cannot do what is asked."""
        ...

    @property
    def callback(self) -> Callback | None:
        """Where the client wants its results sent instead."""
        ...

    @property
    def channels(self) -> int:
        """Channels that the request announces to be transcribed separately; 1: the client or its audio will say."""
        ...

    @property
    def resume(self) -> Resume | None:
        """The stream that the client comes back for, if it does."""
        ...

    @property
    def takes_client_secrets(self) -> bool:
        """Whether a client secret of OpenAI's Realtime API lets a client in."""
        ...

    def refused(self, refusal: Refusal) -> Refused:
        """Return the refusal in this dialect's words."""
        ...


class Dialect(Protocol):
    """Frames to commands, events to frames."""

    idle_timeout_s: float
    """The client must send something at least this often."""
    resume_token: str | None
    """With this the client may come back for the stream when it has lost its connection; None: it cannot."""

    def begin(self) -> Sequence[Command]:
        """Return what is to be done before anything has been received."""
        ...

    def receive(self, frame: str | bytes) -> Iterable[Command]:
        """Return what a client's frame asks for; more of it is read where the commands are taken. Raises `DialectError`."""
        ...

    def opened(self, stream: str) -> Sequence[Frame]:
        """Return what is sent when the stream is open."""
        ...

    def resumed(self) -> Sequence[Frame]:
        """Return what is sent first to a client that has come back."""
        ...

    def emit(self, event: Event) -> Sequence[Frame]:
        """Return what is sent for an event."""
        ...

    def closing(self, error: DialectError | None, heard_s: float) -> Farewell:
        """Return what is said last, after so many seconds of audio; `error`: why the stream broke off, if it did."""
        ...


class PlainEntry:
    """What most entries have in common: answers go back where the audio came from, and clients begin anew."""

    @property
    def callback(self) -> Callback | None:
        """Where the client wants its results sent instead: nowhere."""
        return None

    @property
    def channels(self) -> int:
        """Channels that the request announces: one, or the client will say later."""
        return 1

    @property
    def resume(self) -> Resume | None:
        """The stream that the client comes back for: none."""
        return None

    @property
    def takes_client_secrets(self) -> bool:
        """Whether a client secret of OpenAI's Realtime API lets a client in: it does not."""
        return False


class Unresumable:
    """What the dialects have in common whose clients cannot come back for a stream."""

    resume_token: str | None = None

    def resumed(self) -> Sequence[Frame]:
        """Return nothing: nobody comes back."""
        return ()
