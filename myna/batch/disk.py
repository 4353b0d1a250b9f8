"""Writes the server's files: private to its user, on a thread, hashed, and leaving a reserve of free disk space."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from myna.runtime.threads import on_thread

_BUFFER = 1 << 20
"""Bytes buffered in memory before a thread writes them."""
_LOOK_EVERY = 16 << 20
"""Bytes written between two checks of the free space."""
_SHORTAGES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_shortage(error: OSError) -> bool:
    """Return whether a write failed because the disk, a quota or a file size limit is exhausted."""
    return error.errno in _SHORTAGES


def private_folder(path: Path) -> Path:
    """Create a folder and its missing parents, private to this user (0700); return it."""
    for missing in reversed([folder for folder in (path, *path.parents) if not folder.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
    return path


def private_file(path: Path) -> BinaryIO:
    """Open a file for writing, private to this user (0600); an existing file is truncated."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb")


def remove_strays(folder: Path, prefix: str, older_s: float) -> None:
    """Delete this user's folders with this prefix that have not changed for `older_s`: a crashed server left them behind."""
    for path in folder.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            found = path.lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and time.time() - found.st_mtime > older_s:
                shutil.rmtree(path)


def sync_folder(path: Path) -> None:
    """Sync a folder, so that its file names survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_free(folder: Path, least_bytes: int) -> None:
    """Raise `OSError` (ENOSPC) if the folder's disk has less free space than this."""
    free = shutil.disk_usage(folder).free
    if free < least_bytes:
        raise OSError(errno.ENOSPC, f"the disk has {free >> 20} MiB free, below the reserve of {least_bytes >> 20} MiB")


@dataclass(frozen=True, slots=True)
class Upload:
    """A file on disk: the name its sender gave it, its length in bytes, its SHA-256."""

    path: Path
    name: str
    size: int
    sha256: str


class FileWriter:
    """Writes one file piece by piece. Use as an async context manager and call `finish` at the end.

    `grow` is called with the number of bytes before they are written, and may raise. `least_free` bytes stay free.
    """

    def __init__(self, path: Path, grow: Callable[[int], None] = lambda _: None, least_free: int = 0) -> None:
        self.size = 0
        self._path = path
        self._grow = grow
        self._least_free = least_free
        self._buffer = bytearray()
        self._digest = hashlib.sha256()
        self._next_look = 0
        self._file: BinaryIO | None = None

    async def __aenter__(self) -> FileWriter:
        self._file = await on_thread(self._opened, unclaimed=lambda file: file.close())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._file is not None
        self._file.close()

    async def write(self, data: bytes) -> None:
        """Append bytes to the file. Raises `OSError`."""
        self.size += len(data)
        self._buffer += data
        if len(self._buffer) >= _BUFFER:
            await self._flush()

    async def finish(self, *, sync: bool = False) -> str:
        """Write what is buffered and return the SHA-256 of the file; with `sync`, also sync it. Raises `OSError`."""
        await self._flush()
        if sync:
            await on_thread(self._sync)
        return self._digest.hexdigest()

    async def _flush(self) -> None:
        self._grow(len(self._buffer))
        data, self._buffer = self._buffer, bytearray()
        await on_thread(lambda: self._put(data))

    def _opened(self) -> BinaryIO:
        check_free(self._path.parent, self._least_free)
        return private_file(self._path)

    def _put(self, data: bytearray) -> None:
        assert self._file is not None
        if self.size >= self._next_look:
            self._next_look = self.size + _LOOK_EVERY
            check_free(self._path.parent, self._least_free)
        self._digest.update(data)
        self._file.write(data)
        self._file.flush()

    def _sync(self) -> None:
        assert self._file is not None
        os.fsync(self._file.fileno())
