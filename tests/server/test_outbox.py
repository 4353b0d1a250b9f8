from __future__ import annotations

import pytest

from myna.runtime.errors import LONGEST_MESSAGE, DialectError, Refusal
from myna.server.dialects.base import Frame
from myna.server.websocket.outbox import LARGEST, Outbox, SlowReaderError


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


async def test_a_newer_interim_replaces_the_unsent_one_of_its_channel_only() -> None:
    outbox = Outbox()
    for frame in (Frame("1", "x"), Frame("2", "y"), Frame("final"), Frame("3", "x")):
        outbox.put(frame)
    assert await drained(outbox) == ["2", "final", "3"]


async def test_one_interim_of_each_channel_is_queued_for_any_number_of_channels() -> None:
    outbox = Outbox()
    for number in range(1200):
        outbox.put(Frame(f"{number}", f"channel {number % 12}"))
        if number % 100 == 50:
            outbox.put(Frame(f"final {number}"))
    waiting = await drained(outbox)
    assert [text for text in waiting if "final" in str(text)] == [f"final {n}" for n in range(50, 1200, 100)]
    assert waiting[-12:] == [f"{n}" for n in range(1188, 1200)]
    assert len(waiting) == 24


async def test_a_sent_interim_is_not_removed_from_the_queue() -> None:
    outbox = Outbox()
    outbox.put(Frame("1", "x"))
    await outbox.get()
    outbox.put(Frame("final"))
    outbox.put(Frame("2", "x"))
    assert await drained(outbox) == ["final", "2"]


async def test_unread_interims_replace_each_other() -> None:
    outbox = Outbox()
    for _ in range(100):
        outbox.put(Frame("x" * (LARGEST // 2), "x"))
    assert len(await drained(outbox)) == 1


async def test_too_many_unread_finals_end_the_stream() -> None:
    outbox = Outbox()
    outbox.put(Frame("x" * LARGEST))
    with pytest.raises(SlowReaderError):
        outbox.put(Frame("x"))
    outbox.clear()
    outbox.put(Frame("why"))
    assert await drained(outbox) == ["why"]


async def test_a_rewind_queues_sent_frames_after_the_greeting_and_before_unsent_ones() -> None:
    outbox = Outbox()
    for number in range(1, 6):
        outbox.put(Frame(f"{number}", number=number))
    outbox.put(Frame("interim", replaces="t", number=6))
    for _ in range(3):
        await outbox.get()
    outbox.rewind(1, [Frame("ready")])
    outbox.close()
    sent = []
    while frame := await outbox.get():
        sent.append(frame.payload)
    assert sent == ["ready", "2", "3", "4", "5", "interim"]


async def test_kept_frames_are_bounded_and_dropped_ones_are_known() -> None:
    outbox = Outbox()
    for number in range(1, 5):
        outbox.put(Frame("x" * 400_000, number=number))
        await outbox.get()
    assert not outbox.holds_after(1)
    assert outbox.holds_after(2)
    outbox.put(Frame("an interim", replaces="t", number=5))
    await outbox.get()
    outbox.rewind(2, [])
    assert [(await outbox.get()).number for _ in range(2)] == [3, 4]  # type: ignore[union-attr]


async def test_the_last_frames_fit_into_a_full_outbox() -> None:
    outbox = Outbox()
    outbox.put(Frame("x" * LARGEST))
    outbox.put_last([Frame("error"), Frame("closed")])
    assert (await drained(outbox))[1:] == ["error", "closed"]


def test_an_error_message_that_quotes_a_huge_value_is_shortened() -> None:
    for error in (DialectError("invalid_message", "x" * 10_000_000), Refusal(400, "bad_request", "x" * 10_000_000)):
        assert len(error.message) <= LONGEST_MESSAGE
        assert len(str(error)) <= LONGEST_MESSAGE
        assert "10000000 characters" in error.message
