"""A server of this installation, in a child process that ends with the caller's block."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass


class LocalServerError(Exception):
    """The server did not start; the message is what it wrote last."""


@dataclass(frozen=True, slots=True)
class LocalServer:
    """A started server's address and process id."""

    url: str
    pid: int


@contextlib.contextmanager
def local_server(model: str | None, *flags: str) -> Iterator[LocalServer]:
    """Run `myna serve` on a free port; stop it when the block ends. Raises `LocalServerError` if it does not start."""
    command = [
        sys.executable, "-P", "-m", "myna", "serve", "--port", "0", "--log-format", "json",
        *(("--model", model) if model else ()), *flags,
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines: list[str] = []
        try:
            for line in process.stderr:
                lines.append(line)
                if found := re.search(r'"url": "([^"]+)", .*"event": "listening"|"listening".*"url": "([^"]+)"', line):
                    break
            else:
                raise LocalServerError("".join(lines[-3:]).strip().removeprefix("myna: ") or "the server did not start")
            # The server blocks on its log once the pipe is full, so a thread reads the pipe.
            reader = threading.Thread(target=process.stderr.read, daemon=True)
            reader.start()
            yield LocalServer(found[1] or found[2], process.pid)
        finally:
            process.terminate()
            process.wait()
