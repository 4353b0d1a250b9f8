"""The front's side of decoder processes: some ready ahead, one for each stream and file, and the watch over them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections import Counter, deque
from pathlib import Path

import structlog

from myna.media.messages import (
    HEAD,
    HELLO,
    LARGEST_ANSWER,
    PORTION_CPU_S,
    STATUS,
    Media,
    MessageKind,
    message,
    samples_of,
)
from myna.media.source import DecoderLostError
from myna.runtime.deadlines import Clock, timeout
from myna.runtime.supervisor import Supervisor
from myna.streaming.audio.raw import AudioError, Coded, RawFormat

log = structlog.get_logger()

AHEAD = 2
"""Processes kept ready: a fork takes some milliseconds, and streams come one at a time."""
ANSWER_S = 2.0 * PORTION_CPU_S
"""Wall time an answer may take; a process that computes for `PORTION_CPU_S` is ended by the system before."""
_START_S = 60.0
"""Wall time the nursery may take to import what decoders need, on a busy machine with cold disks."""
_FORK_S = 5.0
"""Wall time a fork may take, or the nursery hangs and is replaced."""
_STATUS_S = 1.0
"""The nursery says within this how a process ended, unless it is gone itself."""
MOST_HELD_BYTES = 512 << 20
"""Of what all streams have sent without any samples coming of it, such as MP4 whose index comes last: decoders keep that."""
_FEW_BYTES = 1 << 20
"""A stream that has sent so little may go on when the others have sent too much."""
_CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGSYS}


REASONS = ("slow", "crash", "killed", "error", "nonsense")
"""Why a process did not end well: it took too long, it crashed, something killed it, it failed, it answered nonsense."""


class _Process:
    """A decoder process, from its fork on."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lifeline: socket.socket) -> None:
        self._reader = reader
        self._writer = writer
        self._lifeline = lifeline

    @property
    def gone(self) -> bool:
        """Whether it has ended."""
        return self._reader.at_eof() or self._reader.exception() is not None

    def send(self, kind: MessageKind, body: bytes = b"") -> None:
        self._writer.write(message(kind, body))

    async def hello(self) -> None:
        """Wait until it runs. Raises `EOFError`."""
        await self._reader.readexactly(len(HELLO))

    async def answer(self) -> tuple[MessageKind, bytes]:
        """Return its next answer. Raises `EOFError` when it is gone, `ValueError` if it is no answer."""
        kind, size = HEAD.unpack(await self._reader.readexactly(HEAD.size))
        if size > LARGEST_ANSWER:
            raise ValueError(f"an answer of {size} bytes is longer than {LARGEST_ANSWER}")
        return MessageKind(kind), await self._reader.readexactly(size)

    async def status(self) -> int | None:
        """Return how it ended: its exit code, or the negative number of a signal; None if nobody knows."""
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(_STATUS_S):
                data = await asyncio.get_running_loop().sock_recv(self._lifeline, STATUS.size)
            if len(data) == STATUS.size:
                return int(STATUS.unpack(data)[0])
        return None

    def end(self) -> None:
        """Have it killed, whatever it is at."""
        self._lifeline.close()
        self._writer.transport.abort()


class DecoderPool:
    """One server's. `lost` counts the processes that did not end by themselves, by the reason."""

    def __init__(self, supervisor: Supervisor, clock: Clock) -> None:
        self._supervisor = supervisor
        self.clock = clock
        self._control: socket.socket | None = None
        self._up = asyncio.Event()
        self._nursery: asyncio.subprocess.Process | None = None
        self._ahead: deque[_Process] = deque()
        self._forks: set[asyncio.Task[None]] = set()
        self.lost = Counter(dict.fromkeys(REASONS, 0))
        self.active = 0
        """Processes at a stream or a file."""
        self.held_bytes = 0
        """What streams have sent and their decoders have made no samples of yet."""

    @property
    def pid(self) -> int | None:
        """The nursery's process, while there is one."""
        return self._nursery.pid if self._nursery else None

    def start(self) -> None:
        """Start the nursery."""
        self._supervisor.run("decoders", self._keep)

    async def ready(self) -> None:
        """Wait until processes are ready. Raises `DecoderLostError`."""
        try:
            async with asyncio.timeout(_START_S):
                await self._up.wait()
        except TimeoutError as error:
            raise DecoderLostError(f"no decoder process could be started within {_START_S:g} s") from error

    def stream(self, audio: Coded, *, mix: bool) -> ProcessDecoder:
        """Return a decoder of bytes as they come."""
        return ProcessDecoder(self, Media(audio, mix))

    def file(self, path: Path, audio: RawFormat | Coded, *, mix: bool) -> ProcessDecoder:
        """Return a decoder of a file, which is fed nothing."""
        return ProcessDecoder(self, Media(audio, mix, str(path.absolute())))

    async def take(self) -> _Process:
        """Return a process of one's own, to be given back with `release`. Raises `DecoderLostError`."""
        while self._ahead and self._ahead[0].gone:
            self._ahead.popleft().end()
        process = self._ahead.popleft() if self._ahead else await self._fork()
        self.active += 1
        self._replenish()
        return process

    def release(self, process: _Process) -> None:
        """End a process that was taken."""
        self.active -= 1
        process.end()

    async def _keep(self) -> None:
        """Run the nursery. Raises `RuntimeError` when it ends."""
        loop = asyncio.get_running_loop()
        control, theirs = socket.socketpair()
        control.setblocking(False)  # noqa: FBT003 - the standard library's signature
        process: asyncio.subprocess.Process | None = None
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-P", "-m", "myna.media.fork_server", "--fd", str(theirs.fileno()),
                    pass_fds=(theirs.fileno(),), stdin=asyncio.subprocess.DEVNULL, start_new_session=True,
                    env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # a process of several threads should not fork
                )  # fmt: skip
            async with asyncio.timeout(_START_S):
                if not await loop.sock_recv(control, 1):
                    raise RuntimeError("the nursery of decoder processes did not start")
            self._control, self._nursery = control, process
            await self._fill()
            self._up.set()
            code = await process.wait()
            raise RuntimeError(f"the nursery of decoder processes ended with exit code {code}")
        finally:
            self._up.clear()
            self._control = self._nursery = None
            control.close()
            for fork in self._forks:
                fork.cancel()
            if self._forks:
                await asyncio.wait(self._forks)
            while self._ahead:
                self._ahead.popleft().end()
            if process is not None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()

    async def _fill(self) -> None:
        while len(self._ahead) < AHEAD:
            self._ahead.append(await self._forked())

    def _replenish(self) -> None:
        if self._up.is_set() and not self._forks:
            task = asyncio.create_task(self._refill(), name="decoders ahead")
            self._forks.add(task)
            task.add_done_callback(self._forks.discard)

    async def _refill(self) -> None:
        with contextlib.suppress(DecoderLostError):  # whoever needs one will ask again
            await self._fill()

    async def _fork(self) -> _Process:
        await self.ready()
        return await self._forked()

    async def _forked(self) -> _Process:
        if self._control is None:
            raise DecoderLostError("no decoder process can be started")
        try:
            with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
                line, other_line = socket.socketpair()
                ours.enter_context(line)
                theirs.enter_context(other_line)
                lifeline, other_lifeline = socket.socketpair()
                ours.enter_context(lifeline)
                theirs.enter_context(other_lifeline)
                socket.send_fds(self._control, [b"."], [other_line.fileno(), other_lifeline.fileno()])
                lifeline.setblocking(False)  # noqa: FBT003 - the standard library's signature
                process = _Process(*await asyncio.open_unix_connection(sock=line), lifeline)
                ours.pop_all()
        except OSError as error:  # no descriptor is left, or the nursery is gone, or hangs with its socket full
            raise DecoderLostError(f"no decoder process can be started: {error.strerror}") from error
        try:
            async with asyncio.timeout(_FORK_S):
                await process.hello()
        except TimeoutError as error:
            process.end()
            if self._nursery is not None:
                log.error("the nursery of decoder processes hangs and is replaced")
                with contextlib.suppress(ProcessLookupError):
                    self._nursery.kill()
            raise DecoderLostError("no decoder process can be started: the nursery hangs") from error
        except (EOFError, ConnectionError) as error:
            process.end()
            raise DecoderLostError("no decoder process can be started: the system refuses it") from error
        except BaseException:
            process.end()
            raise
        return process


class ProcessDecoder:
    """A `Source` whose bytes are decoded by a process of its own."""

    def __init__(self, pool: DecoderPool, media: Media) -> None:
        self._pool = pool
        self._media = media
        self._process: _Process | None = None
        self._waiting: list[tuple[MessageKind, bytes]] = []
        self._begun = media.path is not None
        self._over = False
        self._held_bytes = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes of a stream. Raises `AudioError` if there is no room for them."""
        self._hold(len(data))
        if self._held_bytes > _FEW_BYTES and self._pool.held_bytes > MOST_HELD_BYTES:
            raise AudioError(
                f"the server has no room to keep more than the {self._held_bytes >> 20} MiB that were sent without any "
                "sound that can be heard yet: an MP4 must have its index first (-movflags +faststart)"
            )
        self._begun = self._begun or bool(data)
        self._waiting.append((MessageKind.DATA, data))

    def flush(self) -> None:
        """Have the next read return everything fed so far, also what filters keep back."""
        if self._begun:
            self._waiting.append((MessageKind.FLUSH, b""))

    def finish(self) -> None:
        """No more bytes follow."""
        self._waiting.append((MessageKind.END, b""))

    async def read(self) -> list[bytes]:
        """Return the next samples of each channel. Raises `AudioError`, `DecoderLostError`; then nothing more comes."""
        if self._over or not self._begun:  # a client that never sends audio costs no process
            return []
        self._over = True  # unless this comes to its end
        if self._process is None:
            self._process = await self._pool.take()
            self._process.send(MessageKind.OPEN, self._media.encoded())
        for kind, body in self._waiting:
            self._process.send(kind, body)
        self._waiting.clear()
        self._process.send(MessageKind.READ)
        channels = await self._answer(self._process)
        if channels:
            self._hold(-self._held_bytes)
        self._over = False
        return channels

    async def close(self) -> None:
        """End the process."""
        self._over = True
        self._waiting.clear()
        self._hold(-self._held_bytes)
        if self._process is not None:
            self._pool.release(self._process)
            self._process = None

    def _hold(self, size: int) -> None:
        self._held_bytes += size
        self._pool.held_bytes += size

    async def _answer(self, process: _Process) -> list[bytes]:
        try:
            async with timeout(ANSWER_S, self._pool.clock):
                kind, body = await process.answer()
            if kind is MessageKind.REFUSED:
                raise AudioError(body.decode(errors="replace"))
            if kind is MessageKind.SAMPLES:
                return samples_of(body)
        except TimeoutError as error:
            self._pool.lost["slow"] += 1
            raise AudioError(f"the audio cannot be decoded: its decoder has not answered for {ANSWER_S:g} s") from error
        except (EOFError, ConnectionError) as error:
            raise self._ended(await process.status()) from error
        except (ValueError, IndexError) as error:
            self._pool.lost["nonsense"] += 1
            raise DecoderLostError(f"a decoder process said what it cannot mean: {error}") from error
        self._pool.lost["error"] += 1
        raise DecoderLostError(f"a decoder process failed: {body.decode(errors='replace')}")

    def _ended(self, status: int | None) -> Exception:
        """Return the error that the end of the process stands for."""
        if status == -signal.SIGXCPU:
            self._pool.lost["slow"] += 1
            return AudioError(f"the audio cannot be decoded: ten seconds of it take more than {PORTION_CPU_S} s")
        if status is not None and -status in _CRASHES:
            self._pool.lost["crash"] += 1
            log.error("a decoder process crashed", signal=signal.Signals(-status).name)
            return AudioError("the audio cannot be decoded: its decoder crashed")
        self._pool.lost["killed"] += 1
        return DecoderLostError(f"a decoder process ended with exit code {status}")
