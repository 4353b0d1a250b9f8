"""One live stream on the event loop: a dialect's commands to the core, the core's events to the dialect."""

from __future__ import annotations

import asyncio
import time

import structlog

from myna.server.dialects.base import (
    Audio,
    Command,
    Configure,
    Dialect,
    DialectError,
    End,
    Flush,
    KeepAlive,
    Open,
    Reply,
)
from myna.server.engine import EngineWorker
from myna.server.outbox import Outbox, SlowReaderError
from myna.server.pump import Pump, Services
from myna.streaming.audio import AudioError, Codec, Coded, Decoder, RawDecoder
from myna.streaming.container import ContainerDecoder
from myna.streaming.events import Ended, Event, seconds
from myna.streaming.opus import OpusDecoder
from myna.streaming.stream import Stream

log = structlog.get_logger()

LONGEST_HALT_S = 5.0
"""The server never stops reading from a client for longer: pings wait behind the audio, and clients hang up unheard."""
_SPOOL = 4
"""A stream whose backlog is so many times the configured one cannot be served; see DialectError 'overloaded'."""
_DECODED_INLINE = 65_536
"""Raw audio up to so many bytes is decoded on the event loop (well under a millisecond); more goes to a thread."""


class LiveStream:
    """One connection's stream. `outbox` fills with frames; `broken` is set when it cannot go on."""

    def __init__(self, name: str, dialect: Dialect, engine: EngineWorker, services: Services) -> None:
        self.name = name
        self.engine = engine
        self.outbox = Outbox()
        self.broken: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self._dialect = dialect
        self._services = services
        self._pump: Pump | None = None
        self._coded = False
        self._ended = False

    @property
    def is_open(self) -> bool:
        """Whether the client has started the stream."""
        return self._pump is not None

    @property
    def heard_s(self) -> float:
        """Seconds of audio received."""
        return seconds(self._pump.stream.received) if self._pump else 0.0

    async def act(self, command: Command) -> None:
        """Carry out a command. Raises `DialectError` if its audio cannot be decoded or not be kept up with."""
        arrived = time.monotonic()
        try:
            match command:
                case Open():
                    self._open(command)
                case Reply(frames):
                    for frame in frames:
                        self.outbox.put(frame)
                case End():
                    await self.end()
                case KeepAlive():
                    pass
                case Audio(data):
                    self._opened.stream.push(data)
                    await self._decode(arrived, len(data))
                case Flush(token, channel):
                    self._opened.stream.flush(token, channel)
                    self._opened.run()
                case Configure(options):
                    self._opened.stream.configure(options)
        except AudioError as error:
            raise DialectError("undecodable_audio", str(error)) from error

    async def end(self) -> None:
        """Take no more audio, wait until everything heard is final."""
        pump = self._pump
        if pump is None:
            return
        pump.stream.end()
        await self._decode(time.monotonic(), _DECODED_INLINE + 1)
        pump.stream.accept([], time.monotonic())
        pump.run()
        while not self._ended and not self.broken.done():
            pump.changed.clear()
            await pump.changed.wait()

    def close(self) -> None:
        """Free everything: audio, jobs that wait, the decoder."""
        if self._pump is not None:
            self._pump.close()

    def break_off(self, error: Exception) -> None:
        """End the stream for this reason; its connection says so to the client."""
        if not self.broken.done():
            self.broken.set_result(error)
        if self._pump is not None:
            self._pump.changed.set()

    @property
    def _opened(self) -> Pump:
        assert self._pump is not None
        return self._pump

    def _open(self, command: Open) -> None:
        self._coded = isinstance(command.audio, Coded)
        stream = Stream(self.name, decoder_of(command), command.policy, command.options, self.engine.info)
        self._pump = Pump(stream, self.engine, self._services, self._tell, self._fail)
        for frame in self._dialect.opened(self.name):
            self.outbox.put(frame)

    async def _decode(self, arrived: float, size: int) -> None:
        pump = self._opened
        in_thread = self._coded or size > _DECODED_INLINE
        while channels := (await asyncio.to_thread(pump.stream.decode) if in_thread else pump.stream.decode()):
            pump.stream.accept(channels, arrived)
            pump.run()
            await self._room(pump)

    async def _room(self, pump: Pump) -> None:
        """Wait, for a while, until the engine has caught up: the client's audio waits in its socket meanwhile."""
        limit = self._services.max_backlog_s
        try:
            async with asyncio.timeout(LONGEST_HALT_S):
                while pump.stream.backlog_s > limit and not self.broken.done():
                    pump.changed.clear()
                    await pump.changed.wait()
        except TimeoutError:
            if pump.stream.backlog_s > _SPOOL * limit:
                raise DialectError(
                    "overloaded",
                    f"{pump.stream.backlog_s:.0f} s of audio wait to be decoded; the server cannot keep up with this client",
                ) from None

    def _tell(self, event: Event) -> None:
        if isinstance(event, Ended):
            self._ended = True
        for frame in self._dialect.emit(event):
            self.outbox.put(frame)

    def _fail(self, error: Exception) -> None:
        if not isinstance(error, SlowReaderError):
            log.error("a stream failed", stream=self.name, exc_info=error)
            error = DialectError("internal_error", "the server failed on this stream")
        self.break_off(error)


def decoder_of(command: Open) -> Decoder:
    """Return the decoder for the audio that a stream was opened for."""
    match command.audio:
        case Coded(codec=Codec.OPUS, channels=channels):
            return OpusDecoder(channels, mix=command.mix)
        case Coded(codec=codec):
            return ContainerDecoder(mix=command.mix, codec=codec)
        case raw:
            return RawDecoder(raw, mix=command.mix)
