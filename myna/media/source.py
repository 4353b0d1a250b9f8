"""How a live stream or a file comes to its samples, whatever decodes them."""

from __future__ import annotations

import asyncio
from typing import Protocol

from myna.streaming.audio.raw import RawDecoder, RawFormat


class DecoderLostError(Exception):
    """The decoder of a stream or file is gone through no fault of the audio."""


class Source(Protocol):
    """Audio bytes in, samples out. One task at a time may use it."""

    def feed(self, data: bytes) -> None:
        """Take the next bytes of a stream. Raises `AudioError` if there is no room for them."""

    def flush(self) -> None:
        """Have the next reads return everything fed so far, also what filters keep back. More bytes may follow."""

    def finish(self) -> None:
        """No more bytes follow."""

    async def read(self) -> list[bytes]:
        """Return the next int16 samples at 16 kHz of each channel; an empty list until more is fed, and at the end.

        Raises `AudioError` if the bytes are not audio of the announced kind, `DecoderLostError`; then nothing more comes. A
        read that is cancelled ends the source, too.
        """
        ...

    async def close(self) -> None:
        """Free everything. Nobody may read meanwhile or afterwards."""


class RawSource:
    """Raw audio, decoded on the event loop in steps of a millisecond or two; others get their turns between them."""

    def __init__(self, audio: RawFormat, *, mix: bool = False) -> None:
        self._decoder = RawDecoder(audio, mix=mix)
        self._more = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        self._decoder.feed(data)

    def flush(self) -> None:
        """Have the next reads return everything fed so far, also what the filter keeps back."""
        self._decoder.flush()

    def finish(self) -> None:
        """No more bytes follow; a broken last sample is dropped."""
        self._decoder.finish()

    async def read(self) -> list[bytes]:
        """Return the samples of the next step. Nothing is lost when this is cancelled."""
        if self._more:
            await asyncio.sleep(0)
        channels = self._decoder.read()
        self._more = self._decoder.steps_waiting
        return channels

    async def close(self) -> None:
        """Let go of the bytes that wait."""
        self._decoder.close()
