"""Checks whether this process can open files and accept connections."""

from __future__ import annotations

import os
import resource

_MOST = 1 << 20
"""The limit that counts for a system without one."""
SPARE = 16
"""File descriptors that must be free: for a worker that restarts, for files and for requests about readiness."""


def descriptors_left(one: int) -> str | None:
    """Return an error message if too few file descriptors are free, else None. `one` is any open descriptor."""
    copies: list[int] = []
    try:
        while len(copies) < SPARE:
            copies.append(os.dup(one))
    except OSError as error:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return (
            f"{len(copies)} of {limit} file descriptors are free, {SPARE} are needed: {os.strerror(error.errno or 0)}"
        )
    finally:
        for copy in copies:
            os.close(copy)
    return None


def raise_descriptor_limit() -> None:
    """Raise the process's soft limit of descriptors to its hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def descriptor_limit() -> int:
    """Return how many descriptors the process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST if soft == resource.RLIM_INFINITY else soft
