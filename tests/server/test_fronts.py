"""Several fronts that share one engine process: what they count, keep and serve together."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import ClientSession, WSServerHandshakeError
from fronts import TOKEN, Fronts, running_fronts
from hook import Hook
from peer import RAW, Peer, connected, eventually, metric, until_metric
from sounds import recording
from speakers import Speaker, names, phrases

from myna.inference.workers.ipc import encode
from myna.runtime.errors import ConfigurationError
from myna.server.fronts import parent
from myna.server.fronts.joint_overview import together
from myna.server.fronts.link import VERSION, Attach
from myna.server.fronts.role import ENGINE, FILES
from myna.server.keys import Scope, add_key
from myna.server.operations.overview import Family, Snapshot
from myna.server.settings import load

RESUMABLE = {**RAW, "resume": True}


@pytest.fixture(scope="module")
async def fronts() -> AsyncIterator[Fronts]:
    async with running_fronts(resume_s=20.0, max_streams=6, allowed_networks=["127.0.0.0/8"]) as started:
        yield started


async def says_to_the_end(fronts: Fronts, number: int, codes: list[int]) -> list[str]:
    async with Speaker(fronts.front(number)) as speaker:
        await speaker.say(phrases(codes))
        await speaker.done()
    return speaker.words


async def test_streams_of_all_fronts_are_decoded_by_the_same_workers(fronts: Fronts) -> None:
    codes = list(range(12))
    assert (
        await asyncio.gather(*(says_to_the_end(fronts, number, codes) for number in (1, 2, 1, 2))) == [names(codes)] * 4
    )


async def test_a_file_is_transcribed_whatever_front_accepts_it(fronts: Fronts) -> None:
    for number in (1, 2):
        address = f"{fronts.front(number).url}/v1/listen?encoding=linear16&sample_rate=16000"
        async with ClientSession() as session:
            for codes in ([1, 2], [3, 4, 5]):  # the second request uses the connection of the first
                async with session.post(address, data=phrases(codes)) as response:
                    answer = await response.json()
                text = answer["results"]["channels"][0]["alternatives"][0]["transcript"]
                assert text.split() == names(codes)


async def test_a_request_whose_first_line_arrives_in_pieces_reaches_the_front_for_files(fronts: Fronts) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(fronts.front(1).url.rsplit(":", 1)[1]))
    body = phrases([7])
    head = "POST /v1/listen?encoding=linear16&sample_rate=16000 HTTP/1.1\r\n"
    head += f"Host: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    for start in range(0, len(head), 20):
        writer.write(head[start : start + 20].encode())
        await writer.drain()
        await asyncio.sleep(0)
    writer.write(body)
    async with asyncio.timeout(30):
        answer = await reader.readuntil(b"\r\n\r\n")
        answer += await reader.readuntil(b"w7")
    assert answer.startswith(b"HTTP/1.1 200")
    writer.close()


async def test_a_job_accepted_at_one_front_is_found_at_the_other(fronts: Fronts, hook: Hook) -> None:
    async with ClientSession() as session:
        query = f"encoding=linear16&sample_rate=16000&callback={hook.url}"
        async with session.post(f"{fronts.front(1).url}/v1/listen?{query}", data=phrases([3])) as response:
            assert response.status == 200, await response.text()
            job = (await response.json())["request_id"]
        async with session.get(f"{fronts.front(2).url}/v1/jobs/{job}") as response:
            assert response.status == 200, await response.text()


async def test_limits_on_streams_hold_for_all_fronts_together(fronts: Fronts) -> None:
    async with asyncio.TaskGroup() as group:
        opened: list[asyncio.Event] = []
        done = asyncio.Event()

        async def hold(number: int, event: asyncio.Event) -> None:
            async with connected(fronts.front(number)) as peer:
                await peer.send(RAW)
                await peer.until("ready")
                event.set()
                await done.wait()

        for number in (1, 1, 1, 2, 2, 2):
            opened.append(asyncio.Event())
            group.create_task(hold(number, opened[-1]))
        for event in opened:
            await event.wait()
        for number in (1, 2):
            with pytest.raises(WSServerHandshakeError) as refused:
                async with connected(fronts.front(number)):
                    pass
            assert refused.value.status == 503
            assert await metric(fronts.front(number), "myna_streams") == 6
            assert await metric(fronts.front(number), "myna_channels") == 6
        done.set()
    await until_metric(fronts.front(1), "myna_channels", lambda channels: channels == 0)


async def resumed(fronts: Fronts, number: int, token: str, after: int) -> tuple[int, Peer | None]:
    try:
        async with connected(fronts.front(number), f"?resume={token}&after={after}") as peer:
            await peer.until("ready")
            return 101, peer
    except WSServerHandshakeError as error:
        return error.status, None


async def test_a_stream_is_resumed_through_another_front(fronts: Fronts) -> None:
    audio = phrases([1, 2, 3, 4, 5, 6, 7, 8])
    half = len(audio) // 4 * 2
    async with connected(fronts.front(1)) as peer:
        await peer.send(RESUMABLE)
        opened = await peer.until("ready")
        assert opened["resume"].startswith("1.")
        await peer.socket.send_bytes(audio[:half])
        await peer.until("final")
        peer.drop()
    after = max(message.get("number", 0) for message in peer.messages)
    async with connected(fronts.front(2), f"?resume={opened['resume']}&after={after}") as again:
        assert (await again.until("ready"))["received"] == 2
        await again.socket.send_bytes(audio[half:])
        await again.send({"type": "close"})
        await again.rest()
    assert f"{peer.text} {again.text}".split() == names([1, 2, 3, 4, 5, 6, 7, 8])


@pytest.mark.parametrize("token", ["1.x", "2.x", "9.x", "0.x", "x", "-1.x", "1.", "\u0661.x"])
async def test_an_unknown_token_is_refused_by_every_front(fronts: Fronts, token: str) -> None:
    assert (await resumed(fronts, 1, token, 0))[0] == 404


async def test_metrics_and_health_of_any_front_tell_of_all_processes(fronts: Fronts) -> None:
    await says_to_the_end(fronts, 2, [1, 2, 3])
    heard = [await metric(fronts.front(number), "myna_audio_seconds_total") for number in (1, 2, FILES)[:2]]
    assert heard[0] == heard[1] > 0
    async with ClientSession() as session, session.get(fronts.front(1).url + "/metrics") as response:
        text = await response.text()
    for process in ("engine", "files", "front 1", "front 2"):
        assert f'process_resident_memory_bytes{{process="{process}"}}' in text
    assert 'myna_workers{model="fake"}' in text
    async with ClientSession() as session, session.get(fronts.front(1).url + "/health") as response:
        assert (response.status, (await response.json())["failing"]) == (200, {})


async def test_streams_outlive_the_engine_process_and_their_finals_are_complete() -> None:
    codes = list(range(24))
    audio = phrases(codes)
    third = len(audio) // 6 * 2
    async with running_fronts(resume_s=5.0, max_streams=2) as fronts:
        async with Speaker(fronts.front(1)) as one, Speaker(fronts.front(2)) as two:
            for speaker in (one, two):
                await speaker.say(audio[:third])
            await eventually(lambda: bool(one.finals and two.finals))
            await fronts.stop(ENGINE)
            for speaker in (one, two):
                await speaker.say(audio[third : 2 * third])
            await eventually(lambda: "engine" in fronts.front(1).supervisor.failing)
            with pytest.raises(WSServerHandshakeError) as refused:
                async with connected(fronts.front(1)):
                    pass
            assert refused.value.status == 503
            await fronts.start(ENGINE)
            for speaker in (one, two):
                await speaker.say(audio[2 * third :])
            await until_metric(fronts.front(1), "myna_channels", lambda channels: channels == 2)
            with pytest.raises(WSServerHandshakeError):  # the places of the two streams are taken
                async with connected(fronts.front(2)):
                    pass
            for speaker in (one, two):
                await speaker.done()
        assert one.words == two.words == names(codes)


async def test_a_front_without_its_front_for_files_refuses_files_and_serves_streams() -> None:
    async with running_fronts() as fronts:
        await fronts.stop(FILES)
        async with ClientSession() as session:
            address = f"{fronts.front(1).url}/v1/listen?encoding=linear16&sample_rate=16000"
            for _ in range(2):  # the connection is kept, and the next request is passed on if it can be
                async with session.post(address, data=phrases([1])) as response:
                    assert (response.status, response.headers["Retry-After"]) == (503, "5")
            async with session.get(fronts.front(1).url + "/health") as response:
                assert response.status == 503
                assert "files: process" in (await response.json())["failing"]
            async with session.get(fronts.front(1).url + "/health/ready") as response:
                assert response.status == 200
            assert await says_to_the_end(fronts, 1, [1, 2]) == names([1, 2])
            await fronts.start(FILES)
            async with session.post(address, data=phrases([1])) as response:
                assert response.status == 200


async def test_tokens_and_limits_of_a_key_hold_at_all_fronts(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    secret = add_key(keys, "one", frozenset(Scope))
    async with running_fronts(keys=keys, key_streams=2) as fronts, ClientSession() as session:
        async with session.post(
            fronts.front(1).url + "/v1/auth/grant", headers={"Authorization": f"Token {secret}"}
        ) as response:
            token = (await response.json())["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        async with connected(fronts.front(1), headers=headers), connected(fronts.front(2), headers=headers):
            await until_metric(fronts.front(1), "myna_channels", lambda channels: channels == 2)
            for number in (1, 2):
                with pytest.raises(WSServerHandshakeError) as refused:
                    async with connected(fronts.front(number), headers=headers):
                        pass
                assert refused.value.status == 429


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"",
        b"\xff\xff\xff\xff",
        struct.pack("<I", 5) + b"abcde",
        bytes(encode(Attach(VERSION + 1, TOKEN, "other"))),
        bytes(encode(Attach(VERSION, "wrong", "other"))),
        bytes(encode(Attach(VERSION, TOKEN, "other"))) + struct.pack("<I", 3) + b"abc",
        bytes(encode(Attach(VERSION, TOKEN, "other"))) * 2,
    ],
)
async def test_garbage_at_the_engine_process_disturbs_no_front(fronts: Fronts, sent: bytes) -> None:
    async with Speaker(fronts.front(1)) as speaker:
        await speaker.say(phrases([1, 2, 3, 4]))
        reader, writer = await asyncio.open_unix_connection(str(fronts.role(1).link()))
        writer.write(sent)
        writer.write_eof()
        async with asyncio.timeout(10):
            await reader.read()
        writer.close()
        await speaker.say(phrases([5, 6]))
        await speaker.done()
    assert speaker.words == names([1, 2, 3, 4, 5, 6])


@pytest.mark.parametrize("sent", [b"", b"x", b"GET / HTTP/1.1\r\n\r\n", b"c\xff\xff\xff\xff", b"c\x00\x00\x00\x00"])
async def test_garbage_at_a_front_from_another_process_disturbs_no_stream(fronts: Fronts, sent: bytes) -> None:
    reader, writer = await asyncio.open_unix_connection(str(fronts.role(1).peer(1)))
    writer.write(sent)
    writer.write_eof()
    with contextlib.suppress(ConnectionResetError):  # not all that was sent is read
        async with asyncio.timeout(10):
            assert await reader.read() == b""
    writer.close()
    assert await says_to_the_end(fronts, 1, [1]) == names([1])


async def test_speakers_are_told_apart_through_the_engine_process(fronts: Fronts) -> None:
    async with connected(fronts.front(1), "?diarize=true") as peer:
        await peer.send(RAW)
        await peer.socket.send_bytes(recording("beckett").tobytes())
        await peer.send({"type": "close"})
        await peer.rest()
    assert peer.of("speakers")
    await until_metric(fronts.front(1), "myna_channels", lambda channels: channels == 0)


def test_a_number_of_fronts_below_one_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="setting fronts"):
        load(["--fronts", "0"])


async def test_a_system_without_shared_ports_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "SO_REUSEPORT")
    with pytest.raises(ConfigurationError, match="SO_REUSEPORT"):
        await parent.serve_fronts(load(["--fronts", "2"]))


async def test_a_port_that_another_server_shares_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"cannot listen on 127.0.0.1:{port}"):
            await parent.serve_fronts(load(["--fronts", "2", "--port", str(port)]))


def test_metrics_of_processes_are_added_unless_their_sum_says_nothing() -> None:
    def snapshot(process: str, value: float) -> Snapshot:
        families = tuple(
            Family(name, "", kind, ((sample, {"model": "m"}, value),))
            for name, kind, sample in [
                ("myna_streams", "gauge", "myna_streams"),
                ("myna_backlog_seconds", "gauge", "myna_backlog_seconds"),
                ("myna_loop_busy", "gauge", "myna_loop_busy"),
                ("myna_audio_seconds", "counter", "myna_audio_seconds_total"),
                ("myna_audio_seconds", "counter", "myna_audio_seconds_created"),
            ]
        )
        return Snapshot(process, {}, {}, 0, families)

    merged = together([snapshot("front 1", 2.0), snapshot("front 2", 3.0)])
    found = {(s.name, s.labels.get("process")): s.value for metric in merged for s in metric.samples}
    assert found == {
        ("myna_streams", None): 5.0,
        ("myna_backlog_seconds", None): 3.0,
        ("myna_loop_busy", "front 1"): 2.0,
        ("myna_loop_busy", "front 2"): 3.0,
        ("myna_audio_seconds_total", None): 5.0,
        ("myna_audio_seconds_created", None): 2.0,
    }
