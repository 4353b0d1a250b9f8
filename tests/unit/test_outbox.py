from __future__ import annotations

import pytest

from myna.server.dialects.base import Frame
from myna.server.outbox import LARGEST, Outbox, SlowReaderError


async def drained(outbox: Outbox) -> list[str | bytes]:
    outbox.close()
    frames = []
    while frame := await outbox.get():
        frames.append(frame.payload)
    return frames


async def test_frames_leave_in_their_order() -> None:
    outbox = Outbox()
    for text in "abc":
        outbox.put(Frame(text))
    assert await drained(outbox) == ["a", "b", "c"]


async def test_a_newer_tentative_replaces_the_unsent_one_of_its_channel_only() -> None:
    outbox = Outbox()
    for frame in (Frame("1", "x"), Frame("2", "y"), Frame("final"), Frame("3", "x")):
        outbox.put(frame)
    assert await drained(outbox) == ["2", "final", "3"]


async def test_tentatives_that_are_not_read_take_no_room() -> None:
    outbox = Outbox()
    for _ in range(100):
        outbox.put(Frame("x" * (LARGEST // 2), "x"))
    assert len(await drained(outbox)) == 1


async def test_finals_that_are_not_read_end_the_stream() -> None:
    outbox = Outbox()
    outbox.put(Frame("x" * LARGEST))
    with pytest.raises(SlowReaderError):
        outbox.put(Frame("x"))
    outbox.clear()
    outbox.put(Frame("why"))
    assert await drained(outbox) == ["why"]
