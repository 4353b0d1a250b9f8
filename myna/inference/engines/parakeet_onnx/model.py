"""An exported model prepared for serving: audio to features, features to encoder frames, frames to tokens.

This module knows neither jobs nor streams. Several models may share their graphs; each is called from one thread at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from myna.inference.engines.boosting import BoostingTree, BoostingTrees
from myna.inference.engines.parakeet_onnx.features import HOP, WINDOW, Features
from myna.inference.engines.parakeet_onnx.greedy import CtcDecoder, GreedyDecoder, RowState, TransducerDecoder
from myna.inference.engines.parakeet_onnx.inspection import Chunks, Export
from myna.inference.engines.parakeet_onnx.pieces import Speller, Splitter
from myna.inference.engines.parakeet_onnx.sessions import graphs
from myna.inference.engines.transducer.model import Chunking
from myna.inference.engines.transducer.words import Tokens, Vocabulary
from myna.streaming.errors import EngineUnavailableError
from myna.streaming.events import SAMPLE_RATE, samples

_LEAST = samples(0.1)
"""Audio too short for an encoder frame is padded with silence to this length."""
_MOST_TREES = 512
"""Limit on compiled boosting trees; the least recently used are dropped."""


@dataclass(frozen=True, slots=True)
class Caches:
    """An utterance's encoder caches: what attention keeps [layers, frames, D], convolutions [layers, D, frames], and how many
    frames of the former are valid."""

    attention: np.ndarray
    convolution: np.ndarray
    filled: int


@dataclass(frozen=True, slots=True)
class EncodedFrames:
    """Encoder frames of a batch: `frames` [B, T, D], `lengths` [B] counts the valid ones."""

    frames: np.ndarray
    lengths: np.ndarray

    def counts(self) -> list[int]:
        """Return the number of valid frames of each row."""
        return [int(length) for length in self.lengths]


class OnnxModel:
    """An export whose encoder attends to whole utterances. Raises `EngineUnavailableError` if it cannot be loaded."""

    def __init__(self, export: Export, device: str, threads: int) -> None:
        self._export = export
        self._graphs = graphs(export, device, threads)
        self._features = Features(export.mels, normalized=export.normalized)
        self._decoder: GreedyDecoder
        self._decoder = TransducerDecoder(export, self._graphs) if export.decoder else CtcDecoder(export)
        splitter = Splitter(export.pieces)
        self._trees = BoostingTrees(lambda terms: BoostingTree(map(splitter, terms)), _MOST_TREES)
        self.vocabulary = Vocabulary(export.pieces, Speller(export.pieces))
        self.frame = HOP * export.subsampling
        """Samples between two encoder frames."""
        self._check()

    @property
    def weights(self) -> object:
        """The graphs, which all lanes of the process share."""
        return self._graphs

    @property
    def frame_s(self) -> float:
        """Seconds between two encoder frames."""
        return self.frame / SAMPLE_RATE

    def encode(self, audio: Sequence[np.ndarray]) -> EncodedFrames:
        """Run the encoder over int16 utterances. Audio too short for an encoder frame is padded with silence."""
        rows = self._rows(audio)
        lengths = np.array([row.shape[1] for row in rows], np.int64)
        features = np.zeros((len(rows), self._export.mels, int(lengths.max())), np.float32)
        for place, row in zip(features, rows, strict=True):
            place[:, : row.shape[1]] = row
        encoded, *counts = self._graphs.encoder.run(None, {"audio_signal": features, "length": lengths})
        if self._export.decoder is None:  # log-probabilities [B, T, V], and no lengths
            return EncodedFrames(encoded, (lengths - 1) // self._export.subsampling + 1)
        return EncodedFrames(encoded.transpose(0, 2, 1), counts[0])

    def cut(self, encoded: EncodedFrames, starts: Sequence[int], counts: Sequence[int]) -> EncodedFrames:
        """Return `counts` frames of each row, from `starts` on."""
        rows = np.zeros((len(starts), max(1, *counts), encoded.frames.shape[2]), np.float32)
        for row, source, start, count in zip(rows, encoded.frames, starts, counts, strict=True):
            row[:count] = source[start : start + count]
        return EncodedFrames(rows, np.array(counts, np.int64))

    def decode(
        self,
        encoded: EncodedFrames,
        states: Sequence[RowState | None] | None = None,
        keyterms: Sequence[tuple[str, ...]] = (),
        *,
        goes_on: bool = False,
    ) -> tuple[list[Tokens], list[RowState | None]]:
        """Decode greedily. `states` continues each row from an earlier call; None, as a whole or for a row, starts anew.

        `keyterms`, one tuple per row, are boosted. Returns the tokens, with frames counted from the start of the row's first
        call, and the states: those after the call if it `goes_on`, otherwise those before it.
        """
        rows = len(encoded.lengths)
        before: list[RowState | None] = list(states) if states is not None else [None] * rows
        trees = [self._trees.of(terms) if terms else None for terms in keyterms] or [None] * rows
        tokens, after = self._decoder.decode(encoded.frames, encoded.lengths, before, trees)
        return tokens, [*after] if goes_on else before

    def _rows(self, audio: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the features [F, T] of each int16 utterance."""
        return [self._features(np.pad(pcm, (0, max(0, _LEAST - len(pcm))))) for pcm in audio]

    def _check(self) -> None:
        """Decode silence, so that graphs that do not fit together fail here and not at the first word."""
        try:
            self.decode(self.encode([np.zeros(SAMPLE_RATE // 2, np.int16)]))
        except EngineUnavailableError:
            raise
        except Exception as error:  # onnxruntime's exceptions have no common base
            reason = " ".join(str(error).split())[:300]
            raise EngineUnavailableError(
                f"{self._export.folder.name}: its graphs do not work together, they may be of different models: {reason}"
            ) from error


class CachedOnnxModel(OnnxModel):
    """An export whose encoder is run chunk by chunk, with caches."""

    def __init__(self, export: Export, chunks: Chunks, device: str, threads: int) -> None:
        self._chunks = chunks
        super().__init__(export, device, threads)

    @property
    def chunking(self) -> Chunking:
        """The sizes of the chunks."""
        sizes = self._chunks.sizes
        return Chunking(chunks=sizes, shifts=sizes, before=self._chunks.before, hop=HOP, reach=WINDOW // 2)

    def features(self, audio: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the features [F, T] of each int16 utterance."""
        return self._rows(audio)

    def encode(self, audio: Sequence[np.ndarray]) -> EncodedFrames:
        """Run the encoder over int16 utterances, chunk by chunk: for a cache-aware encoder, this equals an offline pass."""
        features = self._rows(audio)
        parts: list[list[np.ndarray]] = [[] for _ in features]
        caches: list[Caches | None] = [None] * len(features)
        fed = 0
        while rows := [number for number, row in enumerate(features) if row.shape[1] > fed]:
            size, before = self._chunks.sizes[fed > 0], self._chunks.before[fed > 0]
            spans = [(fed - before, min(fed + size, features[row].shape[1])) for row in rows]
            encoded, after = self.advance(
                [features[row] for row in rows], spans, [caches[row] for row in rows], first=fed == 0, last=True
            )
            for row, frames, count, cache in zip(rows, encoded.frames, encoded.counts(), after, strict=True):
                parts[row].append(frames[:count])
                caches[row] = cache
            fed += size
        whole = [np.concatenate(some) for some in parts]
        lengths = [len(frames) for frames in whole]
        padded = [np.pad(frames, ((0, max(lengths) - len(frames)), (0, 0))) for frames in whole]
        return EncodedFrames(np.stack(padded), np.array(lengths, np.int64))

    def advance(
        self,
        features: Sequence[np.ndarray],
        spans: Sequence[tuple[int, int]],
        caches: Sequence[Caches | None],
        *,
        first: bool,
        last: bool = False,
    ) -> tuple[EncodedFrames, list[Caches]]:
        """Encode one chunk of each row; see `CacheAware.advance`.

        A graph without the input `drop` always drops frames: before a first chunk it gets zeros for them.
        """
        del last  # all frames of a chunk that is not longer than the others count
        chunks = self._chunks
        padding = chunks.dropped * self._export.subsampling if first and not chunks.exact else 0
        size = chunks.sizes[not first] + chunks.before[not first] + padding
        signal = np.zeros((len(spans), self._export.mels, size), np.float32)
        lengths = np.array([padding + end - start for start, end in spans], np.int64)
        for place, row, (start, end) in zip(signal, features, spans, strict=True):
            place[:, padding + max(0, -start) : padding + end - start] = row[:, max(0, start) : end]
        layers, kept, width, kept_of_convolutions = chunks.caches
        blank = Caches(
            np.zeros((layers, kept, width), np.float32), np.zeros((layers, width, kept_of_convolutions), np.float32), 0
        )
        before = [cache or blank for cache in caches]
        told = {
            "audio_signal": signal,
            "length": lengths,
            "cache_last_channel": np.stack([cache.attention for cache in before]),
            "cache_last_time": np.stack([cache.convolution for cache in before]),
            "cache_last_channel_len": np.array([cache.filled for cache in before], np.int64),
        }
        if chunks.exact:
            told["drop"] = np.array([0 if first else chunks.dropped], np.int64)
        encoded, counts, attention, convolution, filled = self._graphs.encoder.run(None, told)
        # copies: views would keep the caches of the whole batch in memory as long as the stream lasts
        after = [Caches(a.copy(), c.copy(), int(n)) for a, c, n in zip(attention, convolution, filled, strict=True)]
        return EncodedFrames(encoded.transpose(0, 2, 1), np.maximum(counts, 0)), after


def loaded(export: Export, device: str, threads: int) -> OnnxModel:
    """Return the model of an export. Raises `EngineUnavailableError`."""
    if export.chunks is None:
        return OnnxModel(export, device, threads)
    return CachedOnnxModel(export, export.chunks, device, threads)
