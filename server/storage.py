"""What is answered when the disk is full, read-only or broken: 507 or 503, in each dialect's shape."""

from __future__ import annotations

import errno
import sqlite3

from myna.batch.disk import is_shortage
from myna.server.dialects.base import Refusal

RETRY_S = 30
"""When to come again: somebody has to make room first."""
_OF_THE_DISK = (
    errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOENT, errno.ENOTDIR, errno.EMFILE, errno.ENFILE,
    errno.ESTALE,
)  # fmt: skip


def refusal_of(error: OSError | sqlite3.Error) -> Refusal | None:
    """Return the refusal for an error of the disk; None if it is an error of something else."""
    if isinstance(error, sqlite3.Error):
        full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    elif is_shortage(error):
        full = True
    elif error.errno in _OF_THE_DISK:
        full = False
    else:
        return None
    if full:
        return Refusal(507, "insufficient_storage", "The server's disk is full.", retry_after_s=RETRY_S)
    return Refusal(503, "storage_failed", "The server cannot write to its disk.", retry_after_s=RETRY_S)
