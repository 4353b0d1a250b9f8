"""One live stream on the event loop: carries requests of the sans-I/O core to voice activity and engine, and back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

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
from myna.server.voice import VoiceActivity
from myna.streaming.audio import AudioError, Codec, Coded, Decoder, RawDecoder
from myna.streaming.container import ContainerDecoder
from myna.streaming.engines.base import Outcome
from myna.streaming.events import Ended, Event, seconds
from myna.streaming.opus import OpusDecoder
from myna.streaming.requests import Cancel, Detect, Release, Request, Submit
from myna.streaming.stream import Stream
from myna.streaming.vad import VoiceMemory

log = structlog.get_logger()

LONGEST_HALT_S = 5.0
"""The server never stops reading from a client for longer: pings wait behind the audio, and clients hang up unheard."""
_SPOOL = 4
"""A stream whose backlog is so many times the configured one cannot be served; see DialectError 'overloaded'."""
_DECODED_INLINE = 65_536
"""Raw audio up to so many bytes is decoded on the event loop (well under a millisecond); more goes to a thread."""


@dataclass(slots=True)
class Services:
    """What every stream shares."""

    voice: VoiceActivity
    max_backlog_s: float
    streams: dict[str, LiveStream] = field(default_factory=dict)

    def on_engine_restart(self, engine: EngineWorker) -> None:
        """Have every stream of this worker ask again."""
        for stream in list(self.streams.values()):
            if stream.engine is engine:
                stream.reset_engine(engine.epoch)


class LiveStream:
    """One connection's stream. `outbox` fills with frames; `broken` is set when it cannot go on."""

    def __init__(self, name: str, dialect: Dialect, engine: EngineWorker, services: Services) -> None:
        self.name = name
        self.engine = engine
        self.outbox = Outbox()
        self.broken: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self._dialect = dialect
        self._services = services
        self._stream: Stream | None = None
        self._coded = False
        self._memories: dict[int, VoiceMemory] = {}
        self._changed = asyncio.Event()
        self._ended = False
        self._closed = False

    @property
    def is_open(self) -> bool:
        """Whether the client has started the stream."""
        return self._stream is not None

    @property
    def heard_s(self) -> float:
        """Seconds of audio received."""
        return seconds(self._stream.received) if self._stream else 0.0

    async def act(self, command: Command) -> None:
        """Carry out a command. Raises `DialectError` if its audio cannot be decoded or not be kept up with."""
        arrived = time.monotonic()
        try:
            match command:
                case Open():
                    self._open(command)
                case Audio(data):
                    assert self._stream is not None
                    self._stream.push(data)
                    await self._decode(arrived, len(data))
                case Flush(token, channel):
                    assert self._stream is not None
                    self._stream.flush(token, channel)
                    self._pump()
                case Configure(options):
                    assert self._stream is not None
                    self._stream.configure(options)
                case Reply(frames):
                    for frame in frames:
                        self.outbox.put(frame)
                case End():
                    await self.end()
                case KeepAlive():
                    pass
        except AudioError as error:
            raise DialectError("undecodable_audio", str(error)) from error

    async def end(self) -> None:
        """Take no more audio, wait until everything heard is final."""
        if self._stream is None:
            return
        self._stream.end()
        await self._decode(time.monotonic(), _DECODED_INLINE + 1)
        self._stream.accept([], time.monotonic())
        self._pump()
        while not self._ended and not self.broken.done():
            self._changed.clear()
            await self._changed.wait()

    def reset_engine(self, epoch: int) -> None:
        """Ask a new engine worker again for everything open."""
        if self._stream is not None:
            self._stream.reset_engine(epoch)
            self._pump()

    def close(self) -> None:
        """Free everything: audio, jobs that wait, the decoder."""
        self._closed = True
        if self._stream is not None:
            self._carry_out(self._stream.abandon())
        self._stream = None
        self._memories.clear()

    def _open(self, command: Open) -> None:
        self._coded = isinstance(command.audio, Coded)
        self._stream = Stream(self.name, _decoder(command), command.policy, command.options, self.engine.info)
        self._stream.reset_engine(self.engine.epoch)
        for frame in self._dialect.opened(self.name):
            self.outbox.put(frame)

    async def _decode(self, arrived: float, size: int) -> None:
        stream = self._stream
        assert stream is not None
        in_thread = self._coded or size > _DECODED_INLINE
        while channels := (await asyncio.to_thread(stream.decode) if in_thread else stream.decode()):
            stream.accept(channels, arrived)
            self._pump()
            await self._room(stream)

    async def _room(self, stream: Stream) -> None:
        """Wait, for a while, until the engine has caught up: the client's audio waits in its socket meanwhile."""
        limit = self._services.max_backlog_s
        try:
            async with asyncio.timeout(LONGEST_HALT_S):
                while stream.backlog_s > limit and not self.broken.done():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            if stream.backlog_s > _SPOOL * limit:
                raise DialectError(
                    "overloaded",
                    f"{stream.backlog_s:.0f} s of audio wait to be decoded; the server cannot keep up with this client",
                ) from None

    def _pump(self) -> None:
        """Carry what the core asks for to where it is done, and what it tells to the client."""
        if self._stream is None:
            return
        requests, events = self._stream.take()
        self._carry_out(requests)
        for event in events:
            self._tell(event)
        self._changed.set()

    def _tell(self, event: Event) -> None:
        if isinstance(event, Ended):
            self._ended = True
        for frame in self._dialect.emit(event):
            self.outbox.put(frame)

    def _carry_out(self, requests: list[Request]) -> None:
        for request in requests:
            match request:
                case Detect(channel, start, pcm):
                    memory = self._memories.setdefault(channel, VoiceMemory())
                    self._services.voice.detect(memory, pcm, self._voice_answer(channel, start))
                case Submit(job):
                    self.engine.submit(job, self._on_result)
                case Cancel(job_id):
                    self.engine.cancel(job_id)
                case Release(source):
                    self.engine.release(source)

    def _voice_answer(self, channel: int, start: int) -> Callable[[list[float]], None]:
        def answer(probabilities: list[float]) -> None:
            self._guarded(lambda stream: stream.on_vad(channel, start, probabilities))

        return answer

    def _on_result(self, job_id: str, epoch: int, outcome: Outcome) -> None:
        self._guarded(lambda stream: stream.on_result(job_id, epoch, outcome))

    def _guarded(self, step: Callable[[Stream], None]) -> None:
        """Run a step of the core from a callback; whatever goes wrong ends this stream and no other."""
        if self._stream is None or self._closed:
            return
        try:
            step(self._stream)
            self._pump()
        except SlowReaderError as error:
            self.break_off(error)
        except Exception:
            log.exception("a stream failed", stream=self.name)
            self.break_off(DialectError("internal_error", "the server failed on this stream"))

    def break_off(self, error: Exception) -> None:
        """End the stream for this reason; its connection says so to the client."""
        if not self.broken.done():
            self.broken.set_result(error)
        self._changed.set()


def _decoder(command: Open) -> Decoder:
    match command.audio:
        case Coded(codec=Codec.OPUS, channels=channels):
            return OpusDecoder(channels, mix=command.mix)
        case Coded(codec=codec):
            return ContainerDecoder(mix=command.mix, codec=codec)
        case raw:
            return RawDecoder(raw, mix=command.mix)
