from __future__ import annotations

import asyncio

from myna.server.websocket.loop_share import BURST_S, OVERUSE_S, SHARE, STEP_S, LoopShare


class Machine:
    """A clock and a processor that the test advances."""

    def __init__(self) -> None:
        self.now = 0.0
        self.used = 0.0
        self.share = LoopShare(lambda: self.now, lambda: self.used, self.sleep)

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)

    def work(self, seconds: float) -> None:
        self.now += seconds
        self.used += seconds


async def turns(machine: Machine, costs: list[float], heard_s: float = 0.0, *, alone: bool = False) -> list[bool]:
    """Have a client do work of these costs, and yield to others after each."""
    answers: list[bool] = []

    async def client() -> None:
        for cost in costs:
            machine.work(cost)
            answers.append(await machine.share.yield_to_others(heard_s * machine.now, alone=alone))

    await machine.share.run(client())
    return answers


async def test_short_work_is_not_paused() -> None:
    machine = Machine()
    assert await turns(machine, [STEP_S / 10] * 5) == [False] * 5
    assert machine.now == machine.used


async def test_a_client_yields_to_others_after_each_step() -> None:
    share, order = LoopShare(), list[str]()

    async def client() -> None:
        for _ in range(3):
            while not share.is_due:
                pass
            order.append("client")
            await share.yield_to_others(0.0, alone=False)

    async def other() -> None:
        for _ in range(3):
            order.append("other")
            await asyncio.sleep(0)

    await asyncio.gather(share.run(client()), other())
    assert order == ["client", "other"] * 3


async def test_a_client_over_its_share_waits() -> None:
    machine = Machine()
    await turns(machine, [0.02] * 500)
    assert machine.used <= BURST_S + SHARE * machine.now + 0.05


async def test_a_client_without_others_is_not_limited() -> None:
    machine = Machine()
    await turns(machine, [0.02] * 500, alone=True)
    assert machine.now == machine.used


async def test_a_client_that_costs_far_more_than_its_audio_is_ended_after_a_while() -> None:
    machine = Machine()
    answers = await turns(machine, [0.02] * 1000)
    assert True in answers
    assert machine.now > OVERUSE_S
    assert not any(answers[: answers.index(True)])


async def test_a_client_that_sends_audio_in_bulk_is_slowed_and_not_ended() -> None:
    assert True not in await turns(Machine(), [0.02] * 1000, heard_s=20.0)


async def test_results_and_exceptions_of_the_work_are_passed_on() -> None:
    async def good() -> int:
        await asyncio.sleep(0)
        return 7

    async def bad() -> None:
        await asyncio.sleep(0)
        raise ValueError("told")

    async def waiting() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ends.append("ended")

    ends: list[str] = []
    assert await LoopShare().run(good()) == 7
    try:
        await LoopShare().run(bad())
    except ValueError as error:
        assert str(error) == "told"
    task = asyncio.create_task(LoopShare().run(waiting()))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert ends == ["ended"]
