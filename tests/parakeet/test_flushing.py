"""Final steps of a followed utterance: the words of the offline pass, in any batch, without a trace in later steps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tiny import TINY_STREAMING, Sentence, final, joined, step, text, times

from myna.inference.engines.parakeet.engine import ParakeetEngine
from myna.inference.engines.port import ModelOptions
from myna.streaming.session.jobs import InferenceJob, JobKind


@pytest.fixture(scope="module")
def cache_aware() -> ParakeetEngine:
    return ParakeetEngine(ModelOptions(source=str(TINY_STREAMING)))


def flushed(source: str, pcm: np.ndarray, held: int, utterance: int = 1) -> InferenceJob:
    return replace(step(source, pcm, held, len(pcm), utterance), kind=JobKind.FINAL)


def test_a_flushed_final_of_a_cache_aware_encoder_is_the_offline_pass(
    cache_aware: ParakeetEngine, sentences: list[Sentence]
) -> None:
    audio = [sentence.pcm for sentence in sentences]
    offline = [cache_aware.transcribe([final(pcm)])[0] for pcm in audio]
    alone = []
    for pcm in audio:
        cache_aware.transcribe([step("s", pcm, 0, len(pcm) // 2)])
        alone += cache_aware.transcribe([flushed("s", pcm, len(pcm) // 2)])
        cache_aware.release("s")
    assert sum(text(a) == text(b) for a, b in zip(alone, offline, strict=True)) == 40
    assert [times(outcome) for outcome in alone] == [times(outcome) for outcome in offline]


def test_a_flushed_final_does_not_depend_on_its_batch(cache_aware: ParakeetEngine, sentences: list[Sentence]) -> None:
    audio = [sentence.pcm[: 4_000 * (n + 1)] for n, sentence in enumerate(sentences[:16])]
    jobs = [flushed(f"s{n}", pcm, 0) for n, pcm in enumerate(audio)]
    together = cache_aware.transcribe(jobs)
    for n, job in enumerate(jobs):
        cache_aware.release(f"s{n}")
        (alone,) = cache_aware.transcribe([job])
        assert times(alone) == times(together[n])
        cache_aware.release(f"s{n}")


def test_an_utterance_goes_on_after_a_flush_as_if_there_had_been_none(
    cache_aware: ParakeetEngine, sentences: list[Sentence]
) -> None:
    pcm, _ = joined(sentences, 15)
    expected = cache_aware.transcribe([flushed("s", pcm, 0)])[0]
    cache_aware.release("s")
    for held, end in [(0, 10_000), (10_000, 47_123), (47_123, 47_200), (47_200, 130_000)]:
        cache_aware.transcribe([replace(step("s", pcm, held, end), kind=JobKind.FINAL)])
    (last,) = cache_aware.transcribe([flushed("s", pcm, 130_000)])
    cache_aware.release("s")
    assert times(last) == times(expected)
