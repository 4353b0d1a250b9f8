"""Reads what a CTranslate2 Whisper folder holds, without loading it: its languages, its size, and whether it is whole.

The weights file is walked from variable to variable (the format of CTranslate2's `model_spec.py`, version 6), which takes
milliseconds: a file cut short is found when models are listed, and not at the first request.
"""

from __future__ import annotations

import json
import os
import struct
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from myna.streaming.errors import EngineUnavailableError

WEIGHTS, TOKENIZER, CONFIG = "model.bin", "tokenizer.json", "config.json"
VOCABULARIES = ("vocabulary.json", "vocabulary.txt")
_SPEC = "WhisperSpec"
"""The name of the model's form in the weights file; a translator has another, such as TransformerSpec."""
_VERSIONS = range(5, 7)
"""Versions of the weights' format that are walked. Since 5, a variable's length is in bytes."""
_MOST_VARIABLES = 100_000
_ENGLISH_PIECES = 51864
"""Size of the vocabulary of English-only models; multilingual ones have more (CTranslate2's `is_multilingual`)."""
_ISO_639_1 = {"jw": "jv"}
"""Whisper's codes that differ from ISO 639-1. `haw` and `yue`, which have no code of two letters, stay."""


@dataclass(frozen=True, slots=True)
class WhisperFolder:
    """What a folder declares. `languages` are ISO 639-1 codes; `size` is in bytes."""

    path: Path
    languages: tuple[str, ...]
    size: int
    uuid: str


def inspect(path: Path) -> WhisperFolder:
    """Return what the folder holds. Raises `EngineUnavailableError` if it is not a complete Whisper model."""
    for name in (WEIGHTS, CONFIG, TOKENIZER):
        if not (path / name).is_file():
            raise EngineUnavailableError(
                f"{path} has no {name}; a Whisper folder of CTranslate2 holds {WEIGHTS}, {CONFIG}, {TOKENIZER} and"
                f" {VOCABULARIES[0]}"
            )
    weights = path / WEIGHTS
    size = weights.stat().st_size
    with weights.open("rb") as file:
        _check_weights(file, size, weights)
    pieces = _vocabulary(path)
    _object(path / TOKENIZER)
    _object(path / CONFIG)
    total = size + sum(file.stat().st_size for file in path.iterdir() if file.is_file() and file.name != WEIGHTS)
    return WhisperFolder(path, _languages(pieces, path), total, _uuid(weights, size))


def iso_code(code: str) -> str:
    """Return the ISO 639-1 code of a language code of Whisper."""
    return _ISO_639_1.get(code, code)


def whisper_code(language: str) -> str:
    """Return Whisper's code of a language tag such as `en-GB`."""
    primary = language.split("-")[0].split("_")[0].lower()
    return {iso: code for code, iso in _ISO_639_1.items()}.get(primary, primary)


def _check_weights(file: BinaryIO, size: int, path: Path) -> None:
    try:
        version = _number(file, "I")
        if version not in _VERSIONS:
            raise EngineUnavailableError(
                f"{path} is no CTranslate2 model that can be read (format {version}, not 5 or 6)"
            )
        spec = _text(file)
        if spec != _SPEC:
            raise EngineUnavailableError(f"{path} is a CTranslate2 model of the form {spec!r}; Whisper has {_SPEC!r}")
        _number(file, "I")  # the form's revision
        variables = _number(file, "I")
        if variables > _MOST_VARIABLES:
            raise EngineUnavailableError(f"{path} is damaged: it declares {variables} variables")
        for _ in range(variables):
            _text(file)
            file.seek(4 * _number(file, "B"), os.SEEK_CUR)  # the shape
            _number(file, "B")  # the type of the numbers
            file.seek(_number(file, "I"), os.SEEK_CUR)
            if file.tell() > size:
                raise _ShortError
    except (_ShortError, UnicodeDecodeError) as error:
        raise EngineUnavailableError(f"{path} is cut short or damaged at {size} bytes; fetch it again") from error


class _ShortError(Exception):
    """The file ends inside a variable."""


def _number(file: BinaryIO, code: str) -> int:
    data = file.read(struct.calcsize("<" + code))
    if len(data) < struct.calcsize("<" + code):
        raise _ShortError
    return int(struct.unpack("<" + code, data)[0])


def _text(file: BinaryIO) -> str:
    """Read a string: its length with the final zero, then its bytes."""
    length = _number(file, "H")
    data = file.read(length)
    if len(data) < length:
        raise _ShortError
    return data[:-1].decode("utf-8")


def _vocabulary(path: Path) -> list[str]:
    for name in VOCABULARIES:
        file = path / name
        if not file.is_file():
            continue
        text = file.read_text("utf-8")
        if name.endswith(".txt"):
            return text.split("\n")[: -1 if text.endswith("\n") else None]
        try:
            pieces = json.loads(text)
        except ValueError as error:
            raise EngineUnavailableError(f"{file} is not JSON: {error}") from error
        if not isinstance(pieces, list) or not all(isinstance(piece, str) for piece in pieces):
            raise EngineUnavailableError(f"{file} must be a list of strings")
        return pieces
    raise EngineUnavailableError(f"{path} has neither {' nor '.join(VOCABULARIES)}")


def _languages(pieces: list[str], path: Path) -> tuple[str, ...]:
    """Return the languages: the pieces between the start of a transcript and the tasks."""
    if len(pieces) <= _ENGLISH_PIECES:
        return ("en",)
    try:
        begin, end = pieces.index("<|startoftranscript|>") + 1, pieces.index("<|translate|>")
    except ValueError as error:
        raise EngineUnavailableError(f"the vocabulary of {path} has no {str(error).split(' ')[0]}") from error
    return tuple(sorted(iso_code(piece[2:-2]) for piece in pieces[begin:end]))


def _object(file: Path) -> None:
    try:
        parsed = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise EngineUnavailableError(f"{file} is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise EngineUnavailableError(f"{file} must be a JSON object, not {type(parsed).__name__}")


def _uuid(weights: Path, size: int) -> str:
    """Return a name that is the same for the same weights: of their size and their first and last bytes."""
    with weights.open("rb") as file:
        head = file.read(1 << 16)
        file.seek(max(0, size - (1 << 16)))
        return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{size} {head.hex()} {file.read().hex()}"))
