"""What a connection and a wire dialect say to each other. A dialect is a stateful sans-I/O translator, one a connection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from myna.streaming.audio import RawFormat
from myna.streaming.events import Event
from myna.streaming.policy import Options, Policy


@dataclass(frozen=True, slots=True)
class Open:
    """Command: begin. `audio` None: the audio is a container; `mix`: its channels become one."""

    audio: RawFormat | None
    mix: bool
    policy: Policy
    options: Options


@dataclass(frozen=True, slots=True)
class Audio:
    """Command: these bytes are audio."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Flush:
    """Command: make everything so far final, and acknowledge with the token."""

    token: str


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """Command: none; the client is there."""


@dataclass(frozen=True, slots=True)
class End:
    """Command: no audio follows."""


Command = Open | Audio | Flush | KeepAlive | End


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame to send. One that `replaces` a key makes an unsent one of the same key superfluous."""

    payload: str | bytes
    replaces: str | None = None


class DialectError(Exception):
    """The stream cannot go on: a machine's `code`, a message for a person, the WebSocket close code that fits."""

    def __init__(self, code: str, message: str, close_code: int) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.close_code = close_code


class Dialect(Protocol):
    """Frames to commands, events to frames."""

    def receive(self, frame: str | bytes) -> Sequence[Command]:
        """Return what a client's frame asks for. Raises `DialectError`."""
        ...

    def opened(self, stream: str) -> Sequence[Frame]:
        """Return what is sent when the stream is open."""
        ...

    def emit(self, event: Event) -> Sequence[Frame]:
        """Return what is sent for an event."""
        ...

    def failing(self, error: DialectError) -> Sequence[Frame]:
        """Return what is sent when the stream breaks off; `closing` follows."""
        ...

    def closing(self, reason: str, heard_s: float) -> Sequence[Frame]:
        """Return what is sent last."""
        ...
