"""The metrics, and the dashboard and documentation that name them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from aiohttp import ClientSession
from peer import eventually
from prometheus_client.parser import text_string_to_metric_families
from sounds import recording
from speakers import START, Speaker, phrases, running_fake

from myna.server.app import Server

ROOT = Path(__file__).parents[2]


async def read(server: Server) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    async with ClientSession() as session, session.get(server.url + "/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain; version=")
        families = text_string_to_metric_families(await response.text())
        return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


async def test_the_metrics_reflect_a_stream() -> None:
    async with running_fake(final_target_ms=700) as server:
        async with Speaker(server, START.model_copy(update={"interim": True})) as speaker:
            await speaker.say(phrases(list(range(12))))
            found = await read(server)
            assert found["myna_streams", frozenset()] == 1
            assert found["myna_channels", frozenset({("model", "fake")})] == 1
            await speaker.done()
        await eventually(lambda: not server.services.streams)
        found = await read(server)
    final = frozenset({("model", "fake"), ("kind", "final")})
    assert found["myna_streams_total", frozenset({("reason", "close")})] == 1
    assert found["myna_audio_seconds_total", frozenset()] == pytest.approx(len(phrases(list(range(12)))) / 32_000)
    assert found["myna_step_seconds_count", final] >= 3
    assert found["myna_batch_jobs_sum", final] >= 3
    assert found["myna_result_delay_seconds_count", final] >= 3
    assert found["myna_vad_windows_total", frozenset()] > 100
    assert found["myna_vad_seconds_total", frozenset()] >= 0
    assert found["myna_workers", frozenset({("model", "fake")})] == 2
    assert found["myna_worker_restarts_total", frozenset({("model", "fake")})] == 0
    assert 0 < found["myna_headroom_streams", frozenset({("model", "fake")})] <= 1000
    assert found["myna_queue_age_seconds", final] == 0
    assert ("myna_loop_lag_seconds_count", frozenset()) in found


async def test_clear_speech_without_words_is_counted_in_seconds() -> None:
    async with running_fake() as server:
        async with Speaker(server, START) as speaker:
            await speaker.say(recording("beckett").tobytes())  # the fake engine hears no word in real speech
            await speaker.done()
        await eventually(lambda: not server.services.streams)
        found = await read(server)
    assert found["myna_speech_repeated_total", frozenset({("result", "empty")})] >= 1
    assert 3 < found["myna_unheard_seconds_total", frozenset()] < 10


async def test_the_dashboard_and_the_documentation_name_only_existing_metrics(server: Server) -> None:
    async with Speaker(server, START.model_copy(update={"interim": True})) as speaker:
        await speaker.say(recording("beckett").tobytes())
        await speaker.done()
    names = {name for name, _ in await read(server)}
    asked = set(re.findall(r"\b(?:myna|process)_\w+", (ROOT / "deploy" / "grafana.json").read_text()))
    asked |= set(re.findall(r"`(myna_\w+)", (ROOT / "docs" / "operations.md").read_text()))
    labelled = {"myna_refusals_total"}  # has no sample before the first refusal
    known = names | {re.sub(r"_(bucket|count|sum)$", "", name) for name in names} | labelled
    assert asked - known == set()
    assert json.loads((ROOT / "deploy" / "grafana.json").read_text())["title"] == "Myna"


async def test_every_metric_is_documented(server: Server) -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    names = {name for name, _ in await read(server) if name.startswith("myna_") and not name.endswith("_created")}
    names = {re.sub(r"_(bucket|count|sum)$", "", name) for name in names}
    assert {name for name in names if f"`{name}" not in text} == set()
