"""A plain loop around sherpa-onnx for comparison, on the same weights, with its own voice activity.

Two threads decode, one for each of two cores. Finals and interims queue in order of arrival; a stream has at most one interim
in the queue.
"""

from __future__ import annotations

import base64
import os
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from myna.bench.accuracy import AccuracyError
from myna.bench.load_streams import FRAME_S, HeardStream, Speech
from myna.inference.engines.moonshine.engine import installed_weights, read_tokenizer
from myna.streaming.events import SAMPLE_RATE
from myna.streaming.speech.silero import installed_model

_SILENCE_S = 0.25
"""Silence that ends a segment, as in sherpa-onnx's examples."""
_LEAD = round(0.3 * SAMPLE_RATE)
"""Audio of an interim before the start of voice activity."""


class _Recogniser:
    def __init__(self) -> None:
        if find_spec("sherpa_onnx") is None:
            raise AccuracyError("sherpa-onnx is not installed: pip install 'myna[bench]'")
        import sherpa_onnx

        folder = installed_weights()
        with tempfile.TemporaryDirectory() as scratch:
            tokens = Path(scratch) / "tokens.txt"
            pieces = read_tokenizer(folder / "tokenizer.bin")
            written = [base64.b64encode(piece or b"<unused>").decode() for piece in pieces]
            lines = [f"{piece}\t{number}" for number, piece in enumerate(written)]
            tokens.write_text("\n".join(lines) + "\n", encoding="utf-8")
            self._recognisers = [
                sherpa_onnx.OfflineRecognizer.from_moonshine_v2(
                    encoder=str(folder / "encoder_model.ort"), decoder=str(folder / "decoder_model_merged.ort"),
                    tokens=str(tokens), num_threads=1,
                )
                for _ in range(os.cpu_count() or 1)
            ]  # fmt: skip
        self._free = threading.local()
        self._lock = threading.Lock()

    def decode(self, samples: np.ndarray) -> str:
        if not hasattr(self._free, "mine"):
            with self._lock:
                self._free.mine = self._recognisers.pop()
        recogniser = self._free.mine
        stream = recogniser.create_stream()
        stream.accept_waveform(SAMPLE_RATE, samples)
        recogniser.decode_stream(stream)
        return str(stream.result.text)


def _voice_activity() -> Any:
    import sherpa_onnx

    config = sherpa_onnx.VadModelConfig()
    config.silero_vad.model = str(installed_model("silero_vad.onnx"))
    config.silero_vad.min_silence_duration = _SILENCE_S
    config.silero_vad.max_speech_duration = 12.0
    config.sample_rate = SAMPLE_RATE
    return sherpa_onnx.VoiceActivityDetector(config, buffer_size_in_seconds=60)


class _Stream:
    """One stream: voice activity in the loop, decodes on the threads."""

    def __init__(self, recogniser: _Recogniser, pool: ThreadPoolExecutor, interim_every_s: float) -> None:
        self.heard = HeardStream()
        self._voice = _voice_activity()
        self._recogniser = recogniser
        self._pool = pool
        self._every = round(interim_every_s * SAMPLE_RATE)
        self._open = np.zeros(0, np.float32)
        self._speaking = False
        self._interim_at = 0
        self._interim: Future[None] | None = None
        self.finals: list[Future[str]] = []

    def push(self, samples: np.ndarray) -> None:
        self._voice.accept_waveform(samples)
        self._open = np.concatenate([self._open, samples])
        if not self._voice.is_speech_detected() and not self._speaking:
            self._open = self._open[-_LEAD:]
            self._interim_at = 0
        self._speaking = self._voice.is_speech_detected()
        while not self._voice.empty():
            segment = np.array(self._voice.front.samples, np.float32)
            self._voice.pop()
            self.finals.append(self._pool.submit(self._final, segment, time.monotonic()))
            self._open, self._interim_at = self._open[-_LEAD:], 0
        idle = self._interim is None or self._interim.done()
        if self._speaking and idle and len(self._open) - self._interim_at >= self._every:
            self._interim_at = len(self._open)
            self._interim = self._pool.submit(self._decode_interim, self._open, time.monotonic())

    def end(self) -> None:
        self._voice.flush()
        self.push(np.zeros(0, np.float32))

    def _final(self, segment: np.ndarray, decided: float) -> str:
        text = self._recogniser.decode(segment)
        self.heard.finals_s.append(time.monotonic() - decided)
        return text

    def _decode_interim(self, audio: np.ndarray, asked: float) -> None:
        self._recogniser.decode(audio)
        self.heard.interims_s.append(time.monotonic() - asked)


def run(
    spoken: Sequence[Speech], interim_every_s: float, staggered: bool, spread_s: float
) -> tuple[list[HeardStream], float, float]:
    """Run all streams at once in real time; return their results, the cores used and the memory in MB."""
    import psutil

    recogniser = _Recogniser()
    frame = round(FRAME_S * SAMPLE_RATE)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        streams = [_Stream(recogniser, pool, interim_every_s) for _ in spoken]
        audio = [np.frombuffer(speech.pcm, np.int16).astype(np.float32) / 32768 for speech in spoken]
        offsets = [spread_s * number / len(spoken) if staggered else 0.0 for number in range(len(spoken))]
        frames = sorted(
            (offset + (number + 1) * FRAME_S, index, number)
            for index, (offset, samples) in enumerate(zip(offsets, audio, strict=True))
            for number in range(-(-len(samples) // frame))
        )
        began, used = time.monotonic(), time.process_time()
        for at, index, number in frames:
            time.sleep(max(0.0, began + at - time.monotonic()))
            streams[index].push(audio[index][number * frame : (number + 1) * frame])
        for stream in streams:
            stream.end()
        for stream in streams:
            stream.heard.text = " ".join(final.result().strip() for final in stream.finals)
        cores = (time.process_time() - used) / (time.monotonic() - began)
    return [stream.heard for stream in streams], cores, psutil.Process().memory_info().rss / (1 << 20)
