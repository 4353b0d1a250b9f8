"""A server of this installation, in a process of its own, for the time of a measurement."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from myna.inference.engines.catalogue import MOONSHINE, Catalogue, UnknownModelError
from myna.inference.engines.port import Engine, ModelOptions
from myna.inference.engines.registry import builder
from myna.streaming.errors import EngineUnavailableError


@dataclass(frozen=True, slots=True)
class LocalServer:
    """Where a server answers, and its process."""

    url: str
    pid: int


@contextlib.contextmanager
def local_server(model: str | None, *flags: str) -> Iterator[LocalServer]:
    """Start a server on a free port, yield it, end it. Raises `EngineUnavailableError` if it does not start."""
    command = [
        sys.executable, "-P", "-m", "myna", "serve", "--port", "0", "--log-format", "json",
        *(("--model", model) if model else ()), *flags,
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said: list[str] = []
        try:
            for line in process.stderr:
                said.append(line)
                if found := re.search(r'"url": "([^"]+)", .*"event": "listening"|"listening".*"url": "([^"]+)"', line):
                    break
            else:
                raise EngineUnavailableError("".join(said[-3:]).strip() or "the server did not start")
            # What it says must be read, or the pipe fills up and the server stands still.
            listening = threading.Thread(target=process.stderr.read, daemon=True)
            listening.start()
            yield LocalServer(found[1] or found[2], process.pid)
        finally:
            process.terminate()
            process.wait()


def local_engine(model: str | None, **options: Any) -> Callable[..., Engine]:
    """Return what builds the model's engine in this process, with these `ModelOptions`. Raises `EngineUnavailableError`."""
    try:
        found = Catalogue(Path("models"), model or MOONSHINE, {}, {}).find()
    except UnknownModelError as error:
        raise EngineUnavailableError(str(error)) from error
    return partial(builder(found.engine), ModelOptions(source=found.source, name=found.name, **options))
