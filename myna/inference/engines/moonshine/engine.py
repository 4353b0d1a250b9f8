"""Moonshine tiny-en on onnxruntime: the default engine. English, CPU, weights from the `moonshine-voice` wheel.

Each lane has its own session and decodes one utterance per call: padded batches change transcripts, because the int8
scales are per tensor. Decoding is greedy; the cache stays inside onnxruntime between steps (IO binding). The logits leave the
graphs only in decodes with keyterms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from onnxruntime import OrtValue

from myna.inference.engines.byte_pairs import WORD_START
from myna.inference.engines.cpu_session import cpu_session
from myna.inference.engines.moonshine.decoder_graphs import step_graph, steps_graph
from myna.inference.engines.moonshine.decoding import Decoded, Decoder
from myna.inference.engines.moonshine.encoder_graph import AUDIO, CROSS_CACHE, encoder_graph
from myna.inference.engines.moonshine.keyterms import Terms
from myna.inference.engines.moonshine.kind import MODEL
from myna.inference.engines.moonshine.shipped import Shipped
from myna.inference.engines.port import ModelOptions
from myna.runtime.memory import keep_steady
from myna.streaming.errors import EngineUnavailableError
from myna.streaming.events import SAMPLE_RATE, Word
from myna.streaming.session.jobs import EngineInfo, InferenceJob, JobError, JobKind, Outcome, Transcript
from myna.streaming.speech.graph_cache import cached

INFO = EngineInfo(
    name=MODEL.name,
    languages=MODEL.languages,
    longest_segment_s=15.0,
    smallest_endpoint_ms=100,
    keyterms=True,
    version=MODEL.version,
    uuid=MODEL.uuid,
)
TOKENS_PER_SECOND = 6.5
"""Limit on tokens per second of audio, as the authors advise: on noise the model can loop."""
FRAME = 384
"""Samples per encoder frame (24 ms): the strides 64 * 3 * 2 of the convolutions."""
SHORTEST = 1600
"""Shortest audio that is decoded, in samples. The encoder's convolutions need 127 + 64 * 8; 100 ms hold no word."""
PADDING = SAMPLE_RATE // 4
"""Samples of silence added before and after every utterance: tight cuts lose words (docs/accuracy.md)."""
_REVISION = 7
"""Increase when the code that builds the graphs changes: it is part of the cache key."""
START_SHARE, END_SHARE = 0.3, 0.02
"""Shares of a token's peak attention at which the token starts and ends. They halve the p90 of the start time's error."""


class MoonshineEngine:
    """The model of one lane. `transcribe` may be called from one thread at a time."""

    def __init__(
        self,
        options: ModelOptions | None = None,
        folder: Path | None = None,
        *,
        longest_segment_s: float = INFO.longest_segment_s,
    ) -> None:
        del options  # one model, one precision, one core per lane
        folder = folder or installed_weights()
        for name in ("encoder_model.ort", "decoder_model_merged.ort", "tokenizer.bin"):
            if not (folder / name).is_file():
                raise EngineUnavailableError(f"The Moonshine model file {name} is missing from {folder}")
        graphs = _graphs(folder)
        self._info = replace(INFO, longest_segment_s=longest_segment_s)
        self._encoder = cpu_session(graphs["encoder"])
        self._decoder = Decoder(graphs["step"], graphs["steps"], most_tokens(longest_segment_s))
        self._pieces = read_tokenizer(folder / "tokenizer.bin")
        self._terms = Terms(self._pieces)

    @property
    def info(self) -> EngineInfo:
        """Return the engine's capabilities."""
        return self._info

    def warm_up(self) -> None:
        """Decode a job of the greatest length."""
        keep_steady()
        longest = bytes(2 * int(self._info.longest_segment_s * SAMPLE_RATE))
        self.transcribe([InferenceJob("warm-up", "warm-up", JobKind.FILE, longest, 0.0)])

    def transcribe(self, jobs: Sequence[InferenceJob]) -> list[Outcome]:
        """Decode each job by itself."""
        return [self._transcribe(job) for job in jobs]

    def release(self, source: str) -> None:
        """Do nothing: the engine follows no utterances."""

    def _transcribe(self, job: InferenceJob) -> Outcome:
        if job.length < SHORTEST:
            return Transcript((), 0.0)
        longest_s = self._info.longest_segment_s
        if job.length > longest_s * SAMPLE_RATE:
            return JobError(
                f"{job.length / SAMPLE_RATE:.1f} s of audio exceed the {longest_s:g} s that {INFO.name} decodes at once"
            )
        audio = np.pad(np.frombuffer(job.pcm, np.int16).astype(np.float32) / 32768.0, PADDING)
        most = most_tokens(job.length / SAMPLE_RATE)
        keyterms = job.options.keyterms
        choice = self._terms.choice(keyterms, budget=most) if keyterms else None
        decoded = self._decoder.decode(self._heard(audio), most, choice, job.draft)
        log_probability = float(np.log(np.maximum(decoded.likeliest, 1e-9)).mean())
        words = self._words(decoded, job.length / SAMPLE_RATE)
        return Transcript(tuple(words), log_probability, tokens=tuple(decoded.tokens))

    def _heard(self, audio: np.ndarray) -> dict[str, OrtValue]:
        """Return what the decoder hears of an utterance, float32 [samples]."""
        encoder = self._encoder.io_binding()
        encoder.bind_cpu_input(AUDIO, audio[None])
        for name in CROSS_CACHE:
            encoder.bind_output(name)
        self._encoder.run_with_iobinding(encoder)
        return dict(zip(CROSS_CACHE, encoder.get_outputs(), strict=True))

    def _words(self, decoded: Decoded, duration_s: float) -> list[Word]:
        words: list[Word] = []
        starts, ends = align(decoded.attention)
        text, first = b"", 0
        for index, token in enumerate([*decoded.tokens, None]):
            piece = b"" if token is None else self._pieces[token]
            if (token is None or piece.startswith(_SPACE)) and text:
                spelled = text.replace(_SPACE, b" ").decode("utf-8", "replace").strip()
                if spelled:
                    start = max(0.0, (starts[first] * FRAME - PADDING) / SAMPLE_RATE)
                    end = max(start, (ends[index - 1] * FRAME - PADDING) / SAMPLE_RATE)
                    confidence = float(np.exp(np.log(np.maximum(decoded.probabilities[first:index], 1e-9)).mean()))
                    words.append(Word(spelled, min(start, duration_s), min(end, duration_s), confidence))
                text = b""
            if not text:
                first = index
            text += piece
        return words


def align(attention: np.ndarray) -> tuple[list[int], list[int]]:
    """Return each token's first frame, and the frame after its last, from the best monotonic path through the attention.

    `attention` has the shape [tokens, frames]. If there are enough frames, the path visits every frame once and every
    token at least once, in order. Frames at a token's edges where its attention is weak are then removed as silence.
    """
    tokens, frames = attention.shape
    if not tokens:
        return [], []
    if frames < tokens:
        bounds = [round(index * frames / tokens) for index in range(tokens + 1)]
        return bounds[:-1], bounds[1:]
    score = np.log(attention / np.maximum(attention.sum(axis=1, keepdims=True), 1e-9) + 1e-4)
    best = np.full(tokens, -np.inf)
    best[0] = score[0, 0]
    advanced = np.zeros((frames, tokens), bool)
    for frame in range(1, frames):
        moved = np.concatenate(([-np.inf], best[:-1]))
        advanced[frame] = moved > best
        best = np.maximum(best, moved) + score[:, frame]
    starts = [0] * tokens
    token = tokens - 1
    for frame in range(frames - 1, 0, -1):
        if advanced[frame, token]:
            starts[token] = frame
            token -= 1
    ends = [*starts[1:], frames]
    for index, (start, end) in enumerate(zip(list(starts), list(ends), strict=True)):
        weights = attention[index, start:end]
        above = np.flatnonzero(weights >= START_SHARE * weights.max())
        starts[index] = start + int(above[0])
        ends[index] = start + int(np.flatnonzero(weights >= END_SHARE * weights.max())[-1]) + 1
    return starts, ends


_SPACE = WORD_START.encode()


def most_tokens(duration_s: float) -> int:
    """Return the most tokens that an utterance may have."""
    return int(duration_s * TOKENS_PER_SECOND) + 2


def _graphs(folder: Path) -> dict[str, Path]:
    """Return the engine's graphs, built from the shipped models in this folder, from the cache if present."""
    encoder, decoder = folder / "encoder_model.ort", folder / "decoder_model_merged.ort"

    def make() -> dict[str, bytes]:
        weights = Shipped(decoder)
        return {
            "encoder": encoder_graph(Shipped(encoder), weights),
            "step": step_graph(weights),
            "steps": steps_graph(weights),
        }

    return cached(decoder, "moonshine", _REVISION, make, also=[encoder])


def read_tokenizer(path: Path) -> list[bytes]:
    """Return the pieces by token. In the file, a piece follows its length: 1 byte, or from 128 on 2 (b0 - 128 + 128 * b1)."""
    data, position, pieces = path.read_bytes(), 0, []
    while position < len(data):
        length = data[position]
        position += 1
        if length >= 128:
            length += 128 * data[position] - 128
            position += 1
        pieces.append(data[position : position + length])
        position += length
    return [b"" if piece.startswith(b"<") and piece.endswith(b">") and len(piece) > 2 else piece for piece in pieces]


def installed_weights() -> Path:
    """Return the folder of the installed weights, without importing the package that holds them."""
    spec = find_spec("moonshine_voice")
    if spec is None or spec.origin is None:
        raise EngineUnavailableError(
            "The Moonshine weights are not installed; to install them: pip install moonshine-voice==0.1.0"
        )
    return Path(spec.origin).parent / "assets" / "tiny-en"
