"""The pool of decoder processes: one for each stream and file, and some ready in advance."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import structlog

from myna.media.messages import (
    PORTION_CPU_S,
    Media,
    MessageKind,
    encoded_of,
    samples_of,
)
from myna.media.process import DecoderProcess
from myna.media.source import DecoderLostError
from myna.runtime.deadlines import Clock, timeout
from myna.runtime.one_thread import ONE_THREAD
from myna.runtime.supervisor import Supervisor
from myna.streaming.audio.raw import AudioError, Coded, RawFormat

log = structlog.get_logger()

AHEAD = 2
"""Processes kept ready: a fork takes some milliseconds, and streams usually begin one at a time."""
ANSWER_S = 2.0 * PORTION_CPU_S
"""The most wall time for an answer. The system ends a process that computes for `PORTION_CPU_S` earlier."""
_START_S = 60.0
"""The most wall time for the fork server to import its modules, on a busy machine with cold disks."""
_FORK_S = 5.0
"""The most wall time for a fork; if it takes longer, the fork server hangs and is replaced."""
MOST_HELD_BYTES = 512 << 20
"""The most bytes that decoders hold for all streams without samples yet, such as MP4s whose index comes last."""
_FEW_BYTES = 1 << 20
"""A stream with fewer held bytes than this may continue when all streams together hold too many."""
_Parsed = TypeVar("_Parsed")
_CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGSYS}


REASONS = ("slow", "crash", "killed", "error", "nonsense")
"""Why a process was lost: it took too long, it crashed, it was killed, it reported an error, its answer was invalid."""


class DecoderPool:
    """The decoder processes of one server. `lost` counts the processes that were lost, by reason."""

    def __init__(self, supervisor: Supervisor, clock: Clock) -> None:
        self._supervisor = supervisor
        self.clock = clock
        self._control: socket.socket | None = None
        self._up = asyncio.Event()
        self._fork_server: asyncio.subprocess.Process | None = None
        self._ahead: deque[DecoderProcess] = deque()
        self._forks: set[asyncio.Task[None]] = set()
        self.lost = Counter(dict.fromkeys(REASONS, 0))
        self.active = 0
        """The processes in use by a stream or a file."""
        self.held_bytes = 0
        """The bytes sent by streams from which their decoders have made no samples yet."""

    @property
    def pid(self) -> int | None:
        """The process id of the fork server; None: it does not run."""
        return self._fork_server.pid if self._fork_server else None

    def start(self) -> None:
        """Start the fork server."""
        self._supervisor.run("decoders", self._keep)

    async def ready(self) -> None:
        """Wait until processes are ready. Raises `DecoderLostError` if they do not become ready."""
        try:
            async with asyncio.timeout(_START_S):
                await self._up.wait()
        except TimeoutError as error:
            raise DecoderLostError(f"no decoder process could be started within {_START_S:g} s") from error

    def stream(self, audio: Coded, *, mix: bool) -> ProcessDecoder:
        """Return a decoder for a live stream."""
        return ProcessDecoder(self, Media(audio, mix))

    def file(self, path: Path, audio: RawFormat | Coded, *, mix: bool) -> ProcessDecoder:
        """Return a decoder for a file, which must not be fed bytes."""
        return ProcessDecoder(self, Media(audio, mix, str(path.absolute())))

    async def padded(self, path: Path, pad_ms: int, write: Callable[[int, bytes], Awaitable[None]]) -> None:
        """Encode the sound of a file, named by an absolute path, as WebM with Opus after `pad_ms` of silence.

        `write` takes each piece of the result with its place in the file; later pieces may replace earlier ones. Raises
        `AudioError` and `DecoderLostError`.
        """
        media = Media(Coded(), mix=False, path=str(path), pad_ms=pad_ms)
        process = await self.take()
        try:
            process.send(MessageKind.OPEN, media.encoded())
            while True:
                process.send(MessageKind.READ)
                place, piece = await self.answer(process, MessageKind.ENCODED, encoded_of)
                if not piece:
                    return
                await write(place, piece)
        finally:
            self.release(process)

    async def take(self) -> DecoderProcess:
        """Return a process for exclusive use, to be ended with `release`. Raises `DecoderLostError`."""
        while self._ahead and self._ahead[0].gone:
            self._ahead.popleft().end()
        process = self._ahead.popleft() if self._ahead else await self._fork()
        self.active += 1
        self._replenish()
        return process

    def release(self, process: DecoderProcess) -> None:
        """End a process that was taken."""
        self.active -= 1
        process.end()

    async def answer(self, process: DecoderProcess, wanted: MessageKind, parse: Callable[[bytes], _Parsed]) -> _Parsed:
        """Return the next answer, which must be of the kind `wanted`. Raises `AudioError` and `DecoderLostError`."""
        try:
            async with timeout(ANSWER_S, self.clock):
                kind, body = await process.answer()
            if kind is MessageKind.REFUSED:
                raise AudioError(body.decode(errors="replace"))
            if kind is wanted:
                return parse(body)
        except TimeoutError as error:
            self.lost["slow"] += 1
            raise AudioError(
                f"the audio cannot be decoded: its decoder did not answer within {ANSWER_S:g} s"
            ) from error
        except (EOFError, ConnectionError) as error:
            raise self._ended(await process.status()) from error
        except (ValueError, IndexError) as error:
            self.lost["nonsense"] += 1
            raise DecoderLostError(f"a decoder process sent an invalid answer: {error}") from error
        self.lost["error"] += 1
        raise DecoderLostError(f"a decoder process failed: {body.decode(errors='replace')}")

    def _ended(self, status: int | None) -> Exception:
        """Return the error to raise for a process that ended with this status."""
        if status == -signal.SIGXCPU:
            self.lost["slow"] += 1
            return AudioError(
                f"the audio cannot be decoded: ten seconds of it take more than {PORTION_CPU_S} s of CPU time"
            )
        if status is not None and -status in _CRASHES:
            self.lost["crash"] += 1
            log.error("a decoder process crashed", signal=signal.Signals(-status).name)
            return AudioError("the audio cannot be decoded: its decoder crashed")
        self.lost["killed"] += 1
        return DecoderLostError(f"a decoder process ended with exit code {status}")

    async def _keep(self) -> None:
        """Run the fork server. Raises `RuntimeError` when it ends."""
        loop = asyncio.get_running_loop()
        control, theirs = socket.socketpair()
        control.setblocking(False)  # noqa: FBT003 - the standard library's signature
        process: asyncio.subprocess.Process | None = None
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-P", "-m", "myna.media.fork_server", "--fd", str(theirs.fileno()),
                    pass_fds=(theirs.fileno(),), stdin=asyncio.subprocess.DEVNULL, start_new_session=True,
                    env=os.environ | ONE_THREAD,  # a process with several threads must not fork
                )  # fmt: skip
            async with asyncio.timeout(_START_S):
                if not await loop.sock_recv(control, 1):
                    raise RuntimeError("the fork server of decoder processes did not start")
            self._control, self._fork_server = control, process
            await self._fill()
            self._up.set()
            code = await process.wait()
            raise RuntimeError(f"the fork server of decoder processes ended with exit code {code}")
        finally:
            self._up.clear()
            self._control = self._fork_server = None
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
        with contextlib.suppress(DecoderLostError):  # the next call of `take` tries again
            await self._fill()

    async def _fork(self) -> DecoderProcess:
        await self.ready()
        return await self._forked()

    async def _forked(self) -> DecoderProcess:
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
                process = DecoderProcess(*await asyncio.open_unix_connection(sock=line), lifeline)
                ours.pop_all()
        except OSError as error:  # no descriptor is left, or the fork server has ended or hangs with a full socket
            raise DecoderLostError(f"no decoder process can be started: {error.strerror}") from error
        try:
            async with asyncio.timeout(_FORK_S):
                await process.hello()
        except TimeoutError as error:
            process.end()
            if self._fork_server is not None:
                log.error("the fork server of decoder processes hangs and is replaced")
                with contextlib.suppress(ProcessLookupError):
                    self._fork_server.kill()
            raise DecoderLostError("no decoder process can be started: the fork server hangs") from error
        except (EOFError, ConnectionError) as error:
            process.end()
            raise DecoderLostError("no decoder process can be started: the system refuses to fork") from error
        except BaseException:
            process.end()
            raise
        return process


class ProcessDecoder:
    """A `Source` that decodes its bytes in a process of its own."""

    def __init__(self, pool: DecoderPool, media: Media) -> None:
        self._pool = pool
        self._media = media
        self._process: DecoderProcess | None = None
        self._waiting: list[tuple[MessageKind, bytes]] = []
        self._begun = media.path is not None
        self._over = False
        self._held_bytes = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes of a stream. Raises `AudioError` if there is no room for them."""
        self._hold(len(data))
        if self._held_bytes > _FEW_BYTES and self._pool.held_bytes > MOST_HELD_BYTES:
            raise AudioError(
                f"the server cannot hold more than {self._held_bytes >> 20} MiB of this stream before its audio can be "
                "decoded: write the index of an MP4 first (ffmpeg -movflags +faststart)"
            )
        self._begun = self._begun or bool(data)
        self._waiting.append((MessageKind.DATA, data))

    def flush(self) -> None:
        """Make the next reads return everything fed so far, including buffers of filters."""
        if self._begun:
            self._waiting.append((MessageKind.FLUSH, b""))

    def finish(self) -> None:
        """Take note that no more bytes follow."""
        self._waiting.append((MessageKind.END, b""))

    @property
    def is_empty(self) -> bool:
        """Return False: only the process knows what its filters buffer."""
        return False

    async def read(self) -> list[bytes]:
        """Return the next samples of each channel. Raises `AudioError` and `DecoderLostError`, each only once."""
        if self._over or not self._begun:  # a client that sends no audio needs no process
            return []
        self._over = True  # unless this read completes
        if self._process is None:
            self._process = await self._pool.take()
            self._process.send(MessageKind.OPEN, self._media.encoded())
        for kind, body in self._waiting:
            self._process.send(kind, body)
        self._waiting.clear()
        self._process.send(MessageKind.READ)
        channels = await self._pool.answer(self._process, MessageKind.SAMPLES, samples_of)
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
