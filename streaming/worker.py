"""The process that owns an engine: schedule → run → tell, on one thread a lane, and nothing else.

Started by the front with one end of a socket pair. It ends when that socket does: a front that dies leaves no worker.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from myna.streaming.engines import registry
from myna.streaming.engines.base import (
    Engine,
    EngineInfo,
    EngineUnavailableError,
    Job,
    JobError,
    ModelOptions,
    Outcome,
)
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
from myna.streaming.scheduler import Scheduler


class Desk:
    """The scheduler behind a lock, shared by the thread that takes messages and the lanes."""

    def __init__(self, engine: EngineInfo) -> None:
        self._scheduler = Scheduler(engine)
        self._released: list[str] = []
        self._work = threading.Condition()
        self._closed = False

    def take(self, message: Message) -> None:
        """Act on a message from the front."""
        with self._work:
            match message:
                case Submission(job):
                    self._scheduler.add(job)
                    self._work.notify()
                case Cancellation(job_id):
                    self._scheduler.cancel(job_id)
                case Release(source):
                    self._released.append(source)
                case _:
                    raise ValueError(f"the front does not send {type(message).__name__}")

    def next_batch(self) -> list[Job]:
        """Wait for the next batch; empty when there is no more work to come."""
        with self._work:
            while not self._closed:
                if batch := self._scheduler.schedule():
                    return batch
                self._work.wait()
            return []

    def released(self) -> list[str]:
        """Return the channels released since the last call: the lane that owns their utterances forgets them."""
        with self._work:
            released, self._released = self._released, []
            return released

    def close(self) -> None:
        """Let the lanes end after the batch they are at."""
        with self._work:
            self._closed = True
            self._work.notify_all()


def run_batch(engine: Engine, batch: list[Job]) -> list[Result]:
    """Decode a batch; whatever the engine raises becomes each job's error, not the worker's death."""
    began = time.perf_counter()
    outcomes: list[Outcome]
    try:
        outcomes = engine.transcribe(batch)
    except Exception as error:
        outcomes = [JobError(f"{type(error).__name__}: {error}")] * len(batch)
    step_s = time.perf_counter() - began
    return [Result(job.id, job.epoch, outcome, step_s) for job, outcome in zip(batch, outcomes, strict=True)]


class Collector:
    """Python's garbage collection, done between steps only.

    In the middle of one it costs time, and from another thread it may free what a GPU is still using.
    """

    _EVERY = 64
    """Steps between two collections of everything; the young are collected after each."""

    def __init__(self) -> None:
        self._steps = 0

    def keep_everything(self) -> None:
        """Take over from Python; what there is now, the models, is here to stay and need not be walked."""
        gc.disable()
        gc.collect()
        gc.freeze()

    def step_done(self) -> None:
        """Collect what the step left behind."""
        self._steps += 1
        gc.collect(2 if self._steps % self._EVERY == 0 else 0)


class _Lane(threading.Thread):
    """One engine and the thread that alone touches it, from loading on. `info` and `desk` are handed over when ready."""

    def __init__(self, build: Callable[[], Engine], collector: Collector, tell: Callable[[Message], None]) -> None:
        super().__init__(daemon=True)
        self.info: Future[EngineInfo] = Future()
        self.desk: Future[Desk] = Future()
        self._build, self._collector, self._tell = build, collector, tell

    def run(self) -> None:
        """Load the engine, then decode batches until there is no more work to come."""
        try:
            engine = self._build()
            engine.warm_up()
        except BaseException as error:  # whoever waits for it must know
            self.info.set_exception(error)
            return
        self.info.set_result(engine.info)
        desk = self.desk.result()
        while batch := desk.next_batch():
            for source in desk.released():
                engine.release(source)
            for result in run_batch(engine, batch):
                self._tell(result)
            self._collector.step_done()


def _give_back() -> None:
    """Return freed memory to the system: reading a checkpoint takes its size twice, and glibc keeps what was freed."""
    with contextlib.suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _memory() -> int:
    """Return the bytes that this process takes, and has reserved on a GPU."""
    try:
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    except OSError:  # not Linux: the most it has taken, in bytes on macOS
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    torch = sys.modules.get("torch")  # only an engine that needs it has loaded it
    if torch is not None and torch.cuda.is_available():
        resident += torch.cuda.memory_reserved()
    return int(resident)


def serve(connection: socket.socket, engine_name: str, options: ModelOptions, lanes: int) -> None:
    """Load an engine for each lane, say hello, then work until the front hangs up."""
    sending = threading.Lock()

    def tell(message: Message) -> None:
        data = encode(message)
        with sending:
            connection.sendall(data)

    try:
        build = registry.builder(engine_name)
        collector = Collector()
        working = [_Lane(lambda: build(options), collector, tell) for _ in range(lanes)]
        for lane in working:
            lane.start()
        infos = [lane.info.result() for lane in working]
    except EngineUnavailableError as error:
        tell(Unavailable(str(error)))
        return
    collector.keep_everything()
    _give_back()
    info = infos[0]
    desk = Desk(info)
    for lane in working:
        lane.desk.set_result(desk)
    tell(Hello(info, lanes, _memory()))
    unpacker = Unpacker()
    while data := connection.recv(1 << 20):
        for message in unpacker.feed(data):
            desk.take(message)
    desk.close()


def main() -> None:
    """Run as ``python -m myna.streaming.worker``; the front gives the arguments."""
    parser = argparse.ArgumentParser(description="Myna's engine worker; started by the server, not by hand.")
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--options", required=True, help="ModelOptions as JSON")
    parser.add_argument("--lanes", type=int, required=True)
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches both; the front decides
    gone = contextlib.suppress(BrokenPipeError, ConnectionResetError)  # without the front there is nothing to do here
    with gone, socket.socket(fileno=arguments.fd) as connection:
        options = json.loads(arguments.options)
        options["languages"] = tuple(options["languages"])
        serve(connection, arguments.engine, ModelOptions(**options), arguments.lanes)


if __name__ == "__main__":
    main()
