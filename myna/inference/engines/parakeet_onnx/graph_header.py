"""Reads what an ONNX file declares, without its weights: inputs, outputs, metadata, operator sets, files of external data.

An encoder's file may have gigabytes. This reader walks the protobuf fields and seeks over what it does not need, so that a
listing of models costs milliseconds and no memory, and it finds a file that was cut short. The numbers of the fields are
those of `onnx.proto`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

GRAPH, INITIALIZER, RAW_DATA = 7, 5, 9
_OPERATOR_SET, _METADATA = 8, 14
_INPUT, _OUTPUT = 11, 12
_VARINT, _BYTES = 0, 2
_FIXED = {1: 8, 5: 4}
"""Kinds of fields of a fixed length → that length in bytes."""


class NotOnnxError(Exception):
    """The file is not an ONNX model, or is cut short. The message completes a sentence that begins with the file's name."""


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes of a file from `start` to `end`."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class GraphValue:
    """An input or output. A dimension whose size varies is None."""

    name: str
    type: int
    """`onnx.TensorProto.DataType`: 1 float, 6 int32, 7 int64, …"""
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Initializer:
    """A stored tensor: its type, and where its values are if they are stored as bytes.

    `data` is in the file `location` beside the model, or in the model's file if that is empty. `message` is the tensor's
    whole description in the model's file.
    """

    name: str
    type: int
    location: str
    data: Span
    message: Span


@dataclass(slots=True)
class GraphHeader:
    """What a model file declares."""

    opset: int = 0
    """Version of the standard operator set."""
    metadata: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, GraphValue] = field(default_factory=dict)
    outputs: dict[str, GraphValue] = field(default_factory=dict)
    initializers: dict[str, Initializer] = field(default_factory=dict)

    @property
    def external(self) -> dict[str, int]:
        """Return the files of external data, and the size that each must have at least."""
        needed: dict[str, int] = {}
        for stored in self.initializers.values():
            if stored.location:
                needed[stored.location] = max(needed.get(stored.location, 0), stored.data.end)
        return needed


def read_header(path: Path) -> GraphHeader:
    """Read a model file's declarations. Raises `NotOnnxError` and OSError."""
    header = GraphHeader()
    with path.open("rb") as file:
        for number, value in _fields(file, Span(0, path.stat().st_size)):
            if isinstance(value, int):
                continue
            if number == GRAPH:
                _read_graph(file, value, header)
            elif number == _OPERATOR_SET:
                domain, version = "", 0
                for part, given in _fields(file, value):
                    if isinstance(given, int):
                        version = given
                    elif part == 1:
                        domain = _text(file, given)
                if domain in ("", "ai.onnx"):
                    header.opset = version
            elif number == _METADATA:
                key, text = _pair(file, value)
                header.metadata[key] = text
    if not header.outputs or not header.opset:
        raise NotOnnxError("is not an ONNX model: it declares no outputs or no operator set")
    return header


def _read_graph(file: BinaryIO, graph: Span, header: GraphHeader) -> None:
    declared = {_INPUT: header.inputs, _OUTPUT: header.outputs}
    for number, value in _fields(file, graph):
        if isinstance(value, int):
            continue
        if number == INITIALIZER:
            stored = _read_initializer(file, value)
            header.initializers[stored.name] = stored
        elif number in declared:
            described = _read_value(file, value)
            declared[number][described.name] = described
    for name in header.initializers:  # files of old versions list them among the inputs
        header.inputs.pop(name, None)


def _read_value(file: BinaryIO, span: Span) -> GraphValue:
    name, kind, shape = "", 0, list[int | None]()
    for number, value in _fields(file, span):
        if number == 1 and isinstance(value, Span):
            name = _text(file, value)
        elif number == 2 and isinstance(value, Span):
            for tensor in _spans(file, value, 1):
                for part, told in _fields(file, tensor):
                    if isinstance(told, int):
                        kind = told
                    elif part == 2:
                        shape = [_size(file, dimension) for dimension in _spans(file, told, 1)]
    return GraphValue(name, kind, tuple(shape))


def _size(file: BinaryIO, dimension: Span) -> int | None:
    for number, value in _fields(file, dimension):
        if number == 1 and isinstance(value, int):
            return value
    return None


def _read_initializer(file: BinaryIO, span: Span) -> Initializer:
    name, kind, data, external = "", 0, Span(0, 0), dict[str, str]()
    for number, value in _fields(file, span):
        if isinstance(value, int):
            kind = value if number == 2 else kind
        elif number == 8:
            name = _text(file, value)
        elif number == RAW_DATA:
            data = value
        elif number == 13:
            key, text = _pair(file, value)
            external[key] = text
    if external:
        start = int(external.get("offset", 0))
        data = Span(start, start + int(external.get("length", 0)))
    return Initializer(name, kind, external.get("location", ""), data, span)


def fields(file: BinaryIO, message: Span) -> Iterator[tuple[int, int | Span, Span]]:
    """Yield each field of a message: its number, its integer or the span of its bytes, and the span of the whole field."""
    at = message.start
    while at < message.end:
        began = at
        key, start = _varint(file, at)
        number, kind = key >> 3, key & 7
        value: int | Span
        if kind == _VARINT:
            value, at = _varint(file, start)
        elif kind == _BYTES:
            length, start = _varint(file, start)
            at = start + length
            value = Span(start, at)
        elif kind in _FIXED:
            at = start + _FIXED[kind]
            value = 0
        else:
            raise NotOnnxError("is not an ONNX model")
        if at > message.end:
            raise NotOnnxError("is cut short, or is not an ONNX model")
        yield number, value, Span(began, at)


def _fields(file: BinaryIO, message: Span) -> Iterator[tuple[int, int | Span]]:
    for number, value, _ in fields(file, message):
        yield number, value


def _varint(file: BinaryIO, at: int) -> tuple[int, int]:
    """Return the integer at a position, and the position after it."""
    file.seek(at)
    value = 0
    for index, byte in enumerate(file.read(10)):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, at + index + 1
    raise NotOnnxError("is cut short, or is not an ONNX model")


def _spans(file: BinaryIO, message: Span, wanted: int) -> list[Span]:
    return [value for number, value in _fields(file, message) if number == wanted and isinstance(value, Span)]


def _text(file: BinaryIO, span: Span) -> str:
    file.seek(span.start)
    return file.read(span.end - span.start).decode("utf-8", "replace")


def _pair(file: BinaryIO, entry: Span) -> tuple[str, str]:
    """Return key and value of a `StringStringEntryProto`."""
    parts = {number: _text(file, value) for number, value in _fields(file, entry) if isinstance(value, Span)}
    return parts.get(1, ""), parts.get(2, "")
