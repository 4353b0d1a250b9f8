"""Reads from the graphs of an exported model what the model is, and checks that its files fit together.

Mel bands, layers and durations are those that the graphs declare; metadata and `config.json` add what graphs do not tell.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from myna.inference.engines.parakeet_onnx.graph_header import GraphHeader, NotOnnxError, read_header
from myna.inference.engines.parakeet_onnx.layouts import Layout, graph_of, layout_of, pieces_of, settings_of
from myna.streaming.errors import EngineUnavailableError

NEWEST_OPSET = 28
"""The newest standard operator set that onnxruntime 1.32 loads."""
_SUBSAMPLING = 8
"""Feature frames per encoder frame, where neither `config.json` nor metadata tells: that of all Parakeet models."""
_MOST_SYMBOLS = 10
"""Tokens decoded at one frame at most, where `config.json` does not tell: NeMo's `max_symbols` and onnx-asr's default."""
_MOST_DURATIONS = 16
"""More outputs beyond pieces and blank are no durations: the vocabulary is another model's. NVIDIA's models have 5."""
_CONVOLUTION_CACHE = 8
"""Frames that a cache-aware encoder's convolutions keep, where nothing tells: those of NVIDIA's models span 9 frames."""
_ENCODER_INPUTS = {
    "audio_signal", "length", "cache_last_channel", "cache_last_time", "cache_last_channel_len", "drop",
}  # fmt: skip
_NORMALIZED = {"per_feature": True, "NA": False, "None": False, "": False}
"""NeMo's ways to normalise features → whether over the utterance."""


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
    def look_aheads_ms(self) -> tuple[int, ...]:
        """Return the look-ahead of a cache-aware encoder: a chunk is the current frame and those that it sees ahead."""
        if self.chunks is None:
            return ()
        return (10 * (self.chunks.sizes[1] - self.subsampling),)

    @property
    def blank(self) -> int:
        """Return the blank's id."""
        return len(self.pieces)


def find(folder: Path, precision: str = "auto", prefer: str = "int8") -> Export | None:
    """Return the export in a folder, or None if the folder holds no part of one.

    `precision` chooses among the graphs; `auto` takes the preferred one, if it is there. Raises `EngineUnavailableError` if
    the export cannot be used, with what was expected where.
    """
    layout = layout_of(folder)
    return _read(folder, layout, precision, prefer) if layout is not None else None


def _read(folder: Path, layout: Layout, precision: str, prefer: str) -> Export:
    encoder, chosen = (
        graph_of(folder, layout.encoder, prefer, either=True)
        if precision == "auto"
        else graph_of(folder, layout.encoder, precision)
    )
    others = [graph_of(folder, name, chosen, either=True)[0] for name in (layout.decoder, layout.joiner) if name]
    parts = [encoder, *others]
    headers = [_header(part) for part in parts]
    told, settings = headers[0].metadata, settings_of(folder / "config.json")
    mels = _checked_encoder(encoder, headers[0])
    if _int(settings, "features_size", mels) != mels:
        raise EngineUnavailableError(
            f"{folder.name}: config.json tells {settings['features_size']} mel bands, but {encoder.name} takes {mels}"
        )
    pieces = pieces_of(folder / layout.vocabulary)
    streaming = "cache_last_channel" in headers[0].inputs
    normalize = str(settings.get("normalize", told.get("normalize_type", "NA" if streaming else "per_feature")))
    if normalize not in _NORMALIZED:
        raise EngineUnavailableError(
            f"{folder.name}: features are normalised by {normalize!r}; expected per_feature or NA"
        )
    subsampling = _int(settings, "subsampling_factor", _int(told, "subsampling_factor", _SUBSAMPLING))
    languages = settings.get("languages", ())
    return Export(
        folder=folder, layout=layout.name, kind=_kind(layout, parts, headers, len(pieces), settings), precision=chosen,
        encoder=encoder, decoder=others[0] if others else None, joiner=others[1] if len(others) > 1 else None,
        pieces=pieces, mels=mels, normalized=_NORMALIZED[normalize], subsampling=subsampling,
        most_symbols=_int(settings, "max_tokens_per_step", _MOST_SYMBOLS),
        chunks=_chunks(encoder, headers[0], settings, subsampling) if streaming else None,
        languages=tuple(map(str, languages)) if isinstance(languages, list) else (),
        version=str(settings.get("version", "")), uuid=_uuid(parts, pieces), size=_size(parts, headers),
    )  # fmt: skip


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
    if unknown := set(header.inputs) - _ENCODER_INPUTS:
        raise EngineUnavailableError(
            f"{path.name} in {path.parent.name} takes {', '.join(sorted(unknown))}, which is not supported"
        )
    return signal.shape[1]


def _kind(
    layout: Layout, parts: Sequence[Path], headers: Sequence[GraphHeader], pieces: int, settings: Mapping[str, Any]
) -> str:
    """Return `tdt`, `rnnt` or `ctc`. Raises `EngineUnavailableError` if the graphs and the vocabulary do not fit together."""
    encoder, last, told = headers[0], headers[-1], headers[0].metadata
    folder, name = parts[0].parent.name, parts[-1].name
    if "vocab_size" in told and _int(told, "vocab_size", pieces) != pieces:
        raise EngineUnavailableError(
            f"{folder}: {layout.vocabulary} has {pieces} pieces, but {parts[0].name} was exported with {told['vocab_size']}"
        )
    if layout.decoder:
        _check_joint(parts, encoder, last, 2 if layout.joiner else 5)
    shape = next(iter(last.outputs.values())).shape
    outputs = shape[-1] if shape else None
    if outputs is None:  # the graph does not tell
        named = f"{settings.get('model_type', '')} {told.get('url', '')}"
        return "ctc" if not layout.decoder else "tdt" if "tdt" in named else "rnnt"
    durations = outputs - pieces - 1
    if not 0 <= durations <= (_MOST_DURATIONS if layout.decoder else 0):
        raise EngineUnavailableError(
            f"{folder}: {layout.vocabulary} has {pieces} pieces and a blank, but {name} has {outputs} outputs"
        )
    return "ctc" if not layout.decoder else "tdt" if durations else "rnnt"


def _check_joint(parts: Sequence[Path], encoder: GraphHeader, joint: GraphHeader, expected: int) -> None:
    """Raise `EngineUnavailableError` if the last of the graphs is no joint network that takes the encoder's frames."""
    folder, name = parts[0].parent.name, parts[-1].name
    if len(joint.inputs) != expected:
        takes = ", ".join(joint.inputs) or "nothing"
        raise EngineUnavailableError(
            f"{name} in {folder} is no joint network of NeMo: it takes {takes}; expected {expected} inputs"
        )
    given, taken = (next(iter(values.values())).shape for values in (encoder.outputs, joint.inputs))
    if len(given) == len(taken) == 3 and given[1] and taken[1] and given[1] != taken[1]:
        raise EngineUnavailableError(
            f"{folder}: {parts[0].name} gives frames of {given[1]} values, but {name} takes {taken[1]}:"
            " they are of different models"
        )


def _chunks(encoder: Path, header: GraphHeader, settings: Mapping[str, Any], subsampling: int) -> Chunks:
    """Return how a cache-aware encoder is fed: from `config.json` as `myna export` writes it, or sherpa-onnx's metadata."""
    layers, width = header.inputs["cache_last_channel"].shape[1], header.inputs["cache_last_channel"].shape[3]
    kept = header.inputs["cache_last_time"].shape[3] or _CONVOLUTION_CACHE
    try:
        if "chunk_size" in settings:
            first, later = settings["chunk_size"]
            before = settings["pre_encode_cache_size"][1]
            past = settings["last_channel_cache_size"]
            kept = settings.get("last_time_cache_size", kept)
        else:
            told = {name: int(value) for name, value in header.metadata.items() if value.lstrip("-").isdecimal()}
            later, past = told["chunk_shift"], told["cache_last_channel_dim2"]
            before, first = told["window_size"] - later, later - subsampling + 1
            kept = told.get("cache_last_time_dim3", kept)
        sizes = tuple(int(value) for value in (first, later, before, past, layers or 0, width or 0, kept))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise EngineUnavailableError(
            f"{encoder.parent.name}: {encoder.name} is cache-aware, but neither config.json (chunk_size,"
            " pre_encode_cache_size, last_channel_cache_size) nor its metadata (window_size, chunk_shift,"
            f" cache_last_channel_dim2) tells the sizes of its chunks: {error!r}"
        ) from error
    first, later, before, past, layers, width, kept = sizes
    return Chunks(
        sizes=(first, later), before=(0, before), dropped=1 + (before - 1) // subsampling if before else 0,
        caches=(layers, past, width, kept), exact="drop" in header.inputs,
    )  # fmt: skip


def _int(settings: Mapping[str, Any], name: str, otherwise: int) -> int:
    value = settings.get(name, otherwise)
    return int(value) if isinstance(value, int) or (isinstance(value, str) and value.isdecimal()) else otherwise


def _uuid(parts: Sequence[Path], pieces: tuple[str, ...]) -> str:
    """Return an id derived from the vocabulary and, of each graph, the size, the first and the last 64 KiB."""
    digest = hashlib.sha256("\n".join(pieces).encode())
    for part in parts:
        size = part.stat().st_size
        with part.open("rb") as file:
            digest.update(f"{part.name} {size}".encode() + file.read(1 << 16))
            file.seek(max(0, size - (1 << 16)))
            digest.update(file.read())
    return str(uuid.uuid5(uuid.NAMESPACE_OID, digest.hexdigest()))


def _size(parts: Sequence[Path], headers: Sequence[GraphHeader]) -> int:
    """Return the bytes of the graphs and their external data."""
    beside = {part.parent / name for part, header in zip(parts, headers, strict=True) for name in header.external}
    return sum(path.stat().st_size for path in (*parts, *beside))
