"""Graphs rewritten from shipped models, written once and kept in the user's cache folder."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import onnxruntime
from platformdirs import user_cache_path


def cached(shipped: Path, kind: str, revision: int, make: Callable[[], dict[str, bytes]]) -> dict[str, Path]:
    """Return by name the graphs that `make` makes of a shipped model, from the cache if they lie there.

    `revision` is to be raised whenever `make` changes: graphs in the cache are of one revision, one shipped model and one
    onnxruntime.
    """
    digest = hashlib.sha256(shipped.read_bytes()).hexdigest()[:16]
    folder = user_cache_path("myna") / kind / f"{digest}-{revision}-{onnxruntime.__version__}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a read-only home: a folder of this process's user instead
        folder = Path(tempfile.mkdtemp(prefix="myna-"))
    complete = folder / "complete"
    if not complete.is_file():
        for name, graph in make().items():
            _store(graph, folder / f"{name}.onnx")
        _store(b"", complete)
    return {path.stem: path for path in folder.glob("*.onnx")}


def _store(graph: bytes, path: Path) -> None:
    """Write in one move: another process may be writing, or reading, the same file."""
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as part:
        part.write(graph)
    os.replace(part.name, path)  # noqa: PTH105 - the name is a string already
