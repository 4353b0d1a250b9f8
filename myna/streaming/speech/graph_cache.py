"""Graphs rewritten from shipped models, written once and kept in the user's cache folder."""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import onnxruntime
from platformdirs import user_cache_path

from myna.streaming.errors import EngineUnavailableError


def cached(shipped: Path, kind: str, revision: int, make: Callable[[], dict[str, bytes]]) -> dict[str, Path]:
    """Return by name the graphs that `make` makes of a shipped model, from the cache if they lie there.

    `revision` is to be raised whenever `make` changes: graphs in the cache are of one revision, one shipped model and one
    onnxruntime. Raises `EngineUnavailableError` where they can be written nowhere.
    """
    digest = hashlib.sha256(shipped.read_bytes()).hexdigest()[:16]
    name = f"{digest}-{revision}-{onnxruntime.__version__}"
    graphs = functools.cache(make)
    failures: list[str] = []
    for place in _places():
        try:
            return _filled(place / kind / name, graphs)
        except OSError as error:
            failures.append(f"{place}: {error.strerror or error}")
    raise EngineUnavailableError(
        f"The graphs of the model {shipped.name} can be written nowhere: {'; '.join(failures)}"
    )


def _places() -> Iterator[Path]:
    """Yield folders to try: the user's cache; one of this user's in the temporary folder; one that ends with the process.

    The second is used by every process, so that a cache that cannot be written costs its size once.
    """
    yield user_cache_path("myna")
    shared = Path(tempfile.gettempdir(), f"myna-{os.getuid()}")
    with contextlib.suppress(OSError):
        shared.mkdir(mode=0o700, exist_ok=True)
        state = shared.lstat()
        # Anybody may have made a folder of this name; what is loaded from it must be what this user wrote.
        if stat.S_ISDIR(state.st_mode) and state.st_uid == os.getuid() and not state.st_mode & 0o022:
            yield shared
    with contextlib.suppress(OSError):
        own = Path(tempfile.mkdtemp(prefix="myna-"))
        atexit.register(shutil.rmtree, own, ignore_errors=True)
        yield own


def _filled(folder: Path, make: Callable[[], dict[str, bytes]]) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    complete = folder / "complete"
    if not complete.is_file():
        for name, graph in make().items():
            _store(graph, folder / f"{name}.onnx")
        _store(b"", complete)
    return {path.stem: path for path in folder.glob("*.onnx")}


def _store(graph: bytes, path: Path) -> None:
    """Write in one move: another process may be writing, or reading, the same file."""
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as part:
        pass
    written = Path(part.name)
    try:
        written.write_bytes(graph)
        written.replace(path)
    except BaseException:  # a full disk: the part must not be left there, at each start another
        written.unlink(missing_ok=True)
        raise
