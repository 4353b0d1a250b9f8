"""One live stream on the event loop: a dialect's commands to the core, the core's events to the dialect."""

from __future__ import annotations

import asyncio
import time
from collections import deque

import structlog

from myna.server.dialects.base import (
    Audio,
    Command,
    Configure,
    Dialect,
    DialectError,
    Discard,
    End,
    EndTurn,
    Flush,
    KeepAlive,
    Open,
    Reformat,
    Reply,
    Stalled,
)
from myna.server.engine import EnginePool
from myna.server.outbox import Outbox, SlowReaderError
from myna.server.pump import Pump, Services
from myna.streaming.audio import AudioError, Codec, Coded, Decoder, RawDecoder
from myna.streaming.container import ContainerDecoder
from myna.streaming.events import SAMPLE_RATE, Ended, Event, Opened, seconds
from myna.streaming.opus import OpusDecoder
from myna.streaming.stream import Stream

log = structlog.get_logger()

LONGEST_HALT_S = 5.0
"""The server never stops reading from a client for longer: pings wait behind the audio, and clients hang up unheard."""
_READ_BETWEEN_HALTS = 256 * 1024
"""Bytes read after each halt: as many as a connection buffers, so that a ping is found among them."""
_DECODED_INLINE = 65_536
"""Raw audio up to so many bytes is decoded on the event loop (well under a millisecond); more goes to a thread."""

_WAITING_BYTES = 256
"""A command in the spool takes so many bytes besides its audio."""


class LiveStream:
    """One connection's stream. `outbox` fills with frames; `broken` is set when it cannot go on.

    What a client sends faster than it can be decoded waits in the spool, as it was sent, and everything that the client
    asks for meanwhile behind it. While there is a spool the client is read from slowly, so that its sends block.
    """

    def __init__(self, name: str, dialect: Dialect, engine: EnginePool, services: Services) -> None:
        self.name = name
        self.engine = engine
        self.outbox = Outbox()
        self.broken: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self._dialect = dialect
        self._services = services
        self._pump: Pump | None = None
        self._coded = False
        self._in_thread = False
        self._arrived = 0.0
        self._spool: deque[tuple[Command, float]] = deque()
        self._spooled = 0
        self._read = 0  # bytes since the last halt
        self._feeding: asyncio.Task[None] | None = None
        self._heard_s = 0.0
        self._end_asked = False
        self._ended = False
        self._channels = 1

    @property
    def is_open(self) -> bool:
        """Whether the client has started the stream."""
        return self._pump is not None

    @property
    def heard_s(self) -> float:
        """Seconds of audio received."""
        return self._heard_s if self._pump is None else seconds(self._pump.stream.received)

    @property
    def spooled(self) -> int:
        """Bytes that wait to be decoded."""
        return self._spooled

    async def act(self, command: Command) -> None:
        """Carry out a command, or leave it to the spool. Raises `DialectError` if its audio cannot be decoded or kept."""
        match command:
            case Open():
                self._open(command)
            case Reply(frames):
                for frame in frames:
                    self.outbox.put(frame)
            case KeepAlive():
                pass
            case _:
                await self._take(command)

    async def end(self) -> None:
        """Take no more audio, wait until everything heard is final. May be called again, and cancelled."""
        if self._pump is None:
            return
        if not self._end_asked:
            self._end_asked = True
            self._spool.append((End(), time.monotonic()))
            if self._feeding is None:
                self._start_feeding()
        while not self._ended and not self.broken.done():
            self._pump.changed.clear()
            await self._pump.changed.wait()

    def close(self) -> None:
        """Free everything: audio, jobs that wait, the decoder."""
        self.engine.headroom.join(1 - self._channels)
        self._channels = 1
        if self._feeding is not None:
            self._feeding.cancel()
        self._spool.clear()
        self.outbox.clear()
        if self._pump is not None:
            self._heard_s = self.heard_s
            self._pump.close()
            self._pump = None  # its audio must not live as long as a timer of the socket's that still knows the stream

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

    async def _take(self, command: Command) -> None:
        arrived, audio = time.monotonic(), isinstance(command, Audio)
        if self._feeding is None and not self._needs_thread(command):
            try:
                self._begin(command, arrived)
                if not audio or await self._decode_while_room():
                    return
            except AudioError as error:
                raise _undecodable(error) from error
            self._start_feeding()
        else:  # what is decoded on a thread must come to its end, even if whoever receives is stopped meanwhile
            self._put_by(command, arrived)
            if self._feeding is None:
                self._start_feeding()
        if isinstance(command, Audio):
            self._read += len(command.data)
        if self._read >= _READ_BETWEEN_HALTS and self._feeding is not None:
            self._read = 0
            await asyncio.wait([self._feeding], timeout=LONGEST_HALT_S)

    def _needs_thread(self, command: Command) -> bool:
        return isinstance(command, Audio) and (self._coded or len(command.data) > _DECODED_INLINE)

    def _put_by(self, command: Command, arrived: float) -> None:
        most, size = self._services.spool_bytes, _size(command)
        if self._spooled and self._spooled + size > most:
            raise DialectError(
                "overloaded",
                f"{self._spooled} bytes of audio wait to be decoded, and the server keeps {most} of a client: send it"
                " more slowly",
                finals_first=True,
            )
        self._spooled += size
        self._spool.append((command, arrived))

    def _begin(self, command: Command, arrived: float) -> None:
        """Hand a command to the core; audio is then still to be decoded. Raises `AudioError`."""
        self._arrived = arrived
        pump = self._opened
        match command:
            case Audio(data):
                self._in_thread = self._needs_thread(command)
                pump.stream.push(data)
            case Flush(token, channel):
                pump.stream.flush(token, channel)
                pump.run()
            case Discard(token):
                pump.stream.discard(token)
                pump.run()
            case EndTurn():
                pump.stream.end_turn()
                pump.run()
            case Configure(options, policy, token):
                pump.stream.configure(options, policy, token)
                pump.run()
            case Reformat(audio):
                pump.stream.switch(RawDecoder(audio, mix=True))
                pump.run()
            case Stalled():
                pump.stream.stall()
                pump.run()
            case End():
                self._in_thread = True
                pump.stream.end()

    def _start_feeding(self) -> None:
        self._feeding = asyncio.create_task(self._feed(), name=f"spool {self.name}")

    async def _feed(self) -> None:
        """Decode what there is and carry out what waits, as fast as the engine keeps up."""
        try:
            while True:
                while not await self._decode_while_room():
                    await self._until_room()
                if not self._spool or self.broken.done():
                    return
                command, arrived = self._spool.popleft()
                self._spooled -= _size(command)
                self._begin(command, arrived)
        except AudioError as error:
            self.break_off(_undecodable(error))
        except Exception as error:
            self._fail(error)
        finally:
            self._feeding = None

    async def _decode_while_room(self) -> bool:
        """Decode what has been handed over, at most until the engine is behind; return whether that was all."""
        pump = self._opened
        while pump.stream.backlog_s <= self._services.max_backlog_s or self.broken.done():
            channels = await asyncio.to_thread(pump.stream.decode) if self._in_thread else pump.stream.decode()
            pump.stream.accept(channels, self._arrived)
            if channels or self._end_asked:
                pump.run()
            if not channels:
                return True
            length_s = sum(map(len, channels)) / 2 / SAMPLE_RATE
            self._services.metrics.audio_in(length_s)
            self.engine.headroom.heard(time.monotonic(), length_s)
        return False

    async def _until_room(self) -> None:
        pump = self._opened
        while pump.stream.backlog_s > self._services.max_backlog_s and not self.broken.done():
            pump.changed.clear()
            await pump.changed.wait()

    def _tell(self, event: Event) -> None:
        match event:
            case Ended():
                self._ended = True
            case Opened(channels=channels):
                self.engine.headroom.join(channels - self._channels)
                self._channels = channels
        for frame in self._dialect.emit(event):
            self.outbox.put(frame)

    def _fail(self, error: Exception) -> None:
        if not isinstance(error, SlowReaderError):
            log.error("a stream failed", stream=self.name, exc_info=error)
            error = DialectError("internal_error", "the server failed on this stream")
        self.break_off(error)


def _size(command: Command) -> int:
    """Return the bytes that a client's command takes in the spool."""
    match command:
        case Audio(data):
            return _WAITING_BYTES + len(data)
        case End() | Stalled():  # the server's own
            return 0
        case _:
            return _WAITING_BYTES


def _undecodable(error: AudioError) -> DialectError:
    return DialectError("undecodable_audio", str(error))


def decoder_of(command: Open) -> Decoder:
    """Return the decoder for the audio that a stream was opened for."""
    match command.audio:
        case Coded(codec=Codec.OPUS, channels=channels):
            return OpusDecoder(channels, mix=command.mix)
        case Coded(codec=codec):
            return ContainerDecoder(mix=command.mix, codec=codec)
        case raw:
            return RawDecoder(raw, mix=command.mix)
