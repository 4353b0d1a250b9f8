from __future__ import annotations

import pytest

from myna.runtime.errors import DialectError
from myna.server.dialects.base import Audio, End, Flush, Stalled
from myna.server.websocket.spool import Spool


def test_commands_leave_in_their_order_with_the_time_they_arrived_at() -> None:
    spool = Spool(10_000)
    commands = [Audio(b"a"), Flush("token"), Audio(b"b"), End()]
    for number, command in enumerate(commands):
        spool.append(command, float(number))
    assert [spool.popleft() for _ in range(len(spool))] == [(each, float(n)) for n, each in enumerate(commands)]
    assert spool.size == 0


def test_a_full_spool_refuses_commands_of_the_client() -> None:
    spool = Spool(1000)
    spool.append(Audio(bytes(700)), 0.0)
    for command in (Audio(bytes(100)), Flush("token")):
        with pytest.raises(DialectError, match="more slowly") as refused:
            spool.append(command, 0.0)
        assert (refused.value.code, refused.value.finals_first) == ("overloaded", True)
    spool.append(Stalled(), 0.0)  # the server's own commands always fit
    spool.append(End(), 0.0)
    assert len(spool) == 3


def test_an_empty_spool_accepts_one_command_of_any_size() -> None:
    spool = Spool(1000)
    spool.append(Audio(bytes(5000)), 0.0)
    assert spool.size > 5000


def test_small_commands_count_so_that_their_number_is_bounded() -> None:
    spool = Spool(100_000)
    for _ in range(100_000 // 256):
        spool.append(Flush("token"), 0.0)
    with pytest.raises(DialectError):
        spool.append(Flush("token"), 0.0)
    spool.clear()
    assert (len(spool), spool.size) == (0, 0)
