from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from drive import amplitude_voice
from speakers import phrases

from myna.batch.fairness import SLICE_S, FairQueue, FairTurns, Pool
from myna.inference.engines.fake.engine import FakeEngine
from myna.inference.scheduling.scheduler import Scheduler
from myna.streaming.policy import Options, Policy
from myna.streaming.session.jobs import InferenceJob
from myna.streaming.session.requests import Detect, Submit
from myna.streaming.session.stream import Stream


def test_owners_take_turns_and_the_one_with_the_fewest_places_goes_first() -> None:
    queue: FairQueue[str] = FairQueue()
    for item in ("a1", "a2", "a3", "b1", "c1"):
        queue.add(item[0], item)
    taken = Counter({"b": 1})
    order = []
    while (found := queue.take(taken)) is not None:
        order.append(found[1])
    assert order == ["a1", "c1", "a2", "a3", "b1"]


def test_owners_at_their_limit_or_without_permission_are_skipped() -> None:
    queue: FairQueue[str] = FairQueue()
    for item in ("a1", "b1", "c1"):
        queue.add(item[0], item)
    assert queue.take(Counter({"a": 2}), 2, lambda owner: owner != "b") == ("c", "c1")
    assert queue.take(Counter({"a": 2, "b": 2}), 2) is None


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Work:
    """Files that are read portion by portion, under the control of the test."""

    def __init__(self, places: int) -> None:
        self.clock = Clock()
        self.turns = FairTurns(places, self.clock)
        self.at_work: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._portions: dict[str, asyncio.Queue[bool]] = {}

    async def begin(self, *names: str) -> None:
        for name in names:
            self._portions[name] = asyncio.Queue()
            self.tasks[name] = asyncio.create_task(self._read(name))
            await self.settle()

    async def _read(self, name: str) -> None:
        async with self.turns.turn(name[0]) as pause:
            self.at_work.append(name)
            while await self._portions[name].get():
                self.at_work.remove(name)
                await pause()
                self.at_work.append(name)
            self.at_work.remove(name)

    async def portion(self, *names: str, last: bool = False) -> None:
        for name in names:
            self._portions[name].put_nowait(not last)
            await self.settle()

    async def close(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        await asyncio.wait(self.tasks.values())

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)


async def test_an_owner_with_all_places_gives_one_up_at_the_next_portion_to_an_owner_with_none() -> None:
    work = Work(4)
    await work.begin("a1", "a2", "a3", "a4", "a5", "b1")
    assert work.at_work == ["a1", "a2", "a3", "a4"]
    await work.portion("a3")
    assert sorted(work.at_work) == ["a1", "a2", "a4", "b1"]
    await work.portion("a1", "a2", "a4")
    assert sorted(work.at_work) == ["a1", "a2", "a4", "b1"]  # no other owner waits
    await work.portion("b1", last=True)
    assert sorted(work.at_work) == ["a1", "a2", "a3", "a4"]  # the interrupted file goes on before the next one starts
    await work.close()


async def test_two_owners_share_the_places_evenly_and_one_place_by_time() -> None:
    work = Work(4)
    await work.begin("a1", "a2", "a3", "a4", "b1", "b2", "b3", "b4")
    for _ in range(3):
        await work.portion(*list(work.at_work))
    assert sorted(name[0] for name in work.at_work) == ["a", "a", "b", "b"]
    single = Work(1)
    await single.begin("a1", "b1", "c1")
    await single.portion("a1")
    assert single.at_work == ["a1"]
    for name in ("b1", "c1", "a1", "b1"):
        single.clock.now += SLICE_S
        await single.portion(*list(single.at_work))
        assert single.at_work == [name]
    await work.close()
    await single.close()


async def test_cancelled_waiters_neither_lose_nor_duplicate_a_place() -> None:
    work = Work(1)
    await work.begin("a1", "b1", "c1", "d1")
    work.tasks["b1"].cancel()
    await work.settle()
    work.clock.now += SLICE_S
    await work.portion("a1")
    assert work.at_work == ["c1"]
    work.tasks["a1"].cancel()  # while it is interrupted
    await work.portion("c1", last=True)
    assert work.at_work == ["d1"]
    await work.portion("d1", last=True)
    await work.begin("e1")
    assert work.at_work == ["e1"]
    await work.close()


async def test_a_pool_limits_its_concurrency_and_survives_failed_items(capsys: pytest.CaptureFixture[str]) -> None:
    begun: list[str] = []
    gates: dict[str, asyncio.Event] = {}

    async def work(item: str) -> None:
        begun.append(item)
        gates[item] = asyncio.Event()
        await gates[item].wait()
        raise ValueError(item)

    pool: Pool[str] = Pool("test", 3, 2, work)
    for item in ("a1", "a2", "a3", "b1", "b2"):
        pool.add(item[0], item)
    await asyncio.sleep(0)
    assert begun == ["a1", "a2", "b1"]
    gates["a1"].set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert begun[3:] == ["a3"]  # of the two with one place each, a has waited longer
    await pool.close()


def jobs_of(name: str, times: int, arrived: float) -> list[InferenceJob]:
    """Return the jobs of a file that was read at this time; each holds ten words."""
    policy = Policy(live=False, endpoint_ms=None, interim_every_s=None)
    stream = Stream(name, policy, Options(), FakeEngine().info)
    jobs: list[InferenceJob] = []
    for _ in range(times):
        stream.push([phrases(range(10), 5)], arrived)
        while requests := stream.take()[0]:
            for request in requests:
                match request:
                    case Detect(channel, start, pcm):
                        stream.on_vad(channel, start, amplitude_voice(0, pcm))
                    case Submit(job):
                        jobs.append(job)
    return jobs


def test_a_file_with_hours_of_waiting_audio_is_decoded_after_one_with_seconds() -> None:
    scheduler = Scheduler(FakeEngine().info)
    for job in [*jobs_of("long", 100, arrived=0.0)[40:], *jobs_of("short", 3, arrived=2.0)]:  # the others were decoded
        scheduler.add(job)
    (first,) = scheduler.schedule()
    assert first.source.startswith("short")
