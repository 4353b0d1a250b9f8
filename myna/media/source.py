"""The interface of decoders to live streams and files, and the source of raw audio."""

from __future__ import annotations

import asyncio
from typing import Protocol

from myna.streaming.audio.raw import RawDecoder, RawFormat


class DecoderLostError(Exception):
    """The decoder of a stream or file was lost for a reason other than the audio."""


class Source(Protocol):
    """A decoder of one stream or file: bytes in, samples out. Only one task at a time may use it."""

    @property
    def is_empty(self) -> bool:
        """Whether it is known that the next read returns nothing unless more is fed."""
        ...

    def feed(self, data: bytes) -> None:
        """Take the next bytes of a stream. Raises `AudioError` if there is no room for them."""

    def flush(self) -> None:
        """Make the next reads return everything fed so far, including buffers of filters. More bytes may follow."""

    def finish(self) -> None:
        """Take note that no more bytes follow."""

    async def read(self) -> list[bytes]:
        """Return the next int16 samples at 16 kHz of each channel; an empty list until more is fed, and at the end.

        Raises `AudioError` if the bytes are not audio of the announced format, and `DecoderLostError`. After an error, or
        after a cancelled read, the source returns no more samples.
        """
        ...

    async def close(self) -> None:
        """Free all resources. There must be no read during or after this call."""


class RawSource:
    """Raw audio, decoded on the event loop in steps of one or two milliseconds, between which other tasks run."""

    def __init__(self, audio: RawFormat, *, mix: bool = False) -> None:
        self._decoder = RawDecoder(audio, mix=mix)
        self._more = False

    @property
    def is_empty(self) -> bool:
        """Whether the next read returns nothing unless more is fed."""
        return self._decoder.is_empty

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        self._decoder.feed(data)

    def flush(self) -> None:
        """Make the next reads return everything fed so far, including the filter's buffer."""
        self._decoder.flush()

    def finish(self) -> None:
        """Take note that no more bytes follow; an incomplete last sample is dropped."""
        self._decoder.finish()

    async def read(self) -> list[bytes]:
        """Return the samples of the next step. A cancelled read loses no samples."""
        if self._more:
            await asyncio.sleep(0)
        channels = self._decoder.read()
        self._more = self._decoder.steps_waiting
        return channels

    async def close(self) -> None:
        """Drop the bytes that wait."""
        self._decoder.close()
