from __future__ import annotations

import os
import subprocess

import psutil

from myna.bench.busy_core import busy_core


def test_a_core_is_kept_busy_by_one_program_while_the_context_lasts() -> None:
    before = set(psutil.Process().children())
    with busy_core() as core:
        (program,) = set(psutil.Process().children()) - before
        assert core in os.sched_getaffinity(0)
        while program.cpu_affinity() != [core]:
            subprocess.run(["true"], check=True)
        used = program.cpu_times().user
        while program.cpu_times().user <= used:
            subprocess.run(["true"], check=True)
    assert not program.is_running()
