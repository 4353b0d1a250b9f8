"""The process that owns an engine: take a batch → run it → tell, on one thread a lane, and nothing else.

Started by the front with one end of a socket pair. It ends when that socket does: a front that dies leaves no worker.
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

_NICENESS = 10
"""Of workers that decode on the CPU: the front answers pings and sends words out while every core decodes."""
_THREAD_DIED = 70
"""Exit status of a worker one of whose threads has died: EX_SOFTWARE of sysexits.h."""


def run_batch(engine: Engine, batch: list[InferenceJob]) -> list[Result]:
    """Decode a batch; whatever the engine raises becomes each job's error, not the worker's death."""
    began = time.perf_counter()
    outcomes: list[Outcome]
    try:
        outcomes = engine.transcribe(batch)
        if len(outcomes) != len(batch):
            raise RuntimeError(f"the engine answered {len(outcomes)} of {len(batch)} jobs")
    except Exception as error:
        outcomes = [JobError(f"{type(error).__name__}: {error}")] * len(batch)
    step_s = time.perf_counter() - began
    return [result(job.id, outcome, step_s) for job, outcome in zip(batch, outcomes, strict=True)]


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


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """A loaded engine: what it can do, and the seconds a second of audio costs it."""

    info: EngineInfo
    cost: float


class _Lane(threading.Thread):
    """One engine and the thread that alone touches it, from loading on. `ready` is set when it is loaded."""

    def __init__(self, build: Callable[[], Engine], collector: Collector, tell: Callable[[Message], None]) -> None:
        super().__init__(name="lane", daemon=True)
        self.ready: Future[LoadedEngine] = Future()
        self._orders: queue.SimpleQueue[tuple[InferenceJob, ...] | Release | None] = queue.SimpleQueue()
        self._began: float | None = None
        self._build, self._collector, self._tell = build, collector, tell

    @property
    def busy_s(self) -> float:
        """How long the lane has been at its batch; 0: it is free."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began

    def order(self, what: tuple[InferenceJob, ...] | Release | None) -> None:
        """Have the lane do this after what it is at; None: end."""
        self._orders.put(what)

    def run(self) -> None:
        """Load the engine, then carry out orders until told to end."""
        try:
            engine = self._build()
            engine.warm_up()
            self.ready.set_result(LoadedEngine(engine.info, _cost(engine)))
        except BaseException as error:  # whoever waits for it must know
            self.ready.set_exception(error)
            return
        try:
            self._work(engine)
        except SystemExit as error:  # which ends a thread without a word
            raise RuntimeError("the engine asked to exit") from error

    def _work(self, engine: Engine) -> None:
        while order := self._orders.get():
            if isinstance(order, Release):
                engine.release(order.source)
                continue
            self._began = time.monotonic()
            results = run_batch(engine, list(order))
            self._began = None
            for answer in results:
                self._tell(answer)
            self._collector.step_done()


def _cost(engine: Engine) -> float:
    """Return the seconds that a second of audio costs, as far as silence shows it."""
    length = min(MEASURED_S, engine.info.longest_segment_s)
    began = time.perf_counter()
    engine.transcribe([InferenceJob("cost", "cost", JobKind.FILE, bytes(2 * samples(length)), 0.0)])
    return (time.perf_counter() - began) / length


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
    ended = threading.Event()

    def tell(message: Message) -> None:
        data = encode(message)
        with sending, contextlib.suppress(BrokenPipeError, ConnectionResetError):  # without a front, nobody listens
            connection.sendall(data)

    def tell_status() -> None:
        while not ended.wait(STATUS_EVERY_S):
            tell(Status(tuple(lane.busy_s for lane in working)))

    try:
        build = registry.builder(engine_name)
        collector = Collector()
        working = [_Lane(lambda: build(options), collector, tell) for _ in range(lanes)]
        for lane in working:
            lane.start()
        ready = [lane.ready.result() for lane in working]
    except EngineUnavailableError as error:
        tell(Unavailable(str(error)))
        return
    collector.keep_everything()
    give_back()  # reading a checkpoint takes its size twice, and glibc keeps what was freed
    tell(Hello(ready[0].info, lanes, _memory(), max(one.cost for one in ready)))
    threading.Thread(target=tell_status, name="status", daemon=True).start()
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
                        raise ValueError(f"the front does not send {type(message).__name__}")
    except ConnectionResetError:
        pass  # the front is gone, and has left something unread
    finally:
        ended.set()
        for lane in working:
            lane.order(None)


def _end_process(died: threading.ExceptHookArgs) -> None:
    """End the process, since one of its threads has died: the front starts another, and has its jobs decoded there."""
    name = died.thread.name if died.thread else "a thread"
    print(f"myna: the engine worker ends, since its thread {name!r} has died:", file=sys.stderr)
    sys.excepthook(died.exc_type, died.exc_value or died.exc_type(), died.exc_traceback)
    sys.stderr.flush()
    os._exit(_THREAD_DIED)


def main() -> None:
    """Run as ``python -m myna.inference.workers.worker``; the front gives the arguments."""
    parser = argparse.ArgumentParser(description="Myna's engine worker; started by the server, not by hand.")
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--options", required=True, help="ModelOptions as JSON")
    parser.add_argument("--lanes", type=int, required=True)
    arguments = parser.parse_args()
    threading.excepthook = _end_process
    for number in (signal.SIGINT, signal.SIGHUP):  # a signal to the whole of a group is the front's to act on
        signal.signal(number, signal.SIG_IGN)
    if not registry.ENGINES[arguments.engine].one_lane:
        os.nice(_NICENESS)
    gone = contextlib.suppress(BrokenPipeError, ConnectionResetError)  # without the front there is nothing to do here
    with gone, socket.socket(fileno=arguments.fd) as connection:
        options = json.loads(arguments.options)
        options["languages"] = tuple(options["languages"])
        serve(connection, arguments.engine, ModelOptions(**options), arguments.lanes)


if __name__ == "__main__":
    main()
