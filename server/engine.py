"""The front's side of the engine worker: starts the process, hands it jobs, brings back results, replaces it if it dies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict

import structlog

from myna.streaming.engines.base import EngineInfo, EngineUnavailableError, Job, ModelOptions, Outcome
from myna.streaming.link import (
    Cancellation,
    Hello,
    Message,
    Release,
    Result,
    Submission,
    Unavailable,
    Unpacker,
    encode,
)

log = structlog.get_logger()

LOADING_S = 300.0
"""How long a worker may take to load its engines: big models on slow disks take minutes."""
_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 0.1, 10.0

OnResult = Callable[[str, int, Outcome], None]


class EngineWorker:
    """One worker process with one model. Its results and `on_restart` are called on the event loop.

    After a restart every job that waited is forgotten; `on_restart` is given the worker, under whose new epoch they are to
    be submitted again.
    """

    def __init__(
        self, engine: str, options: ModelOptions, lanes: int, on_restart: Callable[[EngineWorker], None]
    ) -> None:
        self._engine = engine
        self._options = options
        self._lanes = lanes
        self._on_restart = on_restart
        self._waiting: dict[str, OnResult] = {}
        self._epoch = 0
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None
        self._info: EngineInfo | None = None
        self.memory = 0
        """Bytes the process and its GPU memory took when it was ready."""

    @property
    def info(self) -> EngineInfo:
        """What the engine can do; known once started."""
        assert self._info is not None
        return self._info

    @property
    def lanes(self) -> int:
        """How many batches it decodes at once."""
        return self._lanes

    @property
    def alive(self) -> bool:
        """Whether a worker takes jobs at the moment."""
        return self._writer is not None

    @property
    def pid(self) -> int | None:
        """The worker's process, while there is one."""
        return self._process.pid if self._process else None

    @property
    def epoch(self) -> int:
        """Which life of the worker this is; 0 is the first."""
        return self._epoch

    async def start(self) -> None:
        """Start the worker and wait until its engines are loaded. Raises `EngineUnavailableError`."""
        try:
            reader = await self._launch()
        except BaseException:  # cancelled, too: the process must not be left behind
            await self._end_process()
            raise
        self._task = asyncio.create_task(self._keep(reader), name="engine-worker")

    async def close(self) -> None:
        """End the worker."""
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._end_process()

    def submit(self, job: Job, on_result: OnResult) -> None:
        """Have the job decoded; while there is no worker it is dropped, since a restart asks for it again."""
        if self._writer is not None:
            self._waiting[job.id] = on_result
            self._writer.write(encode(Submission(job)))

    def cancel(self, job_id: str) -> None:
        """Say that a job's result is no longer wanted."""
        if self._waiting.pop(job_id, None) and self._writer is not None:
            self._writer.write(encode(Cancellation(job_id)))

    def release(self, source: str) -> None:
        """Say that no more of this channel's utterance will come."""
        if self._writer is not None:
            self._writer.write(encode(Release(source)))

    async def _launch(self) -> _MessageReader:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "myna.streaming.worker",
                "--fd", str(theirs.fileno()), "--engine", self._engine, "--lanes", str(self._lanes),
                "--options", json.dumps(asdict(self._options)),
                pass_fds=(theirs.fileno(),),
            )  # fmt: skip
        stream, writer = await asyncio.open_unix_connection(sock=ours)
        reader = _MessageReader(stream)
        try:
            async with asyncio.timeout(LOADING_S):
                hello = await reader.next()
        except TimeoutError:
            hello = Unavailable(f"it was not loaded within {LOADING_S:.0f} s")
        except BaseException:
            writer.close()
            raise
        if not isinstance(hello, Hello):
            writer.close()
            await self._end_process()
            reason = hello.reason if isinstance(hello, Unavailable) else "its process died while loading"
            raise EngineUnavailableError(f"The model {self._options.name!r} cannot be used: {reason}")
        self._info, self._writer, self.memory = hello.info, writer, hello.memory
        return reader

    async def _keep(self, reader: _MessageReader) -> None:
        while True:
            await self._receive(reader)
            log.error("the engine worker died; starting another", model=self._options.name, epoch=self._epoch)
            await self._end_process()
            self._waiting.clear()
            self._epoch += 1
            reader = await self._launch_again()
            log.info("the engine worker is back", model=self._options.name, worker=self.pid, epoch=self._epoch)
            self._on_restart(self)

    async def _launch_again(self) -> _MessageReader:
        backoff_s = _FIRST_BACKOFF_S
        while True:
            try:
                return await self._launch()
            except (EngineUnavailableError, OSError) as error:
                log.error("the engine worker does not start", reason=str(error), retry_s=backoff_s)
                await asyncio.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, _LONGEST_BACKOFF_S)

    async def _receive(self, reader: _MessageReader) -> None:
        while message := await reader.next():
            match message:
                case Result(job_id=job_id, epoch=epoch, outcome=outcome) if job_id in self._waiting:
                    self._waiting.pop(job_id)(job_id, epoch, outcome)

    async def _end_process(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            self._process = None


class _MessageReader:
    """Messages off the socket, one at a time."""

    def __init__(self, stream: asyncio.StreamReader) -> None:
        self._stream = stream
        self._unpacker = Unpacker()
        self._ready: list[Message] = []

    async def next(self) -> Message | None:
        """Return the next message, or None when the worker is gone."""
        while not self._ready:
            try:
                data = await self._stream.read(1 << 20)
            except ConnectionError:
                return None
            if not data:
                return None
            self._ready = list(self._unpacker.feed(data))[::-1]
        return self._ready.pop()
