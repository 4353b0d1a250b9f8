"""Transcribes files with the same core, VAD worker and engines as live streams, as jobs of the lowest priority."""

from __future__ import annotations

import secrets
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import structlog

from myna.batch.file_speakers import WINDOWS_AHEAD, FileSpeakers
from myna.batch.transcript import Channel, FileTranscript, Segment
from myna.inference.driver import StreamDriver
from myna.inference.port import ModelPool
from myna.inference.workers.vad_worker import VadWorker
from myna.media.pool import DecoderPool
from myna.streaming.audio.raw import AudioError, Coded, RawFormat
from myna.streaming.events import Ended, Event, Failed, Final, Repeated, seconds
from myna.streaming.policy import Options, Policy
from myna.streaming.session.decode_window import fitted
from myna.streaming.session.jobs import EngineInfo
from myna.streaming.session.stream import Stream
from myna.streaming.speakers.labelling import SpeakerLimits
from myna.streaming.text.seams import HeldMarks, marked

log = structlog.get_logger()

_AHEAD = 2.0
"""Audio decoded ahead of the engine, in full batches: the next batch must be ready when one is done."""
_LEAST_AHEAD_S = 30.0
_LEAD_S = 1.0
"""Audio included before speech starts. WER of `libri_other`: 12.7 %; with 0.3 s, as in live streams, 13.8 %."""
_HARD_SHARE = 10 / 12
"""The hard length of a file's segments, as a share of a live stream's."""
_CONTEXT_GAP_S = 1.0
"""In a file, speech is decoded without the speech before it after a pause of this length."""
_ENOUGH_S = 8.0
"""A file's decodes of this length gain nothing from more context."""

Listener = Callable[[Final], None]
"""Receives each final with words once the mark at its end is known; the finals of a channel come in order."""
Progress = Callable[[float], None]
"""Receives the seconds from the start of a file that have been heard: its words and, if they are wanted, its speakers."""
Pause = Callable[[], Awaitable[None]]
"""Awaited between portions of a file, so that another file may have its turn."""


@dataclass(frozen=True, slots=True)
class SoundFile:
    """A file on disk and how to decode its audio. More than `longest_s` of audio is refused."""

    path: Path
    audio: RawFormat | Coded
    mix: bool
    longest_s: float
    speakers: SpeakerLimits | None = None
    """How many speakers to tell apart; None: none."""
    known: tuple[np.ndarray, ...] = ()
    """Voices, float32 [D], that may be among the speakers."""


class TooLongError(AudioError):
    """A file is longer than this many seconds, the limit."""

    def __init__(self, longest_s: float) -> None:
        super().__init__(f"the file is longer than {longest_s / 3600:g} h, the limit of this server")


class DecodeFailedError(Exception):
    """The engine failed on all of a file's audio."""


def batch_policy(policy: Policy, engine: EngineInfo) -> Policy:
    """Return the policy for files, derived from the default policy of a live stream.

    Latency does not matter, so each segment is cut in the longest pause of what it could cover. The constants are those with
    the fewest errors (docs/accuracy.md).
    """
    hard_s = policy.hard_s * _HARD_SHARE
    whole = replace(
        policy,
        live=False,
        lead_s=_LEAD_S,
        endpoint_ms=None,
        interim_every_s=None,
        soft_s=min(policy.soft_s, hard_s),
        hard_s=hard_s,
        context_gap_s=_CONTEXT_GAP_S,
        enough_s=_ENOUGH_S,
    )
    return fitted(whole, engine)


@dataclass(frozen=True, slots=True)
class Hearing:
    """What a transcriber uses: decoders, the VAD worker, and the default policy of a live stream, by engine."""

    decoders: DecoderPool
    vad: VadWorker
    policy_of: Callable[[EngineInfo], Policy]
    on_repeated: Callable[[Repeated], None]
    """Receives an event for each segment that was decoded twice."""


class Transcriber:
    """Transcribes files with the engines of one server."""

    def __init__(self, hearing: Hearing) -> None:
        self._hearing = hearing
        self.active = 0
        """Number of files being transcribed now."""

    @property
    def decoders(self) -> DecoderPool:
        """The decoders of files."""
        return self._hearing.decoders

    async def transcribe(
        self,
        sound: SoundFile,
        engine: ModelPool,
        options: Options,
        listener: Listener,
        progress: Progress,
        pause: Pause,
        diarizer: ModelPool | None = None,
    ) -> FileTranscript:
        """Transcribe a file. Raises `AudioError` for an unusable file, `DecodeFailedError` if the engine fails.

        With a `diarizer` and a sound whose speakers are wanted, each word has its speaker.
        """
        self.active += 1
        task = _Task(sound, engine, options, self._hearing, listener, progress, pause, diarizer)
        try:
            return await task.run()
        finally:
            self.active -= 1
            await task.close()


class _Task:
    def __init__(
        self,
        sound: SoundFile,
        engine: ModelPool,
        options: Options,
        hearing: Hearing,
        listener: Listener,
        progress: Progress,
        pause: Pause,
        diarizer: ModelPool | None,
    ) -> None:
        self._sound = sound
        self._pause = pause
        policy = batch_policy(hearing.policy_of(engine.info), engine.info)
        self._decoder = hearing.decoders.file(sound.path, sound.audio, mix=sound.mix)
        name = f"file-{secrets.token_hex(8)}"
        stream = Stream(name, policy, options, engine.info)
        self._driver = StreamDriver(stream, engine, hearing.vad, self._tell, self._fail)
        self._speakers: FileSpeakers | None = None
        self._most_windows = 0
        if diarizer is not None and sound.speakers is not None:
            self._speakers = FileSpeakers(name, diarizer, sound.speakers, self._window_heard)
            self._most_windows = WINDOWS_AHEAD * diarizer.lanes
        self._on_repeated = hearing.on_repeated
        batch_s = engine.info.largest_batch * engine.lanes * policy.hard_s
        self._most_ahead_s = max(_LEAST_AHEAD_S, _AHEAD * batch_s)
        self._listener = listener
        self._progress = progress
        self._decoded: dict[int, int] = {}  # by channel: the end of its last final, in samples
        self._marks = defaultdict[int, HeldMarks](lambda: HeldMarks(options.language or ""))
        self._unmarked: dict[int, Final] = {}  # by channel: the last final with words, until its last mark is known
        self._segments: dict[int, list[Segment]] = {}
        self._failed: list[str] = []
        self._error: Exception | None = None
        self._ended = False

    async def run(self) -> FileTranscript:
        stream = self._driver.stream
        while channels := await self._decoder.read():
            stream.push(channels, time.monotonic())
            if self._speakers:
                self._speakers.push(channels)
            self._driver.run()
            if seconds(stream.received) > self._sound.longest_s:
                raise TooLongError(self._sound.longest_s)
            await self._until(lambda: stream.backlog_s <= self._most_ahead_s)
            await self._heard_up_to(self._most_windows)
            await self._pause()
        if not stream.received:
            raise AudioError("the file contains no audio: its length is 0 s")
        stream.end()
        self._driver.run()
        await self._until(lambda: self._ended)
        if self._failed and not any(s.words for segments in self._segments.values() for s in segments):
            raise DecodeFailedError(self._failed[0])
        heard = tuple(Channel(tuple(self._segments.get(n, ()))) for n in range(stream.channels))
        if self._speakers:
            heard = await self._with_speakers(self._speakers, heard)
        diarizer = self._speakers.model_uuid if self._speakers else ""
        return FileTranscript(seconds(stream.received), heard, tuple(self._failed), diarizer)

    async def _with_speakers(self, speakers: FileSpeakers, channels: tuple[Channel, ...]) -> tuple[Channel, ...]:
        speakers.end()
        await self._heard_up_to(0)
        turns = await speakers.turns()
        known = await speakers.known(turns, self._sound.known)
        told = zip(channels, turns, known, strict=True)
        return tuple(channel.spoken_by(some, names) for channel, some, names in told)

    async def _heard_up_to(self, windows: int) -> None:
        """Wait until at most this many windows have not been heard for speakers."""
        if speakers := self._speakers:
            await self._until(lambda: speakers.waiting <= windows)

    async def close(self) -> None:
        await self._decoder.close()
        self._driver.close()
        if self._speakers:
            self._speakers.close()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            if self._error is not None:
                raise self._error
            self._driver.changed.clear()
            await self._driver.changed.wait()

    def _tell(self, event: Event) -> None:
        match event:
            case Final(channel=channel, span=span) as final:
                if final.words:
                    mark, words = self._marks[channel].take(final)
                    self._complete(channel, mark)
                    self._unmarked[channel] = replace(final, words=words)
                self._decoded[channel] = span.end
                self._report()
            case Failed(span=span, reason=reason):
                self._failed.append(f"{seconds(span.start):.1f}-{seconds(span.end):.1f} s: {reason}")
            case Repeated():
                self._on_repeated(event)
            case Ended():
                for channel in sorted(self._unmarked):
                    self._complete(channel, self._marks[channel].release())
                self._ended = True

    def _complete(self, channel: int, mark: str) -> None:
        """Tell the channel's last final with words, now that the mark at its end is known."""
        if final := self._unmarked.pop(channel, None):
            words = (*final.words[:-1], marked(final.words[-1], mark))
            span = final.span
            self._segments.setdefault(channel, []).append(Segment(seconds(span.start), seconds(span.end), words))
            self._listener(replace(final, words=words))

    def _window_heard(self) -> None:
        self._report()
        self._driver.changed.set()

    def _report(self) -> None:
        decoded = min(self._decoded.get(number, 0) for number in range(self._driver.stream.channels))
        self._progress(seconds(min(decoded, self._speakers.heard) if self._speakers else decoded))

    def _fail(self, error: Exception) -> None:
        log.error("file transcription failed", exc_info=error)
        self._error = error
        self._driver.changed.set()
