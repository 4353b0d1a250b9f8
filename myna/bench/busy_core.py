"""A program that keeps one core busy, for measurements of a server that shares its host."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

_PROGRAM = "import os, sys\nos.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"


@contextlib.contextmanager
def busy_core() -> Iterator[int]:
    """Keep this process's last core busy while the context lasts; yield its number. Linux only.

    The program has the niceness of this process and a session of its own, as a program that somebody else has started.
    """
    core = max(os.sched_getaffinity(0))
    program = subprocess.Popen([sys.executable, "-c", _PROGRAM, str(core)], start_new_session=True)
    try:
        yield core
    finally:
        program.kill()
        program.wait()
