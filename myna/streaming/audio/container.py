"""Decodes growing streams of containers (WAV, FLAC, MP3, Ogg, WebM, MP4/M4A, ADTS and others) with FFmpeg through PyAV.

FFmpeg reads from a `Feed`, which blocks until there are bytes, so this code runs in a decoder process, never on an event
loop. Containers of any formats may follow each other (`parts.py`); their audio is one stream.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import av

from myna.streaming.audio.frames import FrameConverter
from myna.streaming.audio.mp4 import Boxes
from myna.streaming.audio.parts import MOST_IDLE_BYTES, Feed, Part, Parts, Readable
from myna.streaming.audio.raw import AudioError, Codec
from myna.streaming.audio.wav import Riff

MOST_MP4_BYTES = 64 * 1024 * 1024
"""The largest MP4 whose index lies after its audio. It can only be decoded once all of it has arrived."""
_MOST_MP4_HEAD = 1024 * 1024
"""If the first boxes of an MP4 (type, padding) are longer than this, its index is assumed to come first."""
_MOST_BAD_PACKETS = 50
"""The most consecutive damaged packets of a stream; a lossy link damages a few."""
_READ = 65_536
"""Bytes read at a time."""
PROBING = {"probesize": "65536", "analyzeduration": "500000"}
"""FFmpeg's probing limits, lowered so that a live stream does not need megabytes before its first word."""
_USUAL_PROBING = 5_000_000
"""FFmpeg's own `probesize`: the bytes it reads before it decodes the first packet."""
_STAMPED = {"mp4", "matroska", "mpegts", "mpeg", "ogg", "flac", "asf", "avi"}
"""Formats with time stamps of their own. In others FFmpeg derives the stamps from the samples and cannot see losses."""
_MOST_BYTES_A_SAMPLE = 8
_MOST_FRAME_HEAD = 4096
"""The most bytes of a packet besides its samples."""
_MOST_JUNK_BYTES = 2 * 1024 * 1024
"""The most bytes inside a container that yield no audio; the longest frames, those of FLAC, are shorter."""


def decode_container(feed: Feed, *, mix: bool = False, codec: Codec | None = None) -> None:
    """Decode containers to the end of the feed. The number of channels is that of the first. Raises `AudioError`.

    If the first bytes do not begin a container, they are decoded as a stream of `codec`, if one is given.
    """
    sound = FrameConverter(feed, mix=mix)
    parts = Parts(feed, sound, codec.value if codec else None)
    decode_parts(parts, sound, PROBING)


def decode_parts(parts: Parts, sound: FrameConverter, options: dict[str, str]) -> None:
    """Decode all containers, one after the other. Raises `AudioError`."""
    while (part := parts.next()) is not None:
        sound.begin()
        try:
            if not (isinstance(part.cutter, Riff) and _plain(part, part.cutter, sound)):
                source = _from_index(part, part.cutter) if isinstance(part.cutter, Boxes) else part
                decode_media(source, part.name, sound, part, options)
            part.drain()
        except AudioError:
            sound.flush()  # the audio before the error is transcribed
            raise
    sound.finish()


def _plain(part: Part, riff: Riff, sound: FrameConverter) -> bool:
    """Decode a WAV of plain samples without FFmpeg, whose buffering adds delay; return whether its samples are plain."""
    data = b""
    while riff.head_size is None and (more := part.read(_READ)):
        data += more
    pcm = riff.pcm
    if riff.head_size is None or pcm is None or len(data) < riff.head_size:
        part.unread(data)
        return False
    data = data[riff.head_size :]
    while True:
        whole = len(data) // pcm.frame * pcm.frame
        if whole:
            sound.add(pcm.samples(data[:whole]), pcm.rate, pcm.positions)
        more = part.read(_READ)
        if not more:
            return True
        data = data[whole:] + more


def _from_index(part: Part, boxes: Boxes) -> Readable:
    """Return an MP4 as FFmpeg can read it: as a stream if its index comes first, otherwise as a whole."""
    head = b""
    while boxes.index_is_last is None and len(head) < _MOST_MP4_HEAD and (more := part.read(_READ)):
        head += more
    if not boxes.index_is_last:
        part.unread(head)
        return part
    whole = io.BytesIO()
    whole.write(head)
    while not boxes.indexed and (more := part.read(_READ)):
        if whole.tell() + len(more) > MOST_MP4_BYTES:
            raise AudioError(
                f"an MP4 whose index follows its audio may have at most {MOST_MP4_BYTES} bytes: "
                "write the index first (ffmpeg -movflags +faststart) or write a fragmented MP4"
            )
        whole.write(more)
    whole.seek(0)
    return whole


def decode_media(
    source: Readable | str, name: str, sound: FrameConverter, part: Part | None, options: dict[str, str]
) -> None:
    """Decode the first audio track of a container in FFmpeg's format `name`. Raises `AudioError` if there is none.

    The audio decoded before an error is kept. `part` is the source of the bytes if they are read in sequence.
    """
    try:
        with av.open(source, format=name, mode="r", options=options) as container:
            if not container.streams.audio:
                raise AudioError(f"the {name} stream has no audio track")
            if part is not None and len(container.streams) == 1:  # a video track may need many bytes between sounds
                part.patience = _MOST_JUNK_BYTES + int(options.get("probesize", _USUAL_PROBING))
            _decode(container, name, sound, part)
    except MemoryError as error:
        raise AudioError(f"the {name} stream cannot be decoded: decoding it needs too much memory") from error
    except (av.FFmpegError, ValueError, OSError, OverflowError) as error:
        raise AudioError(f"the {name} stream cannot be decoded: {error}") from error


def _decode(container: av.container.InputContainer, name: str, sound: FrameConverter, part: Part | None) -> None:
    stamped = name in _STAMPED
    begins: int | None = container.start_time  # may be None, against PyAV's types
    origin = None if begins is None else begins / av.time_base
    tick = float(container.streams.audio[0].time_base or 0)  # read once: PyAV builds a Fraction at each access
    heard = False
    for packet, frames in _frames(container, name):
        if not stamped and frames is None and packet.duration and packet.time_base:
            sound.lose(float(packet.duration * packet.time_base))
        for frame in frames or ():
            stamp = None
            if stamped and frame.pts is not None:
                stamp = frame.pts * tick
                origin = stamp if origin is None else origin
                stamp -= origin
            sound.put(frame, stamp)
            heard = True
        if frames and packet.size and part is not None:
            part.sounded(_end(packet, frames))
    if not heard:
        raise AudioError(f"the {name} stream has no audio that can be decoded")
    if part is not None and part.patience is not None:
        part.patience = MOST_IDLE_BYTES
        part.check()


def _end(packet: av.Packet[av.AudioStream], frames: list[av.AudioFrame]) -> int | None:
    """Return the end of the bytes from which these frames were decoded; None if FFmpeg does not know it."""
    if packet.pos is None or packet.pos < 0:
        return None
    # FFmpeg counts any bytes after a frame without an end mark (FLAC) as part of it. No frame is longer than its samples.
    most = sum(frame.samples * frame.layout.nb_channels for frame in frames) * _MOST_BYTES_A_SAMPLE + _MOST_FRAME_HEAD
    return packet.pos + min(packet.size, most)


def _frames(
    container: av.container.InputContainer, name: str
) -> Iterator[tuple[av.Packet[av.AudioStream], list[av.AudioFrame] | None]]:
    """Yield the packets of the first audio track with their frames; None as frames: the packet is damaged.

    Raises `AudioError` if too many consecutive packets are damaged.
    """
    stream = container.streams.audio[0]
    codec: av.AudioCodecContext | None = (
        stream.codec_context
    )  # None, whatever PyAV's types say, if FFmpeg knows no such codec
    if codec is None:
        raise AudioError(f"the audio of the {name} stream has an unknown codec")
    codec.thread_count = 1  # each further thread would delay the audio by a frame
    bad = 0
    for packet in _packets(container, stream, name):
        try:
            frames = packet.decode()
        except MemoryError:
            raise
        except av.FFmpegError as error:
            bad += 1
            if bad > _MOST_BAD_PACKETS:
                raise AudioError(f"the {name} stream is damaged: {error}") from error
            yield packet, None
            continue
        bad = 0
        yield packet, [*frames]


def _packets(
    container: av.container.InputContainer, stream: av.AudioStream, name: str
) -> Iterator[av.Packet[av.AudioStream]]:
    for _ in range(_MOST_BAD_PACKETS):
        try:
            yield from container.demux(stream)
        except IndexError:  # raised by PyAV for a packet of a stream that appeared midway or was never announced
            continue
        return
    raise AudioError(f"the {name} stream is damaged: its packets belong to streams that it does not announce")
