"""Handles a full, read-only or broken disk: the refusal (507 or 503), and readiness until the disk works again."""

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
from myna.runtime.tasks import cancel_and_wait

UPLOADS = "myna-upload-"
"""Prefix of the folders in the system's temporary folder that hold the uploads of running requests."""
STRAY_S = 24 * 3600.0
"""A folder with this prefix that has not changed for this long belongs to a crashed server: no request lasts this long."""
RETRY_S = 30
"""Retry delay given to clients: an operator has to free space first."""
_PROBE_BYTES = 1 << 16
_OF_THE_DISK = (
    errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOENT, errno.ENOTDIR, errno.EMFILE, errno.ENFILE,
    errno.ESTALE,
)  # fmt: skip


def refusal_of(error: OSError | sqlite3.Error) -> Refusal | None:
    """Return the refusal for a disk error; None for any other error."""
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
    """Makes readiness report a part that has failed until a probe of it succeeds."""

    def __init__(self, part: str, probe: Callable[[], Awaitable[object]], supervisor: Supervisor) -> None:
        self._part = part
        self._probe = probe
        self._supervisor = supervisor
        self._task: asyncio.Task[None] | None = None

    def raise_(self, error: Exception) -> None:
        """Report the part as failed and start probing it."""
        if self._task is None:
            pause_s = self._supervisor.failed(self._part, error)
            self._task = asyncio.create_task(self._until_it_works(pause_s), name=f"{self._part} probe")

    async def close(self) -> None:
        """Stop probing."""
        if self._task is not None:
            await cancel_and_wait(self._task)

    async def _until_it_works(self, pause_s: float) -> None:
        while True:
            await asyncio.sleep(pause_s)
            try:
                await self._probe()
            except Exception as error:  # any error means that the part does not work
                pause_s = self._supervisor.failed(self._part, error)
            else:
                self._supervisor.works(self._part)
                self._task = None
                return


def probe_uploads(least_free: int) -> None:
    """Write a test file to the folder for uploads. Raises `OSError` if that fails."""
    with tempfile.NamedTemporaryFile(prefix=UPLOADS) as file:
        check_free(Path(file.name).parent, least_free)
        file.write(bytes(_PROBE_BYTES))
        file.flush()
        os.fsync(file.fileno())
