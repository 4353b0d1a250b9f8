"""A NeMo transducer prepared for serving: audio to features, features to encoder frames, frames to tokens.

This module knows neither jobs nor streams. All of it runs on the thread that owns the model.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from myna.inference.engines.kind import nearest
from myna.inference.engines.parakeet.checkpoint import Checkpoint
from myna.inference.engines.parakeet.decoding import Encoded, GreedyDecoder
from myna.inference.engines.parakeet.loading import PRECISIONS, precision_of, restored
from myna.inference.engines.port import ModelOptions
from myna.inference.engines.torch_device import device_of
from myna.inference.engines.transducer.model import Chunking
from myna.inference.engines.transducer.words import Tokens, Vocabulary
from myna.streaming.errors import EngineUnavailableError
from myna.streaming.events import SAMPLE_RATE, samples

_LEAST = samples(0.1)


Caches = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""A row's encoder caches: of attention [layers, 1, frames, D] and convolution [layers, 1, D, frames]; valid frames [1]."""


class ParakeetModel:
    """A restored checkpoint on its device. Raises `EngineUnavailableError` if it cannot be loaded."""

    def __init__(self, checkpoint: Checkpoint, options: ModelOptions) -> None:
        self.device = device_of(options.device, options.worker)
        precision = precision_of(options.precision, self.device)
        if self.device.type == "cpu" and options.threads:
            torch.set_num_threads(options.threads)
        self._model = restored(checkpoint.path, self.device)
        self._check(checkpoint)
        self._model.preprocessor.featurizer.dither = 0.0  # the same audio gives the same words
        self._model.preprocessor.featurizer.pad_to = 0
        self.dtype = PRECISIONS[precision]
        self._model.encoder.to(self.dtype)
        preprocessor = self._model.cfg.preprocessor
        over_utterance = preprocessor.get("normalize") in ("per_feature", "all_features")
        self.cached = checkpoint.streaming and not over_utterance
        """Whether each frame can be encoded once. Features normalised over the utterance change as it grows."""
        if checkpoint.contexts:
            chosen = checkpoint.contexts[nearest(checkpoint.look_aheads_ms, options.look_ahead_ms)]
            self._model.encoder.set_default_att_context_size(list(chosen))
        elif self.cached:
            self._model.encoder.setup_streaming_params()
        if options.compile:  # per layer: compiling the whole encoder with dynamic shapes does not finish
            for layer in self._model.encoder.layers:
                layer.compile(dynamic=True)
        self._decoder = GreedyDecoder(self._model, self.device, cuda_graphs=options.cuda_graphs)
        tokenizer = self._model.tokenizer
        pieces = tokenizer.ids_to_tokens(list(range(tokenizer.vocab_size)))
        self.vocabulary = Vocabulary(pieces, tokenizer.ids_to_text)
        self.window = round(preprocessor.window_size * SAMPLE_RATE)
        """Samples covered by a feature frame."""
        self.hop = round(preprocessor.window_stride * SAMPLE_RATE)
        """Samples between two feature frames."""
        self.frame = self.hop * int(self._model.encoder.subsampling_factor)
        """Samples between two encoder frames."""
        self.longest = int(self._model.encoder.pos_emb_max_len) * self.frame
        """Samples covered by the checkpoint's positional encoding."""

    @property
    def weights(self) -> object:
        """NeMo's model: this is the only lane that has it."""
        return self._model

    @property
    def frame_s(self) -> float:
        """Seconds between two encoder frames."""
        return float(self.frame / SAMPLE_RATE)

    @property
    def chunking(self) -> Chunking:
        """The sizes of the chunks, if the encoder is cache-aware."""
        sizes = self._model.encoder.streaming_cfg
        return Chunking(
            chunks=_pair(sizes.chunk_size),
            shifts=_pair(sizes.shift_size),
            before=_pair(sizes.pre_encode_cache_size),
            hop=self.hop,
            reach=self.window // 2,
        )

    def features(self, audio: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """Return the features [F, T] of each int16 utterance. All rows have the length of the longest."""
        return list(self._features(audio)[0])

    def encode(self, audio: Sequence[np.ndarray]) -> Encoded:
        """Run the encoder over int16 utterances."""
        features, lengths = self._features(audio)
        return self._encoded(*self._model.encoder(audio_signal=features.to(self.dtype), length=lengths))

    def advance(
        self,
        features: Sequence[torch.Tensor],
        spans: Sequence[tuple[int, int]],
        caches: Sequence[Caches | None],
        *,
        first: bool,
        last: bool = False,
    ) -> tuple[Encoded, list[Caches]]:
        """Run one step of a cache-aware encoder over each row's span of features; return the frames and the rows' caches."""
        encoder = self._model.encoder
        sizes = [end - start for start, end in spans]
        signal = torch.zeros(len(spans), features[0].shape[0], max(sizes), device=self.device, dtype=self.dtype)
        for row, frames, (start, end), size in zip(signal, features, spans, sizes, strict=True):
            row[:, max(0, -start) : size] = frames[:, max(0, start) : end]
        blank = encoder.get_initial_cache_state(batch_size=1, dtype=self.dtype, device=self.device)
        channels, times, filled = zip(*(cache or blank for cache in caches), strict=True)
        encoded, lengths, channel, time, fill = encoder.cache_aware_stream_step(
            processed_signal=signal,
            processed_signal_length=torch.tensor(sizes, device=self.device),
            cache_last_channel=torch.cat(channels, dim=1),
            cache_last_time=torch.cat(times, dim=1),
            cache_last_channel_len=torch.cat(filled),
            keep_all_outputs=last,
            drop_extra_pre_encoded=0 if first else int(encoder.streaming_cfg.drop_extra_pre_encoded),
        )
        rows = [slice(row, row + 1) for row in range(len(sizes))]
        # copies: views would keep the caches of the whole batch in memory as long as the stream lasts
        after = [(channel[:, row].clone(), time[:, row].clone(), fill[row].clone()) for row in rows]
        return self._encoded(encoded, lengths), after

    def cut(self, encoded: Encoded, starts: Sequence[int], counts: Sequence[int]) -> Encoded:
        """Return `counts` frames of each row, from `starts` on."""
        rows = torch.zeros(len(starts), max(1, *counts), encoded.frames.shape[2], device=encoded.frames.device)
        for row, source, start, count in zip(rows, encoded.frames, starts, counts, strict=True):
            row[:count] = source[start : start + count]
        return Encoded(rows, torch.tensor(list(counts), device=encoded.lengths.device))

    def decode(
        self,
        encoded: Encoded,
        states: Sequence[Any] | None = None,
        keyterms: Sequence[tuple[str, ...]] = (),
        *,
        goes_on: bool = False,
    ) -> tuple[list[Tokens], list[Any]]:
        """Decode greedily; see `Transducer.decode`. Rows with keyterms are decoded separately."""
        return self._decoder.decode(encoded, states, keyterms, goes_on=goes_on)

    def _features(self, audio: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the features [B, F, T] of int16 utterances and the number of their valid frames [B].

        Audio too short for an encoder frame is padded with silence.
        """
        lengths = torch.tensor([max(len(utterance), _LEAST) for utterance in audio])
        signal = torch.zeros(len(audio), int(lengths.max()))
        for row, utterance in zip(signal, audio, strict=True):
            row[: len(utterance)] = torch.from_numpy(utterance.astype(np.float32) / 32768)
        features: tuple[torch.Tensor, torch.Tensor] = self._model.preprocessor(
            input_signal=signal.to(self.device), length=lengths.to(self.device)
        )
        return features

    def _encoded(self, frames: torch.Tensor, lengths: torch.Tensor) -> Encoded:
        """Convert the encoder's output [B, D, T] to the decoder's input: frames first, full precision."""
        return Encoded(frames.transpose(1, 2).float(), lengths)

    def _check(self, checkpoint: Checkpoint) -> None:
        """Raise `EngineUnavailableError` for a checkpoint that would only fail at the first word."""
        if int(self._model.cfg.sample_rate) != SAMPLE_RATE:
            raise EngineUnavailableError(
                f"{checkpoint.path.name} needs audio at {self._model.cfg.sample_rate} Hz; Myna supports {SAMPLE_RATE} Hz"
            )
        if not getattr(self._model.decoder, "blank_as_pad", False):
            raise EngineUnavailableError(
                f"{checkpoint.path.name} has a {type(self._model.decoder).__name__} that does not use the blank as padding;"
                " it cannot be decoded in batches"
            )


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    first, later = itertools.repeat(value, 2) if isinstance(value, int) else value
    return int(first), int(later)
