"""Greedy decoding with Moonshine's decoder: the tokens of one utterance from the encoder's keys and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnxruntime import OrtValue

from myna.inference.engines.cpu_session import cpu_session
from myna.inference.engines.moonshine.decoder_graphs import (
    ATTENTION_LAYERS,
    LOGITS,
    MOST_PLACES,
    PADDED_HEAD,
    SELF_CACHE,
)
from myna.inference.engines.moonshine.drafts import AHEAD, Draft
from myna.inference.engines.moonshine.encoder_graph import HEADS
from myna.inference.engines.moonshine.keyterms import Choice

BEGIN, END = 1, 2
ALIGNMENT_HEADS = {3: [5], 4: [7], 5: [3, 4, 6, 7]}
"""Layer → heads whose cross-attention follows the audio in time; selected by forced alignment (docs/accuracy.md)."""
_OUTPUTS = ("token", "probability", *(f"attention.{layer}" for layer in ATTENTION_LAYERS), LOGITS)


@dataclass(frozen=True, slots=True)
class Decoded:
    """The tokens of an utterance; `probabilities` and `likeliest` have one entry more, of what ended the decode."""

    tokens: list[int]
    probabilities: np.ndarray
    """[tokens + 1], of the model without boosting."""
    likeliest: np.ndarray
    """[tokens + 1], of the tokens that the model prefers; without keyterms, equal to `probabilities`."""
    attention: np.ndarray
    """[tokens, frames]."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """The results of the tokens that were fed together: row by row, what follows each."""

    fed: tuple[int, ...]
    best: np.ndarray  # int64 [rows]
    greatest: np.ndarray  # float32 [rows], the probabilities of `best`
    attention: tuple[np.ndarray, ...]  # by layer, [heads, rows, 1, frames]
    logits: np.ndarray | None  # [rows, tokens]

    def followed(self, row: int) -> np.ndarray:
        """Return the mean attention [frames] of the heads that follow the audio in time."""
        layers = zip(ATTENTION_LAYERS, self.attention, strict=True)
        heads = np.concatenate([weights[ALIGNMENT_HEADS[layer], row, 0] for layer, weights in layers])
        return np.asarray(heads.mean(axis=0))


class Decoder:
    """Decodes one utterance after the other. `most_tokens` is the most that one may have."""

    def __init__(self, step: Path, steps: Path, most_tokens: int) -> None:
        places = most_tokens + AHEAD + 2
        if places > MOST_PLACES:
            raise ValueError(f"{most_tokens} tokens exceed the {MOST_PLACES - AHEAD - 2} that the decoder counts")
        self._sessions = [cpu_session(graph) for graph in (step, steps)]
        self._bindings = [session.io_binding() for session in self._sessions]
        for name in SELF_CACHE:
            buffer = OrtValue.ortvalue_from_numpy(np.zeros((1, HEADS, places, PADDED_HEAD), np.float32))
            for binding in self._bindings:
                binding.bind_ortvalue_input(f"past.{name}", buffer)
                binding.bind_ortvalue_output(f"present.{name}", buffer)

    def decode(
        self, heard: Mapping[str, OrtValue], most_tokens: int, choice: Choice | None = None, draft: Sequence[int] = ()
    ) -> Decoded:
        """Return the tokens of an utterance from the encoder's outputs; `draft` are tokens that it probably has.

        The draft changes the time that the decode takes, and nothing else.
        """
        for binding in self._bindings:
            for name, value in heard.items():
                binding.bind_ortvalue_input(name, value)
        foretold = Draft(draft)
        tokens: list[int] = []
        probabilities: list[float] = []
        likeliest: list[float] = []
        attention: list[np.ndarray] = []
        rows = self._feed((BEGIN, *foretold.after(tokens)), 0, with_logits=choice is not None)
        row, opened = 0, (rows, 0)
        while True:
            best = token = int(rows.best[row])
            greatest = probability = float(rows.greatest[row])
            if choice is not None:
                assert rows.logits is not None
                scores = rows.logits[row]
                chosen = choice.choose(scores, best, len(tokens), last=len(tokens) >= most_tokens)
                if chosen is None:
                    place, (rows, row) = choice.go_back(len(tokens)), opened
                    for kept in (tokens, probabilities, likeliest, attention):
                        del kept[place:]
                    continue
                if choice.opened == len(tokens):
                    opened = rows, row
                if chosen != best:
                    token, probability = chosen, greatest * float(np.exp(scores[chosen] - scores[best]))
            probabilities.append(probability)
            likeliest.append(greatest)
            if token == END or len(tokens) >= most_tokens:
                break
            tokens.append(token)
            attention.append(rows.followed(row))
            row += 1
            if row == len(rows.fed) or rows.fed[row] != token:
                ahead = foretold.after(tokens)[: most_tokens - len(tokens)]
                rows, row = self._feed((token, *ahead), len(tokens), with_logits=choice is not None), 0
        frames = rows.attention[0].shape[-1]
        weights = np.stack(attention) if attention else np.zeros((0, frames), np.float32)
        return Decoded(tokens, np.array(probabilities), np.array(likeliest), weights)

    def _feed(self, tokens: tuple[int, ...], place: int, *, with_logits: bool) -> _Rows:
        """Run the decoder on tokens of which the first has this place."""
        several = len(tokens) > 1
        session, binding = self._sessions[several], self._bindings[several]
        places = place + max(len(tokens), 2)  # the graph of one token attends with two rows
        binding.bind_cpu_input("tokens", np.array([tokens], np.int64))
        binding.bind_cpu_input("last_place", np.array([places - 1], np.int32))
        binding.bind_cpu_input("places", np.array(places, np.int32))
        for name in _OUTPUTS:
            binding.bind_output(name)  # anew, so that earlier results, which are still in use, keep their memory
        session.run_with_iobinding(binding)
        token, probability, *attention, logits = binding.get_outputs()[len(SELF_CACHE) :]
        return _Rows(
            tokens,
            token.numpy()[0],
            probability.numpy()[0],
            tuple(layer.numpy() for layer in attention),
            logits.numpy()[0] if with_logits else None,
        )
