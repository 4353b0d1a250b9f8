"""Runs an engine worker as a child process on this host, connected by a socket pair."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator
from dataclasses import asdict

import structlog

from myna.inference.engines.port import ModelOptions
from myna.inference.workers.ipc import Hello, Message, Status, Unavailable, Unpacker, encode
from myna.runtime.deadlines import Clock, timeout
from myna.runtime.one_thread import ONE_THREAD
from myna.streaming.errors import EngineUnavailableError

log = structlog.get_logger()

LOADING_S = 300.0
"""Limit on the time a worker takes to load its engines: large models on slow disks take minutes."""


class WorkerProcess:
    """A worker in a child process; see `Worker`."""

    def __init__(self, engine: str, options: ModelOptions, lanes: int, clock: Clock) -> None:
        self._clock = clock
        self._engine = engine
        self._options = options
        self._lanes = lanes
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._unpacker = Unpacker()
        self._killed_here = False
        self.heard_at = 0.0
        """Time of the worker's last message, on the front's clock."""
        self.busy_s: tuple[float, ...] = ()
        """For each lane, the seconds spent on its current batch, as of the worker's last status; 0 if it is idle."""

    @property
    def pid(self) -> int | None:
        """Process id, while the process runs."""
        return self._process.pid if self._process else None

    async def launch(self) -> Hello:
        """Start the process and wait until its engines are loaded.

        Raises `EngineUnavailableError`; the process is gone then.
        """
        try:
            return await self._launch()
        except OSError as error:
            await self.end()
            raise self._unusable(f"cannot start the worker process: {error.strerror or error}") from error
        except BaseException:  # also on cancellation: the process must not be left behind
            self.kill()
            await self.end()
            raise

    async def _launch(self) -> Hello:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                # -P: the current folder is not searched for modules. Own session: signals of the terminal, such as Ctrl-C's,
                # reach the front only, which lets its streams finish.
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable, "-P", "-m", "myna.inference.workers.worker",
                    "--fd", str(theirs.fileno()), "--engine", self._engine, "--lanes", str(self._lanes),
                    "--options", json.dumps(asdict(self._options)),
                    pass_fds=(theirs.fileno(),), start_new_session=True,
                    env=ONE_THREAD | os.environ,  # a lane has a core: threads doubled the cost of speakers
                )  # fmt: skip
            self._reader, self._writer = await asyncio.open_unix_connection(sock=ours)
        except BaseException:
            ours.close()
            raise
        hello: Message | None = None
        try:
            async with timeout(LOADING_S, self._clock), contextlib.aclosing(self.messages()) as messages:
                hello = await anext(messages, None)
        except TimeoutError:
            hello = Unavailable(f"loading took longer than {LOADING_S:.0f} s")
        if isinstance(hello, Hello):
            return hello
        reason = hello.reason if isinstance(hello, Unavailable) else "the worker process died while loading"
        raise self._unusable(reason)

    def _unusable(self, reason: str) -> EngineUnavailableError:
        return EngineUnavailableError(f"The model {self._options.name!r} cannot be used: {reason}")

    def send(self, message: Message) -> None:
        """Send a message without waiting. A worker that is gone loses it, like its running batches."""
        if self._writer is not None:
            self._writer.write(encode(message))

    async def messages(self) -> AsyncGenerator[Message]:
        """Yield the worker's messages, except its status, until it is gone. Raises `ValueError` for malformed data."""
        assert self._reader is not None
        while True:
            try:
                data = await self._reader.read(1 << 20)
            except OSError:
                return
            if not data:
                return
            self.heard_at = self._clock()
            for message in self._unpacker.feed(data):
                if isinstance(message, Status):
                    self.busy_s = message.busy_s
                else:
                    yield message

    def kill(self) -> None:
        """Kill the process. `messages` ends then, even if the system cannot end the process."""
        if self._writer is not None:
            self._writer.transport.abort()
        if self._process is not None:
            self._killed_here = True
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def end(self) -> bool:
        """Close the socket, upon which the process ends; return whether something other than `kill` killed it."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._process is None:
            return False
        code = await self._ended_within(_DYING_S)
        if code is None:
            self.kill()
            code = await self._ended_within(_KILLED_S)
        if code is None:
            log.error("killed engine worker does not end; abandoning its process", worker=self._process.pid)
        self._process = None
        return code == -signal.SIGKILL and not self._killed_here

    async def _ended_within(self, limit_s: float) -> int | None:
        assert self._process is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                return await self._process.wait()
        return None


_DYING_S = 0.5
"""Time for a worker to end once its socket is closed; then it is killed."""
_KILLED_S = 10.0
"""Longest wait for a killed process: it stays while a system call lasts, for ever if a GPU driver hangs."""
