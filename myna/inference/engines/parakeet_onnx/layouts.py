"""Finds the files of an exported Parakeet in a folder.

Two layouts are public. That of onnx-asr: `encoder-model.onnx`, `decoder_joint-model.onnx`, `vocab.txt`, `config.json`. That
of sherpa-onnx: `encoder.onnx`, `decoder.onnx`, `joiner.onnx`, `tokens.txt`, and settings in the encoder's metadata. A CTC
model is one file, `model.onnx`, in both. In all of them, `.int8` before `.onnx` marks a quantised graph.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from myna.inference.engines.parakeet_onnx.pieces import read_pieces
from myna.streaming.errors import EngineUnavailableError

_SUFFIX = {"fp32": ".onnx", "int8": ".int8.onnx"}
PRECISIONS = tuple(_SUFFIX)


@dataclass(frozen=True, slots=True)
class Layout:
    """File names of a layout, without suffix. A CTC model has no `decoder`; without `joiner`, the decoder includes it."""

    name: str
    encoder: str
    decoder: str
    joiner: str
    vocabulary: str


LAYOUTS = (
    Layout("onnx-asr", "encoder-model", "decoder_joint-model", "", "vocab.txt"),
    Layout("sherpa-onnx", "encoder", "decoder", "joiner", "tokens.txt"),
    Layout("onnx-asr", "model", "", "", "vocab.txt"),
    Layout("sherpa-onnx", "model", "", "", "tokens.txt"),
)


def claims(folder: Path) -> bool:
    """Return whether a folder holds a part of an exported model, by the names of its files."""
    return folder.is_dir() and layout_of(folder) is not None


def layout_of(folder: Path) -> Layout | None:
    """Return the layout of which the folder has the encoder or, failing that, the decoder. The vocabulary's name decides
    between layouts of equal graphs."""
    for part in ("encoder", "decoder"):
        fitting = [
            layout
            for layout in LAYOUTS
            if (name := getattr(layout, part)) and any((folder / f"{name}{end}").is_file() for end in _SUFFIX.values())
        ]
        if fitting:
            return next((layout for layout in fitting if (folder / layout.vocabulary).is_file()), fitting[0])
    return None


def graph_of(folder: Path, name: str, precision: str, *, either: bool = False) -> tuple[Path, str]:
    """Return the graph's file and its precision; with `either`, a missing precision is replaced by the other one.

    Raises `EngineUnavailableError` if there is no file.
    """
    there = {kind: folder / f"{name}{suffix}" for kind, suffix in _SUFFIX.items()}
    there = {kind: path for kind, path in there.items() if path.is_file()}
    if precision in there:
        return there[precision], precision
    if there and either:
        return next((path, kind) for kind, path in there.items())
    expected = f"{name}{_SUFFIX[precision]}" if there else f"{name}.onnx or {name}.int8.onnx"
    raise EngineUnavailableError(f"{folder.name} lacks {expected}")


def pieces_of(path: Path) -> tuple[str, ...]:
    """Return the pieces of a vocabulary, without the blank. Raises `EngineUnavailableError`."""
    if not path.is_file():
        raise EngineUnavailableError(
            f"{path.parent.name} lacks {path.name}, the vocabulary: one piece and its id a line"
        )
    try:
        return read_pieces(path.read_text("utf-8"))
    except ValueError as error:
        raise EngineUnavailableError(f"{path.name} in {path.parent.name} is not a vocabulary: {error}") from error


def settings_of(path: Path) -> dict[str, Any]:
    """Return the settings of a `config.json`; none if it does not exist. Raises `EngineUnavailableError`."""
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise EngineUnavailableError(f"{path.name} in {path.parent.name} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise EngineUnavailableError(f"{path.name} in {path.parent.name} is not a JSON object")
    return config
