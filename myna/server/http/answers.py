"""Long answers: made on threads, kept in memory or in a file, sent in pieces. The event loop never waits for one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

from aiohttp import web

from myna.batch.disk import private_file
from myna.runtime.threads import on_thread, settled

_AT_ONCE = 2
"""Threads. Each takes the interpreter lock from the event loop for some milliseconds at a time."""
_IN_MEMORY = 1 << 20
"""Bytes. A longer answer is kept in a file until the client has read it."""
_PIECE = 1 << 16
_Made = TypeVar("_Made")


class Answers:
    """Makes answers on its own threads."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="answers")

    def close(self) -> None:
        """Stop the threads. An answer that is being made is completed and dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def run(self, make: Callable[[], _Made]) -> _Made:
        """Return the result of `make`, which runs on one of the threads."""
        return await settled(asyncio.get_running_loop().run_in_executor(self._threads, make))

    async def made(self, make: Callable[[], Iterable[bytes]], folder: Path, kind: str = "application/json") -> Answer:
        """Return the answer whose pieces `make` yields; `folder` holds a long one. Raises `OSError`."""
        return await self.run(lambda: _collected(make(), folder / "answer", kind))


class Answer:
    """A complete answer: the bytes `before` a file on the disk, the file, and the bytes `after` it."""

    def __init__(self, kind: str, before: bytes, path: Path | None = None, after: bytes = b"") -> None:
        self._kind = kind
        self._before, self._path, self._after = before, path, after
        self._size = len(before) + len(after) + (path.stat().st_size if path else 0)

    async def send(self, request: web.Request) -> web.StreamResponse:
        """Send the answer with status 200."""
        if self._path is None:
            return web.Response(body=self._before + self._after, content_type=self._kind, charset="utf-8")
        response = web.StreamResponse()
        response.content_type, response.charset = self._kind, "utf-8"
        response.content_length = self._size
        await response.prepare(request)
        await self.send_into(request, response)
        await response.write_eof()
        return response

    async def send_into(self, request: web.Request, response: web.StreamResponse) -> None:
        """Send the answer as the next part of a response. Raises `ConnectionError` if it cannot be sent completely."""
        await response.write(self._before)
        if self._path is not None:
            try:
                with await on_thread(partial(_opened, self._path), lambda file: file.close()) as file:
                    while piece := await on_thread(lambda: file.read(_PIECE)):
                        await response.write(piece)
            except ConnectionError:
                raise
            except OSError as error:
                abort(request)
                raise ConnectionResetError(f"the answer cannot be read from the disk: {error}") from error
        if self._after:
            await response.write(self._after)


def abort(request: web.Request) -> None:
    """Abort the connection of a request whose answer has begun and cannot be completed."""
    if request.transport is not None:
        request.transport.abort()


def _opened(path: Path) -> BinaryIO:
    return path.open("rb")


def _collected(pieces: Iterable[bytes], path: Path, kind: str) -> Answer:
    data = bytearray()
    iterator = iter(pieces)
    for piece in iterator:
        data += piece
        if len(data) > _IN_MEMORY:
            break
    else:
        return Answer(kind, bytes(data))
    with private_file(path) as file:
        file.write(data)
        for piece in iterator:
            file.write(piece)
    return Answer(kind, b"", path)
