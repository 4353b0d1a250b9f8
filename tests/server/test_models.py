"""Several models on one server: listing, choosing, loading on first use, unloading to free memory."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiohttp import ClientSession
from faults import failing_once
from peer import RAW, connected, eventually, settings

from myna.clients.live import LiveClient, StreamError
from myna.inference import models as loading
from myna.runtime.errors import ConfigurationError
from myna.server.app import Server, running
from myna.streaming.errors import EngineUnavailableError
from myna.wire import messages as wire

TWO: dict[str, Any] = {"model": "fake", "workers": 1, "aliases": {"quick": "fake", "nova": "moonshine"}}


async def listed(server: Server) -> dict[str, Any]:
    async with ClientSession() as session, session.get(server.url + "/v1/models") as response:
        assert response.status == 200
        answer: dict[str, Any] = await response.json()
        return answer


async def ask(server: Server, query: str) -> tuple[int, dict[str, Any], str | None]:
    """Ask for a stream over plain HTTP: a refusal comes before the upgrade."""
    async with ClientSession() as session, session.get(server.url + wire.PATH + query) as response:
        return response.status, (await response.json())["error"], response.headers.get("Retry-After")


async def ready_model(server: Server, query: str) -> str:
    async with connected(server, query) as peer:
        await peer.send(RAW)
        return str((await peer.until("ready"))["model"])


async def test_the_list_describes_each_model_and_marks_the_default() -> None:
    async with running(settings(**TWO)) as server:
        answer = await listed(server)
        assert answer["object"] == "list"
        models = {model["id"]: model for model in answer["data"]}
        assert set(models) == {"fake", "moonshine-tiny-en"}
        assert (models["fake"]["default"], models["fake"]["loaded"]) == (True, True)
        assert models["fake"]["aliases"] == ["quick"]
        moonshine = models["moonshine-tiny-en"]
        assert (moonshine["default"], moonshine["loaded"]) == (False, False)
        assert (moonshine["languages"], moonshine["mode"], moonshine["aliases"]) == (["en"], "offline", ["nova"])


async def test_a_client_gets_the_model_of_its_name_or_alias_or_the_default() -> None:
    async with running(settings(**TWO)) as server:
        assert await ready_model(server, "") == "fake"
        assert await ready_model(server, "?model=quick") == "fake"
        assert await ready_model(server, "?model=nova") == "moonshine-tiny-en"
        assert await ready_model(server, "?model=moonshine-tiny-en") == "moonshine-tiny-en"
        assert len(server.models.pools) == 2


async def test_an_unknown_model_is_refused_with_the_names_of_all_models() -> None:
    async with running(settings(**TWO)) as server:
        status, error, _ = await ask(server, "?model=whisper")
        assert (status, error["code"]) == (400, "unknown_model")
        assert "'whisper'" in error["message"]
        for name in ("fake", "quick", "nova", "moonshine-tiny-en"):
            assert name in error["message"]
        for path in ("..%2F..%2Fetc%2Fpasswd", "tests%2Fx.nemo", "nvidia%2Fparakeet"):
            status, error, _ = await ask(server, f"?model={path}")
            assert (status, error["code"]) == (400, "unknown_model")


async def test_the_client_library_reports_why_a_model_was_refused() -> None:
    async with running(settings(**TWO)) as server:
        with pytest.raises(StreamError, match="whisper") as refused:
            async with LiveClient(wire.StartMessage(), server.url, model="whisper"):
                pass
        assert refused.value.code == "unknown_model"


async def test_each_loaded_model_is_logged_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    async with running(settings(**TWO, preload=["nova"])):
        lines = [line for line in capfd.readouterr().out.splitlines() if "model loaded" in line]
    assert len(lines) == 2
    for said in ("moonshine-tiny-en", "version=", "languages=en", "mode=offline", "uuid="):
        assert said in lines[1]


async def test_the_least_used_idle_model_makes_room_for_another() -> None:
    async with running(settings(**TWO, models_memory_mb=355)) as server:
        assert await ready_model(server, "?model=nova") == "moonshine-tiny-en"
        assert await ready_model(server, "?model=fake") == "fake"
        (taken,) = [m for m in (await listed(server))["data"] if m["loaded"]]
        assert taken["id"] == "fake"


async def test_a_model_in_use_is_not_unloaded_and_a_request_that_needs_its_memory_is_told_to_retry() -> None:
    async with running(settings(**TWO, models_memory_mb=370)) as server, connected(server) as peer:
        await peer.send(RAW)
        await peer.until("ready")
        status, error, retry = await ask(server, "?model=nova")
        assert (status, error["code"]) == (503, "model_busy")
        assert "no room" in error["message"]
        assert int(retry or 0) > 0
        await peer.send({"type": "close"})
        await peer.until("closed")


async def test_a_slow_load_answers_in_time_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "PATIENCE_S", 0.01)
    async with running(settings(**TWO)) as server:
        status, error, retry = await ask(server, "?model=nova")
        assert (status, error["code"]) == (503, "model_busy")
        assert "being loaded" in error["message"]
        assert int(retry or 0) > 0
        monkeypatch.setattr(loading, "PATIENCE_S", 60.0)
        assert await ready_model(server, "?model=nova") == "moonshine-tiny-en"


async def test_a_server_that_stops_while_a_model_is_loading_leaves_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "PATIENCE_S", 0.01)
    before = set(psutil.Process().children())
    async with running(settings(**TWO)) as server:
        status, _, _ = await ask(server, "?model=nova")
        assert status == 503
    assert {child for child in psutil.Process().children() if child.is_running()} <= before


async def test_many_clients_of_a_model_that_is_not_loaded_share_one_load() -> None:
    async with running(settings(**TWO)) as server:
        found = await asyncio.gather(*(ready_model(server, "?model=nova") for _ in range(5)))
        assert set(found) == {"moonshine-tiny-en"}
        assert len(server.models.pools) == 2


async def test_the_client_library_waits_while_its_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "PATIENCE_S", 0.01)
    monkeypatch.setattr(loading, "RETRY_AFTER_S", 0.05)
    async with running(settings(**TWO)) as server:
        start = wire.StartMessage(encoding="linear16", sample_rate=16_000)
        async with LiveClient(start, server.url, model="nova") as client:
            assert client.ready is not None
            assert client.ready.model == "moonshine-tiny-en"


async def test_an_unusable_model_file_is_listed_with_its_reason_and_affects_no_other_model(tmp_path: Path) -> None:
    async with running(settings(**TWO, models=tmp_path)) as server:
        (tmp_path / "new.nemo").write_bytes(b"no archive")
        answer = await listed(server)
        assert set(answer["unusable"]) == {"new"}
        status, error, _ = await ask(server, "?model=new")
        assert (status, error["code"]) == (400, "unknown_model")
        assert answer["unusable"]["new"] in error["message"]
        assert await ready_model(server, "") == "fake"


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"model": "whisper"}, EngineUnavailableError, "whisper"),
        ({"model": "nowhere/none.nemo"}, EngineUnavailableError, "none"),
        ({"model": "fake", "preload": ["whisper"]}, ConfigurationError, "preload"),
        ({"model": "moonshine", "models_memory_mb": 10}, ConfigurationError, "models_memory_mb"),
    ],
)
async def test_a_failed_start_reports_its_reason(changes: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        async with running(settings(**changes)):
            pass


async def test_a_worker_that_dies_is_replaced_for_its_own_model_only() -> None:
    async with running(settings(**TWO, preload=["nova"])) as server:
        fake, moonshine = server.models.pools
        async with connected(server) as peer:
            await peer.send(RAW)
            await peer.until("ready")
            os.kill(moonshine.pids[0], signal.SIGKILL)
            await eventually(lambda: moonshine.restarts == 1 and moonshine.complete)
            assert fake.restarts == 0
            await peer.send({"type": "close"})
            await peer.until("closed")


async def test_a_load_that_fails_with_a_server_error_is_reported_and_affects_no_other_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running(settings(**TWO)) as server:
        with failing_once(loading.EnginePool, "start"):
            status, error, _ = await ask(server, "?model=nova")
        assert (status, error["code"]) == (400, "unusable_model")
        assert "the server failed to load it" in error["message"]
        assert await ready_model(server, "?model=fake") == "fake"
