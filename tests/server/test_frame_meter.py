from __future__ import annotations

import random
import struct

from hypothesis import given
from hypothesis import strategies as st

from myna.server.http.frame_meter import FrameMeter


def frame(opcode: int, size: int, *, final: bool = True) -> bytes:
    head = struct.pack("!B", opcode | (0x80 if final else 0))
    if size < 126:
        head += struct.pack("!B", 0x80 | size)
    elif size < 65_536:
        head += struct.pack("!BH", 0x80 | 126, size)
    else:
        head += struct.pack("!BQ", 0x80 | 127, size)
    return head + bytes(4) + bytes(size)


def fed(data: bytes, seed: int) -> FrameMeter:
    """Return a meter that was fed these bytes in pieces of random sizes."""
    meter, chance, at = FrameMeter(), random.Random(seed), 0
    while at < len(data):
        step = chance.choice([1, 2, 3, 7, 100, 70_000])
        meter.feed(data[at : at + step])
        at += step
    return meter


frames = st.tuples(st.sampled_from([1, 2, 9]), st.sampled_from([0, 1, 125, 126, 65_535, 65_536]))


@given(st.lists(frames, max_size=5), st.integers(0, 100))
def test_complete_messages_take_no_memory(sizes: list[tuple[int, int]], seed: int) -> None:
    meter = fed(b"".join(frame(opcode, size) for opcode, size in sizes), seed)
    assert (meter.held, meter.pieces, meter.is_open) == (0, 0, False)


@given(st.integers(0, 100))
def test_an_unfinished_message_takes_its_bytes_and_pings_between_do_not_count(seed: int) -> None:
    meter = fed(frame(2, 70_000, final=False) + frame(9, 5) + frame(0, 200, final=False) + frame(0, 300)[:100], seed)
    assert meter.pieces == 2
    assert meter.held >= 70_200 + 92
    assert meter.is_open
    meter.feed(frame(0, 300)[100:])
    assert (meter.held, meter.is_open) == (0, False)
