"""One live stream on the event loop: a dialect's commands to the core, the core's events to the dialect."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque

import structlog

from myna.server.operations.admission import Place
from myna.media.source import DecoderLostError, RawSource, Source
from myna.server.dialects.base import Audio, Command, Configure, Dialect, Discard, End, EndTurn, Flush, KeepAlive, Open, Reformat, Reply, Stalled
from myna.runtime.errors import DialectError
from myna.server.websocket.outbox import Outbox, SlowReaderError
from myna.runtime.deadlines import timeout
from myna.inference.driver import StreamDriver
from myna.server.services import Services
from myna.streaming.audio.raw import STEP_BYTES, AudioError, RawFormat
from myna.streaming.events import SAMPLE_RATE, Ended, Event, Opened, Repeated, seconds
from myna.streaming.speech.segmenter import WINDOW
from myna.streaming.session.stream import Stream

log = structlog.get_logger()

LONGEST_HALT_S = 5.0
"""The server never stops reading from a client for longer: pings wait behind the audio, and clients hang up unheard."""
_HEARD_S = 20.0
"""The words before the point where a stream's audio cannot be decoded any more may take so long."""
_READ_BETWEEN_HALTS = 256 * 1024
"""Bytes read after each halt: as many as a connection buffers, so that a ping is found among them."""

_WAITING_BYTES = 256
"""A command in the spool takes so many bytes besides its audio."""


class LiveStream:
    """One connection's stream. `outbox` fills with frames; `broken` is set when it cannot go on.

    What a client sends faster than it can be decoded waits in the spool, as it was sent, and everything that the client
    asks for meanwhile behind it. While there is a spool the client is read from slowly, so that its sends block.
    """

    def __init__(self, name: str, dialect: Dialect, place: Place, services: Services) -> None:
        self.name = name
        self.engine = place.pool
        self._place = place
        self.outbox = Outbox()
        self.broken: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self._dialect = dialect
        self._services = services
        self._driver: StreamDriver | None = None
        self._source: Source | None = None
        self._coded = False
        self._arrived = 0.0
        self._spool: deque[tuple[Command, float]] = deque()
        self._spooled = 0
        self._read = 0  # bytes since the last halt
        self._feeding: asyncio.Task[None] | None = None
        self._heard_s = 0.0
        self._end_asked = False
        self._ending = False
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
        if self._driver is None:
            return
        if not self._end_asked:
            self._end_asked = True
            self._spool.append((End(), time.monotonic()))
            if self._feeding is None:
                self._start_feeding()
        while not self._ended and not self.broken.done():
            self._driver.changed.clear()
            await self._driver.changed.wait()

    async def close(self) -> None:
        """Free everything: audio, jobs that wait, the decoder once nobody reads from it."""
        if self._feeding is not None:
            self._feeding.cancel()
            await asyncio.wait([self._feeding])
        if self._source is not None:
            await self._source.close()
        self._spool.clear()
        self.outbox.clear()
        if self._driver is not None:
            self._heard_s = self.heard_s
            self._driver.close()
            self._driver = None  # its audio must not live as long as a timer of the socket's that still knows the stream

    def break_off(self, error: Exception) -> None:
        """End the stream for this reason; its connection says so to the client."""
        if not self.broken.done():
            self.broken.set_result(error)
        if self._driver is not None:
            self._driver.changed.set()

    @property
    def _opened(self) -> StreamDriver:
        assert self._driver is not None
        return self._driver

    @property
    def _opened_source(self) -> Source:
        assert self._source is not None
        return self._source

    def _open(self, command: Open) -> None:
        match command.audio:
            case RawFormat() as raw:
                self._source = RawSource(raw, mix=command.mix)
            case coded:
                self._coded = True
                self._source = self._services.decoders.stream(coded, mix=command.mix)
        stream = Stream(self.name, command.policy, command.options, self.engine.info)
        self._driver = StreamDriver(stream, self.engine, self._services.vad, self._tell, self.fail)
        for frame in self._dialect.opened(self.name):
            self.outbox.put(frame)

    async def _take(self, command: Command) -> None:
        arrived, audio = time.monotonic(), isinstance(command, Audio)
        if self._feeding is None and not self._takes_long(command):
            try:
                await self._begin(command, arrived)
                if not audio or await self._decode_while_room():
                    return
            except AudioError as error:
                raise _undecodable(error) from error
            self._start_feeding()
        else:  # what is decoded in steps must come to its end, even if whoever receives is stopped meanwhile
            self._put_by(command, arrived)
            if self._feeding is None:
                self._start_feeding()
        if isinstance(command, Audio):
            self._read += len(command.data)
        if self._read >= _READ_BETWEEN_HALTS and self._feeding is not None:
            self._read = 0
            await asyncio.wait([self._feeding], timeout=LONGEST_HALT_S)

    def _takes_long(self, command: Command) -> bool:
        if isinstance(command, Audio):
            return self._coded or len(command.data) > STEP_BYTES
        return self._coded and isinstance(command, Flush | Discard | EndTurn)

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

    async def _begin(self, command: Command, arrived: float) -> None:
        """Hand a command to the core; audio is then still to be decoded. Raises `AudioError`."""
        self._arrived = arrived
        driver, source = self._opened, self._opened_source
        match command:
            case Audio(data):
                source.feed(data)
            case Flush(token, channel):
                await self._decode_everything()
                driver.stream.flush(token, channel)
                driver.run()
            case Discard(token):
                await self._decode_everything()
                driver.stream.discard(token)
                driver.run()
            case EndTurn():
                await self._decode_everything()
                driver.stream.end_turn()
                driver.run()
            case Configure(options, policy, token):
                driver.stream.configure(options, policy, token)
                driver.run()
            case Reformat(audio):
                await self._decode_everything()
                await source.close()
                self._source = RawSource(audio, mix=True)
            case Stalled():
                driver.stream.stall()
                driver.run()
            case End():
                source.finish()
                self._ending = True

    async def _decode_everything(self) -> None:
        """Hand the core all that has been heard, also what a decoder's filters keep back. Raises `AudioError`."""
        self._opened_source.flush()
        while channels := await self._opened_source.read():
            self._push(channels)

    def _start_feeding(self) -> None:
        self._feeding = asyncio.create_task(self._feed(), name=f"spool {self.name}")

    async def _feed(self) -> None:
        """Decode what there is and carry out what waits, as fast as the engine keeps up."""
        try:
            while True:
                while not await self._decode_while_room():
                    await self._until(self._services.max_backlog_s)
                if self._ending:
                    self._ending = False
                    self._opened.stream.end()
                    self._opened.run()
                if not self._spool or self.broken.done():
                    return
                command, arrived = self._spool.popleft()
                self._spooled -= _size(command)
                await self._begin(command, arrived)
                await asyncio.sleep(0)  # a spool may hold tens of thousands of commands that wait for nothing
        except AudioError as error:
            await self._break_off_after_words(_undecodable(error))
        except DecoderLostError as error:
            log.error("a stream has lost its decoder", stream=self.name, reason=str(error))
            lost = DialectError("internal_error", "the process that decodes this audio has ended; try again")
            await self._break_off_after_words(lost)
        except Exception as error:
            self.fail(error)
        finally:
            self._feeding = None

    async def _decode_while_room(self) -> bool:
        """Decode what has been handed over, at most until the engine is behind; return whether that was all.

        Of a stream that is broken nothing more is wanted.
        """
        driver = self._opened
        while not self.broken.done():
            if driver.stream.backlog_s > self._services.max_backlog_s:
                return False
            channels = await self._opened_source.read()
            if not channels:
                return True
            self._push(channels)
        return True

    def _push(self, channels: list[bytes]) -> None:
        """Hand decoded samples to the core."""
        driver = self._opened
        driver.stream.push(channels, self._arrived)
        driver.run()
        length_s = sum(map(len, channels)) / 2 / SAMPLE_RATE
        self._services.metrics.audio_in(length_s)
        self._place.heard(length_s)

    async def _until(self, backlog_s: float) -> None:
        """Wait until no more audio than this waits for the engine."""
        driver = self._opened
        while driver.stream.backlog_s > backlog_s and not self.broken.done():
            driver.changed.clear()
            await driver.changed.wait()

    async def _break_off_after_words(self, reason: DialectError) -> None:
        """End the stream for this reason once what was decoded before is final."""
        try:
            with contextlib.suppress(TimeoutError):
                async with timeout(_HEARD_S, self._services.clock):
                    await self._until(self._services.max_backlog_s)
                    self._opened.stream.stall()
                    self._opened.run()
                    await self._until(seconds(WINDOW))
        except Exception as error:
            self.fail(error)
        self.break_off(reason)

    def _tell(self, event: Event) -> None:
        match event:
            case Ended():
                self._ended = True
            case Opened(channels=channels):
                self._resize(channels)
            case Repeated(heard=heard):
                self._services.metrics.speech_repeated(heard=heard)
                return
        if self.broken.done():  # its client has been, or is being, told the reason: nothing may follow that
            return
        for frame in self._dialect.emit(event):
            self.outbox.put(frame)

    def _resize(self, channels: int) -> None:
        try:
            self._place.resize(channels)
        except DialectError as error:
            self.break_off(error)

    def fail(self, error: Exception) -> None:
        """End the stream for an error of the server's own, which is logged; a client that does not read is no such error."""
        if not isinstance(error, SlowReaderError):
            log.error("a stream failed", stream=self.name, exc_info=error)
            error = failure()
        self.break_off(error)


def failure() -> DialectError:
    """Return how a client is told of an error of the server's own."""
    return DialectError("internal_error", "the server failed on this stream")


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
