"""Reading .nemo files, and refusing files that are not .nemo files."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny import TINY, TINY_STREAMING, Reference, Sentence, contents, decode, final, step, text, times, write

from myna.inference.engines.catalogue import Catalogue, UnknownModelError
from myna.inference.engines.parakeet.checkpoint import inspect
from myna.inference.engines.parakeet.engine import ParakeetEngine
from myna.inference.engines.port import ModelOptions
from myna.streaming.errors import EngineUnavailableError
from myna.streaming.session.jobs import JobKind


def changed(path: Path, change: dict[str, Any]) -> Path:
    """Write the small model with another configuration."""
    files = contents(TINY)
    configuration = yaml.safe_load(files["model_config.yaml"])
    configuration.update(change)
    files["model_config.yaml"] = yaml.safe_dump(configuration).encode()
    return write(path, files)


def test_the_class_mode_language_and_version_of_a_file_are_read() -> None:
    full, streaming = inspect(TINY), inspect(TINY_STREAMING)
    assert (full.class_name, full.streaming, full.languages) == ("EncDecRNNTBPEModel", False, ("en",))
    assert streaming.streaming
    assert full.version == "3.0.0"
    assert full.uuid != streaming.uuid
    assert full == inspect(TINY)


def test_an_uncompressed_file_is_read_like_a_compressed_one(tmp_path: Path) -> None:
    assert inspect(write(tmp_path / "plain.nemo", contents(TINY))).class_name == "EncDecRNNTBPEModel"


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
@pytest.mark.parametrize("compressed", [True, False])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float, compressed: bool) -> None:
    whole = TINY if compressed else write(tmp_path / "whole.nemo", contents(TINY))
    content = whole.read_bytes()
    cut = tmp_path / "cut.nemo"
    cut.write_bytes(content[: int(share * len(content))])
    with pytest.raises(EngineUnavailableError, match=r"cut\.nemo is not a complete"):
        inspect(cut)


@pytest.mark.parametrize("content", [b"", b"not a tar at all", bytes(10_000)])
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.nemo"
    path.write_bytes(content)
    with pytest.raises(EngineUnavailableError, match=r"x\.nemo"):
        inspect(path)


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailableError, match=r"lacks model_config\.yaml"):
        inspect(write(tmp_path / "x.nemo", {"readme.txt": b"hello"}))
    with pytest.raises(EngineUnavailableError, match=r"lacks model_weights\.ckpt"):
        inspect(write(tmp_path / "x.nemo", {"model_config.yaml": b"a: 1"}))
    with pytest.raises(EngineUnavailableError, match="not YAML"):
        inspect(write(tmp_path / "x.nemo", {"model_config.yaml": b"a: [", "model_weights.ckpt": b"1"}))


def test_a_model_of_another_kind_is_refused_with_its_class(tmp_path: Path) -> None:
    other = changed(tmp_path / "ctc.nemo", {"target": "nemo.collections.asr.models.ctc_bpe_models.EncDecCTCModelBPE"})
    with pytest.raises(EngineUnavailableError, match=r"EncDecCTCModelBPE.*EncDecRNNTBPEModel"):
        inspect(other)
    with pytest.raises(UnknownModelError, match="EncDecCTCModelBPE"):
        Catalogue(tmp_path, "ctc", {}, {}).find()


def test_the_class_of_a_file_that_does_not_name_it_follows_from_its_configuration(tmp_path: Path) -> None:
    files = contents(TINY)
    configuration = yaml.safe_load(files["model_config.yaml"])
    del configuration["target"]
    files["model_config.yaml"] = yaml.safe_dump(configuration).encode()
    assert inspect(write(tmp_path / "x.nemo", files)).class_name == "EncDecRNNTBPEModel"


def test_weights_that_do_not_match_the_configuration_are_refused_in_one_line(tmp_path: Path) -> None:
    files = contents(TINY)
    weights = io.BytesIO()
    torch.save({"encoder.nothing": torch.zeros(3)}, weights)
    broken = write(tmp_path / "x.nemo", {**files, "model_weights.ckpt": weights.getvalue()})
    with pytest.raises(EngineUnavailableError, match=r"x\.nemo cannot be loaded") as refused:
        ParakeetEngine(ModelOptions(source=str(broken)))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "languages"),
    [
        ({"language": None}, ()),
        ({"language": None, "tokenizer": {"langs": {"en": {}, "es": {}}}}, ("en", "es")),
        ({"languages": ["de", "fr"], "language": None}, ("de", "fr")),
    ],
)
def test_the_languages_are_those_that_the_file_declares(
    tmp_path: Path, change: dict[str, Any], languages: tuple[str, ...]
) -> None:
    assert inspect(changed(tmp_path / "x.nemo", change)).languages == languages


def test_the_configuration_supplies_languages_that_files_do_not_declare(tmp_path: Path) -> None:
    changed(tmp_path / "x.nemo", {"language": None})
    assert Catalogue(tmp_path, "x", {}, {}).find().languages == ()
    assert Catalogue(tmp_path, "x", {}, {"x": ["fi"]}).find().languages == ("fi",)


@pytest.mark.parametrize("kind", ["rnnt", "hybrid"])
def test_rnnt_and_hybrid_models_load_and_decode(kind: str, tmp_path: Path, sentences: list[Sentence]) -> None:
    """With random weights the words are noise, but the same in a batch, alone, and from NeMo's `transcribe`."""
    path = untrained(kind, tmp_path)
    engine = ParakeetEngine(ModelOptions(source=str(path)))
    audio = [s.pcm for s in sentences[:4]]
    heard = [text(outcome) for outcome in decode(engine, audio)]
    assert heard == [text(decode(engine, [pcm])[0]) for pcm in audio]
    assert heard == [" ".join(h.text.split()) for h in Reference(path).transcribe(audio)]


def untrained(kind: str, folder: Path) -> Path:
    from nemo.collections.asr.models import EncDecHybridRNNTCTCBPEModel, EncDecRNNTBPEModel
    from omegaconf import OmegaConf, open_dict

    configuration = EncDecRNNTBPEModel.restore_from(str(TINY), map_location="cpu", return_config=True)
    files = contents(TINY)
    for name, content in files.items():
        if "tokenizer.model" in name or "vocab.txt" in name:
            (folder / ("tokenizer.model" if "tokenizer.model" in name else "vocab.txt")).write_bytes(content)
    torch.manual_seed(5)
    with open_dict(configuration):
        configuration.tokenizer = {"dir": str(folder), "type": "bpe"}
        if kind == "rnnt":
            configuration.joint.num_extra_outputs = 0
            configuration.loss = {"loss_name": "default"}
            configuration.decoding = {"strategy": "greedy_batch", "greedy": {"max_symbols": 10}}
            configuration.model_defaults = OmegaConf.create(
                {"enc_hidden": 128, "pred_hidden": 128, "joint_hidden": 128}
            )
            model = EncDecRNNTBPEModel(cfg=configuration)
        else:
            configuration.aux_ctc = {
                "ctc_loss_weight": 0.3,
                "use_cer": False,
                "ctc_reduction": "mean_batch",
                "decoder": {
                    "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
                    "feat_in": None,
                    "num_classes": -1,
                    "vocabulary": [],
                },
                "decoding": {"strategy": "greedy"},
            }
            module = EncDecHybridRNNTCTCBPEModel.__module__
            configuration.target = f"{module}.{EncDecHybridRNNTCTCBPEModel.__name__}"
            model = EncDecHybridRNNTCTCBPEModel(cfg=configuration)
    model.save_to(str(folder / f"{kind}.nemo"))
    return folder / f"{kind}.nemo"


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the small streaming model as if it had been trained with look-aheads of 6, 0 and 2 frames, and with no limit."""
    files = contents(TINY_STREAMING)
    configuration = yaml.safe_load(files["model_config.yaml"])
    configuration["encoder"]["att_context_size"] = [[42, 6], [42, 0], [42, 2], [-1, -1]]
    files["model_config.yaml"] = yaml.safe_dump(configuration).encode()
    return write(tmp_path_factory.mktemp("several") / "several.nemo", files)


def test_the_trained_look_aheads_of_a_file_are_read(several: Path) -> None:
    assert inspect(several).look_aheads_ms == (480, 0, 160)
    assert inspect(TINY_STREAMING).look_aheads_ms == (480,)
    assert inspect(TINY).look_aheads_ms == ()


@pytest.mark.parametrize(("wanted", "expected"), [(None, 480), (0, 0), (80, 0), (100, 160), (9_000, 480)])
def test_the_list_of_models_says_which_look_ahead_is_used(several: Path, wanted: int | None, expected: int) -> None:
    found = Catalogue(several.parent, "several", {}, {}, look_ahead_ms=wanted).find()
    assert found.look_aheads_ms[0] == expected
    assert sorted(found.look_aheads_ms) == [0, 160, 480]


@pytest.mark.parametrize(("wanted", "frames"), [(None, 7), (0, 1), (170, 3)])
def test_a_model_streams_with_the_nearest_trained_look_ahead(
    several: Path, wanted: int | None, frames: int, sentences: list[Sentence]
) -> None:
    engine = ParakeetEngine(ModelOptions(source=str(several), look_ahead_ms=wanted))
    assert engine._model.chunking.chunks[1] == 8 * frames
    for sentence in sentences[:4]:
        (offline,) = engine.transcribe([final(sentence.pcm)])
        (followed,) = engine.transcribe([replace(step("s", sentence.pcm, 0, len(sentence.pcm)), kind=JobKind.FINAL)])
        engine.release("s")
        assert times(followed) == times(offline)
