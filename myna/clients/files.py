"""Decode audio files into the chunks that a microphone would send."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import av

RATE = 16_000
CHUNK_S = 0.05
"""Seconds of audio in a chunk: the usual size of voice clients."""


class UnreadableFileError(Exception):
    """The file does not exist or holds no readable audio; the message says which."""


def chunks(path: Path) -> Iterator[bytes]:
    """Yield the file's audio as int16 mono at `RATE`, in chunks of `CHUNK_S`. Raises `UnreadableFileError`."""
    size = 2 * round(RATE * CHUNK_S)
    waiting = bytearray()
    for part in _decoded(path):
        waiting += part
        while len(waiting) >= size:
            yield bytes(waiting[:size])
            del waiting[:size]
    if waiting:
        yield bytes(waiting)


async def paced(parts: Iterator[bytes], speed: float) -> AsyncIterator[bytes]:
    """Yield chunks of int16 mono at `RATE` at `speed` times real time; 0: without delay."""
    loop = asyncio.get_running_loop()
    began, sent = loop.time(), 0
    for part in parts:
        sent += len(part) // 2
        if speed > 0:
            # A microphone has a chunk once its last sample is recorded.
            await asyncio.sleep(began + sent / RATE / speed - loop.time())
        yield part


def _decoded(path: Path) -> Iterator[bytes]:
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise UnreadableFileError(f"{path} holds no audio")
            resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
            for frame in container.decode(audio=0):
                for resampled in resampler.resample(frame):
                    yield _samples(resampled)
            for resampled in resampler.resample(None):
                yield _samples(resampled)
    except FileNotFoundError as error:
        raise UnreadableFileError(f"{path} does not exist") from error
    except (av.FFmpegError, OSError) as error:
        raise UnreadableFileError(f"{path} cannot be read as audio: {error}") from error


def _samples(frame: av.AudioFrame) -> bytes:
    return bytes(frame.planes[0])[: 2 * frame.samples]  # FFmpeg pads a plane's buffer
