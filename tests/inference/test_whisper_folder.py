"""Which folders are Whisper models of CTranslate2, and what is wrong with those that are not. No weights are loaded."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from myna.inference.engines.whisper.folder import inspect
from myna.inference.engines.whisper.kind import KIND
from myna.streaming.errors import EngineUnavailableError

MULTILINGUAL = [f"p{n}" for n in range(51_760)]
MULTILINGUAL += ["<|startoftranscript|>", "<|en|>", "<|jw|>", "<|haw|>", "<|translate|>", "<|transcribe|>"]
MULTILINGUAL += [f"t{n}" for n in range(51_865 - len(MULTILINGUAL))]
ENGLISH = [f"p{n}" for n in range(51_864)]


def text(what: str) -> bytes:
    return struct.pack("<H", len(what) + 1) + what.encode() + b"\0"


def weights(spec: str = "WhisperSpec", version: int = 6, variables: int = 3) -> bytes:
    """Return a weights file in CTranslate2's format: each variable has a name, a shape, a type and its bytes."""
    body = b"".join(
        text(f"v{n}") + struct.pack("<BIIBI", 2, 4, 8, 0, 128) + bytes(range(128)) for n in range(variables)
    )
    return struct.pack("<I", version) + text(spec) + struct.pack("<II", 3, variables) + body + struct.pack("<I", 0)


def make(path: Path, pieces: list[str] = MULTILINGUAL, model: bytes | None = None) -> Path:
    path.mkdir(exist_ok=True)
    (path / "model.bin").write_bytes(weights() if model is None else model)
    (path / "config.json").write_text("{}")
    (path / "tokenizer.json").write_text("{}")
    (path / "vocabulary.json").write_text(json.dumps(pieces))
    return path


def test_a_multilingual_folder_is_a_model_with_its_languages(tmp_path: Path) -> None:
    path = make(tmp_path / "house-whisper")
    assert KIND.claims(path)
    model = KIND.describe(path)
    assert (model.name, model.engine, model.source) == ("house-whisper", "whisper", str(path))
    assert model.languages == ("en", "haw", "jv")
    assert model.size == sum(file.stat().st_size for file in path.iterdir())


def test_an_english_only_folder_has_one_language(tmp_path: Path) -> None:
    path = make(tmp_path / "small.en", ENGLISH)
    (path / "vocabulary.json").rename(path / "vocabulary.txt")
    (path / "vocabulary.txt").write_text("\n".join(ENGLISH) + "\n")
    assert KIND.describe(path).languages == ("en",)


def test_other_weights_have_another_identity(tmp_path: Path) -> None:
    path = make(tmp_path / "model")
    first = inspect(path)
    make(path, model=weights(variables=4))
    assert inspect(path).uuid != first.uuid
    make(path)
    assert inspect(path) == first


def missing(name: str) -> Callable[[Path], None]:
    return lambda path: (path / name).unlink()


def holding(name: str, data: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        (path / name).write_bytes(data)

    return write


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (missing("tokenizer.json"), "no tokenizer.json"),
        (missing("config.json"), "no config.json"),
        (missing("vocabulary.json"), "neither vocabulary.json nor vocabulary.txt"),
        (holding("model.bin", weights()[:300]), "cut short or damaged at 300 bytes"),
        (holding("model.bin", weights()[:11]), "cut short"),
        (holding("model.bin", b""), "cut short"),
        (holding("model.bin", weights("TransformerSpec")), "'TransformerSpec'; Whisper has 'WhisperSpec'"),
        (holding("model.bin", weights(version=4)), "format 4, not 5 or 6"),
        (holding("model.bin", b"PK\x03\x04" + bytes(500)), "no CTranslate2 model"),
        (holding("model.bin", weights()[:20] + b"\xff\xff\xff\xff" + bytes(500)), "declares 4294967295 variables|cut short"),
        (holding("tokenizer.json", b"{"), "tokenizer.json is not JSON"),
        (holding("tokenizer.json", b"\xff\xfe"), "tokenizer.json is not JSON"),
        (holding("config.json", b"[]"), "config.json must be a JSON object, not list"),
        (holding("vocabulary.json", b"{"), "vocabulary.json is not JSON"),
        (holding("vocabulary.json", b"{}"), "must be a list of strings"),
        (holding("vocabulary.json", json.dumps([f"p{n}" for n in range(51_865)]).encode()), "has no '<|startoftranscript|>'"),
    ],
)  # fmt: skip
def test_a_broken_folder_is_named_with_what_was_expected(
    change: Callable[[Path], None], said: str, tmp_path: Path
) -> None:
    path = make(tmp_path / "model")
    change(path)
    with pytest.raises(EngineUnavailableError, match=said.replace("<|", r"<\|").replace("|>", r"\|>")) as error:
        inspect(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_other_folders_and_files_are_left_to_other_engines(tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "encoder-model.onnx").write_bytes(b"")
    (tmp_path / "model.bin").write_bytes(b"")
    assert not KIND.claims(tmp_path / "onnx")
    assert not KIND.claims(tmp_path / "model.bin")
    assert KIND.claims(tmp_path)  # a folder with weights; whether they are Whisper's is seen when it is described


@pytest.mark.parametrize("name", ["Systran/faster-whisper-base", "deepdml/faster-whisper-large-v3-turbo-ct2"])
def test_a_hub_name_with_whisper_in_it_is_a_whisper_model(name: str) -> None:
    model = KIND.hub(name)
    assert model is not None
    assert (model.name, model.source) == (name.split("/")[1], name)
    assert KIND.hub("nvidia/parakeet-tdt-0.6b-v3") is None
