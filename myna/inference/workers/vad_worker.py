"""Runs voice-activity detection on a thread: each model call takes the windows of all streams that wait."""

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
"""Windows of one request per round (half a second of audio): a client that sends minutes at once must not delay live
streams."""
ROUND_S = 0.016
"""The least time from the beginning of one round to that of the next, half a window: a window costs half as much in a round
of twenty as alone. A stream that sends by itself does not wait for it."""
HANGS_AFTER_S = 3.0
"""The thread counts as hanging if it finishes no round for this long while requests wait. A round of a thousand channels
takes 1.5 s."""
GIVEN_UP_AFTER_S = 30.0
"""While the model fails for all requests, a request waits this long before its stream fails."""
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
    """Answers on the event loop that created it, each channel's requests in order.

    If the model fails on one request, only that request fails. If the model fails on all requests, the thread ends with
    that error and is restarted; waiting requests are kept.
    """

    def __init__(self, vad: SileroVad, supervisor: Supervisor, clock: Clock) -> None:
        self._vad = vad
        self._supervisor = supervisor
        self._clock = clock
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._channels: dict[int, deque[_Request]] = {}  # owned by the thread; by the loop while no thread runs
        self._open = 0
        self._round_at = 0.0  # by time.monotonic
        self._moved_at = clock()
        self.windows = 0
        """Windows processed since the start."""
        self.seconds = 0.0
        """CPU time of the thread spent on them, in seconds."""
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
        """Queue `pcm`, which continues `memory`; call `done` with the speech probability of each of its windows.

        If the model fails on these samples, `failed` is called instead.
        """
        if not self._open:
            self._moved_at = self._clock()
        self._open += 1
        self._requests.put(_Request(memory, pcm, done, failed, self._clock()))

    async def close(self) -> None:
        """End the thread. Waiting requests are dropped."""
        self._closing = True
        if self._restart is not None:
            self._restart.cancel()
        self._requests.put(None)
        await asyncio.to_thread(self._thread.join, _ENDING_S)
        if self._thread.is_alive():
            log.error("voice-activity thread hangs; abandoning it", waited_s=_ENDING_S)
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
        except RuntimeError as error:  # the system cannot start another thread now
            self._on_death(error)
        else:
            self._supervisor.restarted(PART)

    def _on_death(self, error: BaseException) -> None:
        """Start another thread after a pause; fail requests that have waited too long."""
        if self._closing:
            return
        pause_s = self._supervisor.failed(PART, error)
        given_up = []
        for key, waiting in list(self._channels.items()):
            if self._clock() - waiting[0].asked_at >= GIVEN_UP_AFTER_S:
                given_up += self._failed(key, RuntimeError(f"voice-activity detection failed: {error}"))
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
            if not self._channels:
                first = self._requests.get()
                if first is None:
                    return
                self._take(first)
                time.sleep(max(0.0, self._round_at + ROUND_S - time.monotonic()))
            try:
                while (request := self._requests.get_nowait()) is not None:
                    self._take(request)
                return
            except queue.Empty:
                self._round_at = time.monotonic()
                self._round()

    def _take(self, request: _Request) -> None:
        self._channels.setdefault(id(request.memory), deque()).append(request)

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
        """Return the probabilities, or the error, of each part. Raises the model's error if it fails on all parts."""
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
            _put_back(parts, kept)  # all parts are tried again
            raise silence
        return results

    def _attempt(self, parts: list[tuple[VadMemory, bytes]]) -> list[list[float]] | Exception:
        """Return the probabilities, or the model's error; on an error, every memory is as it was before."""
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
        """Remove and return all requests of a channel whose stream failed."""
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
            except Exception:  # the other requests must still be answered
                log.exception("a stream's handler of voice activity failed")


def _put_back(parts: list[tuple[VadMemory, bytes]], kept: list[tuple[np.ndarray, bytes]]) -> None:
    for (memory, _), (state, context) in zip(parts, kept, strict=True):
        memory.state, memory.context = state, context
