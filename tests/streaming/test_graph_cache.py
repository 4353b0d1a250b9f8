"""The cache of rebuilt graphs: its folders, and the files left after a failure."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from myna.streaming.errors import EngineUnavailableError
from myna.streaming.speech import graph_cache

MADE = {"encoder": b"e" * 1000, "decoder": b"d" * 1000}
SCRIPT = """
import sys
from pathlib import Path
from myna.streaming.speech.graph_cache import cached
paths = cached(Path(sys.argv[1]), "kind", 1, lambda: print("made") or {"one": b"x" * 1000})
assert paths["one"].read_bytes() == b"x" * 1000
"""


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"weights")
    return path


def run(shipped: Path, cache: Path, temporary: Path) -> str:
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "TMPDIR": str(temporary)}
    command = [sys.executable, "-c", SCRIPT, str(shipped)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def test_starts_with_an_unwritable_cache_share_one_copy_of_the_graphs(shipped: Path, tmp_path: Path) -> None:
    cache, temporary = tmp_path / "cache", tmp_path / "tmp"
    cache.write_text("a file where a folder should be")
    temporary.mkdir()
    assert [run(shipped, cache, temporary) for _ in range(3)] == ["made\n", "", ""]
    assert len(list(temporary.glob("**/*.onnx"))) == 1


def test_a_folder_writable_by_other_users_is_not_used_and_no_file_stays_behind(shipped: Path, tmp_path: Path) -> None:
    cache, temporary = tmp_path / "cache", tmp_path / "tmp"
    cache.write_text("a file where a folder should be")
    foreign = temporary / f"myna-{os.getuid()}"
    foreign.mkdir(parents=True)
    foreign.chmod(0o777)
    assert run(shipped, cache, temporary) == "made\n"
    assert list(temporary.iterdir()) == [foreign]
    assert not list(foreign.iterdir())


def test_a_full_disk_leaves_no_partial_file_and_the_error_names_it(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_cache, "user_cache_path", lambda _: tmp_path / "cache")
    monkeypatch.setattr(graph_cache.tempfile, "tempdir", str(tmp_path))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(EngineUnavailableError, match="No space left on device"):
        graph_cache.cached(shipped, "kind", 1, lambda: MADE)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path != shipped]
