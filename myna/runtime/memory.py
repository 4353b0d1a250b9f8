"""How this process's memory is kept, where the C library is glibc."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import threading
import time

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
"""Of glibc's malloc.h."""
_LARGE = 128 * 1024
"""Bytes from which a block gets pages of its own: glibc's own threshold, which otherwise grows with what is freed."""
TRIM_EVERY_S = 60.0


@functools.cache
def keep_steady(*, trimming: bool = True) -> None:
    """Have freed memory given back, so that a process that lives for months stays as large as its work.

    Two arenas instead of eight a core: threads come and go, and each arena keeps what was once the most that was needed in
    it. Audio, which comes in blocks of every size, never in the heap: there it leaves holes behind. And whatever pages of the
    heap are free are given back once a minute, which takes some milliseconds of a thread; without `trimming` that is left to
    the caller.
    """
    with contextlib.suppress(AttributeError, OSError):  # another C library
        library = ctypes.CDLL(None)
        library.mallopt(_M_ARENA_MAX, 2)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE)
    if trimming:
        threading.Thread(target=_trim, name="memory", daemon=True).start()


def give_back() -> None:
    """Return freed memory to the system."""
    with contextlib.suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _trim() -> None:
    while True:
        time.sleep(TRIM_EVERY_S)
        give_back()
