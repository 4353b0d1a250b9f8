"""One process of a server with several fronts, as its parent sees it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from typing import Any

import structlog

from myna.runtime.supervisor import Supervisor
from myna.runtime.tasks import cancel_and_wait
from myna.server.fronts.role import Role
from myna.server.fronts.tie import FAILED, PULSE_S, READY, write_role

log = structlog.get_logger()

_HUNG_AFTER = 30
"""Intervals of the pulse without a pulse after which a process that was ready counts as hanging. The parent counts them, so
that none pass while the whole machine is suspended."""
_LIVED_S = 60.0
"""A process that ran this long was healthy: its successor starts at once."""


class ChildProcess:
    """The process of a role, and its successors."""

    def __init__(self, role: Role) -> None:
        self.role = role
        self.name = role.name
        self._process: asyncio.subprocess.Process | None = None
        self._socket: socket.socket | None = None
        self._started_at = 0.0
        self._ready: asyncio.Future[str | None] | None = None
        self._silent = 0

    @property
    def runs(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start the process. Raises `OSError`."""
        ours, theirs = socket.socketpair()
        with theirs:
            # -P: the current folder is not searched for modules. Own session: the terminal's signals reach the parent only,
            # which passes them on in order.
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "myna.server.child", str(theirs.fileno()),
                pass_fds=(theirs.fileno(),), start_new_session=True, stdin=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
        self._socket = ours
        self._started_at, self._silent = time.monotonic(), 0
        self._ready = asyncio.get_running_loop().create_future()
        write_role(ours, self.role)

    async def ready(self) -> str | None:
        """Wait until the process is ready or has ended; return why it cannot run, None if it is ready."""
        assert self._ready is not None
        listening = asyncio.create_task(self._listen(), name=f"pulse of {self.name}")
        ended = asyncio.create_task(self.ended(), name=f"end of {self.name}")
        try:
            first: list[asyncio.Future[Any]] = [self._ready, ended]
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if not self._ready.done():
                await asyncio.wait({listening})  # for what it wrote last
            return self._ready.result() if self._ready.done() else f"the process {self.name!r} ended while it started"
        finally:
            await cancel_and_wait(listening, ended)

    async def keep(self, supervisor: Supervisor) -> None:
        """Start the process again whenever it ends, and kill it if it hangs, until cancelled."""
        while True:
            await self._until_ended()
            assert self._process is not None
            reason = _reason(self._process.returncode or 0)
            log.error("a process of the server ended; restarting it", ended=self.name, reason=reason)
            if time.monotonic() - self._started_at >= _LIVED_S:
                supervisor.works(self.name)
            while True:
                await asyncio.sleep(supervisor.failed(self.name, reason))
                try:
                    await self.start()
                    break
                except OSError as error:
                    reason = f"it cannot be started: {error.strerror or error}"

    async def ended(self) -> None:
        """Wait until the process has ended."""
        if self._process is not None:
            await self._process.wait()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, unless the process has ended."""
        if self.runs:
            assert self._process is not None
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def kill(self) -> None:
        """End the process at once. Its own children end when their sockets close."""
        self.send_signal(signal.SIGKILL)
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def wait_killed(self) -> None:
        """Wait, without the event loop, until the process has ended that `kill` ends."""
        if self.runs:
            assert self._process is not None
            with contextlib.suppress(ChildProcessError):  # the event loop's watcher was first
                os.waitpid(self._process.pid, 0)

    async def _until_ended(self) -> None:
        watch = [asyncio.create_task(self._listen()), asyncio.create_task(self._watch())]
        try:
            await self.ended()
        finally:
            await cancel_and_wait(*watch)

    async def _listen(self) -> None:
        """Take what the process says, until its end of the socket is closed."""
        assert self._socket is not None
        assert self._ready is not None
        reader, writer = await asyncio.open_unix_connection(sock=socket.socket(fileno=os.dup(self._socket.fileno())))
        try:
            while line := await reader.readline():
                self._silent = 0
                line = line.rstrip(b"\n")
                if line.startswith(FAILED) and not self._ready.done():
                    reason = line.removeprefix(FAILED).decode(errors="replace")
                    log.error("a process of the server cannot start", failed=self.name, reason=reason)
                    self._ready.set_result(reason)
                elif line == READY and not self._ready.done():
                    self._ready.set_result(None)
                    log.info("process ready", ready=self.name, pid=self._process.pid if self._process else None)
        except OSError:
            return
        finally:
            writer.close()

    async def _watch(self) -> None:
        """Kill the process if it was ready and shows no pulse."""
        assert self._ready is not None
        while True:
            await asyncio.sleep(PULSE_S)
            self._silent = self._silent + 1 if self._ready.done() else 0
            if self._silent > _HUNG_AFTER:
                log.error("a process of the server hangs; killing it", hangs=self.name, silent_s=self._silent * PULSE_S)
                self.send_signal(signal.SIGKILL)
                return


def _reason(code: int) -> str:
    """Return how a process with this return code ended."""
    return f"it was ended by {signal.Signals(-code).name}" if code < 0 else f"it exited with status {code}"
