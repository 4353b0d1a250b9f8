"""Files the server writes: private, written and hashed on a thread, and never into the last of the disk's space."""

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
"""Bytes collected in memory before a thread writes them."""
_LOOK_EVERY = 16 << 20
"""Bytes written between two looks at the free space."""
_SHORTAGES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_shortage(error: OSError) -> bool:
    """Return whether a file could not be written for want of space."""
    return error.errno in _SHORTAGES


def private_folder(path: Path) -> Path:
    """Make a folder, and those above it that are missing, for this user alone (0700); return it."""
    for missing in reversed([folder for folder in (path, *path.parents) if not folder.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
    return path


def private_file(path: Path) -> BinaryIO:
    """Open a new file for writing, for this user alone (0600); one that is there is emptied."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb")


def remove_strays(folder: Path, prefix: str, older_s: float) -> None:
    """Delete folders of this user whose names begin so and that have not changed for so long: their server has crashed."""
    for path in folder.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            found = path.lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and time.time() - found.st_mtime > older_s:
                shutil.rmtree(path)


def sync_folder(path: Path) -> None:
    """Have the names in a folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_free(folder: Path, least_bytes: int) -> None:
    """Raise `OSError` (ENOSPC) if the folder's disk has less free space than this."""
    free = shutil.disk_usage(folder).free
    if free < least_bytes:
        raise OSError(
            errno.ENOSPC, f"the disk has {free >> 20} MiB free, less than the {least_bytes >> 20} MiB that stay free"
        )


@dataclass(frozen=True, slots=True)
class Upload:
    """A file on disk: the name its sender gave it, its length in bytes, its SHA-256."""

    path: Path
    name: str
    size: int
    sha256: str


class FileWriter:
    """Writes one file as its bytes come. Use as an async context manager; `finish` at the end.

    `grow` is told of bytes before they are written, and may raise. `least_free` bytes of the disk stay free.
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
        """Take the next bytes. Raises `OSError`."""
        self.size += len(data)
        self._buffer += data
        if len(self._buffer) >= _BUFFER:
            await self._flush()

    async def finish(self, *, sync: bool = False) -> str:
        """Return the SHA-256 of the whole file, which then is written; with `sync` also to the medium. Raises `OSError`."""
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
