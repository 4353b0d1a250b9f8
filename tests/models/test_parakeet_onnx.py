"""Exported Parakeet models without torch: compared with what NeMo decodes, with onnx-asr, in batches, followed, quantised."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import onnx
import onnx_asr
import pytest
import soundfile
from exports import CHECKPOINTS, LAYOUTS, build, expected, held_out
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from myna.bench.accuracy import normalised
from myna.inference.engines.parakeet_onnx import signing
from myna.inference.engines.parakeet_onnx.engine import ParakeetOnnxEngine
from myna.inference.engines.parakeet_onnx.inspection import find
from myna.inference.engines.parakeet_onnx.model import OnnxModel, loaded
from myna.inference.engines.parakeet_onnx.quantizing import quantize
from myna.inference.engines.port import ModelOptions
from myna.inference.engines.transducer.words import Tokens
from myna.streaming.policy import Options
from myna.streaming.session.jobs import InferenceJob, JobKind, Missing, Transcript

SENTENCES = held_out()
AUDIO = [pcm for _, pcm in SENTENCES]
BLANK = 128


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep changed graphs apart from the user's."""
    place = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signing, "places", lambda: iter([place]))
        yield


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    root = tmp_path_factory.mktemp("exports")
    return {(m, layout): build(m, layout, root / m / layout) for m in CHECKPOINTS for layout in LAYOUTS}


@pytest.fixture(scope="session", params=list(CHECKPOINTS))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def full(folders: dict[tuple[str, str], Path]) -> Path:
    return folders["full", "onnx-asr"]


@pytest.fixture(scope="session")
def engine(kind: str, folders: dict[tuple[str, str], Path]) -> ParakeetOnnxEngine:
    return ParakeetOnnxEngine(ModelOptions(source=str(folders[kind, "onnx-asr"])))


def model_of(folder: Path, precision: str = "auto") -> OnnxModel:
    export = find(folder, precision)
    assert export is not None
    return loaded(export, "cpu", 1)


@functools.cache
def alone(folder: Path) -> list[Tokens]:
    """Return the tokens of each held-out sentence, decoded by itself."""
    model = model_of(folder)
    return [model.decode(model.encode([pcm]))[0][0] for pcm in AUDIO]


def final(pcm: np.ndarray, name: str = "f", keyterms: tuple[str, ...] = ()) -> InferenceJob:
    return InferenceJob(name, name, JobKind.FINAL, pcm.tobytes(), 0.0, options=Options(keyterms=keyterms))


def step(source: str, pcm: np.ndarray, held: int, end: int, kind: JobKind = JobKind.INTERIM) -> InferenceJob:
    return InferenceJob(f"{source} {end}", source, kind, pcm[held:end].tobytes(), 0.0, utterance=1, held=held)


def words(outcome: Any) -> list[tuple[str, float, float, float]]:
    assert isinstance(outcome, Transcript), outcome
    return [(word.text, word.start, word.end, word.confidence) for word in outcome.words]


def text(outcome: Any) -> str:
    return " ".join(word[0] for word in words(outcome))


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_tokens_frames_and_durations_are_those_of_nemo(
    kind: str, layout: str, folders: dict[tuple[str, str], Path]
) -> None:
    found = alone(folders[kind, layout])
    for ours, theirs in zip(found, expected(kind), strict=True):
        assert (ours.ids, ours.frames, ours.durations) == (theirs["ids"], theirs["frames"], theirs["durations"])
        assert np.abs(np.subtract(ours.probabilities, theirs["probabilities"])).max() <= 0.01


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_a_batch_of_eight_decodes_exactly_what_each_decodes_alone(
    kind: str, layout: str, folders: dict[tuple[str, str], Path]
) -> None:
    model = model_of(folders[kind, layout])
    together = [tokens for i in range(0, 40, 8) for tokens in model.decode(model.encode(AUDIO[i : i + 8]))[0]]
    assert together == alone(folders[kind, layout])


def oracle(folder: Path, kind: str) -> list[Any]:
    """Return onnx-asr's results for the held-out sentences."""
    theirs = onnx_asr.load_model(f"nemo-conformer-{kind}", folder, providers=["CPUExecutionProvider"]).with_timestamps()
    return [theirs.recognize(pcm.astype(np.float32) / 32768, sample_rate=16_000) for pcm in AUDIO]


def same_as_the_oracle(folder: Path, kind: str) -> list[tuple[Tokens, Any]]:
    """Compare tokens and their frames with onnx-asr's; return both."""
    pieces = [line.rpartition(" ")[0].replace("▁", " ") for line in (folder / "vocab.txt").read_text().splitlines()]
    compared = list(zip(alone(folder), oracle(folder, kind), strict=True))
    for ours, theirs in compared:
        assert [pieces[token] for token in ours.ids] == theirs.tokens
        assert ours.frames == [round(stamp / 0.08) for stamp in theirs.timestamps]
    assert sum(len(ours.ids) for ours, _ in compared) > 400
    return compared


def test_a_tdt_model_decodes_what_onnx_asr_decodes(full: Path) -> None:
    for ours, theirs in same_as_the_oracle(full, "tdt"):
        assert np.allclose(np.log(ours.probabilities), theirs.logprobs, atol=1e-3)


def test_an_rnnt_model_decodes_what_onnx_asr_decodes(full: Path, tmp_path: Path) -> None:
    folder = without_durations(full, tmp_path / "rnnt")
    for ours, theirs in same_as_the_oracle(folder, "rnnt"):
        assert np.allclose(np.log(ours.probabilities), theirs.logprobs, atol=1e-3)
        assert set(ours.durations) == {1}


def test_a_ctc_model_decodes_what_onnx_asr_decodes(full: Path, tmp_path: Path) -> None:
    same_as_the_oracle(with_ctc_head(full, tmp_path / "ctc"), "ctc")


def test_a_ctc_model_in_sherpas_layout_decodes_the_same(full: Path, tmp_path: Path) -> None:
    folder = with_ctc_head(full, tmp_path / "ctc")
    found = alone(folder)
    (folder / "vocab.txt").rename(folder / "tokens.txt")
    export = find(folder)
    assert export is not None
    assert (export.layout, export.kind) == ("sherpa-onnx", "ctc")
    model = loaded(export, "cpu", 1)
    assert [model.decode(model.encode([pcm]))[0][0] for pcm in AUDIO[:8]] == found[:8]


def without_durations(source: Path, target: Path) -> Path:
    """Write an RNN-T model: the TDT model without the outputs of its durations. Its words mean nothing, but vary."""
    shutil.copytree(source, target)
    joint = target / "decoder_joint-model.onnx"
    model = onnx.load(joint)
    for tensor in model.graph.initializer:
        if tensor.dims and tensor.dims[-1] == BLANK + 6:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[..., : BLANK + 1], tensor.name))
    model.graph.output[0].type.tensor_type.shape.dim[3].dim_value = BLANK + 1
    onnx.save(model, joint)
    return target


def with_ctc_head(source: Path, target: Path) -> Path:
    """Write a CTC model: the encoder with a linear layer of random weights. Its words mean nothing."""
    target.mkdir()
    shutil.copy(source / "vocab.txt", target)
    model = onnx.load(source / "encoder-model.onnx")
    frames, width = model.graph.output[0].name, 128
    weights = np.random.default_rng(3).standard_normal((width, BLANK + 1)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "head"))
    model.graph.node.extend([
        helper.make_node("Transpose", [frames], ["frames_first"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["frames_first", "head"], ["scores"]),
        helper.make_node("LogSoftmax", ["scores"], ["logprobs"], axis=-1),
    ])  # fmt: skip
    del model.graph.output[:]
    model.graph.output.append(
        helper.make_tensor_value_info("logprobs", TensorProto.FLOAT, ["batch", "frames", BLANK + 1])
    )
    onnx.save(model, target / "model.onnx")
    return target


@pytest.fixture(scope="session", params=["myna", "public"])
def quantised(
    request: pytest.FixtureRequest,
    folders: dict[tuple[str, str], Path],
    kind: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """An int8 folder: as `myna export --int8` writes it, or as the public exports are, with one scale for each tensor."""
    folder = tmp_path_factory.mktemp("int8") / f"{request.param}-{kind}"
    shutil.copytree(folders[kind, "onnx-asr"], folder, ignore=shutil.ignore_patterns("*.onnx"))
    for name in ("encoder-model", "decoder_joint-model"):
        source, target = folders[kind, "onnx-asr"] / f"{name}.onnx", folder / f"{name}.int8.onnx"
        if request.param == "myna":
            quantize(source, target)
        else:
            quantize_dynamic(source, target, weight_type=QuantType.QUInt8 if "encoder" in name else QuantType.QInt8)
    return folder


def test_an_int8_model_keeps_the_words(kind: str, quantised: Path) -> None:
    found = alone(quantised)
    same = sum(ours.ids == theirs["ids"] for ours, theirs in zip(found, expected(kind), strict=True))
    assert same >= 38


def test_an_int8_model_decodes_one_job_at_a_time(quantised: Path) -> None:
    assert ParakeetOnnxEngine(ModelOptions(source=str(quantised))).info.largest_batch == 1


def test_held_out_sentences_are_recognised(engine: ParakeetOnnxEngine) -> None:
    heard = [text(engine.transcribe([final(pcm)])[0]) for pcm in AUDIO]
    spoken = [normalised(sentence) for sentence, _ in SENTENCES]
    assert jiwer.wer(spoken, [normalised(each) for each in heard]) <= 0.03


def test_silence_noise_and_short_audio_give_no_words(engine: ParakeetOnnxEngine) -> None:
    noise = (np.random.default_rng(1).standard_normal(48_000) * 60).astype(np.int16)
    for pcm in (noise, *(np.zeros(length, np.int16) for length in (0, 1, 100, 1_600, 48_000))):
        assert text(engine.transcribe([final(pcm)])[0]) == ""


def test_the_last_step_of_an_utterance_is_what_a_final_decodes(engine: ParakeetOnnxEngine) -> None:
    for number, pcm in enumerate(AUDIO[:10]):
        ends = [*range(12_800, len(pcm), 12_800)]
        for held, end in zip([0, *ends], ends, strict=False):
            engine.transcribe([step("s", pcm, held, end)])
        (flushed,) = engine.transcribe([step("s", pcm, ends[-1], len(pcm), JobKind.FINAL)])
        (whole,) = engine.transcribe([final(pcm, str(number))])
        assert [word[:3] for word in words(flushed)] == [word[:3] for word in words(whole)]
        engine.release("s")


def test_each_of_64_streams_gets_the_words_that_it_gets_alone(engine: ParakeetOnnxEngine) -> None:
    speech = {f"s{n}": np.concatenate([AUDIO[n % 40], AUDIO[(7 * n + 1) % 40]]) for n in range(64)}
    size = 16_000
    told: dict[str, list[Any]] = {name: [] for name in speech}
    for start in range(0, max(map(len, speech.values())), size):
        jobs = [step(name, pcm, start, start + size) for name, pcm in speech.items() if start < len(pcm)]
        for first in range(0, len(jobs), engine.info.largest_batch):
            some = jobs[first : first + engine.info.largest_batch]
            for job, outcome in zip(some, engine.transcribe(some), strict=True):
                told[job.source].append(words(outcome))
    for name in speech:
        engine.release(name)
    for name in list(speech)[:16]:
        pcm = speech[name]
        lone = [words(engine.transcribe([step("alone", pcm, at, at + size)])[0]) for at in range(0, len(pcm), size)]
        engine.release("alone")
        assert told[name] == lone


def test_a_step_whose_audio_is_not_held_asks_for_it(engine: ParakeetOnnxEngine) -> None:
    assert engine.transcribe([step("s", AUDIO[0], 8_000, 16_000)]) == [Missing(0)]
    engine.release("s")


def test_a_keyterm_brings_out_a_word_of_its_stream_only(full: Path) -> None:
    pcm = soundfile.read(Path(__file__).parents[1] / "parakeet" / "unseen" / "Davidson.flac", dtype="int16")[0]
    engine = ParakeetOnnxEngine(ModelOptions(source=str(full)))
    jobs = [final(pcm, "a"), final(pcm, "b", ("Davidson",)), final(AUDIO[0], "c", ("Friday",)), final(AUDIO[1], "d")]
    together = [text(outcome) for outcome in engine.transcribe(jobs)]
    assert ["Davidson" in said for said in together] == [False, True, False, False]
    assert together == [text(engine.transcribe([job])[0]) for job in jobs]


def test_the_lanes_of_a_process_share_the_weights_and_the_utterances(
    kind: str, folders: dict[tuple[str, str], Path]
) -> None:
    one, other = (ParakeetOnnxEngine(ModelOptions(source=str(folders[kind, "onnx-asr"]))) for _ in range(2))
    assert one._model.weights is other._model.weights
    pcm = AUDIO[0]
    one.transcribe([step("lanes", pcm, 0, 16_000)])
    (told,) = other.transcribe([step("lanes", pcm, 16_000, len(pcm), JobKind.FINAL)])
    (whole,) = one.transcribe([final(pcm)])
    assert [word[:3] for word in words(told)] == [word[:3] for word in words(whole)]
    one.release("lanes")
