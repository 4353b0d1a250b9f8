"""Record from the microphone through PortAudio (the `mic` extra)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import ModuleType
from typing import Any

RATE = 16_000
BLOCK = 1_600
"""Samples in a block (100 ms)."""


class MicrophoneError(Exception):
    """No microphone can be used; the message gives the reason and a remedy."""


def _sounddevice() -> ModuleType:
    try:
        import sounddevice
    except ImportError as error:
        raise MicrophoneError("the microphone needs an extra: pip install 'myna[mic]'") from error
    except OSError as error:
        raise MicrophoneError(
            f"the microphone needs the PortAudio library ({error}); on Debian: apt install libportaudio2"
        ) from error
    module: ModuleType = sounddevice
    return module


def devices() -> list[str]:
    """Return the number and name of each input device, one a line. Raises `MicrophoneError`."""
    return [
        f"{number}: {device['name']}"
        for number, device in enumerate(_sounddevice().query_devices())
        if device["max_input_channels"] > 0
    ]


def check() -> None:
    """Raise `MicrophoneError` if there is no microphone."""
    if not devices():
        raise MicrophoneError("no microphone was found; plug one in, or stream a file with: myna stream FILE")


async def blocks(device: str | None = None) -> AsyncIterator[bytes]:
    """Yield int16 mono at `RATE` from a device (number or part of its name; None: the default), until cancelled.

    Raises `MicrophoneError` if it cannot be opened.
    """
    sounddevice = _sounddevice()
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[bytes] = asyncio.Queue()

    def on_block(data: Any, frames: int, time: Any, status: Any) -> None:
        del frames, time, status
        loop.call_soon_threadsafe(queue.put_nowait, bytes(data))

    chosen = int(device) if device is not None and device.isdigit() else device
    try:
        stream = sounddevice.RawInputStream(
            samplerate=RATE, blocksize=BLOCK, channels=1, dtype="int16", device=chosen, callback=on_block
        )
    except (sounddevice.PortAudioError, ValueError) as error:
        raise MicrophoneError(f"the microphone {device or 'default'!r} cannot be opened: {error}") from error
    with stream:
        while True:
            yield await queue.get()
