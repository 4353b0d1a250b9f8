"""The worker process: receives batches, decodes each on its lane's thread and sends the results.

The front starts the process with one end of a socket pair. The process ends when the other end is closed, so that a front
that dies leaves no worker behind.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import queue
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from myna.inference.engines import registry
from myna.inference.engines.port import Engine, ModelOptions
from myna.inference.scheduling.capacity import MEASURED_S
from myna.inference.workers.ipc import (
    STATUS_EVERY_S,
    Batch,
    Hello,
    Message,
    Release,
    Result,
    Status,
    Unavailable,
    Unpacker,
    encode,
    result,
)
from myna.runtime.memory import give_back
from myna.streaming.errors import EngineUnavailableError
from myna.streaming.events import samples
from myna.streaming.session.jobs import EngineInfo, InferenceJob, JobError, JobKind, Outcome

_NICENESS = 1
"""Niceness that workers which decode on the CPU add to the server's: if all cores decode, the front gets a quarter more
processor time than a worker and is scheduled first. Beside another program on their core they get 44 % of it; with a niceness
of 10 they would get 10 %."""
_THREAD_DIED = 70
"""Exit status of a worker that ends because one of its threads died: EX_SOFTWARE of sysexits.h."""


def run_batch(engine: Engine, batch: list[InferenceJob]) -> list[Result]:
    """Decode a batch. An exception of the engine becomes an error of each job; the worker goes on."""
    began = time.perf_counter()
    outcomes: list[Outcome]
    try:
        outcomes = engine.transcribe(batch)
        if len(outcomes) != len(batch):
            raise RuntimeError(f"the engine returned {len(outcomes)} results for {len(batch)} jobs")
    except Exception as error:
        outcomes = [JobError(f"{type(error).__name__}: {error}")] * len(batch)
    step_s = time.perf_counter() - began
    return [result(job.id, outcome, step_s) for job, outcome in zip(batch, outcomes, strict=True)]


class Collector:
    """Runs Python's garbage collection between steps only.

    During a step, a collection costs time, and from another thread it may free memory that a GPU still uses.
    """

    _EVERY = 64
    """Steps between two full collections; the youngest generation is collected after each step."""

    def __init__(self) -> None:
        self._steps = 0

    def keep_everything(self) -> None:
        """Disable automatic collection, and exempt the objects of the loaded models from collection."""
        gc.disable()
        gc.collect()
        gc.freeze()

    def step_done(self) -> None:
        """Collect the garbage of the step."""
        self._steps += 1
        gc.collect(2 if self._steps % self._EVERY == 0 else 0)


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """A loaded engine's capabilities, and its cost in seconds per second of audio."""

    info: EngineInfo
    cost: float


class _Lane(threading.Thread):
    """An engine and its thread; only this thread loads and calls the engine. `ready` is set once it is loaded."""

    def __init__(self, build: Callable[[], Engine], collector: Collector, send: Callable[[Message], None]) -> None:
        super().__init__(name="lane", daemon=True)
        self.ready: Future[LoadedEngine] = Future()
        self._orders: queue.SimpleQueue[tuple[InferenceJob, ...] | Release | None] = queue.SimpleQueue()
        self._began: float | None = None
        self._build, self._collector, self._send = build, collector, send

    @property
    def busy_s(self) -> float:
        """Seconds spent on the current batch; 0 if the lane is idle."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began

    def order(self, what: tuple[InferenceJob, ...] | Release | None) -> None:
        """Queue a batch or a release for the lane; None ends its thread."""
        self._orders.put(what)

    def run(self) -> None:
        """Load the engine, then carry out orders until one is None."""
        try:
            engine = self._build()
            engine.warm_up()
            self.ready.set_result(LoadedEngine(engine.info, _cost(engine)))
        except BaseException as error:  # `serve` waits for the result and raises it
            self.ready.set_exception(error)
            return
        try:
            self._work(engine)
        except SystemExit as error:  # would end the thread silently
            raise RuntimeError("the engine raised SystemExit") from error

    def _work(self, engine: Engine) -> None:
        while order := self._orders.get():
            if isinstance(order, Release):
                engine.release(order.source)
                continue
            self._began = time.monotonic()
            results = run_batch(engine, list(order))
            self._began = None
            for answer in results:
                self._send(answer)
            self._collector.step_done()


def _cost(engine: Engine) -> float:
    """Return the cost of a second of audio, in seconds, measured on silence."""
    length = min(MEASURED_S, engine.info.longest_segment_s)
    began = time.perf_counter()
    engine.transcribe([InferenceJob("cost", "cost", JobKind.FILE, bytes(2 * samples(length)), 0.0)])
    return (time.perf_counter() - began) / length


def _memory() -> int:
    """Return the resident memory of this process plus the memory it has reserved on a GPU, in bytes."""
    try:
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    except OSError:  # not Linux: the peak, in bytes on macOS
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    torch = sys.modules.get("torch")  # loaded only by engines that use it
    if torch is not None and torch.cuda.is_available():
        resident += torch.cuda.memory_reserved()
    return int(resident)


def serve(connection: socket.socket, engine_name: str, options: ModelOptions, lanes: int) -> None:
    """Load an engine for each lane, send `Hello`, then work until the front closes the connection."""
    sending = threading.Lock()
    ended = threading.Event()

    def send(message: Message) -> None:
        data = encode(message)
        with sending, contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the front is gone
            connection.sendall(data)

    def send_status() -> None:
        while not ended.wait(STATUS_EVERY_S):
            send(Status(tuple(lane.busy_s for lane in working)))

    try:
        build = registry.builder(engine_name)
        collector = Collector()
        working = [_Lane(lambda: build(options), collector, send) for _ in range(lanes)]
        for lane in working:
            lane.start()
        ready = [lane.ready.result() for lane in working]
    except EngineUnavailableError as error:
        send(Unavailable(str(error)))
        return
    collector.keep_everything()
    give_back()  # reading a checkpoint takes twice its size, and glibc keeps freed memory
    send(Hello(ready[0].info, lanes, _memory(), max(one.cost for one in ready)))
    threading.Thread(target=send_status, name="status", daemon=True).start()
    unpacker = Unpacker()
    try:
        while data := connection.recv(1 << 20):
            for message in unpacker.feed(data):
                match message:
                    case Batch(lane=number, jobs=jobs):
                        working[number].order(jobs)
                    case Release():
                        for lane in working:
                            lane.order(message)
                    case _:
                        raise ValueError(f"unexpected message from the front: {type(message).__name__}")
    except ConnectionResetError:
        pass  # the front is gone and has not read everything
    finally:
        ended.set()
        for lane in working:
            lane.order(None)


def _end_process(died: threading.ExceptHookArgs) -> None:
    """End the process because one of its threads died: the front starts another worker, which decodes the jobs."""
    name = died.thread.name if died.thread else "a thread"
    print(f"myna: the engine worker exits because its thread {name!r} died:", file=sys.stderr)
    sys.excepthook(died.exc_type, died.exc_value or died.exc_type(), died.exc_traceback)
    sys.stderr.flush()
    os._exit(_THREAD_DIED)


def main() -> None:
    """Run as ``python -m myna.inference.workers.worker``, with arguments from the front."""
    parser = argparse.ArgumentParser(description="Myna's engine worker. The server starts it; do not run it by hand.")
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--options", required=True, help="ModelOptions as JSON")
    parser.add_argument("--lanes", type=int, required=True)
    arguments = parser.parse_args()
    threading.excepthook = _end_process
    for number in (signal.SIGINT, signal.SIGHUP):  # the front handles signals to the process group
        signal.signal(number, signal.SIG_IGN)
    if registry.kinds()[arguments.engine].lanes != "one":
        os.nice(_NICENESS)
    gone = contextlib.suppress(BrokenPipeError, ConnectionResetError)  # the front is gone
    with gone, socket.socket(fileno=arguments.fd) as connection:
        options = json.loads(arguments.options)
        options["languages"] = tuple(options["languages"])
        serve(connection, arguments.engine, ModelOptions(**options), arguments.lanes)


if __name__ == "__main__":
    main()
