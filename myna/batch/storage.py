"""A disk that is full, read-only or broken: what is answered then (507 or 503), and what readiness says until it works."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from myna.batch.disk import check_free, is_shortage
from myna.runtime.errors import Refusal
from myna.runtime.supervisor import Supervisor

UPLOADS = "myna-upload-"
"""So begin the names of folders in the system's temporary folder that hold uploads while their requests last."""
STRAY_S = 24 * 3600.0
"""Such a folder that has not changed for so long is of a server that has crashed: no request lasts as long."""
RETRY_S = 30
"""When to come again: somebody has to make room first."""
_PROBE_BYTES = 1 << 16
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


class Doubt:
    """A part that readiness names once it has failed, until a probe of it succeeds."""

    def __init__(self, part: str, probe: Callable[[], Awaitable[object]], supervisor: Supervisor) -> None:
        self._part = part
        self._probe = probe
        self._supervisor = supervisor
        self._task: asyncio.Task[None] | None = None

    def raise_(self, error: Exception) -> None:
        """Note that the part has failed."""
        if self._task is None:
            pause_s = self._supervisor.failed(self._part, error)
            self._task = asyncio.create_task(self._until_it_works(pause_s), name=f"{self._part} probe")

    async def close(self) -> None:
        """Stop probing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _until_it_works(self, pause_s: float) -> None:
        while True:
            await asyncio.sleep(pause_s)
            try:
                await self._probe()
            except Exception as error:  # whatever it is, the part does not work
                pause_s = self._supervisor.failed(self._part, error)
            else:
                self._supervisor.works(self._part)
                self._task = None
                return


def probe_uploads(least_free: int) -> None:
    """Write a file where uploads lie while they are worked on. Raises `OSError` if that is not possible."""
    with tempfile.NamedTemporaryFile(prefix=UPLOADS) as file:
        check_free(Path(file.name).parent, least_free)
        file.write(bytes(_PROBE_BYTES))
        file.flush()
        os.fsync(file.fileno())
