"""Long-lived parts are restarted, and readiness reports those that do not work."""

from __future__ import annotations

import asyncio

from peer import eventually

from myna.runtime.supervisor import LONGEST_PAUSE_S, Supervisor


async def test_a_part_that_fails_is_restarted_and_reported_until_it_works() -> None:
    supervisor, runs = Supervisor(), 0

    async def work() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise OSError("disk full")
        await asyncio.Event().wait()

    supervisor.run("jobs", work)
    await eventually(lambda: runs == 1 and bool(supervisor.failing))
    assert supervisor.failing == {"jobs": "OSError: disk full"}
    await eventually(lambda: runs == 2 and not supervisor.failing)
    await supervisor.close()


async def test_a_part_that_returns_is_restarted() -> None:
    supervisor, runs = Supervisor(), 0

    async def work() -> None:
        nonlocal runs
        runs += 1

    supervisor.run("pulse", work)
    await eventually(lambda: runs > 1)
    await supervisor.close()


def test_pauses_double_up_to_a_limit_and_a_working_part_is_no_longer_reported() -> None:
    now = 0.0
    supervisor = Supervisor(lambda: now)
    pauses = [supervisor.failed("jobs", "no") for _ in range(10)]
    assert pauses[:3] == [0.1, 0.2, 0.4]
    assert pauses[-1] == LONGEST_PAUSE_S
    supervisor.restarted("jobs")
    now = 4.9
    assert supervisor.failing  # not proven yet: it has failed repeatedly
    now = 5.0
    assert not supervisor.failing
    assert supervisor.failed("jobs", "no") == 0.1
    supervisor.works("jobs")
    assert not supervisor.failing


async def test_a_part_whose_awaited_task_is_cancelled_is_restarted() -> None:
    supervisor, runs = Supervisor(), 0

    async def work() -> None:
        nonlocal runs
        runs += 1
        raise asyncio.CancelledError

    supervisor.run("pulse", work)
    await eventually(lambda: runs > 1)
    await supervisor.close()


async def test_a_part_that_is_ended_intentionally_is_no_longer_reported() -> None:
    supervisor = Supervisor()

    async def work() -> None:
        raise OSError("disk full")

    task = supervisor.run("jobs", work)
    await eventually(lambda: bool(supervisor.failing))
    task.cancel()
    await asyncio.wait([task])
    assert not supervisor.failing


def test_a_watched_part_is_reported_while_its_check_returns_a_reason() -> None:
    supervisor, reason = Supervisor(), None
    supervisor.watch("models", lambda: reason)
    assert not supervisor.failing
    reason = "no engine worker for fake"
    assert supervisor.failing == {"models": "no engine worker for fake"}
    supervisor.forget("models")
    assert not supervisor.failing


def test_a_watched_part_may_also_report_a_failure() -> None:
    """If a thread hangs and then raises, the check's reason is reported."""
    supervisor = Supervisor()
    supervisor.watch("voice", lambda: "it hangs")
    assert supervisor.failing == {"voice": "it hangs"}
    assert supervisor.failed("voice", "it raised") > 0
    supervisor.watch("voice", lambda: None)
    assert supervisor.failing == {"voice": "it raised"}
