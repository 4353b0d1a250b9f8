"""How this process's memory is kept, where the C library is glibc."""

from __future__ import annotations

import contextlib
import ctypes

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
"""Of glibc's malloc.h."""
_LARGE = 128 * 1024
"""Bytes from which a block gets pages of its own: glibc's own threshold, which otherwise grows with what is freed."""


def keep_steady() -> None:
    """Have freed memory given back, so that a process that lives for months stays as large as its work.

    Two arenas instead of eight a core: threads come and go, and each arena keeps what was once the most that was needed in
    it. And audio, which comes in blocks of every size, never in the heap: there it leaves holes behind.
    """
    with contextlib.suppress(AttributeError, OSError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_ARENA_MAX, 2)
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
