from __future__ import annotations

import asyncio

from myna.server.websocket.loop_share import AHEAD_S, PATIENCE_S, SHARE, STEP_S, Share


class Machine:
    """A clock and a processor that a test turns by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.used = 0.0
        self.share = Share(lambda: self.now, lambda: self.used, self.sleep)

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)

    def work(self, seconds: float) -> None:
        self.now += seconds
        self.used += seconds


async def turns(machine: Machine, costs: list[float], heard_s: float = 0.0, *, alone: bool = False) -> list[bool]:
    """Let a client do work of these costs, with a turn for others after each."""
    answers: list[bool] = []

    async def client() -> None:
        for cost in costs:
            machine.work(cost)
            answers.append(await machine.share.turn(heard_s * machine.now, alone=alone))

    await machine.share.of(client())
    return answers


async def test_small_work_goes_on_without_a_pause() -> None:
    machine = Machine()
    assert await turns(machine, [STEP_S / 10] * 5) == [False] * 5
    assert machine.now == machine.used


async def test_who_has_worked_for_a_step_lets_others_have_a_turn() -> None:
    share, order = Share(), list[str]()

    async def client() -> None:
        for _ in range(3):
            while not share.is_due:
                pass
            order.append("client")
            await share.turn(0.0, alone=False)

    async def other() -> None:
        for _ in range(3):
            order.append("other")
            await asyncio.sleep(0)

    await asyncio.gather(share.of(client()), other())
    assert order == ["client", "other"] * 3


async def test_who_takes_more_than_its_share_waits() -> None:
    machine = Machine()
    await turns(machine, [0.02] * 500)
    assert machine.used <= AHEAD_S + SHARE * machine.now + 0.05


async def test_who_is_alone_takes_what_there_is() -> None:
    machine = Machine()
    await turns(machine, [0.02] * 500, alone=True)
    assert machine.now == machine.used


async def test_who_costs_far_more_than_its_audio_is_ended_after_a_while() -> None:
    machine = Machine()
    answers = await turns(machine, [0.02] * 1000)
    assert True in answers
    assert machine.now > PATIENCE_S
    assert not any(answers[: answers.index(True)])


async def test_who_sends_audio_in_bulk_is_slowed_and_not_ended() -> None:
    assert True not in await turns(Machine(), [0.02] * 1000, heard_s=20.0)


async def test_what_the_work_returns_and_raises_comes_through() -> None:
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
    assert await Share().of(good()) == 7
    try:
        await Share().of(bad())
    except ValueError as error:
        assert str(error) == "told"
    task = asyncio.create_task(Share().of(waiting()))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert ends == ["ended"]
