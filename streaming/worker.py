"""The process that owns an engine: schedule → run → tell, on one thread a lane, and nothing else.

Started by the front with one end of a socket pair. It ends when that socket does: a front that dies leaves no worker.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import signal
import socket
import threading
import time
from collections.abc import Callable

from myna.streaming.engines import registry
from myna.streaming.engines.base import Engine, EngineUnavailableError, Job, JobError, Kind, Outcome
from myna.streaming.events import SAMPLE_RATE
from myna.streaming.link import (
    Cancellation,
    Hello,
    Message,
    Result,
    Submission,
    Unavailable,
    Unpacker,
    encode,
)
from myna.streaming.scheduler import Scheduler


class Desk:
    """The scheduler behind a lock, shared by the thread that takes messages and the lanes."""

    def __init__(self, largest_batch: int) -> None:
        self._scheduler = Scheduler(largest_batch)
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


def _warm(engine: Engine) -> Engine:
    """Decode the longest job there can be: what it takes of memory and time is taken before the first client comes."""
    longest = bytes(2 * int(engine.info.longest_segment_s * SAMPLE_RATE))
    engine.transcribe([Job("warm-up", "warm-up", Kind.FILE, longest, 0.0)])
    return engine


def _lane(engine: Engine, desk: Desk, tell: Callable[[Message], None]) -> None:
    while batch := desk.next_batch():
        for result in run_batch(engine, batch):
            tell(result)


def serve(connection: socket.socket, engine_name: str, lanes: int) -> None:
    """Load an engine for each lane, say hello, then work until the front hangs up."""
    sending = threading.Lock()

    def tell(message: Message) -> None:
        data = encode(message)
        with sending:
            connection.sendall(data)

    try:
        build = registry.builder(engine_name)
        engines = [_warm(build()) for _ in range(lanes)]
    except EngineUnavailableError as error:
        tell(Unavailable(str(error)))
        return
    info = engines[0].info
    desk = Desk(info.largest_batch)
    threads = [threading.Thread(target=_lane, args=(engine, desk, tell), daemon=True) for engine in engines]
    for thread in threads:
        thread.start()
    gc.freeze()  # the models are here to stay; collections need not walk them
    tell(Hello(info, lanes))
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
    parser.add_argument("--lanes", type=int, required=True)
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches both; the front decides
    gone = contextlib.suppress(BrokenPipeError, ConnectionResetError)  # without the front there is nothing to do here
    with gone, socket.socket(fileno=arguments.fd) as connection:
        serve(connection, arguments.engine, arguments.lanes)


if __name__ == "__main__":
    main()
