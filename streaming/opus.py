"""Bare Opus packets, one in each piece of bytes, as WebRTC carries them."""

from __future__ import annotations

import av

from myna.streaming.audio import AudioError
from myna.streaming.container import Begun, Feed, FrameResampler, decode_container

_RATE = 48_000
"""Opus decodes to this whatever went in (RFC 6716, 2)."""
_MOST_BAD_PACKETS = 50
"""Damaged packets in a row after which this is no Opus; a lossy link damages a few."""


def decode_opus(feed: Feed, channels: int, *, mix: bool = False) -> None:
    """Decode packets to their end; if they turn out to be an Ogg stream, as that. Raises `AudioError`."""
    packet = feed.packet()
    if packet is not None and packet.startswith(b"OggS"):
        decode_container(Begun(feed, packet), mix=mix)
        return
    codec = av.CodecContext.create("libopus", "r")
    assert isinstance(codec, av.AudioCodecContext)
    codec.sample_rate = _RATE
    codec.layout = "stereo" if channels == 2 else "mono"
    resampler = FrameResampler(feed, mix=mix)
    bad = 0
    while packet is not None:
        try:
            frames = codec.decode(av.Packet(packet)) if packet else []
        except av.FFmpegError as error:
            bad += 1
            if bad > _MOST_BAD_PACKETS:
                raise AudioError(f"{bad} packets in a row are no Opus: {error.strerror}") from error
        else:
            bad = 0
            for frame in frames:
                resampler.put(frame)
        packet = feed.packet()
    if bad and not resampler.heard:
        raise AudioError("these are no Opus packets")
    resampler.finish()
