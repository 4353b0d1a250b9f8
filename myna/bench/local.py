"""A server of this installation, in a process of its own, for the time of a measurement."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from myna.streaming.engines.base import EngineUnavailableError


@dataclass(frozen=True, slots=True)
class LocalServer:
    """Where a server answers, and its process."""

    url: str
    pid: int


@contextlib.contextmanager
def local_server(engine: str, *flags: str) -> Iterator[LocalServer]:
    """Start a server on a free port, yield it, end it. Raises `EngineUnavailableError` if it does not start."""
    command = [
        sys.executable, "-m", "myna", "serve", "--port", "0", "--engine", engine, "--log-format", "json", *flags,
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
            with contextlib.closing(process.stderr):
                yield LocalServer(found[1] or found[2], process.pid)
        finally:
            process.terminate()
