"""The Dockerfile's steps outside a container, the compose file and the systemd unit (`make test-deploy`).

No Docker engine is needed: the tests copy the files that the CPU image copies, run its steps in a separate environment, and
start the server with its command.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@dataclass
class Stage:
    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def of(self, instruction: str) -> list[str]:
        return [value for name, value in self.steps if name == instruction]


def read_dockerfile() -> dict[str, Stage]:
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    stages: dict[str, Stage] = {}
    stage = None
    for line in text.splitlines():
        if not line.strip():
            continue
        instruction, value = line.split(maxsplit=1)
        if instruction == "FROM":
            base, _, name = value.partition(" AS ")
            stage = stages[name] = Stage(name, base)
        else:
            assert stage is not None
            stage.steps.append((instruction, value))
    return stages


STAGES = read_dockerfile()


def lineage(name: str) -> list[Stage]:
    """Return a stage and its base stages, the lowest first."""
    stage = STAGES[name]
    return [*(lineage(stage.base) if stage.base in STAGES else []), stage]


def values(name: str, instruction: str) -> list[str]:
    return [value for stage in lineage(name) for value in stage.of(instruction)]


def environment(name: str) -> dict[str, str]:
    return dict(re.findall(r"(\w+)=(\S+)", " ".join(values(name, "ENV"))))


@pytest.mark.parametrize("image", ["cpu", "cuda"])
def test_the_final_stages_run_as_an_unprivileged_user_without_a_compiler_and_with_a_health_check(image: str) -> None:
    assert values(image, "USER")[-1] == "myna"
    assert "useradd" in " ".join(values(image, "RUN"))
    assert not any("apt-get" in step or "pip install" in step for step in values(image, "RUN"))
    assert all(copy.startswith("--from=") for copy in STAGES[image].of("COPY"))
    assert len(values(image, "HEALTHCHECK")) == 1
    assert json.loads(values(image, "VOLUME")[0]) == ["/models", "/data"]
    assert environment(image)["MYNA_MODELS"] == "/models"
    assert values(image, "STOPSIGNAL") == ["SIGTERM"]


def test_the_last_stage_is_the_cpu_image() -> None:
    assert list(STAGES)[-1] == "cpu"
    assert environment("cuda")["MYNA_MODEL"].startswith("nvidia/")


def test_the_build_stage_copies_the_package_and_the_ignore_file_excludes_none_of_it() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    copied = [source for step in values("build", "COPY") for source in step.split()[:-1]]
    assert {"myna", "pyproject.toml", "README.md", "LICENSE"} <= set(copied)
    for source in copied:
        assert (ROOT / source).exists()
        assert not any(fnmatch.fnmatch(source, pattern) for pattern in ignored), source


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the build stage's steps in separate folders; return the environment. The copy has no top-level links."""
    source, target = tmp_path_factory.mktemp("src"), tmp_path_factory.mktemp("opt") / "myna"
    for step in values("build", "COPY"):
        *sources, _ = step.split()
        for name in sources:
            if (ROOT / name).is_dir():
                skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
                shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=skip)
            else:
                shutil.copy(ROOT / name, source / name)
    steps = [step for step in values("build-cpu", "RUN") if "apt-get" not in step]
    assert len(steps) == 2
    for step in steps:
        command = step.replace("/opt/myna", str(target)).replace("python -m venv", f"{sys.executable} -m venv")
        path = {**os.environ, "PATH": f"{target}/bin:{os.environ['PATH']}"}
        subprocess.run(command, shell=True, check=True, cwd=source, env=path, stdout=subprocess.DEVNULL)
    return target


@pytest.fixture
def started(installed: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, str]]]:
    """The image's command in the image's environment, with this test's folders and address."""
    path = f"{installed}/bin:{os.environ['PATH']}"
    settings = environment("cpu") | {
        "MYNA_HOST": "127.0.0.1",
        "MYNA_PORT": "0",
        "PATH": f"{installed}/bin:{os.environ['PATH']}",
    }
    for name, value in settings.items():
        if value.startswith(("/models", "/data")):
            settings[name] = f"{tmp_path}{value}"
    command = [*json.loads(values("cpu", "ENTRYPOINT")[-1]), *json.loads(values("cpu", "CMD")[-1])]
    found_at = shutil.which(command[0], path=path)
    assert found_at == str(installed / "bin" / "myna")
    process = subprocess.Popen(command, cwd=tmp_path, env=settings, stderr=subprocess.PIPE, executable=found_at)
    with process:
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(rb'"url": "http://127.0.0.1:(\d+)"', line):
                settings["MYNA_PORT"] = found[1].decode()
                break
        else:
            raise AssertionError("the server did not start")
        yield process, settings
        process.kill()


def test_the_installed_server_gets_ready_passes_its_health_check_and_ends_at_sigterm(
    started: tuple[subprocess.Popen[bytes], dict[str, str]],
) -> None:
    process, settings = started
    check = json.loads(values("cpu", "HEALTHCHECK")[0].partition("CMD ")[2])
    assert subprocess.run(check, env=settings, timeout=30).returncode == 0
    with urllib.request.urlopen(f"http://127.0.0.1:{settings['MYNA_PORT']}/health/ready", timeout=30) as ready:
        assert ready.status == 200
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert subprocess.run(check, env=settings, timeout=30, stderr=subprocess.DEVNULL).returncode != 0


def test_the_program_of_the_readme_runs_in_the_installed_environment(
    started: tuple[subprocess.Popen[bytes], dict[str, str]], installed: Path
) -> None:
    _, settings = started
    (program,) = re.findall(r"```python\n(.+?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    url = f"http://127.0.0.1:{settings['MYNA_PORT']}"
    call = 'StartMessage(encoding="linear16", sample_rate=16_000)'
    assert call in program
    command = [installed / "bin" / "python", "-I", "-c", program.replace(call, f"{call}, {url!r}")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "0.0"), done.stderr


def test_the_installed_package_runs_without_the_repository(installed: Path) -> None:
    command = [
        installed / "bin" / "python",
        "-c",
        "import myna.server.app, myna.streaming; print(myna.streaming.__file__)",
    ]
    said = subprocess.run(command, check=True, capture_output=True, text=True, cwd="/").stdout
    assert str(installed) in said


def test_the_compose_file_matches_the_dockerfile() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    for name, service in compose["services"].items():
        assert service["build"]["target"] == name
        assert name in STAGES
        assert {mount.split(":")[1] for mount in service["volumes"]} == set(json.loads(values(name, "VOLUME")[0]))
        assert service["read_only"]
        grace = int(service["stop_grace_period"].removesuffix("s"))
        assert grace > 30 + 25
    assert compose["services"]["cuda"]["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    assert set(compose["volumes"]) == {"models", "data"}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    text = (ROOT / "deploy" / "myna.service").read_text()
    unit = tmp_path / "myna.service"
    unit.write_text(text.replace("/opt/myna/bin/myna", sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60)
    complaints = [line for line in done.stderr.splitlines() if "myna.service" in line]
    assert complaints == []
    assert int(re.search(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)[1]) > 30 + 25  # type: ignore[index]


def test_the_health_check_fails_within_ten_seconds_if_no_server_listens() -> None:
    check = json.loads(values("cpu", "HEALTHCHECK")[0].partition("CMD ")[2])
    began = time.monotonic()
    done = subprocess.run(check, env={**os.environ, "MYNA_PORT": "1"}, stderr=subprocess.DEVNULL, timeout=30)
    assert done.returncode != 0
    assert time.monotonic() - began < 10
