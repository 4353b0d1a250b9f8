from __future__ import annotations

import gc
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from myna.inference.engines import registry
from myna.inference.engines.fake.engine import FakeEngine, FakeSettings, spoken
from myna.inference.engines.port import ModelOptions
from myna.inference.workers import worker
from myna.inference.workers.ipc import Batch, Hello, Message, Release, Result, Status, Unavailable, Unpacker, encode
from myna.streaming.errors import EngineUnavailableError
from myna.streaming.session.jobs import InferenceJob, JobKind, Missing, Transcript


class Front:
    """The front's end of a worker's socket."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(30)
        self._connection = connection
        self._unpacker = Unpacker()
        self._ready: list[Message] = []

    def send(self, message: Message) -> None:
        self._connection.sendall(encode(message))

    def next(self) -> Message:
        """Return the next message other than a status."""
        while isinstance(message := self.any(), Status):
            pass
        return message

    def any(self) -> Message:
        while not self._ready:
            self._ready += self._unpacker.feed(self._connection.recv(1 << 16))
        return self._ready.pop(0)


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Front]]:
    """Start workers in threads, with engines built by the test."""
    sockets: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def start(build: Callable[[ModelOptions], Any], lanes: int = 1) -> Front:
        monkeypatch.setattr(registry, "builder", lambda name: build)
        ours, theirs = socket.socketpair()
        sockets.extend((ours, theirs))
        thread = threading.Thread(target=worker.serve, args=(theirs, "fake", ModelOptions(name="m"), lanes))
        threads.append(thread)
        thread.start()
        return Front(ours)

    yield start
    for one in sockets[::2]:
        one.close()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    for one in sockets[1::2]:
        one.close()
    gc.enable()
    gc.unfreeze()


def step(utterance: int, held: int, codes: list[int], name: str) -> Batch:
    pcm = np.concatenate([spoken(code) for code in codes]).tobytes()
    return Batch(0, (InferenceJob(name, "s", JobKind.INTERIM, pcm, 0.0, utterance=utterance, held=held),))


def test_hello_reports_the_loaded_engine_and_its_memory(serving: Callable[..., Front]) -> None:
    hello = serving(FakeEngine, lanes=2).next()
    assert isinstance(hello, Hello)
    assert (hello.info.name, hello.lanes) == ("m", 2)
    assert hello.memory > 10 << 20


def test_only_one_thread_loads_and_calls_an_engine(serving: Callable[..., Front]) -> None:
    threads = set()

    class Watched(FakeEngine):
        def __init__(self, options: ModelOptions) -> None:
            threads.add(threading.get_ident())
            super().__init__(options)

        def warm_up(self) -> None:
            threads.add(threading.get_ident())

        def transcribe(self, jobs: Any) -> Any:
            threads.add(threading.get_ident())
            return super().transcribe(jobs)

    front = serving(Watched)
    front.next()
    front.send(step(0, 0, [1], "a"))
    front.next()
    assert len(threads) == 1


def test_an_engine_that_cannot_be_loaded_is_reported_with_the_reason(serving: Callable[..., Front]) -> None:
    def build(options: ModelOptions) -> FakeEngine:
        raise EngineUnavailableError("no weights")

    assert serving(build).next() == Unavailable("no weights")


def test_a_released_utterance_is_forgotten_before_the_next_step(serving: Callable[..., Front]) -> None:
    front = serving(lambda options: FakeEngine(options, FakeSettings(incremental=True)))
    front.next()
    front.send(step(1, 0, [1, 2], "a"))
    first = front.next()
    front.send(step(1, 9600, [3], "b"))
    second = front.next()
    front.send(Release("s"))
    front.send(step(1, 14400, [4], "c"))
    third = front.next()
    assert isinstance(first, Result)
    assert isinstance(second, Result)
    assert isinstance(second.outcome, Transcript)
    assert [word.text for word in second.outcome.words] == ["w1", "w2", "w3"]
    assert isinstance(third, Result)
    assert third.outcome == Missing(0)


def test_garbage_is_collected_between_steps_only(serving: Callable[..., Front]) -> None:
    front = serving(FakeEngine)
    front.next()
    assert not gc.isenabled()
    young = gc.get_stats()[0]["collections"]
    for number in range(3):
        front.send(step(0, 0, [1], str(number)))
        front.next()
    front.send(step(0, 0, [1], "last"))
    front.next()
    assert gc.get_stats()[0]["collections"] >= young + 3


def test_the_status_reports_how_long_each_lane_has_been_busy(
    serving: Callable[..., Front], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "STATUS_EVERY_S", 0.01)
    go_on = threading.Event()

    class Slow(FakeEngine):
        def transcribe(self, jobs: Any) -> Any:
            if jobs[0].id == "slow":
                go_on.wait(30)
            return super().transcribe(jobs)

    front = serving(Slow, lanes=2)
    front.next()
    front.send(step(0, 0, [1], "slow"))
    while not (isinstance(status := front.any(), Status) and status.busy_s[0] > 0.02):
        pass
    assert status.busy_s[1] == 0
    go_on.set()
    assert isinstance(front.next(), Result)
    while not (isinstance(status := front.any(), Status) and status.busy_s == (0.0, 0.0)):
        pass


THREADS = {
    "a lane": "worker.run_batch = lambda engine, batch: [][1]",
    "a lane that the engine ends": "worker.run_batch = lambda engine, batch: sys.exit()",
    "the status": "worker.Status = lambda busy_s: [][1]",
    "the reader": "worker.Unpacker.feed = lambda self, data: [][1]",
    "a thread of the engine's": "worker.run_batch = lambda *_: threading.Thread(target=lambda: [][1]).start() or []",
}


@pytest.mark.parametrize("thread", THREADS)
def test_a_worker_ends_when_one_of_its_threads_dies(thread: str) -> None:
    ours, theirs = socket.socketpair()
    code = f"import sys, threading; from myna.inference.workers import worker; {THREADS[thread]}; worker.main()"
    options = json.dumps(asdict(ModelOptions(name="m")))
    arguments = ["--fd", str(theirs.fileno()), "--engine", "fake", "--lanes", "1", "--options", options]
    with ours, theirs:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments], pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, text=True
        )
        theirs.close()
        front = Front(ours)
        assert isinstance(front.next(), Hello)
        front.send(step(0, 0, [1], "job"))
        _, said = process.communicate(timeout=30)
    assert process.returncode != 0
    assert "Error" in said
