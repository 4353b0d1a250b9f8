"""Carries a client's commands to the core in their order, and decodes its audio no faster than the engine keeps up."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

import structlog

from myna.inference.driver import StreamDriver
from myna.media.source import DecoderLostError, RawSource, Source
from myna.runtime.deadlines import timeout
from myna.runtime.errors import DialectError
from myna.runtime.tasks import cancel_and_wait
from myna.server.dialects.base import Audio, Command, Configure, Discard, End, EndTurn, Flush, Open, Reformat, Stalled
from myna.server.services import Services
from myna.server.websocket.spool import Spool
from myna.streaming.audio.raw import STEP_BYTES, AudioError, RawFormat
from myna.streaming.events import SAMPLE_RATE, seconds
from myna.streaming.speech.segmenter import WINDOW

log = structlog.get_logger()

LONGEST_HALT_S = 5.0
"""The longest time for which the server stops reading from a client. Pings wait behind the audio, and a client that misses a
pong hangs up."""
_LAST_WORDS_S = 20.0
"""Seconds for the words before the point from which a stream's audio can no longer be decoded."""
_READ_BETWEEN_HALTS = 256 * 1024
"""Bytes read after each halt: as many as a connection buffers, so that a ping among them is found."""


class Feeder:
    """Feeds the audio of one open stream to the core.

    Audio that arrives faster than it can be decoded waits in the spool, as it was sent, with all later commands behind it.
    While the spool is in use the client is read from slowly, so that its sends block.

    `on_audio` is called with the seconds of audio that were decoded, `fail` with an error of the server's own, and `abort`
    with the reason why the stream cannot go on. `broken` is done when it does not.
    """

    def __init__(
        self,
        name: str,
        command: Open,
        driver: StreamDriver,
        services: Services,
        broken: asyncio.Future[Exception],
        on_audio: Callable[[float], None],
        fail: Callable[[Exception], None],
        abort: Callable[[Exception], None],
    ) -> None:
        self._name = name
        self._driver = driver
        self._services = services
        self._broken = broken
        self._on_audio = on_audio
        self._fail = fail
        self._abort = abort
        self._coded = not isinstance(command.audio, RawFormat)
        self._source: Source = (
            RawSource(command.audio, mix=command.mix)
            if isinstance(command.audio, RawFormat)
            else services.decoders.stream(command.audio, mix=command.mix)
        )
        self._spool = Spool(services.spool_bytes)
        self._arrived = 0.0  # when the command that is carried out arrived
        self._read = 0  # bytes since the last halt
        self._feeding: asyncio.Task[None] | None = None
        self._end_asked = False
        self._ending = False

    @property
    def spooled(self) -> int:
        """Bytes that wait to be decoded."""
        return self._spool.size

    async def take(self, command: Command) -> None:
        """Carry out a command, or queue it. Raises `DialectError` if its audio cannot be decoded or kept."""
        arrived, audio = time.monotonic(), isinstance(command, Audio)
        if self._feeding is None and not self._takes_long(command):
            try:
                await self._begin(command, arrived)
                if not audio or await self._decode_while_room():
                    return
            except AudioError as error:
                raise _undecodable(error) from error
            self._start_feeding()
        else:  # decoding in steps must finish even if the receiving task is cancelled meanwhile
            self._spool.append(command, arrived)
            if self._feeding is None:
                self._start_feeding()
        if isinstance(command, Audio):
            self._read += len(command.data)
        if self._read >= _READ_BETWEEN_HALTS and self._feeding is not None:
            self._read = 0
            await asyncio.wait([self._feeding], timeout=LONGEST_HALT_S)

    def end(self) -> None:
        """Take no more audio. May be called again."""
        if self._end_asked:
            return
        self._end_asked = True
        self._spool.append(End(), time.monotonic())
        if self._feeding is None:
            self._start_feeding()

    async def close(self) -> None:
        """Stop decoding; free the audio that waits, and the decoder once nothing reads from it."""
        if self._feeding is not None:
            await cancel_and_wait(self._feeding)
        await self._source.close()
        self._spool.clear()

    def _takes_long(self, command: Command) -> bool:
        if isinstance(command, Audio):
            return self._coded or len(command.data) > STEP_BYTES
        return self._coded and isinstance(command, Flush | Discard | EndTurn)

    async def _begin(self, command: Command, arrived: float) -> None:
        """Hand a command to the core; its audio remains to be decoded. Raises `AudioError`."""
        self._arrived = arrived
        stream = self._driver.stream
        match command:
            case Audio(data):
                self._source.feed(data)
                return
            case Flush(token, channel):
                await self._decode_everything()
                stream.flush(token, channel)
            case Discard(token):
                await self._decode_everything()
                stream.discard(token)
            case EndTurn():
                await self._decode_everything()
                stream.end_turn()
            case Configure(options, policy, token):
                stream.configure(options, policy, token)
            case Stalled():
                stream.stall()
            case Reformat(audio):
                await self._decode_everything()
                await self._source.close()
                self._source = RawSource(audio, mix=True)
                return
            case End():
                self._source.finish()
                self._ending = True
                return
        self._driver.run()

    async def _decode_everything(self) -> None:
        """Hand the core all audio received, including what a decoder's filters keep back. Raises `AudioError`."""
        self._source.flush()
        while channels := await self._source.read():
            self._push(channels)

    def _start_feeding(self) -> None:
        self._feeding = asyncio.create_task(self._feed(), name=f"spool {self._name}")

    async def _feed(self) -> None:
        """Decode the audio handed over and carry out the spooled commands, as fast as the engine keeps up."""
        try:
            while True:
                while not await self._decode_while_room():
                    await self._until(self._services.max_backlog_s)
                if self._ending:
                    self._ending = False
                    self._driver.stream.end()
                    self._driver.run()
                if not self._spool or self._broken.done():
                    return
                await self._begin(*self._spool.popleft())
                await asyncio.sleep(0)  # a spool may hold tens of thousands of commands that never suspend
        except AudioError as error:
            await self._abort_after_words(_undecodable(error))
        except DecoderLostError as error:
            log.error("the decoder process of a stream ended", stream=self._name, reason=str(error))
            lost = DialectError("internal_error", "the process that decodes this audio has ended; try again")
            await self._abort_after_words(lost)
        except Exception as error:
            self._fail(error)
        finally:
            self._feeding = None

    async def _decode_while_room(self) -> bool:
        """Decode what has been handed over until the engine is behind; return whether that was all.

        The audio of a broken stream is not decoded.
        """
        while not self._broken.done():
            if self._driver.stream.backlog_s > self._services.max_backlog_s:
                return False
            channels = await self._source.read()
            if not channels:
                return True
            self._push(channels)
            if self._source.is_empty:
                return True
        return True

    def _push(self, channels: list[bytes]) -> None:
        """Hand decoded samples to the core."""
        self._driver.stream.push(channels, self._arrived)
        self._driver.run()
        self._on_audio(sum(map(len, channels)) / 2 / SAMPLE_RATE)

    async def _until(self, backlog_s: float) -> None:
        """Wait until no more than `backlog_s` seconds of audio wait for the engine."""
        driver = self._driver
        while driver.stream.backlog_s > backlog_s and not self._broken.done():
            driver.changed.clear()
            await driver.changed.wait()

    async def _abort_after_words(self, reason: DialectError) -> None:
        """Abort the stream once the audio decoded before is final."""
        try:
            with contextlib.suppress(TimeoutError):
                async with timeout(_LAST_WORDS_S, self._services.clock):
                    await self._until(self._services.max_backlog_s)
                    self._driver.stream.stall()
                    self._driver.run()
                    await self._until(seconds(WINDOW))
        except Exception as error:
            self._fail(error)
        self._abort(reason)


def _undecodable(error: AudioError) -> DialectError:
    return DialectError("undecodable_audio", str(error))
