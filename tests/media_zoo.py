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
from sounds import RATE, recording

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


def of(sound: np.ndarray, how: Made) -> np.ndarray:
    return np.repeat(sound, 2, axis=1) if how.layout == "stereo" else sound


SPEECH = (recording("beckett").astype(np.float32) / 32768)[:, None]
PARTS = [SPEECH[: 3 * RATE], SPEECH[3 * RATE : 6 * RATE], SPEECH[6 * RATE :]]
PCM = recording("beckett")
HOLES = ((2.0, 3.5),)
FIRST = {"movflags": "faststart"}
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov", "frag_duration": "500000"}

ONE = {
    "mp4, sound late": Made("mp4", "aac", 48_000, picture="mpeg4", late=4.9, options=FIRST),
    "mp4, fragmented, sound late": Made("mp4", "aac", 48_000, picture="mpeg4", late=4.9, options=FRAGMENTED),
    "mp4, holes": Made("mp4", "aac", 48_000, holes=HOLES),
    "mp4, index last": Made("mp4", "aac", 44_100),
    "mp4, alac": Made("mp4", "alac", 44_100),
    "mov, pcm late": Made("mov", "pcm_s16le", 44_100, picture="mjpeg", late=1.3),
    "matroska, sound late": Made("matroska", "aac", 48_000, picture="mpeg4", late=4.9),
    "matroska, ac3, late and holes": Made("matroska", "ac3", 48_000, "stereo", "mpeg4", late=1.0, holes=HOLES),
    "webm, sound late": Made("webm", "libopus", 48_000, picture="libvpx", late=4.9),
    "webm, holes": Made("webm", "libopus", 48_000, holes=HOLES),
    "webm, stamps from an hour on": Made("webm", "libopus", 48_000, from_=4000),
    "mpegts": Made("mpegts", "aac", 48_000),
    "mpegts, sound late": Made("mpegts", "aac", 48_000, picture="mpeg2video", late=4.9),
    "mpegts, stamps wrap": Made("mpegts", "aac", 48_000, from_=2**33 / 90_000 - 5),
    "mpegts, mp2, holes": Made("mpegts", "mp2", 48_000, holes=HOLES),
    "mpegts, ac3, stamps from an hour on": Made("mpegts", "ac3", 48_000, from_=5000, picture="mpeg2video", late=2),
    "ogg, opus": Made("ogg", "libopus", 48_000),
    "ogg, flac": Made("ogg", "flac", 48_000),
    "ogg, opus, holes": Made("ogg", "libopus", 48_000, holes=HOLES),
    "flac": Made("flac", "flac", 44_100),
    "mp3": Made("mp3", "libmp3lame", 48_000),
    "mp3, stereo": Made("mp3", "libmp3lame", 24_000, "stereo"),
    "adts": Made("adts", "aac", 44_100),
    "avi": Made("avi", "libmp3lame", 48_000, picture="mpeg4"),
    "aiff": Made("aiff", "pcm_s16be", 44_100),
    "au": Made("au", "pcm_mulaw", 8_000),
    "caf": Made("caf", "pcm_s16le", 22_050),
    "w64": Made("w64", "pcm_s24le", 48_000),
    "wav, adpcm": Made("wav", "adpcm_ima_wav", 16_000),
    "wav, mulaw": Made("wav", "pcm_mulaw", 8_000),
    "wav, alaw": Made("wav", "pcm_alaw", 8_000),
    "wav, 8 bit": Made("wav", "pcm_u8", 16_000),
    "wav, 24 bit stereo": Made("wav", "pcm_s24le", 48_000, "stereo"),
    "wav, 32 bit": Made("wav", "pcm_s32le", 11_025),
    "wav, double": Made("wav", "pcm_f64le", 96_000),
    "3gp, amr": Made("3gp", "libopencore_amrnb", 8_000),
}
MP3, STEREO_MP3 = Made("mp3", "libmp3lame", 48_000), Made("mp3", "libmp3lame", 24_000, "stereo")
OPUS, STEREO_OPUS = Made("ogg", "libopus", 48_000), Made("ogg", "libopus", 48_000, "stereo")
JOINED = {
    "mp3, 48 and 24 kHz": [MP3, STEREO_MP3, MP3],
    "mp3, 44.1 and 16 kHz": [Made("mp3", "libmp3lame", rate) for rate in (44_100, 16_000, 44_100)],
    "adts, 44.1 and 16 kHz": [Made("adts", "aac", rate) for rate in (44_100, 16_000, 44_100)],
    "mpegts, 48 and 24 kHz": [Made("mpegts", "aac", 48_000), Made("mpegts", "aac", 24_000, "stereo")],
    "mpegts, other tracks": [Made("mpegts", "aac", 48_000), Made("mpegts", "aac", 48_000, picture="mpeg2video")],
    "mpegts, other codecs": [Made("mpegts", codec, 48_000) for codec in ("aac", "mp2", "ac3")],
    "ogg, stereo and mono": [STEREO_OPUS, OPUS, STEREO_OPUS],
    "ogg, mono and stereo": [OPUS, STEREO_OPUS, OPUS],
    "ogg, other codecs": [OPUS, Made("ogg", "flac", 16_000), OPUS],
    "flac": [Made("flac", "flac", 48_000), Made("flac", "flac", 16_000, "stereo"), Made("flac", "flac", 44_100)],
    "wav": [
        Made("wav", "pcm_s16le", 48_000),
        Made("wav", "pcm_s24le", RATE, "stereo"),
        Made("wav", "pcm_mulaw", 8_000),
    ],
    "webm": [Made("webm", "libopus", 48_000), Made("webm", "libopus", 48_000, "stereo")],
    "mp4, fragmented": [Made("mp4", "aac", rate, options=FRAGMENTED) for rate in (48_000, 16_000, 44_100)],
    "mp4, index last": [Made("mp4", "aac", rate) for rate in (48_000, 16_000, 44_100)],
    "wav, mp4, webm": [Made("wav", "pcm_s16le"), Made("mp4", "aac", 48_000), Made("webm", "libopus", 48_000)],
    "ogg, flac, wav": [OPUS, Made("flac", "flac"), Made("wav", "pcm_s16le", 8_000)],
}
LYING = {
    "a header for three seconds": wav_said(PCM, RATE, 6 * RATE),
    "a header for nothing": wav_said(PCM, RATE, 0),
    "a header for four gigabytes": wav_said(PCM, RATE, 0xFFFFFFFF),
    "a header for more than there is": wav_said(PCM, RATE, 40 * len(PCM)),
    "chunks after the sound": wav_said(PCM, RATE, 2 * len(PCM), after=b"odd \x03\0\0\0abc\0LIST\x04\0\0\0INFO"),
    "pieces that are whole files": b"".join(
        wav_said(PCM[at : at + 3200], RATE, 6400) for at in range(0, len(PCM), 3200)
    ),
    "pieces without a length": b"".join(wav_said(PCM[at : at + 3200], RATE, 0) for at in range(0, len(PCM), 3200)),
}


def whole_zoo() -> dict[str, tuple[bytes, np.ndarray]]:
    """Return each file of the zoo with FFmpeg's decoding of it, int16 mono at 16 kHz."""
    files = {}
    for name, how in ONE.items():
        data = made(of(SPEECH, how), how)
        files[name] = data, heard_by_ffmpeg(data)
    for name, hows in JOINED.items():
        parts = [made(of(sound, how), how) for sound, how in zip(PARTS, hows, strict=False)]
        files[f"joined {name}"] = b"".join(parts), np.concatenate([heard_by_ffmpeg(part) for part in parts])
    for name, data in LYING.items():
        files[name] = data, PCM
    return files
