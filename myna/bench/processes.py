"""CPU time and memory of all processes of a server."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import psutil


class ProcessTree:
    """The processes of a server."""

    def __init__(self, pid: int) -> None:
        self._front = psutil.Process(pid)

    def cpu_s(self) -> float:
        """Return the CPU time of the processes that run, and of their children that have ended."""
        times = self._of_each(lambda process: process.cpu_times())
        return float(sum(t.user + t.system + t.children_user + t.children_system for t in times))

    def memory_mb(self) -> float:
        """Return the memory of all processes; what several share counts once."""
        return float(sum(info.pss for info in self._of_each(lambda process: process.memory_full_info())) / (1 << 20))

    def _of_each(self, ask: Callable[[psutil.Process], Any]) -> list[Any]:
        """Return the answer of each process that runs; decoders of media end at any time."""
        answers = []
        for process in [self._front, *self._front.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                answers.append(ask(process))
        return answers
