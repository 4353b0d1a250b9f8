"""A cache, in the user's cache folder, of graphs that are rebuilt from shipped models."""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import onnxruntime
from platformdirs import user_cache_path

from myna.streaming.errors import EngineUnavailableError


def cached(
    shipped: Path, kind: str, revision: int, make: Callable[[], dict[str, bytes]], also: Sequence[Path] = ()
) -> dict[str, Path]:
    """Return, by name, the files of the graphs that `make` builds from a shipped model, from the cache if they are there.

    `also` are further files that `make` reads.

    An entry of the cache belongs to one revision, one shipped model and one onnxruntime version; increase `revision` whenever
    `make` changes. Raises `EngineUnavailableError` if no folder is writable.
    """
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in (shipped, *also))).hexdigest()[:16]
    name = f"{digest}-{revision}-{onnxruntime.__version__}"
    graphs = functools.cache(make)
    failures: list[str] = []
    for place in places():
        try:
            return _filled(place / kind / name, graphs)
        except OSError as error:
            failures.append(f"{place}: {error.strerror or error}")
    raise EngineUnavailableError(
        f"No folder is writable for the graphs of the model {shipped.name}: {'; '.join(failures)}"
    )


def places() -> Iterator[Path]:
    """Yield the folders to try: the user's cache, the user's folder in the temporary folder, and one for this process alone.

    All processes of the user share the second, so that an unwritable cache costs the graphs' size once.
    """
    yield user_cache_path("myna")
    shared = Path(tempfile.gettempdir(), f"myna-{os.getuid()}")
    with contextlib.suppress(OSError):
        shared.mkdir(mode=0o700, exist_ok=True)
        state = shared.lstat()
        # Another user may have made a folder of this name; only graphs that this user wrote may be loaded.
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
    """Write a file atomically: another process may be writing or reading the same file."""
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as part:
        pass
    written = Path(part.name)
    try:
        written.write_bytes(graph)
        written.replace(path)
    except BaseException:  # a full disk: each start would leave another partial file
        written.unlink(missing_ok=True)
        raise
