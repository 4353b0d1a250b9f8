"""What the handlers of every vendor do with a request that has a file: admit it, receive it, answer it or say why not."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from aiohttp import web

from myna.batch.storage import UPLOADS, refusal_of
from myna.runtime.errors import Refusal
from myna.server.http.connections import authenticated
from myna.server.http.intake import Intake, share_of
from myna.server.http.open_routes import OpenRoutes
from myna.server.http.request_log import KIND
from myna.server.http.uploads import Receiver
from myna.server.keys import Authentication, Identity
from myna.server.operations.front_admission import FrontAdmission
from myna.server.settings import Settings

LONGEST_JSON = 1 << 20
"""Bytes of a JSON body that names a file."""
_WATCH_S = 1.0
"""Interval at which the server checks that the client is still connected."""
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Admitted:
    """An admitted request: its client, the share it counts against, and the function to call before bytes are stored."""

    identity: Identity
    share: str
    grow: Callable[[int], None]


class FileRequests:
    """Admits and receives the requests with files of one server. `unfinished` counts a client's jobs."""

    def __init__(
        self,
        settings: Settings,
        authentication: Authentication,
        admission: FrontAdmission,
        intake: Intake,
        unfinished: Callable[[str | None], int],
    ) -> None:
        self._settings = settings
        self._authentication = authentication
        self._admission = admission
        self._intake = intake
        self._unfinished = unfinished
        self._open_routes = OpenRoutes(settings)

    async def answered(
        self, work: Awaitable[web.StreamResponse], refused: Callable[[Refusal], web.Response]
    ) -> web.StreamResponse:
        """Return the work's response, or the one that `refused` makes of its refusal. A full disk is a refusal, too."""
        try:
            return await work
        except Refusal as refusal:
            return refused(refusal)
        except ConnectionError:
            raise
        except (OSError, sqlite3.Error) as error:
            shortage = refusal_of(error)
            if shortage is None:
                raise
            self._intake.disk_failed(error)
            return refused(shortage)

    def identify(self, request: web.Request) -> Identity:
        """Return the request's client. Raises `Refusal`."""
        request[KIND] = "batch"
        identity = self._open_routes.identify(request, self._authentication)
        authenticated(request)
        return identity

    @contextlib.asynccontextmanager
    async def admit(self, request: web.Request) -> AsyncIterator[Admitted]:
        """Count the request against its client's limits while the context lasts. Raises `Refusal`."""
        identity = self.identify(request)
        share = share_of(identity, request)
        async with self._admission.request(identity, self._unfinished):
            with self._intake.file(share) as grow:
                yield Admitted(identity, share, grow)

    def receiver(self, request: web.Request, folder: Path, admitted: Admitted) -> Receiver:
        """Return what receives the request's body into the folder."""
        return Receiver(request, folder, self._settings.max_upload_mb << 20, admitted.grow, self._intake.least_free)


@contextlib.asynccontextmanager
async def temporary_folder(parent: Path | None = None) -> AsyncIterator[Path]:
    """Yield a folder for this user alone, and delete it when the context ends. Raises `OSError`."""
    made = tempfile.TemporaryDirectory(prefix=UPLOADS, dir=parent, ignore_cleanup_errors=True)
    try:
        yield Path(made.name)
    finally:
        # Deleting large files is slow; the thread completes it even if the request is cancelled.
        await asyncio.shield(asyncio.to_thread(made.cleanup))


async def unless_gone(request: web.Request, work: Awaitable[_Result]) -> _Result:
    """Return the work's result. Cancel the work and raise `ConnectionResetError` if the client disconnects."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            await asyncio.wait([task], timeout=_WATCH_S)
            if request.transport is None or request.transport.is_closing():
                raise ConnectionResetError("the client disconnected")
        return await task
    finally:
        task.cancel()
        await asyncio.wait([task])
