"""Finds the parts of an exported Parakeet in a folder, and reads from its graphs what the model is.

Two layouts are public. That of onnx-asr: `encoder-model.onnx`, `decoder_joint-model.onnx`, `vocab.txt`, `config.json`. That
of sherpa-onnx: `encoder.onnx`, `decoder.onnx`, `joiner.onnx`, `tokens.txt`, and settings in the encoder's metadata. A CTC
model is one file, `model.onnx`, in both. In all of them, `.int8` before `.onnx` marks a quantised graph. Mel bands, layers
and durations are read from the graphs; `config.json` adds what they do not tell.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from myna.inference.engines.parakeet_onnx.graph_header import GraphHeader, NotOnnxError, read_header
from myna.inference.engines.parakeet_onnx.pieces import read_pieces
from myna.streaming.errors import EngineUnavailableError

PRECISIONS = ("fp32", "int8")
NEWEST_OPSET = 28
"""The newest standard operator set that onnxruntime 1.32 loads."""
_SUFFIX = {"fp32": ".onnx", "int8": ".int8.onnx"}
_SUBSAMPLING = 8
"""Feature frames per encoder frame, where neither `config.json` nor metadata tells: that of all Parakeet models."""
_MOST_SYMBOLS = 10
"""Tokens decoded at one frame at most, where `config.json` does not tell: NeMo's `max_symbols` and onnx-asr's default."""

_CONVOLUTION_CACHE = 8
"""Frames that a cache-aware encoder's convolutions keep, where nothing tells: those of NVIDIA's models span 9 frames."""


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


@dataclass(frozen=True, slots=True)
class Chunks:
    """How a cache-aware encoder takes its audio. Pairs hold the value for an utterance's first chunk and for later ones."""

    sizes: tuple[int, int]
    """New feature frames of a chunk."""
    before: tuple[int, int]
    """Feature frames repeated before a chunk, for the subsampling."""
    dropped: int
    """Encoder frames that come from the repeated frames alone."""
    caches: tuple[int, int, int, int]
    """Layers, encoder frames kept for attention, width, and frames kept for the convolutions."""
    exact: bool
    """Whether the graph takes `dropped` as an input, so that a first chunk needs no frames before it."""


@dataclass(frozen=True, slots=True)
class Export:
    """A usable exported model. `languages` is empty if `config.json` declares none."""

    folder: Path
    layout: str
    kind: str
    """`tdt`, `rnnt` or `ctc`."""
    precision: str
    """`int8` or `fp32`: the encoder's."""
    encoder: Path
    decoder: Path | None
    """Prediction network, with the joint network if there is no `joiner`; None for a CTC model."""
    joiner: Path | None
    pieces: tuple[str, ...]
    """The vocabulary, without the blank, which has the next id."""
    mels: int
    normalized: bool
    subsampling: int
    most_symbols: int
    chunks: Chunks | None
    """None if the encoder attends to whole utterances."""
    languages: tuple[str, ...]
    version: str
    uuid: str
    size: int
    """Bytes of the graphs, external data included."""

    @property
    def blank(self) -> int:
        """Return the blank's id."""
        return len(self.pieces)


def claims(folder: Path) -> bool:
    """Return whether a folder holds a part of an exported model, by the names of its files."""
    return folder.is_dir() and _layout(folder) is not None


def find(folder: Path, precision: str = "auto", prefer: str = "int8") -> Export | None:
    """Return the export in a folder, or None if the folder holds no part of one.

    `precision` chooses among the graphs; `auto` takes the preferred one, if it is there. Raises `EngineUnavailableError` if
    the export cannot be used, with what was expected where.
    """
    layout = _layout(folder)
    return _read(folder, layout, precision, prefer) if layout is not None else None


def _layout(folder: Path) -> Layout | None:
    """Return the layout of which the folder has the encoder or, failing that, the decoder."""
    for part in ("encoder", "decoder"):
        for layout in LAYOUTS:
            name = getattr(layout, part)
            if name and any((folder / f"{name}{suffix}").is_file() for suffix in _SUFFIX.values()):
                return layout
    return None


def _read(folder: Path, layout: Layout, precision: str, prefer: str) -> Export:
    encoder, chosen = _graph(
        folder, layout.encoder, prefer if precision == "auto" else precision, either=precision == "auto"
    )
    head = _header(encoder)
    pieces = _pieces(folder / layout.vocabulary)
    config = _config(folder / "config.json")
    mels = _checked_encoder(encoder, head)
    parts, sizes = [encoder], [head]
    decoder = joiner = None
    kind = "ctc"
    if layout.decoder:
        decoder, _ = _graph(folder, layout.decoder, chosen, either=True)
        parts.append(decoder)
        if layout.joiner:
            joiner, _ = _graph(folder, layout.joiner, chosen, either=True)
            parts.append(joiner)
        sizes += [_header(part) for part in parts[1:]]
        kind = _transducer(folder, layout, parts, sizes, len(pieces), config, head.metadata)
    else:
        _expect(
            encoder,
            "outputs",
            _last(head),
            len(pieces) + 1,
            f"{layout.vocabulary} has {len(pieces)} pieces and a blank",
        )
    known = _int(config, "features_size", _int(head.metadata, "feat_dim", mels))
    if known != mels:
        raise EngineUnavailableError(
            f"{folder.name}: config.json tells {known} mel bands, but {encoder.name} takes {mels}"
        )
    streaming = "cache_last_channel" in head.inputs
    subsampling = _int(config, "subsampling_factor", _int(head.metadata, "subsampling_factor", _SUBSAMPLING))
    normalize = config.get("normalize", head.metadata.get("normalize_type", "NA" if streaming else "per_feature"))
    size = sum(part.stat().st_size for part in parts)
    size += sum((folder / name).stat().st_size for header in sizes for name in header.external)
    return Export(
        folder=folder, layout=layout.name, kind=kind, precision=chosen, encoder=encoder, decoder=decoder, joiner=joiner,
        pieces=pieces, mels=mels, normalized=normalize == "per_feature", subsampling=subsampling,
        most_symbols=_int(config, "max_tokens_per_step", _MOST_SYMBOLS),
        chunks=_chunks(folder, encoder, head, config, subsampling) if streaming else None,
        languages=tuple(str(language) for language in config.get("languages", ())),
        version=str(config.get("version", "")), uuid=_uuid(parts, pieces), size=size,
    )  # fmt: skip


def _graph(folder: Path, name: str, precision: str, *, either: bool = False) -> tuple[Path, str]:
    """Return the graph's file and its precision; with `either`, a missing precision is replaced by the other one."""
    there = {kind: folder / f"{name}{suffix}" for kind, suffix in _SUFFIX.items()}
    there = {kind: path for kind, path in there.items() if path.is_file()}
    if precision in there:
        return there[precision], precision
    if there and either:
        return next((path, kind) for kind, path in there.items())
    expected = f"{name}{_SUFFIX[precision]}" if there else f"{name}.onnx or {name}.int8.onnx"
    raise EngineUnavailableError(f"{folder.name} lacks {expected}")


def _header(path: Path) -> GraphHeader:
    """Read a graph's header and check its operator set and the files of its external data."""
    try:
        header = read_header(path)
    except NotOnnxError as error:
        raise EngineUnavailableError(f"{path.name} in {path.parent.name} {error}") from error
    except OSError as error:
        raise EngineUnavailableError(f"{path} cannot be read: {error.strerror or error}") from error
    if header.opset > NEWEST_OPSET:
        raise EngineUnavailableError(
            f"{path.name} in {path.parent.name} uses operator set {header.opset}; supported are sets up to {NEWEST_OPSET}"
        )
    for name, size in header.external.items():
        data = path.parent / name
        there = data.stat().st_size if data.is_file() else None
        if there is None:
            raise EngineUnavailableError(f"{path.parent.name} lacks {name}, which holds the weights of {path.name}")
        if there < size:
            raise EngineUnavailableError(
                f"{name} in {path.parent.name} has {there} bytes; {path.name} needs {size}: the file was cut short"
            )
    return header


def _checked_encoder(path: Path, header: GraphHeader) -> int:
    """Return the number of mel bands. Raises `EngineUnavailableError` if the graph is not an encoder of speech."""
    signal = header.inputs.get("audio_signal")
    if signal is None or "length" not in header.inputs or len(signal.shape) != 3 or not signal.shape[1]:
        raise EngineUnavailableError(
            f"{path.name} in {path.parent.name} is no speech model of NeMo: it takes"
            f" {', '.join(header.inputs) or 'nothing'}; expected audio_signal [batch, mel bands, frames] and length"
        )
    return signal.shape[1]


def _transducer(
    folder: Path,
    layout: Layout,
    parts: list[Path],
    headers: list[GraphHeader],
    pieces: int,
    config: dict[str, Any],
    metadata: dict[str, str],
) -> str:
    """Return `tdt` or `rnnt`. Raises `EngineUnavailableError` if the graphs and the vocabulary do not fit together."""
    encoder, joint = headers[0], headers[-1]
    expected = 2 if layout.joiner else 5
    if len(joint.inputs) < expected:
        takes = ", ".join(joint.inputs) or "nothing"
        raise EngineUnavailableError(
            f"{parts[-1].name} in {folder.name} is no joint network of NeMo: it takes {takes}; expected {expected} inputs"
        )
    width = encoder.outputs.get("outputs", next(iter(encoder.outputs.values()))).shape
    taken = next(iter(joint.inputs.values())).shape
    if len(width) == len(taken) == 3 and width[1] and taken[1] and width[1] != taken[1]:
        raise EngineUnavailableError(
            f"{folder.name}: {parts[0].name} gives frames of {width[1]} values, but {parts[-1].name} takes {taken[1]}:"
            " they are of different models"
        )
    told = metadata.get("vocab_size")
    if told and told.isdecimal() and int(told) != pieces:
        raise EngineUnavailableError(
            f"{folder.name}: {layout.vocabulary} has {pieces} pieces, but {parts[0].name} was exported with {told}"
        )
    outputs = _last(joint)
    if outputs is None:  # the graph does not tell; its first run will
        named = f"{config.get('model_type', '')} {metadata.get('url', '')}"
        return "tdt" if "tdt" in named else "rnnt"
    if outputs < pieces + 1:
        raise EngineUnavailableError(
            f"{folder.name}: {layout.vocabulary} has {pieces} pieces and a blank, but {parts[-1].name} knows {outputs}"
            " outputs"
        )
    return "rnnt" if outputs == pieces + 1 else "tdt"


def _last(header: GraphHeader) -> int | None:
    shape = next(iter(header.outputs.values())).shape
    return shape[-1] if shape else None


def _expect(path: Path, what: str, found: int | None, expected: int, because: str) -> None:
    if found is not None and found != expected:
        raise EngineUnavailableError(f"{path.name} in {path.parent.name} has {found} {what}, but {because}")


def _chunks(folder: Path, encoder: Path, header: GraphHeader, config: dict[str, Any], subsampling: int) -> Chunks:
    """Return how a cache-aware encoder is fed: from `config.json` as `myna export` writes it, or sherpa-onnx's metadata."""
    layers, width = header.inputs["cache_last_channel"].shape[1], header.inputs["cache_last_channel"].shape[3]
    kept = header.inputs["cache_last_time"].shape[3] or _CONVOLUTION_CACHE
    try:
        if "chunk_size" in config:
            first, later = config["chunk_size"]
            before = config["pre_encode_cache_size"][1]
            past = config["last_channel_cache_size"]
            kept = config.get("last_time_cache_size", kept)
        else:
            told = {name: int(value) for name, value in header.metadata.items() if value.lstrip("-").isdecimal()}
            later, past = told["chunk_shift"], told["cache_last_channel_dim2"]
            before, first = told["window_size"] - later, later - subsampling + 1
            kept = told.get("cache_last_time_dim3", kept)
        sizes = tuple(int(value) for value in (first, later, before, past, layers or 0, width or 0, kept))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise EngineUnavailableError(
            f"{folder.name}: {encoder.name} is cache-aware, but neither config.json (chunk_size, pre_encode_cache_size,"
            " last_channel_cache_size) nor its metadata (window_size, chunk_shift, cache_last_channel_dim2) tells the"
            f" sizes of its chunks: {error!r}"
        ) from error
    first, later, before, past, layers, width, kept = sizes
    return Chunks(
        sizes=(first, later), before=(0, before), dropped=1 + (before - 1) // subsampling if before else 0,
        caches=(layers, past, width, kept), exact="drop" in header.inputs,
    )  # fmt: skip


def _pieces(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise EngineUnavailableError(
            f"{path.parent.name} lacks {path.name}, the vocabulary: one piece and its id a line"
        )
    try:
        return read_pieces(path.read_text("utf-8"))
    except ValueError as error:
        raise EngineUnavailableError(f"{path.name} in {path.parent.name} is not a vocabulary: {error}") from error


def _config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise EngineUnavailableError(f"{path.name} in {path.parent.name} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise EngineUnavailableError(f"{path.name} in {path.parent.name} is not a JSON object")
    return config


def _int(settings: dict[str, Any], name: str, otherwise: int) -> int:
    value = settings.get(name, otherwise)
    return int(value) if isinstance(value, int) or (isinstance(value, str) and value.isdecimal()) else otherwise


def _uuid(parts: list[Path], pieces: tuple[str, ...]) -> str:
    """Return an id derived from the vocabulary and, of each graph, the size, the first and the last 64 KiB."""
    digest = hashlib.sha256("\n".join(pieces).encode())
    for part in parts:
        size = part.stat().st_size
        with part.open("rb") as file:
            digest.update(f"{part.name} {size}".encode() + file.read(1 << 16))
            file.seek(max(0, size - (1 << 16)))
            digest.update(file.read())
    return str(uuid.uuid5(uuid.NAMESPACE_OID, digest.hexdigest()))
