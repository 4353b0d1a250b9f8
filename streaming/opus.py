"""Bare Opus packets, one in each piece of bytes, as WebRTC carries them."""

from __future__ import annotations

from collections import deque

import av

from myna.streaming.audio import PORTION, AudioError, PcmQueue
from myna.streaming.container import ContainerDecoder, FrameResampler

_RATE = 48_000
"""Opus decodes to this whatever went in (RFC 6716, 2)."""
_MOST_BAD_PACKETS = 50
"""Damaged packets in a row after which this is no Opus; a lossy link damages a few."""


class OpusDecoder:
    """Decodes packets as they come; if they turn out to be an Ogg stream, as that."""

    def __init__(self, channels: int, *, mix: bool = False) -> None:
        self._mix = mix
        self._codec = av.CodecContext.create("libopus", "r")
        assert isinstance(self._codec, av.AudioCodecContext)
        self._codec.sample_rate = _RATE
        self._codec.layout = "stereo" if channels == 2 else "mono"
        self._decoded = PcmQueue()
        self._resampler = FrameResampler(self._decoded, mix=mix)
        self._packets: deque[bytes] = deque()
        self._ogg: ContainerDecoder | None = None
        self._begun = False
        self._bad = 0
        self._ended = False

    def feed(self, data: bytes) -> None:
        """Take the next packet, or the next bytes of the Ogg stream."""
        if not self._begun and data.startswith(b"OggS"):
            self._ogg = ContainerDecoder(mix=self._mix)
        self._begun = True
        if self._ogg is not None:
            self._ogg.feed(data)
        elif data:
            self._packets.append(data)

    def finish(self) -> None:
        """No more packets follow."""
        if self._ogg is not None:
            self._ogg.finish()
        self._ended = True

    def read(self) -> list[bytes]:
        """Return the next samples of each channel. Raises `AudioError` if packet after packet is no Opus."""
        if self._ogg is not None:
            return self._ogg.read()
        while self._packets and self._decoded.samples < PORTION:
            self._decode(self._packets.popleft())
        if self._ended and not self._packets:
            self._ended = False
            if self._bad and not self._resampler.heard:
                raise AudioError("these are no Opus packets")
            self._resampler.finish()
        return self._decoded.take()

    def close(self) -> None:
        """Let go of what waits."""
        self._packets.clear()
        if self._ogg is not None:
            self._ogg.close()

    def _decode(self, packet: bytes) -> None:
        assert isinstance(self._codec, av.AudioCodecContext)
        try:
            frames = self._codec.decode(av.Packet(packet))
        except av.FFmpegError as error:
            self._bad += 1
            if self._bad > _MOST_BAD_PACKETS:
                raise AudioError(f"{self._bad} packets in a row are no Opus: {error.strerror}") from error
            return
        self._bad = 0
        for frame in frames:
            self._resampler.put(frame)
