"""Speech and sound files for tests: recordings inside the installed moonshine-voice wheel, and containers made of them."""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path

import av
import numpy as np

RATE = 16_000


def recording(name: str) -> np.ndarray:
    """Return a recording of the wheel (beckett, two_cities, endgame_nagg_nell) as int16 mono at 16 kHz."""
    spec = find_spec("moonshine_voice")
    assert spec is not None
    assert spec.origin is not None
    with av.open(str(Path(spec.origin).parent / "assets" / f"{name}.wav")) as container:
        resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
        frames = [f for frame in container.decode(audio=0) for f in resampler.resample(frame)]
        frames += resampler.resample(None)
        return np.concatenate([frame.to_ndarray()[0] for frame in frames])


def in_noise(pcm: np.ndarray, decibels: float) -> np.ndarray:
    """Return int16 samples with white noise, so many decibels below them."""
    level = np.sqrt((pcm.astype(float) ** 2).mean()) * 10 ** (-decibels / 20)
    noise = np.random.default_rng(0).normal(0, level, len(pcm))
    return np.round(pcm + noise).clip(-32768, 32767).astype(np.int16)


def contained(
    channels: list[np.ndarray],
    container: str,
    codec: str,
    *,
    rate: int = RATE,
    options: dict[str, str] | None = None,
) -> bytes:
    """Return int16 channels at `rate`, encoded into a container."""
    folder = tempfile.TemporaryDirectory()  # MP4 with its index first is written twice, which takes a real file
    path = Path(folder.name) / "sound"
    with folder, av.open(str(path), "w", format=container, options=options or {}) as file:
        layout = "mono" if len(channels) == 1 else "stereo"
        stream = file.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(np.stack(channels, axis=1).reshape(1, -1)), format="s16", layout=layout
        )
        frame.sample_rate = rate
        frame.pts = 0
        graph = av.AudioFifo()
        graph.write(frame)
        size = stream.codec_context.frame_size or 1024
        resampler = av.AudioResampler(format=stream.codec_context.format, layout=layout, rate=stream.rate)
        while (part := graph.read(size, partial=True)) is not None:
            for converted in resampler.resample(part):
                file.mux(stream.encode(converted))
        for converted in resampler.resample(None):
            file.mux(stream.encode(converted))
        file.mux(stream.encode(None))
        file.close()
        return path.read_bytes()


BECKETT = "ever tried ever failed no matter try again fail again fail better"
"""What is said in the recording beckett, as the default engine hears it."""


def bare(text: str) -> str:
    """Return a text as BECKETT is written: lower case, without punctuation."""
    return "".join(c for c in text.lower() if c.isalnum() or c == " ")
