"""A file through the same core, voice activity and engine as a live stream, in the scheduler's lowest class."""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from myna.batch.transcript import Channel, FileTranscript, Segment
from myna.inference.driver import StreamDriver
from myna.inference.workers.pool import EnginePool
from myna.inference.workers.vad_worker import VadWorker
from myna.media.pool import DecoderPool
from myna.streaming.audio.raw import AudioError, Coded, RawFormat
from myna.streaming.events import Ended, Event, Failed, Final, Repeated, seconds
from myna.streaming.policy import Options, Policy
from myna.streaming.session.decode_window import fitted
from myna.streaming.session.jobs import EngineInfo
from myna.streaming.session.stream import Stream

log = structlog.get_logger()

_AHEAD = 2.0
"""Batches' worth of audio decoded ahead of the engine: the next must be ready when one is done."""
_LEAST_AHEAD_S = 30.0
_LEAD_S = 1.0
"""Audio decoded before the first speech: 12.7 % of the words of `libri_other` are wrong with it, 13.8 with a stream's 0.3."""

Listener = Callable[[Final], None]
"""Is told each final as it comes; those of a channel come in order."""
Pause = Callable[[], Awaitable[None]]
"""Is awaited between portions of a file: another may have its turn meanwhile."""


@dataclass(frozen=True, slots=True)
class SoundFile:
    """A file on disk, and how to hear it. `longest_s`: more audio than this is refused."""

    path: Path
    audio: RawFormat | Coded
    mix: bool
    longest_s: float


class DecodeFailedError(Exception):
    """Nothing of a file could be decoded, though it is sound; the engine's fault."""


def batch_policy(policy: Policy, engine: EngineInfo) -> Policy:
    """Return how files are cut: nobody waits, so at long pauses only, into pieces as long as the engine likes.

    `policy` is that of a live stream which asks for nothing in particular.
    """
    return fitted(replace(policy, live=False, lead_s=_LEAD_S, endpoint_ms=None, interim_every_s=None), engine)


@dataclass(frozen=True, slots=True)
class Hearing:
    """What files are heard with: decoders, voice activity, and how a live stream is cut that asks for nothing in particular."""

    decoders: DecoderPool
    vad: VadWorker
    policy_of: Callable[[EngineInfo], Policy]
    on_repeated: Callable[[Repeated], None]
    """Is told of each segment that was decoded twice."""


class Transcriber:
    """Transcribes files with the engines of one server."""

    def __init__(self, hearing: Hearing) -> None:
        self._hearing = hearing
        self.active = 0
        """Files being transcribed now."""

    async def transcribe(
        self, sound: SoundFile, engine: EnginePool, options: Options, listener: Listener, pause: Pause
    ) -> FileTranscript:
        """Return what the file says. Raises `AudioError` if it is no sound, `DecodeFailedError` if the engine fails."""
        self.active += 1
        task = _Task(sound, engine, options, self._hearing, listener, pause)
        try:
            return await task.run()
        finally:
            self.active -= 1
            await task.close()


class _Task:
    def __init__(
        self,
        sound: SoundFile,
        engine: EnginePool,
        options: Options,
        hearing: Hearing,
        listener: Listener,
        pause: Pause,
    ) -> None:
        self._sound = sound
        self._pause = pause
        policy = batch_policy(hearing.policy_of(engine.info), engine.info)
        self._decoder = hearing.decoders.file(sound.path, sound.audio, mix=sound.mix)
        stream = Stream(f"file-{secrets.token_hex(8)}", policy, options, engine.info)
        self._driver = StreamDriver(stream, engine, hearing.vad, self._tell, self._fail)
        self._on_repeated = hearing.on_repeated
        batch_s = engine.info.largest_batch * engine.lanes * policy.hard_s
        self._most_ahead_s = max(_LEAST_AHEAD_S, _AHEAD * batch_s)
        self._listener = listener
        self._segments: dict[int, list[Segment]] = {}
        self._failed: list[str] = []
        self._error: Exception | None = None
        self._ended = False

    async def run(self) -> FileTranscript:
        stream = self._driver.stream
        while channels := await self._decoder.read():
            stream.push(channels, time.monotonic())
            self._driver.run()
            if seconds(stream.received) > self._sound.longest_s:
                raise AudioError(
                    f"the file is longer than {self._sound.longest_s / 3600:g} h, the most this server takes"
                )
            await self._until(lambda: stream.backlog_s <= self._most_ahead_s)
            await self._pause()
        if not stream.received:
            raise AudioError("the file holds no audio: it is 0 seconds long")
        stream.end()
        self._driver.run()
        await self._until(lambda: self._ended)
        if self._failed and not any(s.words for segments in self._segments.values() for s in segments):
            raise DecodeFailedError(self._failed[0])
        heard = tuple(Channel(tuple(self._segments.get(n, ()))) for n in range(stream.channels))
        return FileTranscript(seconds(stream.received), heard, tuple(self._failed))

    async def close(self) -> None:
        await self._decoder.close()
        self._driver.close()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            if self._error is not None:
                raise self._error
            self._driver.changed.clear()
            await self._driver.changed.wait()

    def _tell(self, event: Event) -> None:
        match event:
            case Final(channel=channel, span=span, words=words) as final:
                if words:
                    self._segments.setdefault(channel, []).append(
                        Segment(seconds(span.start), seconds(span.end), words)
                    )
                self._listener(final)
            case Failed(span=span, reason=reason):
                self._failed.append(f"{seconds(span.start):.1f}-{seconds(span.end):.1f} s: {reason}")
            case Repeated():
                self._on_repeated(event)
            case Ended():
                self._ended = True

    def _fail(self, error: Exception) -> None:
        log.error("a file failed", exc_info=error)
        self._error = error
        self._driver.changed.set()
