"""The wheel and the sdist, built from copies of the repository, and the client that installs without the server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINKS = {name: f"myna/{name}" for name in ("server", "streaming", "batch", "clients")}
SERVER_ONLY = ("av", "aiohttp", "onnxruntime", "torch", "numpy")
BUILD = (
    "import sys; from setuptools import build_meta as build; print(getattr(build, 'build_' + sys.argv[1])(sys.argv[2]))"
)


def checkout(folder: Path) -> Path:
    """Copy the files that a package can be built of, without the links."""
    folder.mkdir()
    for name in ("myna", "docs", "deploy", "tests"):
        skip = shutil.ignore_patterns("__pycache__", "node_modules", ".hypothesis", "*.nemo")
        shutil.copytree(ROOT / name, folder / name, ignore=skip)
    for path in ROOT.iterdir():
        if path.is_file() and path.name != ".git":
            shutil.copy(path, folder)
    return folder


def built(kind: str, source: Path) -> Path:
    """Build a package with the installed setuptools, which saves the download of another one."""
    target = source.parent / f"{source.name}-{kind}"
    command = [sys.executable, "-W", "ignore", "-c", BUILD, kind, str(target)]
    done = subprocess.run(command, cwd=source, check=True, capture_output=True, text=True)
    return target / done.stdout.splitlines()[-1]


def modules(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in (folder / "myna").rglob("*") if path.is_file()}


def contents(wheel: Path) -> dict[str, int]:
    with zipfile.ZipFile(wheel) as archive:
        return {each.filename: each.CRC for each in archive.infolist() if each.filename.startswith("myna/")}


@pytest.fixture(scope="session")
def without_links(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkout(tmp_path_factory.mktemp("without") / "source")


@pytest.fixture(scope="session")
def wheel(without_links: Path) -> Path:
    return built("wheel", without_links)


def test_the_top_level_names_are_links_to_the_rooms() -> None:
    for name, target in LINKS.items():
        assert str((ROOT / name).readlink()) == target


def test_a_wheel_built_without_the_links_has_every_module_and_the_page(without_links: Path, wheel: Path) -> None:
    assert contents(wheel).keys() == modules(without_links)
    assert {"myna/server/app.py", "myna/clients/web/index.html", "myna/py.typed"} <= contents(wheel).keys()


def test_a_wheel_built_where_the_links_are_text_files_is_the_same(
    without_links: Path, wheel: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(without_links, source, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    for name, target in LINKS.items():
        (source / name).write_text(target)
    assert contents(built("wheel", source)) == contents(wheel)


def test_the_sdist_has_the_tests_and_the_docs(without_links: Path) -> None:
    with tarfile.open(built("sdist", without_links)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for room in ("docs", "tests", "deploy", "myna"):
        there = {str(path.relative_to(without_links)) for path in (without_links / room).rglob("*") if path.is_file()}
        assert there <= names
    assert {"README.md", "CHANGELOG.md", "Makefile", "Dockerfile", "compose.yaml", "pyproject.toml"} <= names
    assert not any("node_modules" in name or name.endswith(".pyc") for name in names)


@pytest.fixture(scope="session")
def client(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel alone, without an extra."""
    target = tmp_path_factory.mktemp("client") / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(target)], check=True)
    subprocess.run([target / "bin" / "pip", "install", "--quiet", "--no-compile", wheel], check=True)
    return target


def myna(environment: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [str(environment / "bin" / "myna"), *arguments]
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("MYNA_", "PYTHON"))}
    return subprocess.run(command, cwd=cwd, env=outside, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("command", ["stream", "transcribe", "mic"])
def test_the_commands_of_a_client_run_without_the_server_extra(client: Path, command: str, tmp_path: Path) -> None:
    done = myna(client, command, "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "--language" in done.stdout


def test_a_client_without_an_extra_sends_files(client: Path, tmp_path: Path) -> None:
    """The command gets as far as the connection, which is refused."""
    shutil.copy(ROOT / "tests" / "parakeet" / "held_out" / "03.flac", tmp_path / "speech.flac")
    sent = myna(client, "transcribe", "speech.flac", "--url", "http://127.0.0.1:1", cwd=tmp_path)
    assert (sent.returncode, "no answer from" in sent.stderr) == (1, True), sent.stderr


def test_nothing_of_the_server_is_installed_with_a_client(client: Path) -> None:
    code = f"from importlib.util import find_spec; print([name for name in {SERVER_ONLY} if find_spec(name)])"
    done = subprocess.run([client / "bin" / "python", "-I", "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["stream", "speech.wav"], "files"),
        (["serve"], "server"),
        (["serve", "--help"], "server"),
        (["keys", "add", "me"], "server"),
        (["transcribe", "speech.wav", "--local"], "server"),
        (["bench", "accuracy", "--manifest", "speech.jsonl"], "bench"),
    ],
)
def test_a_command_that_needs_an_extra_names_it_in_one_line(
    client: Path, arguments: list[str], extra: str, tmp_path: Path
) -> None:
    done = myna(client, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert f"pip install 'myna[{extra}]'" in done.stderr
