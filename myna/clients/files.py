"""Audio files as the chunks a microphone would have given."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import av

RATE = 16_000
CHUNK_S = 0.05
"""Seconds of audio a chunk holds: what voice clients send at once."""


class UnreadableFileError(Exception):
    """The file is not there or holds no audio that can be read; the message says so."""


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
    """Yield chunks of int16 mono at `RATE` when a microphone running `speed` times as fast would; 0: at once."""
    loop = asyncio.get_running_loop()
    began, sent = loop.time(), 0
    for part in parts:
        sent += len(part) // 2
        if speed > 0:
            # A chunk exists once its last sample has been spoken.
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
                    yield resampled.to_ndarray().tobytes()
            for resampled in resampler.resample(None):
                yield resampled.to_ndarray().tobytes()
    except FileNotFoundError as error:
        raise UnreadableFileError(f"{path} does not exist") from error
    except (av.FFmpegError, OSError) as error:
        raise UnreadableFileError(f"{path} cannot be read as audio: {error}") from error
