"""Whisper with real weights: words and times, languages, translation, and sound without words."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import jiwer
import numpy as np
import psutil
import pytest
import wordless
from drive import Drive, SileroVoice, assert_tiles
from faster_whisper import WhisperModel
from sounds import BECKETT, RATE, recording

from myna.bench.accuracy import normalised
from myna.inference.engines.port import ModelOptions
from myna.inference.engines.whisper.engine import WhisperEngine
from myna.streaming.errors import EngineUnavailableError
from myna.streaming.events import Interim
from myna.streaming.policy import Options, Policy
from myna.streaming.session.jobs import InferenceJob, JobError, JobKind, Transcript
from myna.streaming.session.session import Session


def job(pcm: np.ndarray, options: Options, kind: JobKind = JobKind.FINAL) -> InferenceJob:
    return InferenceJob("1", "1", kind, pcm.astype(np.int16).tobytes(), 0.0, options)


def decode(
    engine: WhisperEngine, pcm: np.ndarray, options: Options | None = None, kind: JobKind = JobKind.FINAL
) -> Transcript:
    (outcome,) = engine.transcribe([job(pcm, options or Options(), kind)])
    assert isinstance(outcome, Transcript), outcome
    return outcome


def text(transcript: Transcript) -> str:
    return normalised(" ".join(word.text for word in transcript.words))


def session(engine: WhisperEngine, policy: Policy | None = None, options: Options | None = None) -> Drive:
    return Drive(Session("s/0", policy or Policy(), options or Options(), engine.info), engine, SileroVoice())


def test_speech_becomes_words_with_times_and_confidences(tiny_en: WhisperEngine) -> None:
    pcm = recording("beckett")
    transcript = decode(tiny_en, pcm)
    assert jiwer.wer(BECKETT, text(transcript)) <= 0.1
    assert transcript.log_probability > -0.6
    assert (transcript.language, transcript.language_probability) == ("en", 1.0)
    assert all(0.0 < word.confidence <= 1.0 for word in transcript.words)
    assert all(0.0 <= word.start <= word.end <= len(pcm) / RATE for word in transcript.words)
    assert all(one.start <= other.start for one, other in pairwise(transcript.words))


def test_words_move_with_the_speech(tiny_en: WhisperEngine) -> None:
    """Silence inserted at a known place delays the words after it by its length."""
    pcm = recording("beckett")
    cut = round(4.75 * RATE)  # between "no matter" and "try again"
    moved = np.concatenate([pcm[:cut], np.zeros(RATE, np.int16), pcm[cut:]])
    before, after = decode(tiny_en, pcm).words, decode(tiny_en, moved).words
    assert [word.bare for word in before] == [word.bare for word in after]
    shifts = [b.start - a.start for a, b in zip(before, after, strict=True)]
    expected = [0.0 if a.start < cut / RATE else 1.0 for a in before]
    assert float(np.median(np.abs(np.subtract(shifts, expected)))) < 0.1


def test_a_file_has_the_words_of_faster_whisper_alone(tiny_en: WhisperEngine, tiny_en_folder: Path) -> None:
    alone = WhisperModel(str(tiny_en_folder), device="cpu", compute_type="int8", cpu_threads=1)
    ours, theirs = list[str](), list[str]()
    for name in ("beckett", "two_cities"):
        pcm = recording(name)[: 28 * RATE]
        segments, _ = alone.transcribe(
            pcm.astype(np.float32) / 32768,
            language="en",
            beam_size=5,
            temperature=0.0,
            condition_on_previous_text=False,
        )
        theirs.append(normalised(" ".join(segment.text for segment in segments)))
        ours.append(text(decode(tiny_en, pcm)))
    assert jiwer.wer(theirs, ours) <= 0.06


def test_a_result_does_not_depend_on_the_previous_job(tiny_en: WhisperEngine) -> None:
    one, other = recording("beckett")[: 4 * RATE], recording("two_cities")[: 4 * RATE]
    alone = decode(tiny_en, one)
    decode(tiny_en, other, Options(keyterms=("Dickens",)))
    assert decode(tiny_en, one) == alone


def test_lanes_share_the_weights_and_decode_at_the_same_time_as_each_alone(base_folder: Path) -> None:
    lanes = [WhisperEngine(ModelOptions(source=str(base_folder), threads=1))]
    before = psutil.Process().memory_info().rss
    lanes.append(WhisperEngine(ModelOptions(source=str(base_folder), threads=1)))
    assert psutil.Process().memory_info().rss - before < 20 << 20  # the weights take 75 MB
    parts = [recording("beckett")[: 4 * RATE], recording("two_cities")[: 4 * RATE]]
    alone = [decode(lanes[0], part, Options(language="en")) for part in parts]
    together: dict[int, Transcript] = {}

    def work(number: int) -> None:
        together[number] = decode(lanes[number], parts[number], Options(language="en"))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[0], together[1]] == alone


@pytest.mark.parametrize("length", [0, 1, 1599])
def test_audio_too_short_for_a_word_gives_none(tiny_en: WhisperEngine, length: int) -> None:
    assert decode(tiny_en, np.zeros(length, np.int16)).words == ()


def test_the_shortest_and_the_longest_audio_is_decoded_and_longer_audio_fails_alone(tiny_en: WhisperEngine) -> None:
    speech = np.resize(recording("two_cities"), 30 * RATE)
    assert decode(tiny_en, speech[: RATE // 10]).words == ()
    assert len(decode(tiny_en, speech).words) > 40
    failed, done = tiny_en.transcribe(
        [job(np.resize(speech, 31 * RATE), Options()), job(recording("beckett"), Options(), JobKind.INTERIM)]
    )
    assert isinstance(failed, JobError)
    assert "31.0 s" in failed.reason
    assert isinstance(done, Transcript)


@pytest.mark.parametrize("language", ["en", "es", "it", "pl", "ru"])
def test_the_language_is_found(base: WhisperEngine, speech: dict[str, np.ndarray], language: str) -> None:
    heard = decode(base, speech[language])
    assert heard.language == language
    assert heard.language_probability > 0.5
    assert heard.words


def test_hints_exclude_other_languages(base: WhisperEngine, speech: dict[str, np.ndarray]) -> None:
    heard = decode(base, speech["it"], Options(hints=("es", "pl")), JobKind.INTERIM)
    assert heard.language in ("es", "pl")
    assert decode(base, speech["it"], Options(hints=("es", "it")), JobKind.INTERIM).language == "it"


def test_an_expected_language_yields_to_a_sure_one_only(base: WhisperEngine, speech: dict[str, np.ndarray]) -> None:
    expecting = Options(expected="de")
    assert decode(base, speech["it"], expecting, JobKind.INTERIM).language == "it"
    assert decode(base, speech["de"], Options(expected="en"), JobKind.INTERIM).language == "en"
    assert decode(base, speech["de"], expecting, JobKind.INTERIM).language == "de"


def test_a_named_language_is_not_questioned(base: WhisperEngine, speech: dict[str, np.ndarray]) -> None:
    heard = decode(base, speech["es"], Options(language="es"))
    assert (heard.language, heard.language_probability) == ("es", 1.0)
    assert "madrid" in text(heard)


@pytest.mark.parametrize("language", ["it", "ru"])
def test_speech_is_translated_into_english(base: WhisperEngine, speech: dict[str, np.ndarray], language: str) -> None:
    heard = decode(base, speech[language], Options(translate=True))
    assert heard.language == language
    assert {"to", "go", "weather"} <= set(text(heard).split())


def test_an_english_model_refuses_other_languages_and_translation(tiny_en: WhisperEngine) -> None:
    assert tiny_en.info.languages == ("en",)
    assert not tiny_en.info.detects_language
    assert not tiny_en.info.translates
    pcm = recording("beckett")[:RATE]
    for options, said in ((Options(language="de"), "'de'"), (Options(translate=True), "English only")):
        (failed,) = tiny_en.transcribe([job(pcm, options)])
        assert isinstance(failed, JobError)
        assert said in failed.reason


def test_a_prompt_and_keyterms_of_any_length_are_taken(tiny_en: WhisperEngine) -> None:
    options = Options(keyterms=("Beckett", "Godot") * 50, prompt="He failed again. " * 200)
    assert jiwer.wer(BECKETT, text(decode(tiny_en, recording("beckett"), options))) <= 0.2


@pytest.mark.parametrize("sound", [wordless.silence, wordless.noise, wordless.tone, wordless.music])
@pytest.mark.parametrize("name", ["tiny_en", "base"])
def test_five_minutes_without_speech_have_no_word(
    sound: Callable[[float], np.ndarray], name: str, request: pytest.FixtureRequest
) -> None:
    live = session(request.getfixturevalue(name))
    for part in np.array_split(sound(300.0), 3000):
        live.push(part)
    live.end()
    assert not [final.words for final in live.finals if final.words]
    assert not [event for event in live.events if isinstance(event, Interim)]


@pytest.mark.parametrize("sound", [wordless.silence, wordless.noise, wordless.music])
@pytest.mark.parametrize("options", [Options(), Options(keyterms=("Beckett", "Godot"), prompt="Waiting for Godot.")])
def test_the_model_itself_marks_sound_without_speech(
    tiny_en: WhisperEngine, sound: Callable[[float], np.ndarray], options: Options
) -> None:
    """Without voice activity detection, the engine's own measures leave hardly a word of a minute."""
    heard = [decode(tiny_en, part, options) for part in np.array_split(sound(60.0), 10)]
    assert sum(bool(transcript.words) for transcript in heard) <= 1, [text(transcript) for transcript in heard]


def test_a_live_stream_has_each_word_once(tiny_en: WhisperEngine) -> None:
    pcm = np.concatenate([recording("beckett"), np.zeros(RATE, np.int16)])
    live = session(tiny_en)
    for part in np.array_split(pcm, len(pcm) // 1600):
        live.push(part)
    live.end()
    said = normalised(" ".join(word.text for final in live.finals for word in final.words))
    assert jiwer.wer(BECKETT, said) <= 0.1
    assert_tiles(live.finals, len(pcm))
    interims = [event for event in live.events if isinstance(event, Interim)]
    assert len(interims) >= 4
    assert all(decoded.utterance == 0 for decoded in live.decoded)  # each decode stands alone


def test_a_stream_that_changes_language_is_heard_in_each(base: WhisperEngine, speech: dict[str, np.ndarray]) -> None:
    pause = np.zeros(2 * RATE, np.int16)
    pcm = np.concatenate([speech["en"], pause, speech["it"], pause])
    live = session(base, Policy(interim_every_s=None), Options(language="multi"))
    for part in np.array_split(pcm, len(pcm) // 1600):
        live.push(part)
    live.end()
    codes = {word.language.code for final in live.finals for word in final.words if word.language}
    assert codes == {"en", "it"}


def test_an_unknown_device_and_precision_are_named(tiny_en_folder: Path) -> None:
    for options, said in (
        (ModelOptions(source=str(tiny_en_folder), device="tpu"), "'tpu'"),
        (ModelOptions(source=str(tiny_en_folder), device="cuda:9"), "cuda:9"),
        (ModelOptions(source=str(tiny_en_folder), device="cpu", precision="fp16"), "'fp16'"),
        (ModelOptions(source="/nowhere/whisper"), "/nowhere/whisper"),
    ):
        with pytest.raises(EngineUnavailableError, match=said):
            WhisperEngine(options)
