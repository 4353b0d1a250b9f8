"""Who is let in when it gets full, and in which words the others are told to come again."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, FormData, WSServerHandshakeError
from peer import RAW, connected, eventually, listening
from speakers import phrases, running_fake

from myna.clients.live import LiveClient, StreamError
from myna.server.app import Server
from myna.streaming import wire

START = wire.Start(encoding="linear16", sample_rate=16_000)


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
            await eventually(lambda: server.models.pools[0].headroom.streams == 3)
            assert (await refused(server, "/v1/stream"))[0] == 503
        await eventually(lambda: server.models.pools[0].headroom.streams == 0)


async def test_without_headroom_streams_are_refused_but_for_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    from myna.streaming.headroom import Headroom

    monkeypatch.setattr(Headroom, "predicted_p95", lambda self, now, more, owner: 0.8)
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


async def test_a_key_has_its_own_share_of_streams_and_leaves_that_of_others(keys: Path) -> None:
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


async def test_a_key_has_its_own_share_of_files_and_those_waiting_for_a_callback_count(
    keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("myna.server.jobrunner.AT_ONCE", 0)
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


async def test_a_refused_handshake_is_counted_by_its_reason() -> None:
    async with running_fake(max_streams=1) as server, ClientSession() as session:
        async with connected(server):
            with pytest.raises(WSServerHandshakeError):
                async with connected(server):
                    pass
        async with session.get(server.url + "/metrics") as response:
            assert 'myna_refusals_total{reason="max_streams"} 1.0' in await response.text()
