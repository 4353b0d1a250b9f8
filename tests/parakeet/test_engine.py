"""The engine compared with NeMo's own `transcribe`, its batches, and errors within a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jiwer
import numpy as np
import pytest
import torch
from tiny import Reference, Sentence, decode, final, plain, spaced, text

from myna.inference.engines.parakeet import decoding
from myna.inference.engines.parakeet.engine import ParakeetEngine
from myna.inference.engines.port import ModelOptions
from myna.streaming.policy import Options
from myna.streaming.session.jobs import InferenceJob, JobError, JobKind, Transcript

FRAME_S = 0.08


def test_held_out_sentences_are_recognised(engine: ParakeetEngine, sentences: list[Sentence]) -> None:
    heard = [plain(text(outcome)) for outcome in decode(engine, [s.pcm for s in sentences])]
    assert jiwer.wer([plain(s.text) for s in sentences], heard) <= 0.05


def test_the_words_are_those_of_nemos_transcribe(
    engine: ParakeetEngine, reference: Reference, sentences: list[Sentence]
) -> None:
    audio = [s.pcm for s in sentences]
    ours = [text(outcome) for outcome in decode(engine, audio)]
    theirs = [spaced(hypothesis.text) for hypothesis in reference.transcribe(audio)]
    assert sum(a == b for a, b in zip(ours, theirs, strict=True)) >= 0.99 * len(audio)


def test_words_start_and_end_within_a_frame_of_nemos_timestamps(
    engine: ParakeetEngine, reference: Reference, sentences: list[Sentence]
) -> None:
    audio = [s.pcm for s in sentences]
    for ours, theirs in zip(decode(engine, audio), reference.transcribe(audio, timestamps=True), strict=True):
        assert isinstance(ours, Transcript)
        stamps = theirs.timestamp["word"]
        assert [word.text for word in ours.words] == [stamp["word"] for stamp in stamps]
        for word, stamp in zip(ours.words, stamps, strict=True):
            assert abs(word.start - stamp["start"]) <= FRAME_S + 1e-6
            assert abs(word.end - stamp["end"]) <= FRAME_S + 1e-6


def test_a_result_does_not_depend_on_its_neighbours(engine: ParakeetEngine, sentences: list[Sentence]) -> None:
    audio = [s.pcm for s in sentences]
    for together, pcm in zip(decode(engine, audio), audio, strict=True):
        (alone,) = engine.transcribe([final(pcm)])
        assert isinstance(together, Transcript)
        assert isinstance(alone, Transcript)
        assert [(w.text, w.start, w.end) for w in together.words] == [(w.text, w.start, w.end) for w in alone.words]


def test_words_have_a_bare_and_a_written_form_ordered_times_and_a_confidence(
    engine: ParakeetEngine, sentences: list[Sentence]
) -> None:
    for outcome, sentence in zip(decode(engine, [s.pcm for s in sentences]), sentences, strict=True):
        assert isinstance(outcome, Transcript)
        assert outcome.log_probability < 0
        last = 0.0
        for word in outcome.words:
            assert last <= word.start <= word.end <= len(sentence.pcm) / 16_000 + FRAME_S
            assert 0 < word.confidence <= 1
            assert word.bare == word.text.strip(".,?").lower()
            last = word.start


def test_silence_and_noise_give_no_words(engine: ParakeetEngine) -> None:
    noise = (np.random.default_rng(1).standard_normal(48_000) * 60).astype(np.int16)
    assert [text(o) for o in decode(engine, [np.zeros(48_000, np.int16), noise])] == ["", ""]


@pytest.mark.parametrize("samples", [0, 1, 100, 1600])
def test_audio_too_short_for_a_word_gives_none(engine: ParakeetEngine, samples: int) -> None:
    assert text(engine.transcribe([final(np.zeros(samples, np.int16))])[0]) == ""


def test_an_utterance_longer_than_the_models_limit_fails_alone(
    engine: ParakeetEngine, sentences: list[Sentence]
) -> None:
    too_long = final(np.zeros(int((engine.info.longest_segment_s + 1) * 16_000), np.int16), "long")
    good, bad = engine.transcribe([final(sentences[0].pcm), too_long])
    assert isinstance(bad, JobError)
    assert "41.0 s" in bad.reason
    assert "40.0 s" in bad.reason
    assert text(good)


class SmallDevice:
    """A device that runs out of memory above a number of samples of padded audio, and counts these events."""

    def __init__(self, encode: Callable[[Any], Any], most: int) -> None:
        self._encode, self._most = encode, most
        self.failures = 0

    def __call__(self, audio: list[np.ndarray]) -> Any:
        if len(audio) * max(len(samples) for samples in audio) > self._most:
            self.failures += 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self._encode(audio)


def test_a_batch_too_large_for_memory_is_split_and_the_limit_is_kept(
    tiny: ParakeetEngine, sentences: list[Sentence], monkeypatch: pytest.MonkeyPatch
) -> None:
    audio = [s.pcm[:32_000] for s in sentences[:16]]
    expected = decode(tiny, audio)
    device = SmallDevice(tiny._model.encode, most=5 * 32_000)
    monkeypatch.setattr(tiny._model, "encode", device)
    assert [text(outcome) for outcome in decode(tiny, audio)] == [text(outcome) for outcome in expected]
    assert 0 < device.failures <= 3
    known = device.failures
    assert [text(outcome) for outcome in decode(tiny, audio)] == [text(outcome) for outcome in expected]
    assert device.failures == known


def test_one_utterance_too_large_for_memory_fails_and_the_others_do_not(
    tiny: ParakeetEngine, sentences: list[Sentence], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny._model, "encode", SmallDevice(tiny._model.encode, most=100_000))
    outcomes = tiny.transcribe([final(sentences[0].pcm), final(np.zeros(200_000, np.int16), "big")])
    assert text(outcomes[0])
    assert isinstance(outcomes[1], JobError)
    assert "12.5 s" in outcomes[1].reason
    follow = [
        InferenceJob(str(n), f"s{n}", JobKind.INTERIM, s.pcm.tobytes(), 0.0, utterance=1)
        for n, s in enumerate(sentences[:4])
    ]
    assert all(text(outcome) for outcome in tiny.transcribe(follow))


def test_keyterms_bring_out_words_that_training_did_not_contain(
    engine: ParakeetEngine, unseen: dict[str, np.ndarray]
) -> None:
    bare = engine.transcribe([final(pcm, word) for word, pcm in unseen.items()])
    boosted = engine.transcribe([final(pcm, word, (word, "Myna")) for word, pcm in unseen.items()])
    assert not any(word in text(outcome) for word, outcome in zip(unseen, bare, strict=True))
    assert any(word in text(outcome) for word, outcome in zip(unseen, boosted, strict=True))


def test_keyterms_affect_only_their_stream(
    engine: ParakeetEngine, unseen: dict[str, np.ndarray], boosted_word: str, sentences: list[Sentence]
) -> None:
    speech = [unseen[boosted_word], unseen[boosted_word], sentences[0].pcm, sentences[1].pcm]
    terms: list[tuple[str, ...]] = [(), (boosted_word,), ("Friday",), ()]
    jobs = [final(pcm, str(n), some) for n, (pcm, some) in enumerate(zip(speech, terms, strict=True))]
    together = [text(outcome) for outcome in engine.transcribe(jobs)]
    assert together == [text(engine.transcribe([job])[0]) for job in jobs]
    assert [boosted_word in heard for heard in together] == [False, True, False, False]


def test_boosting_absent_words_costs_little(engine: ParakeetEngine, sentences: list[Sentence]) -> None:
    terms = (
        "Roberta",
        "Marianna",
        "stationary",
        "boot",
        "Peterson",
        "Annabel",
        "Myna",
        "carpet",
        "lampshade",
        "Emmanuel",
    )
    heard = [plain(text(engine.transcribe([final(s.pcm, "f", terms)])[0])) for s in sentences]
    assert jiwer.wer([plain(s.text) for s in sentences], heard) <= 0.06


def test_keyterms_apply_while_an_utterance_is_followed(
    engine: ParakeetEngine, unseen: dict[str, np.ndarray], boosted_word: str
) -> None:
    pcm = np.concatenate([unseen[boosted_word], np.zeros(16_000, np.int16)])
    told = []
    for terms in ((), (boosted_word,)):
        options = Options(keyterms=terms)
        for held, end in ((0, 20_000), (20_000, len(pcm))):
            part = pcm[held:end].tobytes()
            job = InferenceJob("i", str(terms), JobKind.INTERIM, part, 0.0, options=options, utterance=1, held=held)
            (last,) = engine.transcribe([job])
        engine.release(str(terms))
        told.append(boosted_word in text(last))
    assert told == [False, True]


def test_more_sets_of_keyterms_than_the_limit_all_take_effect(
    engine: ParakeetEngine, unseen: dict[str, np.ndarray], boosted_word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "_MOST_BOOSTS", 2)
    for number in range(6):
        (outcome,) = engine.transcribe([final(unseen[boosted_word], "f", (boosted_word, f"word {number}"))])
        assert boosted_word in text(outcome)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_reduced_precision_keeps_the_words(
    precision: str, path: Any, sentences: list[Sentence], engine: ParakeetEngine
) -> None:
    reduced = ParakeetEngine(ModelOptions(source=str(path), precision=precision))
    audio = [s.pcm for s in sentences]
    same = sum(text(a) == text(b) for a, b in zip(decode(reduced, audio), decode(engine, audio), strict=True))
    assert same >= (len(audio) if precision == "fp32" else 0.9 * len(audio))
