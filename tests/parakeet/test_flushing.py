"""Final steps of a followed utterance: the words of the offline pass, in any batch, without a trace in later steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jiwer
import numpy as np
import pytest
from drive import Drive, SileroVoice
from tiny import TINY_STREAMING, Reference, Sentence, final, joined, plain, step, text, times

from myna.inference.engines.parakeet.engine import ParakeetEngine
from myna.inference.engines.port import ModelOptions
from myna.streaming.policy import Options, Policy
from myna.streaming.session.jobs import InferenceJob, JobKind, Outcome, Transcript
from myna.streaming.session.session import Session


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


def test_two_steps_of_a_channel_in_one_batch_are_decoded_one_after_the_other(
    cache_aware: ParakeetEngine, sentences: list[Sentence]
) -> None:
    pcm = sentences[4].pcm
    half = len(pcm) // 2
    first, second = replace(step("s", pcm, 0, half), kind=JobKind.FINAL), flushed("s", pcm, 4_000)
    together = cache_aware.transcribe([first, second])
    cache_aware.release("s")
    apart = [outcome for job in (first, second) for outcome in cache_aware.transcribe([job])]
    cache_aware.release("s")
    assert together == apart


def test_a_step_that_comes_late_has_the_words_up_to_its_own_end(
    cache_aware: ParakeetEngine, sentences: list[Sentence]
) -> None:
    pcm = sentences[4].pcm
    (whole,) = cache_aware.transcribe([flushed("s", pcm, 0)])
    (late,) = cache_aware.transcribe([replace(step("s", pcm, 0, 20_000), kind=JobKind.FINAL)])
    cache_aware.release("s")
    expected = [word for word in times(whole) if word[1] <= 20_000 / 16_000]
    assert times(late) == expected
    assert 0 < len(expected) < len(times(whole))


def test_a_step_covers_the_utterance_from_the_sample_that_it_names(
    cache_aware: ParakeetEngine, sentences: list[Sentence]
) -> None:
    pcm, _ = joined(sentences, 12)
    whole = cache_aware.transcribe([flushed("s", pcm, 0)])[0]
    part = cache_aware.transcribe([replace(flushed("s", pcm, 0), since=80_000)])[0]
    cache_aware.release("s")
    assert times(part) == [
        (word, pytest.approx(start - 5), pytest.approx(end - 5)) for word, start, end in times(whole) if start >= 5
    ]
    assert isinstance(part, Transcript)
    assert isinstance(whole, Transcript)
    assert part.log_probability != whole.log_probability


class Recorded:
    """An engine that notes each step's outcome with the audio of its utterance, and what its encoder takes."""

    def __init__(self, engine: ParakeetEngine, *, flushed_finals: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        self.info = replace(engine.info, flushed_finals=flushed_finals)
        self.finals: list[tuple[np.ndarray, Outcome]] = []
        self.frames = 0
        """Encoder frames computed."""
        self._engine = engine
        self._utterances: dict[int, bytes] = {}
        model = engine._model
        monkeypatch.setattr(model, "_encoded", partial(self._count, model._encoded))

    def warm_up(self) -> None:
        self._engine.warm_up()

    def release(self, source: str) -> None:
        self._engine.release(source)

    def transcribe(self, jobs: Sequence[InferenceJob]) -> list[Outcome]:
        (job,) = jobs
        (outcome,) = self._engine.transcribe([job])
        if job.utterance:
            heard = self._utterances[job.utterance] = self._utterances.get(job.utterance, b"")[: 2 * job.held] + job.pcm
            if job.kind is JobKind.FINAL:
                self.finals.append((np.frombuffer(heard, np.int16), outcome))
        return [outcome]

    def _count(self, encoded: Callable[..., Any], *output: Any) -> Any:
        batch = encoded(*output)
        self.frames += sum(batch.counts())
        return batch


def converse(engine: Recorded, pcm: np.ndarray) -> Drive:
    drive = Drive(Session("s/0", Policy(), Options(), engine.info), engine, SileroVoice())
    drive.push(pcm)
    drive.end()
    engine.release("s/0")
    return drive


@pytest.fixture(scope="module")
def conversation(sentences: list[Sentence]) -> np.ndarray:
    """Return 40 sentences with pauses of 0.7 s between them."""
    return np.concatenate([part for s in sentences for part in (s.pcm, np.zeros(11_200, np.int16))])


def test_every_final_of_a_live_stream_has_the_words_of_nemos_offline_pass_over_its_utterance(
    cache_aware: ParakeetEngine, conversation: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Recorded(cache_aware, flushed_finals=True, monkeypatch=monkeypatch)
    converse(engine, conversation)
    assert len(engine.finals) >= 40
    theirs = Reference(TINY_STREAMING).transcribe([pcm for pcm, _ in engine.finals])
    compared = 0
    for (_, outcome), hypothesis in zip(engine.finals, theirs, strict=True):
        ours = text(outcome).split()
        compared += len(ours)
        assert not ours or hypothesis.text.split()[-len(ours) :] == ours
    assert compared > 250


def test_each_second_of_speech_is_encoded_about_once(
    cache_aware: ParakeetEngine, sentences: list[Sentence], conversation: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoken = " ".join(sentence.text for sentence in sentences)
    ratios, errors = [], []
    for flushed_finals in (True, False):
        with monkeypatch.context() as patch:
            engine = Recorded(cache_aware, flushed_finals=flushed_finals, monkeypatch=patch)
            heard = " ".join(converse(engine, conversation).text)
        ratios.append(engine.frames * 1280 / len(conversation))
        errors.append(jiwer.wer(plain(spoken), plain(heard)))
    print(f"encoded seconds per second: {ratios}; WER: {errors}")
    assert ratios[0] < 1.2
    assert ratios[0] < 0.5 * ratios[1]
    assert errors[0] <= errors[1] + 0.005
