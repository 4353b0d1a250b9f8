"""Work on threads for tasks that are cancelled."""

import asyncio
import threading
from pathlib import Path

import pytest

from myna.batch import disk
from myna.runtime.threads import on_thread


async def test_a_cancelled_task_waits_for_its_thread_and_passes_its_result_on() -> None:
    begun, go_on, unclaimed = threading.Event(), threading.Event(), list[str]()

    def work() -> str:
        begun.set()
        go_on.wait()
        return "made"

    task = asyncio.create_task(on_thread(work, unclaimed.append))
    await asyncio.to_thread(begun.wait)
    for _ in range(2):  # the second time while the task waits for the thread
        task.cancel()
        await asyncio.wait([task], timeout=0.01)
    assert not task.done()
    go_on.set()
    await asyncio.wait([task])
    assert task.cancelled()
    assert unclaimed == ["made"]


async def test_an_error_of_a_thread_whose_task_was_cancelled_is_dropped() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go_on.wait()
        raise OSError

    task = asyncio.create_task(on_thread(work))
    await asyncio.to_thread(begun.wait)
    task.cancel()
    go_on.set()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_a_file_opened_for_a_disconnected_client_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, opened = threading.Event(), threading.Event(), list[object]()

    def slow(path: Path) -> object:
        begun.set()
        go_on.wait()
        opened.append(path.open("wb"))
        return opened[0]

    monkeypatch.setattr(disk, "private_file", slow)
    task = asyncio.create_task(disk.FileWriter(tmp_path / "upload").__aenter__())
    await asyncio.to_thread(begun.wait)
    task.cancel()
    go_on.set()
    await asyncio.wait([task])
    assert opened[0].closed  # type: ignore[attr-defined]
