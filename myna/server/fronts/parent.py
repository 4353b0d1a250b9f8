"""The parent of a server with several fronts: starts the processes, restarts those that die, stops them in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from pathlib import Path
from typing import Any

import structlog

from myna import __version__
from myna.runtime.errors import ConfigurationError
from myna.runtime.supervisor import Supervisor
from myna.runtime.tasks import cancel_and_wait
from myna.server.fronts.child_process import ChildProcess
from myna.server.fronts.role import ENGINE, FILES, Role
from myna.server.keys import new_secret
from myna.server.listener import listen
from myna.server.settings import Settings
from myna.server.websocket.connection import FINALS_S

log = structlog.get_logger()

_STOPPED_AT_ONCE = 130
_STOPPING_S = FINALS_S + 15.0
"""Seconds beyond `drain_s` that a front has to end its last streams and itself; then it is killed."""
_ENGINE_STOPPING_S = 10.0
_LONGEST_FOLDER = 80
"""Characters of the folder of sockets: a Unix socket's path has at most 107."""


async def serve_fronts(settings: Settings) -> None:
    """Run the server until SIGINT, SIGTERM or SIGQUIT. Raises `ConfigurationError` if it cannot start."""
    assert settings.fronts is not None
    _check(settings.fronts)
    listen(
        settings
    ).close()  # fails if the port is taken; sockets that share a port would also share it with another server
    stop = _Stop()
    with listen(settings, shared=True, accepting=False) as holder, _folder() as folder:
        host, port = holder.getsockname()[:2]
        handed = settings.model_copy(update={"port": port}).model_dump(mode="json")
        secret, token = new_secret(), secrets.token_urlsafe(32)
        children = [
            ChildProcess(Role(number, settings.fronts, folder, secret, token, handed))
            for number in range(ENGINE, settings.fronts + 1)
        ]
        try:
            await _started(children, stop)
            if not stop.asked:
                url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
                log.info("listening", url=url, model=settings.model, fronts=settings.fronts, version=__version__)
                await _supervised(children, stop)
                await _stopped(children, settings.drain_s + _STOPPING_S)
                log.info("stopping")
        finally:
            for child in children:
                child.kill()
            await asyncio.gather(*(child.ended() for child in children))


class _Stop:
    """The signals of the parent: `asked` is true after the first one that stops the server, and the second one ends all."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.children: list[ChildProcess] = []
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
            loop.add_signal_handler(number, self._on_stop)
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            loop.add_signal_handler(number, self._on_other, number)

    @property
    def asked(self) -> bool:
        """Whether the server has been told to stop."""
        return self._event.is_set()

    async def wait(self) -> None:
        """Wait until the server is told to stop."""
        await self._event.wait()

    def _on_stop(self) -> None:
        if self.asked:
            log.warning("stopping at once: a second signal was received")
            for child in self.children:
                child.kill()
            for child in self.children:
                child.wait_killed()
            os._exit(_STOPPED_AT_ONCE)
        self._event.set()

    def _on_other(self, number: signal.Signals) -> None:
        if number is signal.SIGHUP:
            for child in self.children:
                child.send_signal(number)
        else:
            log.info("a signal was ignored; SIGTERM stops the server", signal=number.name)


def _check(fronts: int) -> None:
    if not hasattr(socket, "SO_REUSEPORT"):
        raise ConfigurationError(
            "setting fronts: this system has no SO_REUSEPORT, with which several processes listen on one port; leave it unset"
        )
    cores = os.cpu_count() or 1
    if fronts > cores:
        log.warning("there are more fronts than cores, which share them", fronts=fronts, cores=cores)


@contextlib.contextmanager
def _folder() -> Iterator[str]:
    folder = tempfile.mkdtemp(prefix="myna-")  # for this user alone
    try:
        if len(folder) > _LONGEST_FOLDER:
            raise ConfigurationError(f"the folder {Path(folder).parent} (TMPDIR) is too long a name for Unix sockets")
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _started(children: list[ChildProcess], stop: _Stop) -> None:
    """Start all processes and wait until they are ready, or the server is told to stop. Raises `ConfigurationError`."""
    stop.children = children
    for child in children:
        await child.start()
    async with _task(stop.wait()) as stopping:
        waiting = {asyncio.ensure_future(child.ready()) for child in children}
        try:
            while waiting and not stop.asked:
                done, _ = await asyncio.wait({*waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
                for one in done & waiting:
                    if (reason := one.result()) is not None:
                        raise ConfigurationError(reason)
                waiting -= done
        finally:
            for one in waiting:
                one.cancel()


async def _supervised(children: list[ChildProcess], stop: _Stop) -> None:
    """Restart every process that ends, until the server is told to stop."""
    supervisor = Supervisor()
    tasks = [asyncio.create_task(child.keep(supervisor), name=f"keeper of {child.name}") for child in children]
    try:
        await stop.wait()
    finally:
        await cancel_and_wait(*tasks)
        await supervisor.close()


async def _stopped(children: Iterable[ChildProcess], within_s: float) -> None:
    """Let the fronts drain, then end the engine process."""
    fronts = [child for child in children if child.role.number >= FILES]
    engines = [child for child in children if child.role.number == ENGINE]
    for group, limit_s in ((fronts, within_s), (engines, _ENGINE_STOPPING_S)):
        for child in group:
            child.send_signal(signal.SIGTERM)
        ending = asyncio.gather(*(child.ended() for child in group))
        try:
            await asyncio.wait_for(ending, limit_s)
        except TimeoutError:
            log.error("processes do not end; killing them", processes=[child.name for child in group if child.runs])


@contextlib.asynccontextmanager
async def _task(work: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        await cancel_and_wait(task)
