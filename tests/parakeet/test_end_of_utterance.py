"""A model that marks the end of an utterance: the small cache-aware one, whose full stop is made such a mark."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sentencepiece import sentencepiece_model_pb2
from tiny import TINY_STREAMING, Sentence, contents, decode, final, step, write

from myna.inference.engines.parakeet.engine import ParakeetEngine
from myna.inference.engines.port import ModelOptions
from myna.streaming.session.jobs import JobKind, Transcript


@pytest.fixture(scope="module")
def marking(tmp_path_factory: pytest.TempPathFactory) -> ParakeetEngine:
    """Return an engine whose model writes `<EOU>` where the original writes a full stop."""
    files = contents(TINY_STREAMING)
    for name, content in files.items():
        if name.endswith("tokenizer.model"):
            pieces = sentencepiece_model_pb2.ModelProto.FromString(content)
            (stop,) = (piece for piece in pieces.pieces if piece.piece == ".")
            stop.piece, stop.type = "<EOU>", stop.USER_DEFINED
            files[name] = pieces.SerializeToString()
    path: Path = write(tmp_path_factory.mktemp("model") / "marking.nemo", files)
    return ParakeetEngine(ModelOptions(source=str(path)))


def test_the_mark_becomes_the_end_of_the_utterance(marking: ParakeetEngine, sentences: list[Sentence]) -> None:
    told = 0
    for outcome, sentence in zip(decode(marking, [s.pcm for s in sentences]), sentences, strict=True):
        assert isinstance(outcome, Transcript)
        assert not any("<" in word.text or "." in word.text for word in outcome.words)
        if outcome.end_of_utterance_s is not None:
            told += 1
            assert sentence.text.endswith(".")
            assert outcome.words[-1].start < outcome.end_of_utterance_s <= len(sentence.pcm) / 16_000 + 0.08
    assert told >= 0.8 * sum(sentence.text.endswith(".") for sentence in sentences)


def test_the_end_is_told_in_a_flushed_final_and_not_once_words_follow(
    marking: ParakeetEngine, sentences: list[Sentence]
) -> None:
    statement = next(s.pcm for s in sentences if s.text.endswith("."))
    pcm = np.concatenate([statement, sentences[1].pcm])
    (offline,) = marking.transcribe([final(statement)])
    (first,) = marking.transcribe([replace(step("s", pcm, 0, len(statement)), kind=JobKind.FINAL)])
    halfway = len(statement) + len(sentences[1].pcm) // 2
    (second,) = marking.transcribe([replace(step("s", pcm, len(statement), halfway), kind=JobKind.FINAL)])
    marking.release("s")
    assert isinstance(offline, Transcript)
    assert isinstance(first, Transcript)
    assert isinstance(second, Transcript)
    assert first.end_of_utterance_s == offline.end_of_utterance_s
    assert first.end_of_utterance_s is not None
    assert len(second.words) > len(first.words)
    assert second.end_of_utterance_s is None
