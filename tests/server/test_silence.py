from __future__ import annotations

import pytest

from myna.runtime.deadlines import LAST_LOOK_S
from myna.runtime.errors import DialectError
from myna.server.websocket.silence import STALL_S, SilenceTimer

START_S, IDLE_S, ENDPOINT_S = 10.0, 30.0, 0.5


class Client:
    """A client whose time the test advances."""

    def __init__(self) -> None:
        self.now = 100.0
        self.silence = SilenceTimer(START_S, IDLE_S, lambda: self.now)

    def expire(self) -> bool:
        """Let the limit run out, and the recheck after it; return whether the audio has stalled."""
        self.now += self.silence.wait_s
        assert not self.silence.check()
        assert self.silence.wait_s == LAST_LOOK_S
        self.now += LAST_LOOK_S
        return self.silence.check()


def test_a_client_without_a_start_message_is_refused_after_the_start_time_limit() -> None:
    client = Client()
    assert client.silence.wait_s == START_S
    client.silence.message_received()
    client.now += 4.0
    assert client.silence.wait_s == START_S - 4.0
    with pytest.raises(DialectError, match="10 s") as refused:
        client.expire()
    assert (refused.value.code, refused.value.finals_first) == ("no_start", False)


def test_a_client_that_sends_nothing_is_refused_after_the_idle_time_limit() -> None:
    client = Client()
    client.silence.opened(ENDPOINT_S)
    client.now += 20.0
    client.silence.message_received()
    assert client.silence.wait_s == IDLE_S
    with pytest.raises(DialectError, match="30 s") as refused:
        client.expire()
    assert (refused.value.code, refused.value.finals_first) == ("idle", True)


def test_a_message_that_arrives_during_the_recheck_resets_the_limit() -> None:
    client = Client()
    client.silence.opened(ENDPOINT_S)
    client.now += IDLE_S
    assert client.silence.has_expired
    assert not client.silence.check()
    client.silence.message_received()
    assert not client.silence.has_expired
    assert client.silence.wait_s == IDLE_S


def test_audio_stalls_once_for_each_silence() -> None:
    client = Client()
    client.silence.opened(ENDPOINT_S)
    client.silence.audio_received()
    assert client.silence.wait_s == ENDPOINT_S + STALL_S
    assert client.expire()
    assert client.silence.wait_s > ENDPOINT_S + STALL_S  # only the idle limit is left
    client.silence.message_received()
    client.silence.audio_received()
    assert client.expire()


def test_a_changed_endpoint_applies_to_the_next_audio() -> None:
    client = Client()
    client.silence.opened(ENDPOINT_S)
    client.silence.opened(2.0)
    client.silence.audio_received()
    assert client.silence.wait_s == 2.0 + STALL_S
