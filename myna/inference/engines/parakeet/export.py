"""Exports a checkpoint as a folder of ONNX graphs, which the engine `parakeet_onnx` serves without torch and NeMo."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import onnx
import torch
from rapidfuzz.distance import Levenshtein

from myna.inference.engines import published
from myna.inference.engines.parakeet.checkpoint import inspect
from myna.inference.engines.parakeet.engine import ParakeetEngine
from myna.inference.engines.parakeet.loading import restored
from myna.inference.engines.parakeet_onnx.engine import ParakeetOnnxEngine
from myna.inference.engines.parakeet_onnx.first_chunk import make_drop_an_input
from myna.inference.engines.parakeet_onnx.pieces import BLANK
from myna.inference.engines.parakeet_onnx.quantizing import quantize, save
from myna.inference.engines.port import ModelOptions
from myna.inference.engines.transducer.decoding import BEST_SEGMENT_S
from myna.streaming.errors import EngineUnavailableError
from myna.streaming.events import samples
from myna.streaming.session.jobs import InferenceJob, JobKind, Transcript

LayoutName = Literal["onnx-asr", "sherpa-onnx"]


def export(checkpoint: Path, folder: Path, *, layout: LayoutName, int8: bool, look_ahead: int | None) -> None:
    """Write a checkpoint's graphs, vocabulary and settings to a new folder.

    `look_ahead` selects among the views of the future, in encoder frames, that a cache-aware checkpoint was trained on; None
    takes its default. Raises `EngineUnavailableError`.
    """
    described = inspect(checkpoint)
    if folder.exists() and any(folder.iterdir()):
        raise EngineUnavailableError(f"{folder} is not empty; name a new folder")
    model = restored(checkpoint, torch.device("cpu"))
    streaming = described.streaming and model.cfg.preprocessor.get("normalize") not in ("per_feature", "all_features")
    if look_ahead is not None:
        _look_ahead(model, look_ahead, checkpoint.name, streaming=streaming)
    if streaming:
        model.encoder.setup_streaming_params()
        model.set_export_config({"cache_support": True})
    settings = _settings(model, streaming=streaming)
    settings["languages"] = list(described.languages or published.languages(checkpoint.stem))
    settings["version"] = described.version
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as scratch:
        for name, parts in _parts(model, layout).items():
            graph = _exported(parts, Path(scratch), name)
            if name.startswith("encoder"):
                if streaming:
                    make_drop_an_input(graph.graph, int(model.encoder.streaming_cfg.drop_extra_pre_encoded))
                if layout == "sherpa-onnx":
                    _describe_for_sherpa(graph, model, settings)
            if int8:
                whole = Path(scratch, f"{name}.onnx")
                save(graph, whole)
                del graph
                quantize(whole, folder / f"{name}.int8.onnx")
            else:
                save(graph, folder / f"{name}.onnx")
    tokenizer = model.tokenizer
    pieces = [*tokenizer.ids_to_tokens(list(range(tokenizer.vocab_size))), BLANK]
    lines = "".join(f"{piece} {number}\n" for number, piece in enumerate(pieces))
    (folder / ("vocab.txt" if layout == "onnx-asr" else "tokens.txt")).write_text(lines, "utf-8")
    (folder / "config.json").write_text(json.dumps(settings, indent=1) + "\n", "utf-8")


def compare(checkpoint: Path, folder: Path, recordings: Sequence[bytes]) -> tuple[int, int]:
    """Return the number of words that a checkpoint decodes from int16 recordings at 16 kHz, and how many its export changes.

    Recordings are decoded in parts of at most `BEST_SEGMENT_S`. A word that is replaced, left out or added counts as changed.
    """
    size = 2 * samples(BEST_SEGMENT_S)
    parts = [pcm[start : start + size] for pcm in recordings for start in range(0, len(pcm), size)]
    jobs = [InferenceJob(f"{n}", f"{n}", JobKind.FINAL, part, 0.0) for n, part in enumerate(parts)]
    heard: list[list[str]] = []
    for engine in (
        ParakeetEngine(ModelOptions(source=str(checkpoint), device="cpu", precision="fp32")),
        ParakeetOnnxEngine(ModelOptions(source=str(folder), device="cpu")),
    ):
        outcomes = [engine.transcribe([job])[0] for job in jobs]
        heard.append([word.text for outcome in outcomes if isinstance(outcome, Transcript) for word in outcome.words])
    return len(heard[0]), Levenshtein.distance(*heard)


def _parts(model: Any, layout: LayoutName) -> dict[str, Any]:
    """Return file name → the module that is exported to it."""
    if layout == "sherpa-onnx":
        return {"encoder": model.encoder, "decoder": model.decoder, "joiner": model.joint}
    return {"encoder-model": model.encoder, "decoder_joint-model": model.get_export_subnet("decoder_joint")}


def _exported(module: Any, scratch: Path, name: str) -> onnx.ModelProto:
    """Return a module's graph with its weights in memory."""
    place = scratch / f"{name}.parts"  # the exporter writes a file for each weight of a large graph
    place.mkdir()
    with torch.no_grad(), _silent():
        module.export(str(place / "graph.onnx"), onnx_opset_version=17)
    graph = onnx.load(str(place / "graph.onnx"))
    shutil.rmtree(place)
    return graph


def _settings(model: Any, *, streaming: bool) -> dict[str, Any]:
    """Return `config.json`: onnx-asr's settings, and what the graphs do not tell."""
    extra = int(model.cfg.joint.get("num_extra_outputs", 0))
    settings: dict[str, Any] = {
        "model_type": "nemo-conformer-tdt" if extra else "nemo-conformer-rnnt",
        "features_size": int(model.cfg.preprocessor.features),
        "subsampling_factor": int(model.encoder.subsampling_factor),
        "max_tokens_per_step": 10,
        "normalize": str(model.cfg.preprocessor.normalize),
    }
    if streaming:
        told = model.encoder.streaming_cfg
        settings |= {
            "att_context_size": list(model.encoder.att_context_size),
            "chunk_size": list(told.chunk_size),
            "pre_encode_cache_size": list(told.pre_encode_cache_size),
            "last_channel_cache_size": int(told.last_channel_cache_size),
            "last_time_cache_size": int(model.encoder.conv_context_size[0]),
        }
    return settings


def _describe_for_sherpa(graph: onnx.ModelProto, model: Any, settings: dict[str, Any]) -> None:
    """Add the metadata that sherpa-onnx reads from an encoder."""
    metadata: dict[str, Any] = {
        "vocab_size": model.decoder.vocab_size,
        "normalize_type": settings["normalize"].removeprefix("NA"),
        "pred_rnn_layers": model.decoder.pred_rnn_layers,
        "pred_hidden": model.decoder.pred_hidden,
        "subsampling_factor": settings["subsampling_factor"],
        "model_type": "EncDecRNNTBPEModel",
        "version": "2",
        "model_author": "NeMo",
        "url": settings["model_type"].rpartition("-")[2],
        "comment": "",
        "feat_dim": settings["features_size"],
    }
    if "chunk_size" in settings:
        size, before = settings["chunk_size"][1], settings["pre_encode_cache_size"][1]
        metadata |= {
            "window_size": size + before,
            "chunk_shift": size,
            "chunk_size_ms": 10 * size,
            "cache_last_channel_dim1": len(model.encoder.layers),
            "cache_last_channel_dim2": settings["last_channel_cache_size"],
            "cache_last_channel_dim3": model.encoder.d_model,
            "cache_last_time_dim1": len(model.encoder.layers),
            "cache_last_time_dim2": model.encoder.d_model,
            "cache_last_time_dim3": settings["last_time_cache_size"],
        }
    for key, value in metadata.items():
        graph.metadata_props.add(key=key, value=str(value))


def _look_ahead(model: Any, frames: int, name: str, *, streaming: bool) -> None:
    trained = [list(context) for context in model.encoder.att_context_size_all] if streaming else []
    for context in trained:
        if context[1] == frames:
            model.encoder.set_default_att_context_size(context)
            return
    known = ", ".join(str(context[1]) for context in trained) or "none: it is not cache-aware"
    raise EngineUnavailableError(
        f"{name} was not trained with a look-ahead of {frames} frames; its look-aheads: {known}"
    )


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Discard what the exporter prints and warns of: traced branches, all of which are constant here."""
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
