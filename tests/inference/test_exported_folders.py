"""Folders of exported models: what is read from them, and the line that says what is wrong, when listed and when loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from exports import CHECKPOINTS, LAYOUTS, build
from onnx import TensorProto, helper, numpy_helper

from myna.inference.engines.catalogue import Catalogue, UnknownModelError
from myna.inference.engines.parakeet_onnx.engine import ParakeetOnnxEngine
from myna.inference.engines.parakeet_onnx.inspection import find
from myna.inference.engines.port import ModelOptions
from myna.streaming.errors import EngineUnavailableError


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    root = tmp_path_factory.mktemp("exports")
    return {(m, layout): build(m, layout, root / m / layout) for m in CHECKPOINTS for layout in LAYOUTS}


@pytest.fixture
def folder(exports: dict[tuple[str, str], Path], tmp_path: Path) -> Path:
    """A copy of the full-context model in onnx-asr's layout."""
    return Path(shutil.copytree(exports["full", "onnx-asr"], tmp_path / "models" / "mine"))


def listed(folder: Path) -> Catalogue:
    return Catalogue(folder.parent, "moonshine-tiny-en", {}, {"mine": ["en"]})


def complaint(folder: Path) -> str:
    """Return why the listing and a request refuse the folder."""
    usable, broken = listed(folder).models()
    assert folder.name not in usable
    with pytest.raises(UnknownModelError) as refused:
        listed(folder).find(folder.name)
    assert broken[folder.name] in str(refused.value)
    with pytest.raises(EngineUnavailableError) as unloaded:
        ParakeetOnnxEngine(ModelOptions(source=str(folder)))
    assert str(unloaded.value) == broken[folder.name]
    assert "\n" not in broken[folder.name]
    return broken[folder.name]


def changed(path: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("model", list(CHECKPOINTS))
def test_a_folder_is_a_model_named_after_it(
    exports: dict[tuple[str, str], Path], tmp_path: Path, model: str, layout: str
) -> None:
    folder = shutil.copytree(exports[model, layout], tmp_path / "mine")
    found = listed(folder).find("mine")
    assert (found.engine, found.languages) == ("parakeet_onnx", ("en",))
    assert (found.mode, found.look_aheads_ms) == {"full": ("offline", ()), "cache-aware": ("streaming", (480,))}[model]
    export = find(folder)
    assert export is not None
    assert (export.layout, export.kind, export.mels, export.subsampling, export.blank) == (layout, "tdt", 80, 8, 128)
    if export.chunks is not None:
        assert (export.chunks.sizes, export.chunks.before, export.chunks.dropped) == ((49, 56), (0, 9), 2)
        assert export.chunks.caches == (4, 42, 128, 8)
        assert export.chunks.exact


def test_the_precision_chooses_among_the_graphs(folder: Path) -> None:
    shutil.copy(folder / "encoder-model.onnx", folder / "encoder-model.int8.onnx")
    for precision, chosen in (("auto", "int8"), ("int8", "int8"), ("fp32", "fp32")):
        export = find(folder, precision)
        assert export is not None
        assert export.precision == chosen
        assert export.decoder is not None
        assert export.decoder.name == "decoder_joint-model.onnx"
    (folder / "encoder-model.int8.onnx").unlink()
    with pytest.raises(EngineUnavailableError, match=r"mine lacks encoder-model\.int8\.onnx"):
        find(folder, "int8")
    ParakeetOnnxEngine(ModelOptions(source=str(folder), precision="bf16"))  # is for other engines


def test_other_folders_are_no_models(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "readme.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    usable, broken = Catalogue(tmp_path, "moonshine-tiny-en", {}, {}).models()
    assert not {"notes", "empty"} & {*usable, *broken}


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("vocab.txt", "mine lacks vocab.txt, the vocabulary: one piece and its id a line"),
        ("decoder_joint-model.onnx", "mine lacks decoder_joint-model.onnx or decoder_joint-model.int8.onnx"),
        ("encoder-model.onnx", "mine lacks encoder-model.onnx or encoder-model.int8.onnx"),
    ],
)
def test_a_missing_file_is_named(folder: Path, missing: str, said: str) -> None:
    (folder / missing).unlink()
    assert complaint(folder) == said


def test_a_vocabulary_of_another_model_does_not_fit(folder: Path) -> None:
    lines = [*(f"piece{n} {n}" for n in range(1024)), "<blk> 1024"]
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n")
    assert (
        complaint(folder) == "mine: vocab.txt has 1024 pieces and a blank, but decoder_joint-model.onnx has 134 outputs"
    )


def test_the_vocabulary_in_sherpas_layout_must_be_that_of_the_export(
    exports: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(exports["full", "sherpa-onnx"], tmp_path / "mine"))
    (folder / "tokens.txt").write_text("a 0\nb 1\n<blk> 2\n")
    assert complaint(folder) == "mine: tokens.txt has 2 pieces, but encoder.onnx was exported with 128"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("▁a 0\n▁b 2\n<blk> 3\n", "line 2 is '▁b 2'; expected a piece and the id 1"),
        ("▁a 0\n▁b 1\n", "its last piece is '▁b'; expected <blk>"),
        ("", "line 1 is ''; expected a piece and the id 0"),
    ],
)
def test_a_file_that_is_no_vocabulary_is_refused(folder: Path, content: str, said: str) -> None:
    (folder / "vocab.txt").write_text(content)
    assert complaint(folder) == f"vocab.txt in mine is not a vocabulary: {said}"


def test_an_encoder_of_another_width_does_not_fit_the_decoder(folder: Path) -> None:
    def narrow(model: onnx.ModelProto) -> None:
        model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 64

    changed(folder / "encoder-model.onnx", narrow)
    assert complaint(folder) == (
        "mine: encoder-model.onnx gives frames of 64 values, but decoder_joint-model.onnx takes 128:"
        " they are of different models"
    )


def test_a_mismatch_that_the_graphs_do_not_declare_is_found_when_they_are_loaded(folder: Path) -> None:
    """The joint network takes frames of 64 values, and no shape tells."""

    def undeclare(model: onnx.ModelProto) -> None:
        for value in (*model.graph.input, *model.graph.output):
            if value.name in ("outputs", "encoder_outputs"):
                for dimension in value.type.tensor_type.shape.dim:
                    dimension.ClearField("dim_value")
                    dimension.dim_param = "any"
        for tensor in model.graph.initializer:
            if tuple(tensor.dims) == (128, 128):
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[:64], tensor.name))

    changed(folder / "decoder_joint-model.onnx", undeclare)
    with pytest.raises(EngineUnavailableError) as error:
        ParakeetOnnxEngine(ModelOptions(source=str(folder)))
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(("mine: ", "decoder_joint-model.onnx in mine "))


@pytest.mark.parametrize("cut", [1 << 20, 0])
def test_external_data_that_is_missing_or_cut_short_is_named(folder: Path, cut: int) -> None:
    encoder, data = folder / "encoder-model.onnx", folder / "encoder-model.onnx.data"
    onnx.save(onnx.load(encoder), encoder, save_as_external_data=True, location=data.name)
    assert find(folder) is not None
    size = data.stat().st_size
    if not cut:
        data.unlink()
        assert complaint(folder) == "mine lacks encoder-model.onnx.data, which holds the weights of encoder-model.onnx"
        return
    with data.open("r+b") as file:
        file.truncate(cut)
    assert complaint(folder) == (
        f"encoder-model.onnx.data in mine has {cut} bytes; encoder-model.onnx needs {size}: the file was cut short"
    )


@pytest.mark.parametrize("share", [0.5, 0.999])
def test_a_graph_that_is_cut_short_is_refused(folder: Path, share: float) -> None:
    encoder = folder / "encoder-model.onnx"
    encoder.write_bytes(encoder.read_bytes()[: int(share * encoder.stat().st_size)])
    assert complaint(folder) == "encoder-model.onnx in mine is cut short, or is not an ONNX model"


@pytest.mark.parametrize("content", [b"", b"not a model at all", bytes(range(256)) * 20, b"\x08\x08"])
def test_a_file_that_is_no_graph_is_refused(folder: Path, content: bytes) -> None:
    (folder / "encoder-model.onnx").write_bytes(content)
    assert complaint(folder).startswith("encoder-model.onnx in mine is ")


def test_an_encoder_with_an_unknown_input_is_refused(folder: Path) -> None:
    def prompted(model: onnx.ModelProto) -> None:
        model.graph.input.append(helper.make_tensor_value_info("prompt_index", TensorProto.INT64, ["batch"]))

    changed(folder / "encoder-model.onnx", prompted)
    assert complaint(folder) == "encoder-model.onnx in mine takes prompt_index, which is not supported"


def test_another_operator_set_is_refused(folder: Path) -> None:
    def date(model: onnx.ModelProto) -> None:
        model.opset_import[0].version = 99

    changed(folder / "encoder-model.onnx", date)
    assert complaint(folder) == "encoder-model.onnx in mine uses operator set 99; supported are sets up to 28"


def test_a_graph_of_no_speech_model_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["image"], ["label"])], "picture",
        [value("image", TensorProto.FLOAT, [1, 3])], [value("label", TensorProto.FLOAT, [1, 3])],
    )  # fmt: skip
    onnx.save(helper.make_model(graph), folder / "model.onnx")
    (folder / "vocab.txt").write_text("cat 0\n<blk> 1\n")
    assert complaint(folder) == (
        "model.onnx in mine is no speech model of NeMo: it takes image; expected audio_signal [batch, mel bands, frames]"
        " and length"
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "config.json in mine is not JSON"),
        ("[]", "config.json in mine is not a JSON object"),
        ('{"normalize": "all"}', "mine: features are normalised by 'all'; expected per_feature or NA"),
        ('{"features_size": 128}', "mine: config.json tells 128 mel bands, but encoder-model.onnx takes 80"),
    ],
)
def test_settings_that_do_not_fit_are_refused(folder: Path, content: str, said: str) -> None:
    (folder / "config.json").write_text(content)
    assert complaint(folder).startswith(said)


def test_a_cache_aware_encoder_whose_chunks_are_unknown_is_refused(
    exports: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(exports["cache-aware", "onnx-asr"], tmp_path / "mine"))
    settings = json.loads((folder / "config.json").read_text())
    del settings["chunk_size"]
    (folder / "config.json").write_text(json.dumps(settings))
    assert complaint(folder).startswith(
        "mine: encoder-model.onnx is cache-aware, but neither config.json (chunk_size, pre_encode_cache_size,"
    )


def test_a_device_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(EngineUnavailableError, match="device 'cuda' is not available: this onnxruntime offers"):
        ParakeetOnnxEngine(ModelOptions(source=str(folder), device="cuda"))
    with pytest.raises(EngineUnavailableError, match="unknown device 'gpu'; use auto, cpu, cuda"):
        ParakeetOnnxEngine(ModelOptions(source=str(folder), device="gpu"))
