"""One live stream on the event loop: a dialect's commands to the core, the core's events to the dialect."""

from __future__ import annotations

import asyncio

import structlog

from myna.inference.driver import StreamDriver
from myna.inference.port import ModelPool
from myna.runtime.errors import DialectError
from myna.runtime.tasks import cancel_and_wait
from myna.server.dialects.base import Command, Dialect, KeepAlive, Open, Reply
from myna.server.operations.front_admission import StreamPlace
from myna.server.services import Services
from myna.server.websocket.feeder import Feeder
from myna.server.websocket.outbox import Outbox, SlowReaderError
from myna.streaming.events import SAMPLE_RATE, Ended, Event, Opened, Repeated, seconds
from myna.streaming.session.stream import Stream
from myna.streaming.speakers.labelling import Distances

log = structlog.get_logger()

_NOTED_S = 0.25
"""Audio after which admission is told of it. Admission looks at averages over seconds."""


class LiveStream:
    """One connection's stream. `outbox` fills with frames; `broken` is done when the stream cannot go on."""

    def __init__(
        self, name: str, dialect: Dialect, place: StreamPlace, services: Services, diarizer: ModelPool | None = None
    ) -> None:
        self.name = name
        self.engine = place.pool
        self.outbox = Outbox()
        self.broken: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self._place = place
        self._dialect = dialect
        self._services = services
        self._diarizer = diarizer
        self._driver: StreamDriver | None = None
        self._feeder: Feeder | None = None
        self._resizing: asyncio.Task[None] | None = None
        self._heard_s = 0.0
        self._unnoted_s = 0.0  # audio of which admission has not been told
        self._ended = False

    @property
    def is_open(self) -> bool:
        """Whether the client has started the stream."""
        return self._driver is not None

    @property
    def heard_s(self) -> float:
        """Seconds of audio received."""
        return self._heard_s if self._driver is None else seconds(self._driver.stream.received)

    @property
    def held_s(self) -> float:
        """Seconds of decoded audio in memory, all channels together."""
        return 0.0 if self._driver is None else self._driver.stream.audio_held / SAMPLE_RATE

    @property
    def backlog_s(self) -> float:
        """Seconds of decoded audio that wait for voice activity detection or the engine."""
        return 0.0 if self._driver is None else self._driver.stream.backlog_s

    @property
    def spooled_bytes(self) -> int:
        """Bytes that wait to be decoded."""
        return 0 if self._feeder is None else self._feeder.spooled

    async def act(self, command: Command) -> None:
        """Carry out a command, or queue it. Raises `DialectError` if its audio cannot be decoded or kept."""
        match command:
            case Open():
                await self._open(command)
            case Reply(frames):
                for frame in frames:
                    self.outbox.put(frame)
            case KeepAlive():
                pass
            case _:
                assert self._feeder is not None
                await self._feeder.take(command)

    async def end(self) -> None:
        """Take no more audio; wait until all audio received is final. May be called again, and cancelled."""
        if self._driver is None or self._feeder is None:
            return
        self._feeder.end()
        changed = self._driver.changed
        while not self._ended and not self.broken.done():
            changed.clear()
            await changed.wait()

    async def close(self) -> None:
        """Free everything: audio, frames, queued jobs, the decoder."""
        if self._resizing is not None:
            await cancel_and_wait(self._resizing)
        if self._feeder is not None:
            await self._feeder.close()
        self.outbox.clear()
        if self._driver is not None:
            self._heard_s = self.heard_s
            self._driver.close()
            self._driver = self._feeder = (
                None  # a timer of the socket may still refer to the stream: free the audio now
            )

    def abort(self, error: Exception) -> None:
        """End the stream for this reason; its connection tells the client."""
        if not self.broken.done():
            self.broken.set_result(error)
        if self._driver is not None:
            self._driver.changed.set()

    def fail(self, error: Exception) -> None:
        """End the stream for an error of the server's own, which is logged. A client that does not read is not logged."""
        if not isinstance(error, SlowReaderError):
            log.error("a stream failed", stream=self.name, exc_info=error)
            error = failure()
        self.abort(error)

    async def _open(self, command: Open) -> None:
        await self._place.resize(command.channels)
        distances = Distances(*self._diarizer.info.voice_distances) if self._diarizer else None
        stream = Stream(self.name, command.policy, command.options, self.engine.info, distances)
        driver = StreamDriver(stream, self.engine, self._services.vad, self._emit, self.fail, self._diarizer)
        self._feeder = Feeder(
            self.name, command, driver, self._services, self.broken, self._count, self.fail, self.abort
        )
        self._driver = driver
        for frame in self._dialect.opened(self.name):
            self.outbox.put(frame)

    def _count(self, audio_s: float) -> None:
        self._services.metrics.audio_in(audio_s)
        self._unnoted_s += audio_s
        if self._unnoted_s >= _NOTED_S:
            self._place.heard(self._unnoted_s)
            self._unnoted_s = 0.0

    def _emit(self, event: Event) -> None:
        match event:
            case Ended():
                self._ended = True
            case Opened(channels=channels):
                self._resizing = asyncio.create_task(self._resize(channels), name=f"channels {self.name}")
            case Repeated():
                self._services.metrics.speech_repeated(event)
                return
        if self.broken.done():  # the client is being told the reason, and nothing may follow that
            return
        for frame in self._dialect.emit(event):
            self.outbox.put(frame)

    async def _resize(self, channels: int) -> None:
        try:
            await self._place.resize(channels)
        except DialectError as error:
            self.abort(error)
        except Exception as error:
            self.fail(error)


def failure() -> DialectError:
    """Return what a client is told about an error of the server's own."""
    return DialectError("internal_error", "the server failed on this stream")
