"""The small models in a running server: words, many concurrent streams, the catalogue, models that cannot be served."""

from __future__ import annotations

import asyncio
import shutil
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest
from aiohttp import ClientSession
from peer import RAW, Peer, connected, listening, settings
from tiny import TINY, TINY_STREAMING, Reference, Sentence, contents, plain, spaced, write

from myna.clients.live import LiveClient, StreamError
from myna.inference.port import OnResult
from myna.inference.workers.pool import EnginePool
from myna.server.app import Server, running
from myna.streaming.errors import EngineUnavailableError
from myna.streaming.session.jobs import InferenceJob, JobKind
from myna.wire import messages as wire

CHUNK = 3_200  # bytes: 100 ms


@pytest.fixture(scope="session")
async def server(path: Path) -> AsyncIterator[Server]:
    async with running(settings(model=str(path), lanes=0, log_level="error")) as started:
        yield started


async def say(peer: Peer, pcm: np.ndarray) -> None:
    data = pcm.tobytes()
    for start in range(0, len(data), CHUNK):
        await peer.socket.send_bytes(data[start : start + CHUNK])


async def finals(server: Server, pcm: np.ndarray, start: dict[str, Any] = RAW) -> list[dict[str, Any]]:
    """Stream an utterance followed by silence; return the finals."""
    async with connected(server) as peer:
        await peer.send(start)
        await say(peer, np.concatenate([pcm, np.zeros(12_800, np.int16)]))
        await peer.send({"type": "close"})
        await peer.rest()
        assert peer.messages[-1]["reason"] == "close"
        return peer.of("final")


def said(messages: list[dict[str, Any]]) -> str:
    return " ".join(message["text"] for message in messages if message["text"])


def timed(message: dict[str, Any]) -> list[Any]:
    """Return a final without its confidences, whose last digit may round either way."""
    words = [(word["word"], word["start"], word["end"]) for word in message["words"]]
    return [message["start"], message["end"], message["cause"], words]


class Decoded:
    """Records the audio of each channel's final jobs: of a step, the utterance up to its end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.audio: dict[str, list[np.ndarray]] = defaultdict(list)
        submit = EnginePool.submit
        utterances: dict[tuple[str, int], bytes] = {}

        def heard(pool: EnginePool, job: InferenceJob, on_result: OnResult) -> None:
            pcm = job.pcm
            if job.utterance:
                before = utterances.get((job.source, job.utterance), b"")
                pcm = utterances[job.source, job.utterance] = before[: 2 * job.held] + job.pcm
            if job.kind is JobKind.FINAL:
                self.audio[job.source].append(np.frombuffer(pcm, np.int16))
            submit(pool, job, on_result)

        monkeypatch.setattr(EnginePool, "submit", heard)


async def test_held_out_sentences_are_recognised_through_the_server(server: Server, sentences: list[Sentence]) -> None:
    heard = [plain(said(await finals(server, sentence.pcm))) for sentence in sentences]
    assert jiwer.wer([plain(s.text) for s in sentences], heard) <= 0.05


async def test_finals_are_what_nemo_transcribes_of_the_same_utterance(
    server: Server, reference: Reference, sentences: list[Sentence], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = Decoded(monkeypatch)
    ours = [spaced(said(await finals(server, sentence.pcm))) for sentence in sentences]
    utterances = [audio[-1] for audio in decoded.audio.values()]  # the last job gives the final that was sent
    theirs = [spaced(hypothesis.text) for hypothesis in reference.transcribe(utterances)]
    # A mark at an endpoint is not always told. A segment with a second of speech without words is decoded in two parts.
    pairs = [(a.rstrip(".?!"), b.rstrip(".?!")) for a, b in zip(ours, theirs, strict=True)]
    assert sum(a == b for a, b in pairs) >= len(sentences) - 1, [(a, b) for a, b in pairs if a != b]


async def test_words_start_where_nemos_timestamps_say(
    server: Server, reference: Reference, sentences: list[Sentence]
) -> None:
    compared = 0
    for sentence in sentences[:15]:
        ours = [word for message in await finals(server, sentence.pcm) for word in message["words"]]
        (hypothesis,) = reference.transcribe([sentence.pcm], timestamps=True)
        theirs = [stamp for stamp in hypothesis.timestamp["word"] if stamp["word"]]
        if [w["punctuated_word"] for w in ours] == [stamp["word"] for stamp in theirs]:
            for word, stamp in zip(ours, theirs, strict=True):
                assert (
                    abs(word["start"] - stamp["start"]) <= 0.16 + 1e-3
                )  # the server's audio starts between NeMo's frames
                compared += abs(word["start"] - stamp["start"]) <= 0.08 + 1e-3
    assert compared >= 60


async def test_interims_arrive_during_speech_and_become_stable(server: Server, sentences: list[Sentence]) -> None:
    pcm = np.concatenate([s.pcm for s in sentences[:3]])
    async with connected(server) as peer:
        await peer.send(RAW)
        for start in range(0, len(pcm), 12_800):
            await say(peer, pcm[start : start + 12_800])
            if start >= 25_600:
                break
        partial = await peer.until("partial")
        assert partial["words"]
        await peer.send({"type": "close"})
        await peer.rest()


async def test_64_concurrent_streams_get_the_same_words_as_alone(server: Server, sentences: list[Sentence]) -> None:
    speech = [np.concatenate([sentences[(n + k) % len(sentences)].pcm for k in range(1 + n % 2)]) for n in range(64)]
    alone = [await finals(server, pcm) for pcm in speech]
    together = await asyncio.gather(*(finals(server, pcm) for pcm in speech))
    for ours, theirs in zip(together, alone, strict=True):
        assert [m["text"] for m in ours] == [m["text"] for m in theirs]
        assert [timed(m) for m in ours] == [timed(m) for m in theirs]


async def test_keyterms_help_their_stream(server: Server, unseen: dict[str, np.ndarray], boosted_word: str) -> None:
    speech = unseen[boosted_word]
    assert boosted_word not in said(await finals(server, speech))
    assert boosted_word in said(await finals(server, speech, {**RAW, "keyterms": [boosted_word]}))


async def test_a_language_that_the_model_lacks_is_refused_and_its_own_is_accepted(server: Server) -> None:
    async with connected(server) as peer:
        await peer.send({**RAW, "language": "fr"})
        assert (await peer.until("error"))["code"] == "unsupported_language"
    async with connected(server) as peer:
        await peer.send({**RAW, "language": "en-GB"})
        assert (await peer.until("ready"))["language"] == "en"


async def listed(server: Server) -> dict[str, Any]:
    async with ClientSession() as session, session.get(server.url + "/v1/models") as response:
        answer: dict[str, Any] = await response.json()
        return answer


async def test_a_file_dropped_into_the_folder_is_served_without_a_restart(
    tmp_path: Path, sentences: list[Sentence]
) -> None:
    async with running(settings(model="fake", models=tmp_path)) as server:
        assert [model["id"] for model in (await listed(server))["data"]] == ["moonshine-tiny-en", "fake"]
        shutil.copy(TINY, tmp_path / "birds.nemo")
        (birds,) = [model for model in (await listed(server))["data"] if model["id"] == "birds"]
        assert (birds["loaded"], birds["languages"], birds["mode"], birds["version"]) == (
            False,
            ["en"],
            "offline",
            "3.0.0",
        )
        async with LiveClient(wire.StartMessage(**RAW), server.url, model="birds") as client:
            await client.send(np.concatenate([sentences[0].pcm, np.zeros(16_000, np.int16)]).tobytes())
            await client.close()
            assert [message async for message in client if isinstance(message, wire.FinalMessage) and message.words]
            assert client.ready is not None
            assert client.ready.model == "birds"
        (loaded,) = [model for model in (await listed(server))["data"] if model["id"] == "birds"]
        assert loaded["loaded"]
        shutil.copy(TINY_STREAMING, tmp_path / "birds.nemo")
        (changed,) = [model for model in (await listed(server))["data"] if model["id"] == "birds"]
        assert (changed["mode"], changed["loaded"]) == ("streaming", False)
        assert (changed["look_ahead_ms"], changed["look_aheads_ms"]) == (480, [480])
        assert changed["uuid"] != loaded["uuid"]
        (tmp_path / "birds.nemo").unlink()
        assert "birds" not in [model["id"] for model in (await listed(server))["data"]]


async def test_a_file_whose_weights_do_not_load_is_refused_without_effect_on_other_models(tmp_path: Path) -> None:
    write(tmp_path / "broken.nemo", {**contents(TINY), "model_weights.ckpt": b"no weights"})
    start = wire.StartMessage(encoding="linear16", sample_rate=16_000)
    async with running(settings(model="fake", models=tmp_path)) as server, connected(server) as peer:
        await peer.send(RAW)
        await peer.until("ready")
        for _ in range(2):  # the second time fails at once: loading is not tried again
            with pytest.raises(StreamError, match="broken") as refused:
                async with LiveClient(start, server.url, model="broken"):
                    pass
            assert refused.value.code == "unusable_model"
        assert len(server.models.pools) == 1
        await peer.send({"type": "close"})
        await peer.until("closed")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device": "cuda"}, "no CUDA device"),
        ({"device": "tpu9"}, "'tpu9'"),
        ({"model": "nvidia/parakeet-tdt-0.6b-v3"}, "parakeet-tdt-0.6b-v3.nemo"),
        ({"model": "nowhere/parakeet.nemo"}, "nowhere"),
    ],
)
async def test_a_start_that_cannot_succeed_reports_the_reason_in_one_line(
    changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(EngineUnavailableError, match=message) as refused:
        async with running(settings(**{"model": str(TINY), **changes})):
            pass
    assert "\n" not in str(refused.value)


async def test_keyterms_of_deepgrams_clients_are_honoured_and_can_be_changed_midway(
    server: Server, unseen: dict[str, np.ndarray], boosted_word: str
) -> None:
    speech = np.concatenate([unseen[boosted_word], np.zeros(12_800, np.int16)])
    query = "encoding=linear16&sample_rate=16000&endpointing=500&punctuate=true"

    async def heard(query: str, configure: dict[str, Any] | None = None) -> str:
        async with listening(server, query) as peer:
            if configure:
                await peer.send({"type": "Configure", **configure})
                assert (await peer.until("ConfigureSuccess"))["keyterms"] == configure["keyterms"]
            await say(peer, speech)
            await peer.send({"type": "CloseStream"})
            await peer.rest()
            return peer.said

    plain = await heard(query)
    assert boosted_word not in plain
    assert boosted_word in await heard(f"{query}&keyterm={boosted_word}")
    assert boosted_word in await heard(query, {"keyterms": [boosted_word]})
    assert boosted_word not in await heard(f"{query}&keyterm={boosted_word}", {"keyterms": []})
