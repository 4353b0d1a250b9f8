"""The thread of voice activity: windows of all streams, gathered into one model call a step, off the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import structlog

from myna.runtime.deadlines import Clock
from myna.runtime.supervisor import Supervisor
from myna.streaming.speech.segmenter import WINDOW
from myna.streaming.speech.silero import SileroVad, VadMemory

log = structlog.get_logger()

PART = "voice-activity"
_WINDOWS_A_ROUND = 16
"""Windows of one request decoded before others get their turn (half a second of audio): a client that sends minutes at once
must not hold up the live ones."""
HANGS_AFTER_S = 3.0
"""A thread that has finished no round for so long while requests wait hangs. A round of a thousand channels takes 1.5 s."""
GIVEN_UP_AFTER_S = 30.0
"""While the model fails for every request, one waits for so long; then its stream fails."""
_ENDING_S = 5.0


@dataclass(slots=True)
class _Request:
    memory: VadMemory
    pcm: bytes
    done: Callable[[list[float]], None]
    failed: Callable[[Exception], None]
    asked_at: float
    offset: int = 0
    probabilities: list[float] = field(default_factory=list)
    error: Exception | None = None


class VadWorker:
    """Answers on the event loop it was started on, each channel's requests in their order.

    A request that the model fails on fails alone. Where the model fails on everything the thread ends with that error, and is
    started again; what waits is kept.
    """

    def __init__(self, vad: SileroVad, supervisor: Supervisor, clock: Clock) -> None:
        self._vad = vad
        self._supervisor = supervisor
        self._clock = clock
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._channels: dict[
            int, deque[_Request]
        ] = {}  # the thread's while it lives, and the loop's between two of them
        self._open = 0
        self._moved_at = clock()
        self.windows = 0
        """Windows looked at since the start."""
        self.seconds = 0.0
        """Time that took, in seconds of the thread's CPU."""
        self._loop = asyncio.get_running_loop()
        self._closing = False
        self._restart: asyncio.TimerHandle | None = None
        self._thread = self._started()
        supervisor.watch(PART, self._why_not)

    def detect(
        self,
        memory: VadMemory,
        pcm: bytes,
        done: Callable[[list[float]], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """Have `done` called with the speech probability of each window of `pcm`, which continues `memory`.

        `failed` is called instead where the model fails on these samples.
        """
        if not self._open:
            self._moved_at = self._clock()
        self._open += 1
        self._requests.put(_Request(memory, pcm, done, failed, self._clock()))

    async def close(self) -> None:
        """End the thread; requests that wait are dropped."""
        self._closing = True
        if self._restart is not None:
            self._restart.cancel()
        self._requests.put(None)
        await asyncio.to_thread(self._thread.join, _ENDING_S)
        if self._thread.is_alive():
            log.error("the voice-activity thread hangs; it is left behind", waited_s=_ENDING_S)
        self._supervisor.forget(PART)

    def _why_not(self) -> str | None:
        still_s = self._clock() - self._moved_at
        if not self._open or still_s < HANGS_AFTER_S:
            return None
        return f"its thread has answered nothing for {still_s:.0f} s; {self._open} requests wait"

    def _started(self) -> threading.Thread:
        thread = threading.Thread(target=self._run, name=PART, daemon=True)
        thread.start()
        return thread

    def _start_again(self) -> None:
        try:
            self._thread = self._started()
        except RuntimeError as error:  # no room for another thread now
            self._on_death(error)
        else:
            self._supervisor.restarted(PART)

    def _on_death(self, error: BaseException) -> None:
        """Start another thread after a pause; fail what has waited for too long."""
        if self._closing:
            return
        pause_s = self._supervisor.failed(PART, error)
        given_up = []
        for key, waiting in list(self._channels.items()):
            if self._clock() - waiting[0].asked_at >= GIVEN_UP_AFTER_S:
                given_up += self._failed(key, RuntimeError(f"voice activity does not work: {error}"))
        self._answer(given_up)
        self._restart = self._loop.call_later(pause_s, self._start_again)

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._on_death, error)

    def _work(self) -> None:
        while True:
            try:
                while (request := self._requests.get(block=not self._channels)) is not None:
                    self._channels.setdefault(id(request.memory), deque()).append(request)
                return
            except queue.Empty:
                self._round()

    def _round(self) -> None:
        size = 2 * WINDOW * _WINDOWS_A_ROUND
        heads = [waiting[0] for waiting in self._channels.values()]
        parts = [(head.memory, head.pcm[head.offset : head.offset + size]) for head in heads]
        finished: list[_Request] = []
        began = time.thread_time()
        results = self._probabilities(parts)
        self.seconds += time.thread_time() - began
        for head, result in zip(heads, results, strict=True):
            if isinstance(result, Exception):
                finished += self._failed(id(head.memory), result)
                continue
            self.windows += len(result)
            head.probabilities += result
            head.offset += size
            if head.offset >= len(head.pcm):
                waiting = self._channels[id(head.memory)]
                waiting.popleft()
                if not waiting:
                    del self._channels[id(head.memory)]
                finished.append(head)
        self._moved_at = self._clock()
        if finished:
            self._loop.call_soon_threadsafe(self._answer, finished)

    def _probabilities(self, parts: list[tuple[VadMemory, bytes]]) -> list[list[float] | Exception]:
        """Return the probabilities of each part, or why there are none. Raises what the model fails with on everything."""
        kept = [(memory.state, memory.context) for memory, _ in parts]
        together = self._attempt(parts)
        if not isinstance(together, Exception):
            return [*together]
        results: list[list[float] | Exception] = []
        for part in parts:
            alone = self._attempt([part])
            results.append(alone if isinstance(alone, Exception) else alone[0])
        silence = self._attempt([(VadMemory(), bytes(2 * WINDOW))])
        if isinstance(silence, Exception):
            _put_back(parts, kept)  # all of it is tried again
            raise silence
        return results

    def _attempt(self, parts: list[tuple[VadMemory, bytes]]) -> list[list[float]] | Exception:
        """Return the probabilities, or what the model failed with: then every memory is as it was before."""
        kept = [(memory.state, memory.context) for memory, _ in parts]
        try:
            results = self._vad.probabilities(parts)
            if len(results) != len(parts):
                raise RuntimeError(f"the voice-activity model answered {len(results)} of {len(parts)} channels")
        except Exception as error:
            _put_back(parts, kept)
            return error
        return results

    def _failed(self, key: int, error: Exception) -> list[_Request]:
        """Take everything out that waits for a channel, whose stream has failed."""
        waiting = self._channels.pop(key)
        for request in waiting:
            request.error = error
        return [*waiting]

    def _answer(self, finished: list[_Request]) -> None:
        self._open -= len(finished)
        for request in finished:
            try:
                if request.error is None:
                    request.done(request.probabilities)
                else:
                    request.failed(request.error)
            except Exception:  # the others' answers must not be lost with this one
                log.exception("a stream failed to take its voice activity")


def _put_back(parts: list[tuple[VadMemory, bytes]], kept: list[tuple[np.ndarray, np.ndarray]]) -> None:
    for (memory, _), (state, context) in zip(parts, kept, strict=True):
        memory.state, memory.context = state, context
