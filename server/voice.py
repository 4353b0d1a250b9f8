"""The thread of voice activity: windows of all streams, gathered into one model call a step, off the event loop."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from myna.streaming.segmenter import WINDOW
from myna.streaming.vad import SileroVad, VoiceMemory

_WINDOWS_A_ROUND = 16
"""Windows of one request decoded before others get their turn (half a second of audio): a client that sends minutes at once
must not hold up the live ones."""


@dataclass(slots=True)
class _Request:
    memory: VoiceMemory
    pcm: bytes
    done: Callable[[list[float]], None]
    offset: int = 0
    probabilities: list[float] = field(default_factory=list)


class VoiceActivity:
    """Answers on the event loop it was started on, each channel's requests in their order."""

    def __init__(self, vad: SileroVad) -> None:
        self._vad = vad
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self.windows = 0
        """Windows looked at since the start."""
        self.seconds = 0.0
        """Time that took, in seconds of the thread's CPU."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="voice-activity", daemon=True)
        self._thread.start()

    def detect(self, memory: VoiceMemory, pcm: bytes, done: Callable[[list[float]], None]) -> None:
        """Have `done` called with the speech probability of each window of `pcm`, which continues `memory`."""
        self._requests.put(_Request(memory, pcm, done))

    async def close(self) -> None:
        """End the thread; requests that wait are dropped."""
        self._requests.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        channels: dict[int, deque[_Request]] = {}
        while True:
            try:
                while True:
                    request = self._requests.get(block=not channels)
                    if request is None:
                        return
                    channels.setdefault(id(request.memory), deque()).append(request)
            except queue.Empty:
                self._round(channels)

    def _round(self, channels: dict[int, deque[_Request]]) -> None:
        heads = [waiting[0] for waiting in channels.values()]
        size = 2 * WINDOW * _WINDOWS_A_ROUND
        parts = [(head.memory, head.pcm[head.offset : head.offset + size]) for head in heads]
        finished: list[_Request] = []
        began = time.thread_time()
        results = self._vad.probabilities(parts)
        self.seconds += time.thread_time() - began
        for head, probabilities in zip(heads, results, strict=True):
            self.windows += len(probabilities)
            head.probabilities += probabilities
            head.offset += size
            if head.offset >= len(head.pcm):
                waiting = channels[id(head.memory)]
                waiting.popleft()
                if not waiting:
                    del channels[id(head.memory)]
                finished.append(head)
        if finished:
            self._loop.call_soon_threadsafe(_answer, finished)


def _answer(finished: list[_Request]) -> None:
    for request in finished:
        request.done(request.probabilities)
