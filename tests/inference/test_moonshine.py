"""The default engine on real recordings: words, times, confidences, and silence without words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import jiwer
import numpy as np
import onnxruntime
import pytest
from drive import Drive, SileroVoice, assert_tiles
from sounds import BECKETT, RATE, in_noise, recording

from myna.bench.accuracy import normalised
from myna.inference.engines.moonshine.decoding import BEGIN, END
from myna.inference.engines.moonshine.encoder_graph import LAYERS, SCALE
from myna.inference.engines.moonshine.engine import FRAME, PADDING, MoonshineEngine, align, installed_weights
from myna.streaming.errors import EngineUnavailableError
from myna.streaming.events import Interim, Repeated
from myna.streaming.policy import Options, Policy
from myna.streaming.session.jobs import InferenceJob, JobError, JobKind, Outcome, Transcript
from myna.streaming.session.session import Session

FILE = Policy(live=False, endpoint_ms=None, interim_every_s=None, lead_s=1.0)


@pytest.fixture(scope="module")
def engine() -> MoonshineEngine:
    return MoonshineEngine()


def transcribe(engine: MoonshineEngine, pcm: np.ndarray, *keyterms: str, draft: tuple[int, ...] = ()) -> Transcript:
    options, audio = Options(keyterms=keyterms), pcm.astype(np.int16).tobytes()
    (outcome,) = engine.transcribe([InferenceJob("1", "1", JobKind.FINAL, audio, 0.0, options=options, draft=draft)])
    assert isinstance(outcome, Transcript)
    return outcome


def session(engine: MoonshineEngine, policy: Policy | None = None) -> Drive:
    return Drive(Session("s/0", policy or Policy(), Options(), engine.info), engine, SileroVoice())


def test_speech_becomes_words(engine: MoonshineEngine) -> None:
    transcript = transcribe(engine, recording("beckett"))
    text = normalised(" ".join(word.text for word in transcript.words))
    assert jiwer.wer("ever tried ever failed no matter try again fail again fail better", text) <= 0.1
    assert transcript.log_probability > -0.5


def test_words_start_where_they_are_spoken(engine: MoonshineEngine) -> None:
    """Silence inserted at a known place delays the words after it by its length, and contains no word."""
    pcm = recording("beckett")
    cut = round(4.75 * RATE)  # between "no matter" and "try again"
    pause_s = 1.0
    moved = np.concatenate([pcm[:cut], np.zeros(round(pause_s * RATE), np.int16), pcm[cut:]])
    before, after = transcribe(engine, pcm).words, transcribe(engine, moved).words
    assert [w.text.lower().strip(".,") for w in before] == [w.text.lower().strip(".,") for w in after]
    shifts = [b.start - a.start for a, b in zip(before, after, strict=True)]
    expected = [0.0 if a.start < cut / RATE else pause_s for a in before]
    assert float(np.median(np.abs(np.subtract(shifts, expected)))) < 0.05
    assert not [w for w in after if cut / RATE + 0.1 < w.start < cut / RATE + pause_s - 0.1]


def shipped(name: str) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(installed_weights() / name), providers=["CPUExecutionProvider"])


def shipped_frames(pcm: np.ndarray) -> np.ndarray:
    """Return the frames of the shipped encoder."""
    audio = np.pad(pcm.astype(np.float32) / 32768.0, PADDING)[None]
    mask = np.ones(audio.shape, np.int64)
    return shipped("encoder_model.ort").run(None, {"input_values": audio, "attention_mask": mask})[0]


def shipped_decoder_inputs(decoder: onnxruntime.InferenceSession, frames: np.ndarray) -> dict[str, np.ndarray]:
    """Return the inputs of the shipped decoder's first step, without tokens."""
    inputs = {
        "encoder_hidden_states": frames,
        "encoder_attention_mask": np.ones((1, frames.shape[1] * FRAME), np.int64),
        "use_cache_branch": np.array([False]),
    }
    for value in decoder.get_inputs():
        if value.name.startswith("past"):
            inputs[value.name] = np.zeros((1, 8, 0 if "decoder" in value.name else frames.shape[1], 36), np.float32)
    return inputs


def test_the_rebuilt_encoder_gives_the_values_of_the_shipped_one_to_the_bit(engine: MoonshineEngine) -> None:
    pcm = recording("two_cities")[: 7 * RATE]
    decoder = shipped("decoder_model_merged.ort")
    inputs = shipped_decoder_inputs(decoder, shipped_frames(pcm)) | {"input_ids": np.array([[BEGIN]], np.int64)}
    heard = engine._heard(np.pad(pcm.astype(np.float32) / 32768.0, PADDING))
    for layer in range(LAYERS):
        names = [f"present.{layer}.encoder.{part}" for part in ("key", "value")]
        key, value = decoder.run(names, inputs)
        scaled = key.transpose(1, 0, 3, 2) * np.float32(SCALE)
        assert (heard[f"cross.{layer}.key"].numpy() == scaled).all()
        assert (heard[f"cross.{layer}.value"].numpy() == value.transpose(1, 0, 2, 3)).all()


def test_the_rebuilt_decoder_predicts_the_same_tokens_as_the_shipped_one(engine: MoonshineEngine) -> None:
    """With teacher forcing, the merged decoder of the wheel predicts the same tokens as the rebuilt graphs."""
    pcm = recording("beckett")[: 5 * RATE]
    decoder = shipped("decoder_model_merged.ort")
    inputs = shipped_decoder_inputs(decoder, shipped_frames(pcm))
    said: list[int] = []
    while len(said) < 40:
        inputs["input_ids"] = np.array([[BEGIN, *said]], np.int64)
        token = int(decoder.run(["logits"], inputs)[0][0, -1].argmax())
        if token == END:
            break
        said.append(token)
    assert tuple(said) == transcribe(engine, pcm).tokens


@pytest.mark.parametrize("keyterms", [(), ("heartily", "Kowalczyk")])
@pytest.mark.parametrize(("name", "end_s"), [("two_cities", 15), ("beckett", 9), ("endgame_nagg_nell", 8)])
def test_a_draft_changes_no_transcript(
    engine: MoonshineEngine, name: str, end_s: int, keyterms: tuple[str, ...]
) -> None:
    """Whether it is right, wrong at its start, in the middle or at its end, in another order, or of another recording."""
    pcm = recording(name)[: end_s * RATE]
    if keyterms:
        pcm = in_noise(pcm, 8)
    without = transcribe(engine, pcm, *keyterms)
    tokens = without.tokens
    other = transcribe(engine, recording("two_cities")[20 * RATE : 28 * RATE]).tokens
    assert len(tokens) > 10
    drafts = [tokens, tokens[:7], tokens[5:], (*tokens[:6], 500, *tokens[6:]), tokens[::-1], tokens[::2], other]
    drafts += [tokens + tokens, (*tokens, END, END), (BEGIN,) * 20, other[-4:] + tokens]
    for draft in drafts:
        assert transcribe(engine, pcm, *keyterms, draft=draft) == without


def test_the_jobs_of_a_stream_have_the_tokens_of_earlier_ones_as_their_draft(engine: MoonshineEngine) -> None:
    told: dict[str, tuple[int, ...]] = {}

    class Noting:
        info = engine.info

        def transcribe(self, jobs: list[InferenceJob]) -> list[Outcome]:
            (outcome,) = engine.transcribe(jobs)
            (alone,) = engine.transcribe([replace(jobs[0], draft=())])
            assert outcome == alone
            assert isinstance(outcome, Transcript)
            told[jobs[0].id] = outcome.tokens
            return [outcome]

    drive = Drive(Session("s/0", Policy(interim_every_s=1.0), Options(), engine.info), Noting(), SileroVoice())
    drive.push(recording("beckett")[: 8 * RATE])
    drive.end()
    assert len(drive.decoded) > 6
    assert drive.decoded[0].draft == ()
    for earlier, job in pairwise(drive.decoded):
        assert job.draft[: len(told[earlier.id])] == told[earlier.id]


def test_a_result_does_not_depend_on_the_previous_job(engine: MoonshineEngine) -> None:
    one, other = recording("beckett")[: 4 * RATE], recording("two_cities")[: 4 * RATE]
    alone = transcribe(engine, one)
    transcribe(engine, other)
    assert transcribe(engine, one) == alone


@pytest.mark.parametrize(
    ("name", "start_s", "end_s", "keyterm", "instead"),
    [("endgame_nagg_nell", 0, 8, "heartily", "hotly"), ("two_cities", 8, 18, "incredulity", "incommodity")],
)
def test_a_keyterm_that_is_heard_wrong_without_is_heard_and_the_other_words_stay(
    engine: MoonshineEngine, name: str, start_s: int, end_s: int, keyterm: str, instead: str
) -> None:
    pcm = in_noise(recording(name)[start_s * RATE : end_s * RATE], 8)
    without, given = transcribe(engine, pcm), transcribe(engine, pcm, "Kowalczyk", keyterm, "Szymanski")
    before, after = ([w.text.strip(".,?!").lower() for w in t.words] for t in (without, given))
    assert instead in before
    assert after == [keyterm if word == instead else word for word in before]
    word = given.words[after.index(keyterm)]
    other = without.words[before.index(instead)]
    assert abs(word.start - other.start) <= 0.15
    assert 0 < word.confidence < 1
    assert given.log_probability > -0.5
    assert transcribe(engine, pcm, "Kowalczyk", "Szymanski") == without


def test_probabilities_are_those_of_the_model_without_boosting(engine: MoonshineEngine) -> None:
    audio = np.pad(in_noise(recording("endgame_nagg_nell")[: 8 * RATE], 8).astype(np.float32) / 32768.0, PADDING)
    heard = engine._heard(audio)
    plain = engine._decoder.decode(heard, 40)
    boosted = engine._decoder.decode(heard, 40, engine._terms.choice(("heartily",), budget=40))
    same = [a == b for a, b in zip(plain.tokens, boosted.tokens, strict=False)].index(False)
    assert list(boosted.likeliest[: same + 1]) == list(plain.probabilities[: same + 1])
    assert list(boosted.probabilities[:same]) == list(plain.probabilities[:same])
    assert 0 < boosted.probabilities[same] < boosted.likeliest[same]
    assert (boosted.probabilities <= boosted.likeliest).all()
    assert (plain.probabilities == plain.likeliest).all()


def test_keyterms_that_are_not_said_change_nothing(engine: MoonshineEngine) -> None:
    names = [
        f"{first}{last}"
        for first in ("Nev", "Tri", "Bel", "Fal", "Ag")
        for last in ("erwick", "edowski", "ainsley", "ilan")
    ]
    for name in ("beckett", "two_cities"):
        pcm = recording(name)[: 9 * RATE]
        without = transcribe(engine, pcm)
        assert transcribe(engine, pcm, *names) == without


def test_keyterms_without_letters_or_of_other_scripts_are_taken(engine: MoonshineEngine) -> None:
    pcm = recording("beckett")
    odd = (" ", "’", "♪♪♪", "東京", "Łódź", "\u0301", "▁", "🦜" * 50, "the " * 50, "x" * 200)
    assert transcribe(engine, pcm, *odd).words == transcribe(engine, pcm).words


def test_audio_too_short_for_a_word_gives_none(engine: MoonshineEngine) -> None:
    for length in (0, 1, 1599):
        assert transcribe(engine, np.zeros(length, np.int16)).words == ()


def test_audio_too_long_for_one_decode_fails_alone(engine: MoonshineEngine) -> None:
    long = InferenceJob("1", "1", JobKind.FINAL, bytes(2 * 16 * RATE), 0.0)
    short = InferenceJob("2", "2", JobKind.FINAL, recording("beckett").tobytes(), 0.0)
    failed, done = engine.transcribe([long, short])
    assert isinstance(failed, JobError)
    assert "16.0 s" in failed.reason
    assert isinstance(done, Transcript)


def test_an_error_names_missing_weights(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailableError, match=r"encoder_model\.ort"):
        MoonshineEngine(folder=tmp_path)


def test_alignment_gives_each_token_its_frames() -> None:
    attention = np.full((3, 30), 0.01)
    for token, (start, end) in enumerate([(2, 9), (12, 20), (20, 28)]):
        attention[token, start:end] = 1.0
    assert align(attention) == ([2, 12, 20], [9, 20, 28])


def test_alignment_of_more_tokens_than_frames_spreads_them() -> None:
    starts, ends = align(np.ones((7, 3)))
    assert starts == sorted(starts)
    assert ends[-1] == 3


def chords(seconds: float) -> np.ndarray:
    """A progression in C: four notes with overtones, struck each second."""
    beat = np.arange(RATE) / RATE
    struck = np.minimum(1.0, 20 * beat) * np.exp(-1.5 * beat)
    bars = [(261.6, 329.6, 392.0), (220.0, 261.6, 329.6), (174.6, 220.0, 261.6), (196.0, 246.9, 293.7)]
    sounds = [
        sum(np.sin(2 * np.pi * note * k * beat) / k for note in bar for k in (1, 2, 3, 4)) * struck for bar in bars
    ]
    music = np.concatenate([sounds[second % 4] for second in range(round(seconds))])
    return music / np.abs(music).max() * 16_000


SOUNDS = {
    "digital silence": lambda n: np.zeros(n),
    "white noise": lambda n: np.random.default_rng(0).normal(0, 3000, n),
    "a 440 Hz tone": lambda n: 10_000 * np.sin(2 * np.pi * 440 * np.arange(n) / RATE),
    "a chord progression": lambda n: chords(n / RATE),
}


@pytest.mark.parametrize("sound", SOUNDS)
def test_five_minutes_without_speech_give_no_word(engine: MoonshineEngine, sound: str) -> None:
    drive = session(engine)
    drive.push(SOUNDS[sound](300 * RATE), chunk=16_000)
    drive.end()
    assert drive.text == []
    assert not [event for event in drive.events if isinstance(event, Interim)]


def test_a_minute_of_speech_without_pauses_loses_and_repeats_no_word(engine: MoonshineEngine) -> None:
    """Real speech without its pauses, repeated twice, is cut by length only: each cut falls between adjacent words."""
    pcm = recording("two_cities")
    pcm = pcm[: len(pcm) // 512 * 512]
    spoken = np.repeat(np.array(SileroVoice()(0, pcm.tobytes())) > 0.3, 512)
    fluent = np.concatenate([pcm[spoken], pcm[spoken]])
    assert len(fluent) >= 60 * RATE
    drive = session(engine, Policy(endpoint_ms=None))
    drive.push(np.concatenate([fluent, np.zeros(RATE, np.int16)]))
    drive.end()
    assert_tiles(drive.finals, drive.session.received)
    assert len(drive.finals) >= 6
    measures = jiwer.process_words(normalised(TWO_CITIES + " " + TWO_CITIES), normalised(" ".join(drive.text)))
    assert measures.insertions == 0
    assert measures.deletions == 0
    assert measures.wer <= 0.03


@pytest.mark.parametrize("policy", [Policy(endpoint_ms=100, interim_every_s=None), FILE], ids=["live", "file"])
def test_no_final_over_clear_speech_is_empty(engine: MoonshineEngine, policy: Policy) -> None:
    pcm = np.concatenate([recording("beckett"), np.zeros(round(0.2 * RATE), np.int16), recording("endgame_nagg_nell")])
    pcm = pcm[: len(pcm) // 512 * 512]
    drive = session(engine, policy)
    drive.push(pcm, chunk=8000)
    drive.end()
    speech = np.array(SileroVoice()(0, pcm.tobytes())) > 0.5
    for final in drive.finals:
        spoken_s = 512 / RATE * speech[final.span.start // 512 : final.span.end // 512].sum()
        assert final.words or spoken_s < 0.2
    assert sum(event.unheard_s for event in drive.events if isinstance(event, Repeated)) == 0.0


@pytest.mark.parametrize(("policy", "longest_s"), [(Policy(interim_every_s=None), 3), (FILE, 7)], ids=["live", "file"])
def test_clear_speech_is_heard_although_each_decode_of_more_than_some_seconds_fails_its_gate(
    policy: Policy, longest_s: int
) -> None:
    class Babbling(MoonshineEngine):
        def transcribe(self, jobs: Sequence[InferenceJob]) -> list[Outcome]:
            pairs = zip(jobs, super().transcribe(jobs), strict=True)
            return [
                replace(outcome, log_probability=-2.0)
                if isinstance(outcome, Transcript) and job.length > longest_s * RATE
                else outcome
                for job, outcome in pairs
            ]

    drive = session(Babbling(), policy)
    drive.push(np.concatenate([recording("beckett"), np.zeros(RATE, np.int16)]))
    drive.end()
    assert any(job.length > longest_s * RATE for job in drive.decoded)
    assert jiwer.wer(BECKETT, normalised(" ".join(drive.text))) <= 0.2  # "fail again" without context: "fare again"


TWO_CITIES = """It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of
foolishness, it was the epoch of belief, it was the epoch of incredulity, it was the season of Light, it was the season
of Darkness, it was the spring of hope, it was the winter of despair, we had everything before us, we had nothing before
us, we were all going direct to Heaven, we were all going direct the other way. In short, the period was so far like the
present period, that some of its noisiest authorities insisted on its being received, for good or for evil, in the
superlative degree of comparison only."""
