"""Configures how the C library returns freed memory to the system. Effective with glibc only."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import threading
import time

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
"""Constants of glibc's malloc.h."""
_LARGE = 128 * 1024
"""Block size, in bytes, from which malloc uses mmap: glibc's default, which glibc otherwise raises as blocks are freed."""
TRIM_EVERY_S = 60.0


@functools.cache
def keep_steady(*, trimming: bool = True) -> None:
    """Make the process return freed memory, so that its size follows its work even after months.

    The number of arenas is limited to two, instead of eight per core: each arena keeps its peak size while threads come and
    go. Audio blocks, which have all sizes, use mmap and not the heap, where they would cause fragmentation. A thread returns
    free pages of the heap once a minute, which takes a few milliseconds; without `trimming`, the caller does that.
    """
    with contextlib.suppress(AttributeError, OSError):  # another C library
        library = ctypes.CDLL(None)
        library.mallopt(_M_ARENA_MAX, 2)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE)
    if trimming:
        threading.Thread(target=_trim, name="memory", daemon=True).start()


def give_back() -> None:
    """Return free pages of the heap to the system."""
    with contextlib.suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


async def trim_regularly() -> None:
    """Return free pages of the heap to the system once a minute, on a thread, until cancelled."""
    while True:
        await asyncio.sleep(TRIM_EVERY_S)
        await asyncio.to_thread(give_back)


def _trim() -> None:
    while True:
        time.sleep(TRIM_EVERY_S)
        give_back()
