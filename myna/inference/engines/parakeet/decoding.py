"""NeMo's label-looping greedy decoder: batches with carried states, words boosted per stream, CUDA graphs where they work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import structlog
import torch

from myna.inference.engines.parakeet.durations import durations
from myna.inference.engines.transducer.words import Tokens
from myna.streaming.errors import EngineUnavailableError

log = structlog.get_logger()

BOOST = 1.0
"""Weight of the boosting tree."""
_MOST_BOOSTS = 512
"""Limit on compiled boosting trees; the least recently used are dropped."""
MOST_IN_GRAPHS = 31
"""Rows of one decode in CUDA graphs: illegal addresses were reported from 32 concurrent streams on."""


@dataclass(slots=True)
class Encoded:
    """Encoder frames of a batch: `frames` [B, T, D], `lengths` [B] counts the valid ones."""

    frames: torch.Tensor
    lengths: torch.Tensor

    def counts(self) -> list[int]:
        """Return the number of valid frames of each row."""
        return [int(length) for length in self.lengths.tolist()]


class GreedyDecoder:
    """Decodes with a restored model on `device`. Raises `EngineUnavailableError` if the model has no such decoder."""

    def __init__(self, model: Any, device: torch.device, *, cuda_graphs: bool) -> None:
        self._model = model
        self._device = device
        self._cuda_graphs = cuda_graphs and device.type == "cuda"
        self._plain = self._computer(boosting=False)
        self._boosting: Any = None  # built on first use: boosting costs time at every step
        self._boosts: dict[tuple[str, ...], int] = {}

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
            computer = self._boosted_computer() if boosted and any(terms) else self._plain
            chosen = [row for row in range(rows) if bool(terms[row]) is boosted]
            for some in self._portions(computer, chosen):
                part = encoded
                if len(some) < rows:
                    index = torch.tensor(some, device=encoded.frames.device)
                    part = Encoded(encoded.frames[index], encoded.lengths[index])
                boosts = {"multi_biasing_ids": self._boost_ids([terms[row] for row in some])} if boosted else {}
                found, left = self._run(computer, part, [carried[row] for row in some], boosts, goes_on)
                for row, token, state in zip(some, found, left, strict=True):
                    tokens[row], after[row] = token, state
        return tokens, after

    def _run(
        self, computer: Any, encoded: Encoded, states: list[Any], boosts: dict[str, torch.Tensor], goes_on: bool
    ) -> tuple[list[Tokens], list[Any]]:
        previous = computer.merge_to_batched_state(states) if any(state is not None for state in states) else None
        found, state = self._guarded(
            computer, x=encoded.frames, out_len=encoded.lengths, prev_batched_state=previous, **boosts
        )
        if found.token_durations is not None and not self._in_graphs(computer):
            before = 0 if previous is None else previous.decoded_lengths[:, None]
            used = max(1, int(found.current_lengths.max()))
            places = found.timestamps[:, :used] - before
            found.token_durations[:, :used] = durations(
                computer, encoded.frames, found.transcript[:, :used], places, previous
            )
        after = [_own(item) for item in computer.split_batched_state(state)] if goes_on else states
        return _tokens(found, len(encoded.lengths)), after

    def _in_graphs(self, computer: Any) -> bool:
        return self._cuda_graphs and computer.cuda_graphs_mode is not None

    def _portions(self, computer: Any, rows: Sequence[int]) -> Iterator[Sequence[int]]:
        """Divide the rows into decodes of a size that CUDA graphs take."""
        size = MOST_IN_GRAPHS if self._in_graphs(computer) else max(1, len(rows))
        for start in range(0, len(rows), size):
            yield rows[start : start + size]

    def _guarded(self, computer: Any, **inputs: Any) -> Any:
        """Run a decode. If it fails in CUDA graphs, repeat it without, and use none from then on.

        Raises `SystemExit` if the device is lost (an illegal address, say): only another process can use it again.
        """
        try:
            return computer(**inputs)
        except torch.OutOfMemoryError:
            raise  # the engine decodes a smaller batch
        except RuntimeError as error:
            if not self._in_graphs(computer):
                raise
            log.warning("decoding in CUDA graphs failed; if this repeats, set cuda_graphs = false", reason=str(error))
            if isinstance(error, torch.AcceleratorError):
                raise SystemExit("CUDA failed while decoding in graphs") from error
            self._cuda_graphs = False
            for one in (self._plain, self._boosting):
                if one is not None:
                    one.disable_cuda_graphs()
        return computer(**inputs)

    def _computer(self, *, boosting: bool) -> Any:
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
                "use_cuda_graph_decoder": self._cuda_graphs,
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
                self._boosting = self._computer(boosting=True)
        return self._boosting

    def _boost_ids(self, keyterms: Sequence[tuple[str, ...]]) -> torch.Tensor:
        ids = [self._boost_id(terms) if terms else -1 for terms in keyterms]
        surplus = max(0, len(self._boosts) - _MOST_BOOSTS)
        idle = [terms for terms in self._boosts if terms not in keyterms]  # least recently used first
        for terms in idle[:surplus]:
            self._boosting.biasing_multi_model.remove_model(self._boosts.pop(terms))
        return torch.tensor(ids, device=self._device)

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
                known = int(self._boosting.biasing_multi_model.add_model(tree.to(self._device), alpha=BOOST))
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
