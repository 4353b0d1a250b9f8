"""Exported Parakeet models in a running server, without torch and NeMo: words, many streams, folders dropped in."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import psutil
import pytest
from aiohttp import ClientSession
from exports import CHECKPOINTS, build, held_out
from peer import RAW, connected, settings

from myna.bench.accuracy import normalised
from myna.clients.live import LiveClient, StreamError
from myna.clients.local_server import local_server
from myna.server.app import Server, running
from myna.wire import messages as wire

START = wire.StartMessage(encoding="linear16", sample_rate=16_000)
SENTENCES = held_out()


@pytest.fixture(scope="module", params=list(CHECKPOINTS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(request.param, "onnx-asr", tmp_path_factory.mktemp("models") / f"tiny-{request.param}")


async def told(url: str, pcm: np.ndarray, model: str | None = None) -> list[Any]:
    """Stream an utterance and a pause; return the finals."""
    async with LiveClient(START, url, model=model) as client:
        speech = np.concatenate([pcm, np.zeros(12_800, np.int16)]).tobytes()
        for start in range(0, len(speech), 3_200):
            await client.send(speech[start : start + 3_200])
        await client.close()
        return [message async for message in client if isinstance(message, wire.FinalMessage)]


def said(finals: list[Any]) -> str:
    return " ".join(message.text for message in finals if message.text)


def test_a_server_without_torch_and_nemo_serves_an_exported_model(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither can be imported, in the server and in its workers, as on a machine where they are not installed."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = sys.modules['nemo'] = None\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")])))
    with local_server(str(folder), "--final-target-ms", "0", "--data", str(tmp_path / "data")) as server:
        heard = [normalised(said(asyncio.run(told(server.url, pcm)))) for _, pcm in SENTENCES[:12]]
        processes = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
        workers = [process for process in processes if "myna.inference.workers.worker" in process.cmdline()]
        assert len(workers) == 1
        assert {process.environ()["PYTHONPATH"] for process in processes} == {os.environ["PYTHONPATH"]}
        mapped = {Path(file.path).name for process in processes for file in process.memory_maps()}
        assert any("onnxruntime" in name for name in mapped)
        assert not any(name.startswith("libtorch") for name in mapped)
    assert jiwer.wer([normalised(text) for text, _ in SENTENCES[:12]], heard) <= 0.05


@pytest.fixture(scope="module")
async def server(folder: Path) -> Any:
    async with running(settings(model=str(folder))) as started:
        yield started


async def test_held_out_sentences_are_recognised_live(server: Server) -> None:
    heard = []
    for _, pcm in SENTENCES:
        finals = await told(server.url, pcm)
        heard.append(normalised(said(finals)))
        assert all(0 < word.confidence <= 1 for message in finals for word in message.words)
    assert jiwer.wer([normalised(text) for text, _ in SENTENCES], heard) <= 0.05


async def test_64_streams_at_once_get_the_words_that_each_gets_alone(server: Server) -> None:
    speech = [np.concatenate([SENTENCES[n % 40][1], SENTENCES[(3 * n + 1) % 40][1]]) for n in range(64)]

    def timed(finals: list[Any]) -> list[Any]:
        return [(m.start, m.end, [(w.word, w.start, w.end) for w in m.words]) for m in finals]

    together = [timed(finals) for finals in await asyncio.gather(*(told(server.url, pcm) for pcm in speech))]
    for number in range(0, 64, 4):
        alone = await told(server.url, speech[number])
        assert together[number] == timed(alone)


async def listed(server: Server) -> dict[str, Any]:
    async with ClientSession() as session, session.get(server.url + "/v1/models") as response:
        return {model["id"]: model for model in (await response.json())["data"]}


async def test_a_folder_dropped_in_is_served_and_a_broken_one_is_refused_with_the_reason(
    folder: Path, tmp_path: Path
) -> None:
    async with running(settings(model="fake", models=tmp_path)) as server:
        shutil.copytree(folder, tmp_path / "birds")
        shutil.copytree(folder, tmp_path / "stones")
        (tmp_path / "stones" / "vocab.txt").unlink()
        models = await listed(server)
        assert (
            models["birds"]["mode"]
            == {"full": "offline", "cache-aware": "streaming"}[folder.name.removeprefix("tiny-")]
        )
        assert "stones" not in models
        with pytest.raises(StreamError, match=r"stones lacks vocab\.txt, the vocabulary"):
            await told(server.url, SENTENCES[0][1], "stones")
        assert said(await told(server.url, SENTENCES[0][1], "birds"))
        async with connected(server) as peer:
            await peer.send(RAW)
            assert (await peer.until("ready"))["model"] == "fake"
