"""Decodes bare Opus packets, one in each chunk of bytes, as WebRTC carries them."""

from __future__ import annotations

import av

from myna.streaming.audio.container import PROBING, decode_parts
from myna.streaming.audio.frames import FrameConverter
from myna.streaming.audio.parts import Feed, FlushAsked, Parts
from myna.streaming.audio.raw import AudioError

_RATE = 48_000
"""Opus decodes to this rate, whatever the rate of the input was (RFC 6716, section 2)."""
_MOST_BAD_PACKETS = 50
"""The most consecutive damaged packets; a lossy link damages a few."""


def decode_opus(feed: Feed, channels: int, *, mix: bool = False) -> None:
    """Decode packets to the end of the feed, or an Ogg stream if the feed contains one. Raises `AudioError`."""
    sound = FrameConverter(feed, mix=mix)
    packet = _next(feed, sound)
    if packet is not None and packet.startswith(b"OggS"):
        parts = Parts(feed, sound)
        parts.unread(packet)
        decode_parts(parts, sound, PROBING)
        return
    codec = av.CodecContext.create("libopus", "r")
    assert isinstance(codec, av.AudioCodecContext)
    codec.sample_rate = _RATE
    codec.layout = "stereo" if channels == 2 else "mono"
    bad = 0
    while packet is not None:
        try:
            frames = codec.decode(av.Packet(packet)) if packet else []
        except av.FFmpegError as error:
            bad += 1
            if bad > _MOST_BAD_PACKETS:
                raise AudioError(f"{bad} packets in a row are not Opus: {error.strerror}") from error
        else:
            bad = 0
            for frame in frames:
                sound.put(frame, None)
        packet = _next(feed, sound)
    if bad and not sound.heard:
        raise AudioError("no packet could be decoded as Opus")
    sound.finish()


def _next(feed: Feed, sound: FrameConverter) -> bytes | None:
    sound.settle()
    while True:
        try:
            return feed.packet()
        except FlushAsked:
            sound.flush()
