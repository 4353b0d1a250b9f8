"""A NeMo transducer prepared for serving: audio to features, features to encoder frames, frames to tokens.

This module knows neither jobs nor streams. All of it runs on the thread that owns the model.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch

from myna.inference.engines.parakeet.checkpoint import Checkpoint
from myna.inference.engines.parakeet.durations import durations
from myna.inference.engines.parakeet.loading import PRECISIONS, device_of, precision_of, restored
from myna.inference.engines.port import ModelOptions
from myna.inference.engines.transducer.model import Chunking
from myna.inference.engines.transducer.words import Tokens, Vocabulary
from myna.streaming.errors import EngineUnavailableError
from myna.streaming.events import SAMPLE_RATE, samples

_LEAST = samples(0.1)
BOOST = 1.0
"""Weight of the boosting tree."""
_MOST_BOOSTS = 512
"""Limit on compiled boosting trees; the least recently used are dropped."""


@dataclass(slots=True)
class Encoded:
    """Encoder frames of a batch: `frames` [B, T, D], `lengths` [B] counts the valid ones."""

    frames: torch.Tensor
    lengths: torch.Tensor

    def counts(self) -> list[int]:
        """Return the number of valid frames of each row."""
        return [int(length) for length in self.lengths.tolist()]


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
        if self.cached:
            self._model.encoder.setup_streaming_params()
        if options.compile:  # per layer: compiling the whole encoder with dynamic shapes does not finish
            for layer in self._model.encoder.layers:
                layer.compile(dynamic=True)
        self._plain = self._computer(options.cuda_graphs, boosting=False)
        self._boosting: Any = None  # built on first use: boosting costs time at every step
        self._cuda_graphs = options.cuda_graphs
        self._boosts: dict[tuple[str, ...], int] = {}
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
        """Decode greedily. `states` continues each row from an earlier call; None, as a whole or for a row, starts anew.

        `keyterms`, one tuple per row, are boosted. Rows with keyterms are decoded separately: boosting costs time at every
        step, and its states differ. Returns the tokens, with frames counted from the start of the row's first call, and the
        states: those after the call if it `goes_on`, otherwise those before it.
        """
        rows = len(encoded.lengths)
        carried = list(states) if states is not None else [None] * rows
        terms = list(keyterms) or [()] * rows
        tokens, after = [Tokens()] * rows, list[Any](carried)
        for boosted in (False, True):
            chosen = [row for row in range(rows) if bool(terms[row]) is boosted]
            if not chosen:
                continue
            part = encoded
            if len(chosen) < rows:
                index = torch.tensor(chosen, device=encoded.frames.device)
                part = Encoded(encoded.frames[index], encoded.lengths[index])
            computer = self._boosted_computer() if boosted else self._plain
            boosts = {"multi_biasing_ids": self._boost_ids([terms[row] for row in chosen])} if boosted else {}
            found, left = self._run(computer, part, [carried[row] for row in chosen], boosts, goes_on)
            for row, token, state in zip(chosen, found, left, strict=True):
                tokens[row], after[row] = token, state
        return tokens, after

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

    def _run(
        self, computer: Any, encoded: Encoded, states: list[Any], boosts: dict[str, torch.Tensor], goes_on: bool
    ) -> tuple[list[Tokens], list[Any]]:
        previous = computer.merge_to_batched_state(states) if any(state is not None for state in states) else None
        found, state = computer(x=encoded.frames, out_len=encoded.lengths, prev_batched_state=previous, **boosts)
        without_graphs = self.device.type == "cpu" or computer.cuda_graphs_mode is None
        if found.token_durations is not None and without_graphs:
            before = 0 if previous is None else previous.decoded_lengths[:, None]
            used = max(1, int(found.current_lengths.max()))
            places = found.timestamps[:, :used] - before
            found.token_durations[:, :used] = durations(
                computer, encoded.frames, found.transcript[:, :used], places, previous
            )
        after = [_own(item) for item in computer.split_batched_state(state)] if goes_on else states
        return _tokens(found, len(encoded.lengths)), after

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

    def _computer(self, cuda_graphs: bool, *, boosting: bool) -> Any:
        """Return NeMo's label-looping decoder. Changing the decoding strategy builds a new one."""
        from omegaconf import OmegaConf, open_dict

        configuration = OmegaConf.create(OmegaConf.to_container(self._model.cfg.decoding))
        with open_dict(configuration):
            configuration.strategy = "greedy_batch"
            configuration.tdt_include_token_duration = True
            configuration.confidence_cfg = {
                "preserve_frame_confidence": True,
                "exclude_blank": True,
                "method_cfg": {"name": "max_prob", "alpha": 1.0},
            }
            configuration.greedy = {
                **configuration.get("greedy", {}),
                "use_cuda_graph_decoder": cuda_graphs,
                "enable_per_stream_biasing": boosting,
                "loop_labels": True,
            }
        try:
            self._model.change_decoding_strategy(configuration, verbose=False)
            computer = self._model.decoding.decoding.decoding_computer
        except (AttributeError, NotImplementedError, ValueError) as error:
            raise EngineUnavailableError(f"the model cannot be decoded in batches: {error}") from error
        if computer is None:
            raise EngineUnavailableError(
                "the model cannot be decoded in batches: NeMo has no label-looping decoder for it"
            )
        return computer

    def _boosted_computer(self) -> Any:
        if self._boosting is None:
            with torch.inference_mode(mode=False):  # these tensors are changed in place later
                self._boosting = self._computer(self._cuda_graphs, boosting=True)
        return self._boosting

    def _boost_ids(self, keyterms: Sequence[tuple[str, ...]]) -> torch.Tensor:
        ids = [self._boost_id(terms) if terms else -1 for terms in keyterms]
        surplus = max(0, len(self._boosts) - _MOST_BOOSTS)
        idle = [terms for terms in self._boosts if terms not in keyterms]  # least recently used first
        for terms in idle[:surplus]:
            self._boosting.biasing_multi_model.remove_model(self._boosts.pop(terms))
        return torch.tensor(ids, device=self.device)

    def _boost_id(self, terms: tuple[str, ...]) -> int:
        from nemo.collections.asr.parts.context_biasing.boosting_graph_batched import (
            BoostingTreeModelConfig,
            GPUBoostingTreeModel,
        )

        known = self._boosts.pop(terms, None)
        if known is None:
            with torch.inference_mode(mode=False), torch.no_grad():
                tree = GPUBoostingTreeModel.from_config(
                    BoostingTreeModelConfig(key_phrases_list=list(terms)), tokenizer=self._model.tokenizer
                )
                known = int(self._boosting.biasing_multi_model.add_model(tree.to(self.device), alpha=BOOST))
        self._boosts[terms] = known  # last in the order: most recently used
        return known


def _own(value: Any) -> Any:
    """Copy a row's state: a view would keep the tensors of the whole batch in memory as long as the stream lasts."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, list | tuple):
        return type(value)(_own(part) for part in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: _own(getattr(value, field.name)) for field in fields(value)})
    return value


def _tokens(found: Any, rows: int) -> list[Tokens]:
    """Fetch a batch's hypotheses from the device, with one copy per tensor."""
    lengths = found.current_lengths[:rows].tolist()
    most = max(lengths, default=0)
    ids = found.transcript[:rows, :most].tolist()
    frames = found.timestamps[:rows, :most].tolist()
    lasting = found.token_durations[:rows, :most].tolist() if found.token_durations is not None else None
    probabilities = found.step_confidence[:rows, :most].tolist()
    return [
        Tokens(
            ids[row][:n],
            frames[row][:n],
            lasting[row][:n] if lasting is not None else [1] * n,  # an RNN-T token lasts its frame
            [min(max(p, 0.0), 1.0) for p in probabilities[row][:n]],
        )
        for row, n in enumerate(lengths)
    ]


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    first, later = itertools.repeat(value, 2) if isinstance(value, int) else value
    return int(first), int(later)
