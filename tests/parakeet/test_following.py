"""Utterances followed step by step: compared with the offline pass, in batches, long, dropped, released."""

from __future__ import annotations

import jiwer
import numpy as np
import pytest
from tiny import STEP, TINY_STREAMING, Sentence, final, follow, joined, plain, step, text

from myna.inference.engines.parakeet.engine import ParakeetEngine
from myna.inference.engines.port import ModelOptions
from myna.inference.engines.transducer.windows import LEFT, RIGHT, WHOLE
from myna.streaming.session.jobs import InferenceJob, JobKind, Missing, Transcript


def test_the_last_step_of_a_short_utterance_equals_the_offline_pass(
    engine: ParakeetEngine, sentences: list[Sentence]
) -> None:
    for sentence in sentences[:10]:
        padded = np.concatenate(
            [sentence.pcm, np.zeros(16_000, np.int16)]
        )  # a cache-aware encoder needs complete chunks
        whole = text(engine.transcribe([final(padded)])[0])
        assert text(follow(engine, "s", padded)[-1]) == whole


def test_steps_of_a_cache_aware_encoder_equal_the_offline_pass_so_far(sentences: list[Sentence]) -> None:
    engine = ParakeetEngine(ModelOptions(source=str(TINY_STREAMING)))
    pcm, _ = joined(sentences, 20)
    offline = engine.transcribe([final(pcm)])[0]
    assert isinstance(offline, Transcript)
    for outcome in follow(engine, "s", pcm):
        assert isinstance(outcome, Transcript)
        settled = outcome.words[:-1]  # the last word may still be spoken
        assert [(w.text, w.start) for w in settled] == [(w.text, w.start) for w in offline.words[: len(settled)]]


@pytest.mark.parametrize("size", [STEP, 4_000, 30_000])
def test_the_last_transcript_does_not_depend_on_the_size_of_the_steps(
    engine: ParakeetEngine, sentences: list[Sentence], size: int
) -> None:
    padded = np.concatenate([sentences[1].pcm, np.zeros(16_000, np.int16)])
    assert text(follow(engine, "s", padded, size)[-1]) == text(follow(engine, "s", padded, len(padded))[-1])


def test_speech_longer_than_any_window_without_a_pause_is_recognised(
    engine: ParakeetEngine, sentences: list[Sentence]
) -> None:
    pcm, spoken = joined(sentences, 36)
    assert len(pcm) > WHOLE + LEFT + RIGHT
    heard = follow(engine, "s", pcm)
    assert jiwer.wer(plain(spoken), plain(text(heard[-1]))) <= 0.15
    starts = [word.start for word in heard[-1].words]  # type: ignore[union-attr]
    assert starts == sorted(starts)
    assert starts[-1] > len(pcm) / 16_000 - 3


@pytest.fixture(autouse=True)
def nothing_followed(engine: ParakeetEngine) -> None:
    """Release the utterance of a test that failed."""
    for source in ("s", "t", "alone"):
        engine.release(source)


def test_long_speech_keeps_only_the_audio_that_a_window_needs(engine: ParakeetEngine) -> None:
    second = np.zeros(16_000, np.int16)
    for number in range(120):
        engine.transcribe(
            [InferenceJob(str(number), "s", JobKind.INTERIM, second.tobytes(), 0.0, utterance=1, held=16_000 * number)]
        )
    assert 0 < engine._follower.audio_held <= WHOLE + LEFT + RIGHT
    engine.release("s")
    assert not len(engine._follower)


def test_streams_of_different_lengths_in_one_step_get_the_same_words_as_alone(
    engine: ParakeetEngine, sentences: list[Sentence]
) -> None:
    speech = [joined(sentences[n:], length)[0] for n, length in enumerate([2, 30, 5, 14, 3, 20])]
    alone = [follow(engine, "alone", pcm, 16_000) for pcm in speech]
    for number in range(max(map(len, alone))):
        going = [n for n, pcm in enumerate(speech) if number * 16_000 < len(pcm)]
        jobs = [step(f"s{n}", speech[n], number * 16_000, (number + 1) * 16_000) for n in going]
        for n, outcome in zip(going, engine.transcribe(jobs), strict=True):
            assert text(outcome) == text(alone[n][number])
    for n in range(len(speech)):
        engine.release(f"s{n}")


def test_audio_sent_twice_is_decoded_once(engine: ParakeetEngine, sentences: list[Sentence]) -> None:
    pcm = sentences[2].pcm
    engine.transcribe([step("s", pcm, 0, 20_000)])
    again = engine.transcribe([step("s", pcm, 5_000, len(pcm))])[0]
    assert text(again) == text(follow(engine, "t", pcm, len(pcm))[-1])
    engine.release("s")


def test_the_follower_asks_for_audio_that_it_does_not_hold(engine: ParakeetEngine, sentences: list[Sentence]) -> None:
    pcm = sentences[3].pcm
    assert engine.transcribe([step("s", pcm, 8_000, 16_000)]) == [Missing(0)]
    engine.transcribe([step("s", pcm, 0, 4_000)])
    assert engine.transcribe([step("s", pcm, 8_000, 16_000)]) == [Missing(4_000)]
    assert engine.transcribe([step("s", pcm, 8_000, 16_000, utterance=2)]) == [Missing(0)]
    engine.release("s")


def test_an_interim_of_too_little_audio_has_no_words(engine: ParakeetEngine, sentences: list[Sentence]) -> None:
    assert text(engine.transcribe([step("s", sentences[0].pcm, 0, 10)])[0]) == ""
    engine.release("s")
