"""The server as a process: its event loop, its signals, its exit."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import structlog
import uvloop

from myna.runtime.descriptors import raise_descriptor_limit
from myna.runtime.memory import keep_steady
from myna.server import log as logs
from myna.server.app import running
from myna.server.fronts.parent import serve_fronts
from myna.server.settings import Settings

log = structlog.get_logger()

_STOPPED_AT_ONCE = 130
"""Exit status after a second stop signal: that of a program ended by SIGINT."""


class Drainable(Protocol):
    """What a process runs until it is told to stop."""

    async def drain(self) -> None:
        """Take no new work and wait for what is there."""
        ...

    def reload_keys(self) -> None:
        """Read the key file again."""
        ...


def serve(settings: Settings) -> None:
    """Run a server until SIGINT, SIGTERM or SIGQUIT. Raises `ConfigurationError` and `EngineUnavailableError`."""
    os.umask(0o077)  # only the server's user may read what the server and its workers write
    if settings.fronts is not None:
        logs.configure(settings.log_level, settings.log_format, "parent")
        raise_descriptor_limit()
        uvloop.run(serve_fronts(settings))
        return
    logs.configure(settings.log_level, settings.log_format)
    keep_steady(trimming=False)
    raise_descriptor_limit()
    uvloop.run(until_stopped(running(settings)))


async def until_stopped(running: AbstractAsyncContextManager[Drainable], gone: Awaitable[None] | None = None) -> None:
    """Run a server until the process is told to stop, or until `gone` is done; drain it then."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
        loop.add_signal_handler(number, stop.set)
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):  # by default these end the process
        loop.add_signal_handler(number, _on_other_signal, number, None)
    if gone is not None:
        asyncio.ensure_future(gone).add_done_callback(lambda _: stop.set())
    async with running as server:
        loop.add_signal_handler(signal.SIGHUP, _on_other_signal, signal.SIGHUP, server)
        gc.collect()
        gc.freeze()  # these objects live as long as the process: collecting them again would block the loop
        await stop.wait()
        stop.clear()
        drained = asyncio.create_task(server.drain(), name="drain")
        again = asyncio.create_task(stop.wait(), name="second signal")
        await asyncio.wait([drained, again], return_when=asyncio.FIRST_COMPLETED)
        if again.done():
            log.warning("stopping at once: a second signal was received")
            os._exit(_STOPPED_AT_ONCE)  # workers end when their sockets close; the jobs' database recovers by itself
        again.cancel()
        if (error := drained.exception()) is not None:
            log.error("draining failed; streams end now", exc_info=error)
        log.info("stopping")


def _on_other_signal(number: signal.Signals, server: Drainable | None) -> None:
    """Reload the keys at SIGHUP; ignore other signals."""
    if server is None:
        log.info("a signal was ignored; SIGTERM stops the server", signal=number.name)
    else:
        log.info("reloading the API keys", signal=number.name)
        server.reload_keys()
