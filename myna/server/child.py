"""The main program of a front and of the engine process; their parent starts them as `python -m myna.server.child FD`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

import uvloop

from myna.media.source import DecoderLostError
from myna.runtime.descriptors import raise_descriptor_limit
from myna.runtime.errors import ConfigurationError
from myna.runtime.memory import keep_steady
from myna.runtime.tasks import cancel_and_wait
from myna.server import log as logs
from myna.server.app import running
from myna.server.engine_process import engine_running
from myna.server.fronts.role import ENGINE
from myna.server.fronts.tie import Tie
from myna.server.process import Drainable, until_stopped
from myna.streaming.errors import EngineUnavailableError

_CANNOT_RUN = 2


def main() -> None:
    """Run the process whose role comes over the socket of this descriptor."""
    tie = Tie(socket.socket(fileno=int(sys.argv[1])))
    settings = tie.role.read_settings()
    os.umask(0o077)
    logs.configure(settings.log_level, settings.log_format, tie.role.name)
    keep_steady(trimming=False)
    raise_descriptor_limit()
    try:
        uvloop.run(_run(tie))
    except (ConfigurationError, EngineUnavailableError, DecoderLostError) as error:
        tie.failed(str(error))
        sys.exit(_CANNOT_RUN)


async def _run(tie: Tie) -> None:
    gone = asyncio.create_task(tie.parent_gone(), name="parent")
    await until_stopped(_tied(tie), gone)


@contextlib.asynccontextmanager
async def _tied(tie: Tie) -> AsyncIterator[Drainable]:
    """Run the process, and say so."""
    async with _server(tie) as server:
        tie.ready()
        pulse = asyncio.create_task(tie.pulse(), name="pulse")
        try:
            yield server
        finally:
            await cancel_and_wait(pulse)


def _server(tie: Tie) -> AbstractAsyncContextManager[Drainable]:
    role = tie.role
    return engine_running(role) if role.number == ENGINE else running(role.read_settings(), role)


if __name__ == "__main__":
    main()
