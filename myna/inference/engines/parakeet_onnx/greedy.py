"""Decodes encoder frames greedily, as NeMo's label-looping decoders do: transducers with and without durations, and CTC.

A call of the graphs runs the prediction network once and the joint network over the next frames of each row. Rows are
independent, so that a row's tokens do not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from myna.inference.engines.boosting import BoostingTree
from myna.inference.engines.parakeet_onnx.inspection import Export
from myna.inference.engines.parakeet_onnx.sessions import Graphs
from myna.inference.engines.transducer.words import Tokens

_FRAMES = 4
"""Frames of a row that the joint network sees in one call. Of 924 tokens in 40 sentences, 1 frame a call needs 1,335 calls, 4
frames 978, 8 frames 965; at the sizes of a 0.6 B model, 4 cost least (10 % less than 8)."""


@dataclass(frozen=True, slots=True)
class RowState:
    """A row of a batch between two calls: its last token, the prediction network's state before that token, and how far
    the last call reached beyond its frames."""

    token: int
    hidden: np.ndarray  # [layers, width]
    cell: np.ndarray  # [layers, width]
    jumped: int = 0
    """Frames of the next call that the last token or blank jumps over."""
    frames: int = 0
    """Frames decoded so far."""
    symbols: int = 0
    """Tokens since the last jump."""
    node: int = BoostingTree.ROOT


class GreedyDecoder(Protocol):
    """Decodes encoder frames [B, T, D]."""

    def decode(
        self,
        frames: np.ndarray,
        lengths: np.ndarray,
        states: Sequence[RowState | None],
        trees: Sequence[BoostingTree | None],
    ) -> tuple[list[Tokens], list[RowState]]:
        """Return the tokens of each row, with frames counted from the row's first call, and the states after them."""
        ...


class TransducerDecoder:
    """TDT and RNN-T. The outputs beyond pieces and blank are durations 0, 1, 2 …; without them, a token lasts no frame."""

    def __init__(self, export: Export, graphs: Graphs) -> None:
        self._blank = export.blank
        self._most_symbols = export.most_symbols
        self._network: Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]
        self._network = _joined(graphs.decoder) if graphs.joiner is None else _separate(graphs.decoder, graphs.joiner)
        states = [value for value in graphs.decoder.get_inputs() if value.type == "tensor(float)"][-2:]
        layers, width = int(states[0].shape[0]), int(states[0].shape[2])
        self._start = RowState(
            self._blank, np.zeros((layers, width), np.float32), np.zeros((layers, width), np.float32)
        )

    def decode(
        self,
        frames: np.ndarray,
        lengths: np.ndarray,
        states: Sequence[RowState | None],
        trees: Sequence[BoostingTree | None],
    ) -> tuple[list[Tokens], list[RowState]]:
        """Return the tokens of each row, with frames counted from the row's first call, and the states after them."""
        rows = [_Row(state or self._start, int(n), tree) for state, n, tree in zip(states, lengths, trees, strict=True)]
        live = [number for number, row in enumerate(rows) if row.at < row.length]
        while live:
            batch = [rows[number] for number in live]
            window = np.zeros((len(live), _FRAMES, frames.shape[2]), np.float32)
            for frames_of_row, number in zip(window, live, strict=True):
                row = rows[number]
                part = frames[number, row.at : min(row.at + _FRAMES, row.length)]
                frames_of_row[: len(part)] = part
            tokens = np.array([row.token for row in batch])
            hidden, cell = np.stack([row.hidden for row in batch], 1), np.stack([row.cell for row in batch], 1)
            logits, hidden, cell = self._network(window, tokens, hidden, cell)
            best = logits[..., : self._blank + 1].argmax(-1)
            lasting = logits[..., self._blank + 1 :]
            jumps = lasting.argmax(-1) if lasting.shape[-1] else None
            for place, row in enumerate(batch):
                if self._advance(row, logits[place], best[place], None if jumps is None else jumps[place]):
                    row.hidden, row.cell = hidden[:, place].copy(), cell[:, place].copy()
            live = [number for number in live if rows[number].at < rows[number].length]
        return [row.found for row in rows], [row.state() for row in rows]

    def _advance(self, row: _Row, logits: np.ndarray, best: np.ndarray, jumps: np.ndarray | None) -> bool:
        """Pass blanks up to the row's next token, and take that token. Returns whether there is one in the window."""
        at, end = 0, min(_FRAMES, row.length - row.at)
        while at < end:
            token = int(best[at])
            jump = 0 if jumps is None else int(jumps[at])
            if token == self._blank:
                at += max(1, jump)
                row.symbols = 0
                continue
            scores = logits[at, : self._blank + 1]
            if row.tree is not None:  # where a token wins, boosting chooses which
                bonuses = row.tree.bonuses(row.node)
                token = int(bonuses.added_to(scores[:-1]).argmax())
                row.node = bonuses.next.get(token, BoostingTree.ROOT)
            row.add(token, row.at + at, 1 if jumps is None else jump, _probability(scores, token))
            row.symbols += 1
            if jump or row.symbols >= self._most_symbols:
                row.symbols = 0
                at += max(1, jump)
            row.at += at
            return True
        row.at += at
        return False


class CtcDecoder:
    """CTC: a token is a run of frames with the same best output. `frames` holds log-probabilities [B, T, pieces + blank]."""

    def __init__(self, export: Export) -> None:
        self._blank = export.blank
        nothing = np.zeros((0, 0), np.float32)
        self._start = RowState(self._blank, nothing, nothing)

    def decode(
        self,
        frames: np.ndarray,
        lengths: np.ndarray,
        states: Sequence[RowState | None],
        trees: Sequence[BoostingTree | None],
    ) -> tuple[list[Tokens], list[RowState]]:
        """Return the tokens of each row, with frames counted from the row's first call, and the states after them."""
        rows = [_Row(state or self._start, int(n), tree) for state, n, tree in zip(states, lengths, trees, strict=True)]
        best = frames.argmax(-1)
        for row, outputs, tokens in zip(rows, frames, best, strict=True):
            for at in range(row.length):
                token, last = int(tokens[at]), row.token
                row.token = token
                if token == self._blank:
                    continue
                if token == last and row.found.ids:
                    row.found.durations[-1] += 1
                elif token != last:
                    row.add(token, at, 1, min(1.0, float(np.exp(outputs[at, token]))))
            row.at = row.length
        return [row.found for row in rows], [row.state() for row in rows]


class _Row:
    """A row while it is decoded. `at` counts frames from the start of this call."""

    def __init__(self, state: RowState, length: int, tree: BoostingTree | None) -> None:
        self.before, self.length, self.tree = state.frames, length, tree
        self.token, self.hidden, self.cell = state.token, state.hidden, state.cell
        self.at, self.symbols, self.node = state.jumped, state.symbols, state.node
        self.found = Tokens()

    def add(self, token: int, at: int, duration: int, probability: float) -> None:
        self.token = token
        self.found.ids.append(token)
        self.found.frames.append(self.before + at)
        self.found.durations.append(duration)
        self.found.probabilities.append(probability)

    def state(self) -> RowState:
        return RowState(
            self.token,
            self.hidden,
            self.cell,
            self.at - self.length,
            self.before + self.length,
            self.symbols,
            self.node,
        )


def _probability(scores: np.ndarray, token: int) -> float:
    exponentials = np.exp(scores - scores.max())
    return float(exponentials[token] / exponentials.sum())


def _joined(session: Any) -> Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return a call of onnx-asr's `decoder_joint-model`."""
    outputs = ["outputs", "output_states_1", "output_states_2"]

    def run(
        frames: np.ndarray, tokens: np.ndarray, hidden: np.ndarray, cell: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        logits, hidden, cell = session.run(
            outputs,
            {
                "encoder_outputs": np.ascontiguousarray(frames.transpose(0, 2, 1)),
                "targets": tokens.astype(np.int32)[:, None],
                "target_length": np.ones(len(tokens), np.int32),
                "input_states_1": hidden,
                "input_states_2": cell,
            },
        )
        return logits[:, :, 0], hidden, cell

    return run


def _separate(decoder: Any, joiner: Any) -> Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return a call of sherpa-onnx's `decoder` and `joiner`. The decoder's names are accidents of its export."""
    targets, lengths, first, second = (value.name for value in decoder.get_inputs())
    encoded, predicted = (value.name for value in joiner.get_inputs())

    def run(
        frames: np.ndarray, tokens: np.ndarray, hidden: np.ndarray, cell: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        told = {targets: tokens.astype(np.int32)[:, None], lengths: np.ones(len(tokens), np.int32)}
        prediction, _, hidden, cell = decoder.run(None, {**told, first: hidden, second: cell})
        (logits,) = joiner.run(None, {encoded: np.ascontiguousarray(frames.transpose(0, 2, 1)), predicted: prediction})
        return logits[:, :, 0], hidden, cell

    return run
