"""Admission of streams and files, and the format of refusals in each dialect."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import time
import wave
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, FormData, WSServerHandshakeError
from peer import RAW, Peer, connected, eventually, listening
from speakers import phrases, running_fake

from myna.clients.live import LiveClient, StreamError
from myna.inference.scheduling.capacity import Capacity
from myna.server.app import Server
from myna.server.operations.loop_monitor import LoopMonitor
from myna.streaming.session.jobs import JobKind
from myna.wire import messages as wire

START = wire.StartMessage(encoding="linear16", sample_rate=16_000)


async def refused(server: Server, path: str, **how: Any) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Ask for an upgrade that is refused; return status, headers and body."""
    headers = {
        "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", **how.pop("headers", {}),
    }  # fmt: skip
    async with ClientSession() as session, session.get(server.url + path, headers=headers, **how) as response:
        return response.status, dict(response.headers), await response.json()


async def test_streams_beyond_the_limit_are_refused_before_the_upgrade_in_each_dialects_words() -> None:
    async with running_fake(max_streams=1) as server:
        async with connected(server) as peer:
            await peer.send(RAW)
            await peer.until("ready")
            status, headers, body = await refused(server, "/v1/stream")
            assert (status, headers["Retry-After"], body["error"]["code"]) == (503, "5", "too_busy")
            status, headers, body = await refused(server, "/v1/listen?encoding=linear16&sample_rate=16000")
            assert (status, headers["Retry-After"], body["err_code"]) == (503, "5", "SERVICE_UNAVAILABLE")
            assert headers["dg-error"] == body["err_msg"]
            with pytest.raises(StreamError) as busy:
                async with LiveClient(START, server.url):
                    pass
            assert busy.value.code == "too_busy"
        await eventually(lambda: not server.services.streams)
        async with connected(server) as peer:
            await peer.send(RAW)
            await peer.until("ready")


async def test_a_stream_of_several_channels_takes_as_many_places() -> None:
    async with running_fake(max_streams=3) as server:
        async with connected(server) as peer:
            await peer.send({**RAW, "channels": 3, "multichannel": True})
            await peer.socket.send_bytes(bytes(9600))
            await peer.until("ready")
            await eventually(lambda: server.models.pools[0].capacity.streams == 3)
            assert (await refused(server, "/v1/stream"))[0] == 503
        await eventually(lambda: server.models.pools[0].capacity.streams == 0)


async def test_without_capacity_all_streams_but_the_first_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Capacity, "predicted_p95", lambda *_: 0.8)
    async with running_fake(final_target_ms=700) as server, connected(server) as peer:
        await peer.send(RAW)
        await peer.until("ready")
        assert (await refused(server, "/v1/stream"))[0] == 503
    async with running_fake(final_target_ms=900) as server, connected(server) as one, connected(server) as other:
        for peer in (one, other):
            await peer.send(RAW)
            await peer.until("ready")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    file = tmp_path / "keys.toml"
    entries = [
        f'[[key]]\nname = "{name}"\nsha256 = "{hashlib.sha256(name.encode()).hexdigest()}"\n{more}\n'
        for name, more in (("one", "streams = 1\nrequests = 1"), ("other", ""))
    ]
    file.write_text("\n".join(entries))
    return file


async def test_the_stream_limit_of_a_key_does_not_affect_other_keys(keys: Path) -> None:
    async with running_fake(keys=keys, key_streams=2) as server:
        async with listening(server, headers={"Authorization": "Token one"}):
            path = "/v1/listen?encoding=linear16&sample_rate=16000"
            status, headers, body = await refused(server, path, headers={"Authorization": "Token one"})
            assert (status, headers["Retry-After"], body["err_code"]) == (429, "5", "TOO_MANY_REQUESTS")
            other = {"Authorization": "Token other"}
            async with listening(server, headers=other), listening(server, headers=other):
                status, _, body = await refused(server, "/v1/stream", headers={"Authorization": "Bearer other"})
                assert (status, body["error"]["code"]) == (429, "too_many_streams")
        await eventually(lambda: not server.services.streams)
        async with listening(server, headers={"Authorization": "Token one"}):
            pass


async def test_the_file_limit_of_a_key_counts_files_that_wait_for_a_callback(
    keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("myna.batch.job_runner.AT_ONCE", 0)
    changes = {"model": "fake", "keys": keys, "data": tmp_path, "allowed_networks": ["127.0.0.0/8"]}
    async with running_fake(**changes) as server, ClientSession() as session:
        headers = {"Authorization": "Token one"}
        raw = "encoding=linear16&sample_rate=16000"
        listen = f"{server.url}/v1/listen?{raw}"
        async with session.post(
            f"{listen}&callback=http://127.0.0.1:9/", data=phrases([1]), headers=headers
        ) as response:
            assert response.status == 200
        async with session.post(listen, data=phrases([1]), headers=headers) as response:
            assert response.status == 429
            assert response.headers["Retry-After"] == "5"
            assert (await response.json())["err_code"] == "TOO_MANY_REQUESTS"
        form = FormData({"model": "whisper-1"})
        form.add_field("file", phrases([1]), filename="a.wav")
        address = f"{server.url}/v1/audio/transcriptions"
        async with session.post(address, data=form, headers={"Authorization": "Bearer one"}) as response:
            assert response.status == 429
            assert (await response.json())["error"]["code"] == "too_many_requests"
        async with session.post(listen, data=phrases([1]), headers={"Authorization": "Token other"}) as response:
            assert response.status == 200


async def test_a_refused_upgrade_is_counted_by_its_reason() -> None:
    async with running_fake(max_streams=1) as server, ClientSession() as session:
        async with connected(server):
            with pytest.raises(WSServerHandshakeError):
                async with connected(server):
                    pass
        async with session.get(server.url + "/metrics") as response:
            assert 'myna_refusals_total{reason="max_streams"} 1.0' in await response.text()


def places(server: Server) -> int:
    return server.models.pools[0].capacity.streams


def wav(channels: int) -> bytes:
    """Return four seconds of silence."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(2)
        writer.setframerate(16_000)
        writer.writeframes(bytes(4 * 2 * channels * 16_000))
    return file.getvalue()


MANY = "/v1/listen?encoding=linear16&sample_rate=16000&channels=20&multichannel=true"


async def test_a_stream_that_announces_more_channels_than_there_is_room_for_is_refused_before_the_upgrade(
    keys: Path,
) -> None:
    async with running_fake(max_streams=4) as server:
        status, headers, body = await refused(server, MANY)
        assert (status, headers["Retry-After"], body["err_code"]) == (503, "5", "SERVICE_UNAVAILABLE")
        async with connected(server, MANY.removeprefix("/v1/listen").replace("20", "4"), "/v1/listen"):
            await eventually(lambda: places(server) == 4)
            assert (await refused(server, "/v1/stream"))[0] == 503
    async with running_fake(keys=keys) as server:
        status, headers, body = await refused(server, MANY, headers={"Authorization": "Token one"})
        assert (status, headers["Retry-After"], body["err_code"]) == (429, "5", "TOO_MANY_REQUESTS")
        assert "requests 20 more" in body["err_msg"]
        assert places(server) == 0


@pytest.mark.parametrize("path", ["/v1/listen", "/v2/listen"])
async def test_channels_that_are_mixed_into_one_take_one_place(path: str) -> None:
    async with (
        running_fake(max_streams=1) as server,
        connected(server, "?encoding=linear16&sample_rate=16000&channels=20", path) as peer,
    ):
        await peer.socket.send_bytes(bytes(64_000))
        await eventually(lambda: bool(server.services.streams))
        assert places(server) == 1


async def test_a_start_message_that_asks_for_more_channels_than_there_is_room_for_ends_the_stream(keys: Path) -> None:
    start = {**RAW, "channels": 3, "multichannel": True}
    async with running_fake(max_streams=2) as server, connected(server) as peer:
        await peer.send(start)
        await peer.rest()
        assert [message["type"] for message in peer.messages] == ["error", "closed"]
        assert (peer.messages[0]["code"], peer.socket.close_code) == ("too_busy", 1013)
        await eventually(lambda: places(server) == 0)
    bearer = {"Authorization": "Bearer one"}
    async with running_fake(keys=keys) as server, connected(server, headers=bearer) as peer:
        await peer.send(start)
        await peer.rest()
        assert (peer.messages[0]["code"], peer.socket.close_code) == ("too_many_streams", 1013)


async def test_a_container_that_holds_more_channels_than_there_is_room_for_ends_its_stream_in_each_dialects_words() -> (
    None
):
    async with running_fake(max_streams=2) as server:
        async with listening(server, "multichannel=true") as peer:
            await peer.socket.send_bytes(wav(2))
            await eventually(lambda: places(server) == 2)
        await eventually(lambda: places(server) == 0)
        async with listening(server, "multichannel=true") as peer:
            await peer.socket.send_bytes(wav(3))
            await peer.rest()
            assert (peer.socket.close_code, peer.messages[-1]["type"]) == (1013, "Metadata")
        async with connected(server) as peer:
            await peer.send({"type": "start", "multichannel": True})
            await peer.socket.send_bytes(wav(3))
            await peer.rest()
            assert (peer.of("error")[0]["code"], peer.socket.close_code) == ("too_busy", 1013)
        await eventually(lambda: places(server) == 0)
        async with listening(server, "") as peer:
            await peer.socket.send_bytes(wav(3))
            await peer.send({"type": "CloseStream"})
            await peer.rest()
            assert peer.socket.close_code == 1000


@pytest.fixture
def slow_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are loaded while other programs use the cores: a second of audio costs five seconds."""
    monkeypatch.setattr("myna.inference.workers.pool.Capacity", lambda lanes, cost: Capacity(lanes, 5.0 + cost))


async def open_streams(server: Server, count: int) -> None:
    """Open `count` silent streams at the same time, and close them."""
    async with asyncio.TaskGroup() as group:
        barrier = asyncio.Barrier(count)

        async def one() -> None:
            async with connected(server) as peer:
                await peer.send(RAW)
                await peer.until("ready")
                await barrier.wait()

        for _ in range(count):
            group.create_task(one())


@pytest.mark.usefixtures("slow_start")
async def test_a_server_started_on_a_busy_machine_admits_all_streams_once_the_machine_is_idle() -> None:
    async with running_fake(final_target_ms=700) as server:
        await open_streams(server, 24)


async def test_a_server_that_was_slow_admits_all_streams_once_it_is_idle() -> None:
    async with running_fake(final_target_ms=700) as server:
        capacity = server.models.pools[0].capacity
        for number in range(200):  # other programs used the cores a minute ago
            capacity.step_done(time.monotonic() - 100 + 0.2 * number, JobKind.FINAL, 1.0, 5.0)
            capacity.final_out(time.monotonic() - 100 + 0.2 * number, 4.0, 0.2)
        await open_streams(server, 24)


@pytest.mark.usefixtures("slow_start")
async def test_reading_the_headroom_gauge_renews_its_estimate() -> None:
    async with running_fake(final_target_ms=700) as server, ClientSession() as session:
        room = 1
        async with asyncio.timeout(10):
            while room <= 24:
                async with session.get(server.url + "/metrics") as response:
                    text = await response.text()
                room = int(float(text.split('myna_headroom_streams{model="fake"} ')[1].split()[0]))


async def test_the_headroom_gauge_respects_the_stream_limit() -> None:
    async with running_fake(max_streams=2) as server, ClientSession() as session:

        async def room() -> str:
            async with session.get(server.url + "/metrics") as response:
                return (await response.text()).split('myna_headroom_streams{model="fake"} ')[1].split()[0]

        assert await room() == "2.0"
        async with connected(server) as peer:
            await peer.send({**RAW, "channels": 2, "multichannel": True})
            await peer.until("ready")
            assert await room() == "0.0"


@pytest.mark.parametrize(("busy", "status"), [(0.6, 101), (0.89, 503)])
async def test_event_loop_time_of_files_is_not_attributed_to_streams(
    busy: float, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_fake(final_target_ms=700) as server, connected(server) as peer:
        await peer.send(RAW)
        await peer.until("ready")
        monkeypatch.setattr(LoopMonitor, "busy", busy)
        if status == 503:
            assert (await refused(server, "/v1/stream"))[0] == 503
        else:
            async with connected(server):
                pass


@pytest.fixture
def unkept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that lost its connection may lose its place at once."""
    monkeypatch.setattr("myna.server.operations.admission.KEPT_S", 0.0, raising=False)


async def left_alone(server: Server, **how: Any) -> str:
    """Open a stream and drop its connection; return the resumption token."""
    async with connected(server, **how) as peer:
        await peer.send({**RAW, "resume": True})
        token = (await peer.until("ready"))["resume"]
        peer.drop()
    return str(token)


@contextlib.asynccontextmanager
async def connected_at_last(server: Server, **how: Any) -> AsyncIterator[Peer]:
    """Connect as soon as the upgrade is no longer refused."""
    async with contextlib.AsyncExitStack() as stack:
        async with asyncio.timeout(5):
            while True:
                try:
                    peer = await stack.enter_async_context(connected(server, **how))
                    break
                except WSServerHandshakeError:
                    await asyncio.sleep(0.01)
        yield peer


@pytest.mark.usefixtures("unkept")
async def test_a_stream_whose_client_is_away_gives_up_its_place_when_the_server_is_full(keys: Path) -> None:
    async with running_fake(max_streams=1, resume_s=60.0) as server:
        token = await left_alone(server)
        async with connected_at_last(server) as peer:
            await peer.send(RAW)
            await peer.until("ready")
            assert places(server) == 1
            await eventually(lambda: len(server.services.streams) == 1)
            with pytest.raises(WSServerHandshakeError) as gone:
                async with connected(server, f"?resume={token}&after=0"):
                    pass
            assert gone.value.status == 404
    bearer = {"Authorization": "Bearer one"}
    async with running_fake(keys=keys, resume_s=60.0) as server:
        await left_alone(server, headers=bearer)
        async with connected_at_last(server, headers=bearer) as peer:
            await peer.send(RAW)
            await peer.until("ready")


async def test_a_client_that_comes_back_soon_still_has_its_place() -> None:
    async with running_fake(max_streams=1, resume_s=60.0) as server:
        token = await left_alone(server)
        claims = server.models.pools[0].capacity.claims
        await eventually(lambda: claims.weight(time.monotonic()) < 1)
        assert (await refused(server, "/v1/stream"))[0] == 503
        async with connected(server, f"?resume={token}&after=0") as peer:
            await peer.until("ready")
            assert places(server) == 1


@pytest.mark.usefixtures("unkept")
async def test_a_stream_whose_client_is_away_keeps_its_place_if_that_place_would_not_suffice() -> None:
    async with running_fake(max_streams=4, resume_s=60.0) as server:
        token = await left_alone(server)
        claims = server.models.pools[0].capacity.claims
        await eventually(lambda: claims.weight(time.monotonic()) < 1)
        assert (await refused(server, MANY))[0] == 503
        async with connected(server, f"?resume={token}&after=0") as peer:
            await peer.until("ready")


async def test_every_way_a_stream_ends_frees_its_places() -> None:
    async with running_fake(max_streams=20) as server:
        async with ClientSession() as session, session.get(server.url + "/v1/stream") as response:
            assert response.status == 426
        async with listening(server, MANY.partition("?")[2]) as peer:
            await peer.socket.send_bytes(bytes(64_000))
            peer.drop()
        await eventually(lambda: places(server) == 0)
        async with listening(server, "multichannel=true") as peer:
            await peer.socket.send_bytes(b"no audio at all, not even a little")
            await peer.rest()
        async with listening(server, MANY.partition("?")[2]) as peer:
            await peer.send({"type": "CloseStream"})
            await peer.rest()
        await eventually(lambda: places(server) == 0)
        async with listening(server, MANY.partition("?")[2]):
            pass
