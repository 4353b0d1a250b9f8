"""Decoding in CUDA graphs, with a stand-in for NeMo's decoder that pretends to use them: its batches, and its failures."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from structlog.testing import capture_logs
from tiny import Sentence, decode, final, text

from myna.inference.engines.parakeet.decoding import MOST_IN_GRAPHS
from myna.inference.engines.parakeet.engine import ParakeetEngine


class GraphDecoder:
    """NeMo's decoder on the CPU. It says that it uses graphs, and fails as often as it is told while it does."""

    def __init__(self, computer: Any, *failures: Exception) -> None:
        self._computer = computer
        self._failures = list(failures)
        self.cuda_graphs_mode: str | None = "full_graph"
        self.rows: list[int] = []

    def __call__(self, **inputs: Any) -> Any:
        self.rows.append(len(inputs["x"]))
        if self.cuda_graphs_mode and self._failures:
            raise self._failures.pop(0)
        return self._computer(**inputs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._computer, name)

    def disable_cuda_graphs(self) -> None:
        self.cuda_graphs_mode = None


def in_graphs(engine: ParakeetEngine, *failures: Exception) -> GraphDecoder:
    decoder = engine._model._decoder
    decoder._cuda_graphs = True
    decoder._plain = GraphDecoder(decoder._plain, *failures)
    return decoder._plain


def test_a_batch_that_graphs_do_not_take_is_decoded_in_parts(tiny: ParakeetEngine, sentences: list[Sentence]) -> None:
    jobs = [final(s.pcm[:24_000], str(n)) for n, s in enumerate([*sentences, *sentences[:30]])]
    expected = [text(outcome) for outcome in tiny.transcribe(jobs)]
    graphs = in_graphs(tiny)
    assert [text(outcome) for outcome in tiny.transcribe(jobs)] == expected
    assert graphs.rows
    assert max(graphs.rows) <= MOST_IN_GRAPHS
    assert sum(graphs.rows) == 70


def test_a_failure_in_graphs_is_repeated_without_them_and_logged_once(
    tiny: ParakeetEngine, sentences: list[Sentence]
) -> None:
    audio = [s.pcm for s in sentences[:8]]
    expected = [text(outcome) for outcome in decode(tiny, audio)]
    graphs = in_graphs(tiny, RuntimeError("cannot capture"), RuntimeError("never reached"))
    with capture_logs() as logged:
        for _ in range(2):
            assert [text(outcome) for outcome in decode(tiny, audio)] == expected
    assert graphs.rows == [8, 8, 8]
    (entry,) = logged
    assert (entry["log_level"], entry["reason"]) == ("warning", "cannot capture")
    assert "cuda_graphs = false" in entry["event"]


def test_lack_of_memory_in_graphs_halves_the_batch_and_keeps_the_graphs(
    tiny: ParakeetEngine, sentences: list[Sentence]
) -> None:
    graphs = in_graphs(tiny, torch.OutOfMemoryError("CUDA out of memory"))
    assert all(text(outcome) for outcome in decode(tiny, [s.pcm for s in sentences[:8]]))
    assert graphs.rows == [8, 4, 4]
    assert graphs.cuda_graphs_mode


def test_a_lost_device_ends_the_worker(tiny: ParakeetEngine, sentences: list[Sentence]) -> None:
    in_graphs(tiny, torch.AcceleratorError("CUDA error: an illegal memory access was encountered"))
    with pytest.raises(SystemExit):
        tiny.transcribe([final(sentences[0].pcm)])


def test_a_failure_without_graphs_is_not_repeated(tiny: ParakeetEngine, sentences: list[Sentence]) -> None:
    graphs = in_graphs(tiny, RuntimeError("first"))
    tiny.transcribe([final(sentences[0].pcm)])
    graphs._computer = Broken()
    with pytest.raises(RuntimeError, match="broken"):
        tiny.transcribe([final(sentences[0].pcm)])


class Broken:
    def __call__(self, **_: Any) -> Any:
        raise RuntimeError("broken")
