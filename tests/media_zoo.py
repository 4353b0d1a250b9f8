"""A zoo of honest media files, made by FFmpeg with speech in them, and FFmpeg's own decoding of each with its time stamps."""

from __future__ import annotations

import io
import struct
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
from sounds import RATE

Sound = np.ndarray
"""Float samples at 16 kHz, shape [samples, channels]."""


@dataclass(frozen=True)
class Made:
    """How a file is made. Times are in seconds."""

    format: str
    codec: str
    rate: int = RATE
    layout: str = "mono"
    picture: str = ""
    """The codec of a picture that begins at 0."""
    late: float = 0.0
    """The sound begins so late."""
    from_: float = 0.0
    """Every stamp is so much later."""
    holes: tuple[tuple[float, float], ...] = ()
    """Packets between these times are lost."""
    jumps: tuple[tuple[float, float], ...] = ()
    """From this time on, stamps are so much later."""
    options: dict[str, str] = field(default_factory=dict)


def made(sound: Sound, how: Made) -> bytes:
    """Return a file of this sound."""
    folder = tempfile.TemporaryDirectory()  # MP4 with its index first is written twice, which takes a real file
    path = Path(folder.name) / "sound"
    with folder, av.open(str(path), "w", format=how.format, options=how.options) as container:
        packets: list[tuple[float, Any]] = []
        picture = container.add_stream(how.picture, rate=10) if how.picture else None
        stream: Any = container.add_stream(how.codec, rate=how.rate, layout=how.layout)
        if picture is not None:
            picture.width = picture.height = 32
            picture.pix_fmt = "yuvj420p" if how.picture == "mjpeg" else "yuv420p"
            length = how.late + len(sound) / RATE
            for number in range(int(10 * length)):
                image = av.VideoFrame.from_ndarray(np.full((48, 32), 128, np.uint8), format="yuv420p")
                image.pts = number
                packets += [(float(p.dts * p.time_base), p) for p in picture.encode(image)]
            packets += [(float(p.dts * p.time_base), p) for p in picture.encode(None)]
        for packet in _encoded(stream, sound, how):
            time = float(packet.pts * packet.time_base)
            if any(begin <= time < end for begin, end in how.holes):
                continue
            late = how.late + sum(by for since, by in how.jumps if time >= since)
            shift = round(late / float(packet.time_base))
            packet.pts += shift
            packet.dts += shift
            packets.append((time + late, packet))
        for _, packet in sorted(packets, key=lambda each: each[0]):
            shift = round(how.from_ / float(packet.time_base))
            packet.pts += shift
            packet.dts += shift
            container.mux_one(packet)
        container.close()
        return path.read_bytes()


def _encoded(stream: Any, sound: Sound, how: Made) -> Iterable[Any]:
    context = stream.codec_context
    context.open(strict=False)
    resampler = av.AudioResampler(
        format=context.format, layout=how.layout, rate=how.rate, frame_size=context.frame_size or how.rate // 50
    )
    whole = np.ascontiguousarray(sound.reshape(1, -1), np.float32)
    frame = av.AudioFrame.from_ndarray(whole, format="flt", layout=how.layout)
    frame.sample_rate, frame.pts = RATE, 0
    for each in (frame, None):
        for converted in resampler.resample(each):
            yield from stream.encode(converted)
    yield from stream.encode(None)


def heard_by_ffmpeg(data: bytes, layout: str = "mono") -> np.ndarray:
    """Return what FFmpeg hears, int16 at 16 kHz, with `aresample=async=1:first_pts=0` from the file's start time on."""
    parts = []
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.audio[0]
        begin = container.start_time or 0
        graph = av.filter.Graph()
        source = graph.add_abuffer(
            sample_rate=stream.rate, format=stream.format, layout=stream.layout, time_base=stream.time_base
        )
        resample = graph.add("aresample", f"{RATE}:async=1:first_pts=0")
        form = graph.add("aformat", f"sample_fmts=s16:channel_layouts={layout}:sample_rates={RATE}")
        sink = graph.add("abuffersink")
        source.link_to(resample)
        resample.link_to(form)
        form.link_to(sink)
        graph.configure()

        def drawn() -> None:
            while True:
                try:
                    parts.append(graph.pull().to_ndarray().reshape(-1, 1 if layout == "mono" else 2))
                except (av.BlockingIOError, av.EOFError):
                    return

        for frame in container.decode(stream):
            assert stream.time_base is not None
            if frame.pts is not None:
                frame.pts -= round(begin / 1e6 / float(stream.time_base))
            graph.push(frame)
            drawn()
        graph.push(None)
        drawn()
    return np.concatenate(parts)[:, 0] if layout == "mono" else np.concatenate(parts)


def wav_said(pcm: np.ndarray, rate: int, size: int, *, after: bytes = b"") -> bytes:
    """Return int16 mono as a WAV whose header says this size."""
    head = struct.pack("<HHIIHH", 1, 1, rate, 2 * rate, 2, 16)
    data = pcm.astype("<i2").tobytes()
    return (
        b"RIFF" + struct.pack("<I", (size + 36) & 0xFFFFFFFF) + b"WAVEfmt " + struct.pack("<I", 16) + head
        + b"data" + struct.pack("<I", size) + data + after
    )  # fmt: skip
