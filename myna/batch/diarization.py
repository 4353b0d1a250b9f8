"""Tells who spoke when in a file, without its words."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass

from myna.batch.file_speakers import WINDOWS_AHEAD, FileSpeakers
from myna.batch.transcriber import Pause, SoundFile, TooLongError
from myna.inference.port import ModelPool
from myna.media.pool import DecoderPool
from myna.streaming.audio.raw import AudioError
from myna.streaming.events import seconds
from myna.streaming.speakers.labelling import SpeakerLimits, SpeakerTurn


@dataclass(frozen=True, slots=True)
class Diarization:
    """Who spoke when in the first channel of a file, and the file's length in seconds."""

    turns: tuple[SpeakerTurn, ...]
    duration_s: float


async def diarize(decoders: DecoderPool, sound: SoundFile, diarizer: ModelPool, pause: Pause) -> Diarization:
    """Return who spoke when in a file. Raises `AudioError`."""
    async with heard(decoders, sound, diarizer, pause) as (speakers, duration_s):
        return Diarization(tuple((await speakers.turns())[0]), duration_s)


@contextlib.asynccontextmanager
async def heard(
    decoders: DecoderPool, sound: SoundFile, diarizer: ModelPool, pause: Pause
) -> AsyncIterator[tuple[FileSpeakers, float]]:
    """Yield the speakers of a file, all of whose windows have been heard, and its length in seconds. Raises `AudioError`."""
    changed = asyncio.Event()
    limits = sound.speakers or SpeakerLimits()
    speakers = FileSpeakers(f"file-{secrets.token_hex(8)}", diarizer, limits, changed.set)
    decoder = decoders.file(sound.path, sound.audio, mix=sound.mix)
    received = 0

    async def heard_up_to(windows: int) -> None:
        while speakers.waiting > windows:
            changed.clear()
            await changed.wait()

    try:
        while channels := await decoder.read():
            speakers.push(channels)
            received += len(channels[0]) // 2
            if seconds(received) > sound.longest_s:
                raise TooLongError(sound.longest_s)
            await heard_up_to(WINDOWS_AHEAD * diarizer.lanes)
            await pause()
        if not received:
            raise AudioError("the file contains no audio: its length is 0 s")
        speakers.end()
        await heard_up_to(0)
        yield speakers, seconds(received)
    finally:
        await decoder.close()
        speakers.close()
