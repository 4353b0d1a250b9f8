"""Speakers in every dialect, told apart by the real models in a recorded dialogue; and servers without such models."""

from __future__ import annotations

import base64
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from io import BytesIO
from itertools import pairwise
from typing import Any
from unittest import mock

import numpy as np
import pytest
from aiohttp import ClientSession, FormData, web
from peer import connected, listening, served, settings
from sounds import contained, recording
from speakers import phrases, running_fake

from myna.inference.engines import registry
from myna.server.app import Server, running

RAW = "encoding=linear16&sample_rate=16000"
ASKING = ["diarize=true", "diarize_model=latest", "diarize_model=v1", "diarize=true&diarize_version=2021-07-14.0"]
DIALOGUE = recording("endgame_nagg_nell")
"""28 s of two speakers in turns."""


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Server]:
    async with running(settings(speakers_within_ms=60_000, allowed_networks=["127.0.0.0/8"])) as started:
        yield started


@pytest.fixture(scope="module")
def flac() -> bytes:
    return contained([DIALOGUE], "flac", "flac")


@pytest.fixture
def without_diarizer() -> Iterator[None]:
    kinds = registry.kinds()
    lacking = {
        name: replace(kind, needs=("no_such_package",)) for name, kind in kinds.items() if kind.answers == "voices"
    }
    with mock.patch.dict(kinds, lacking):
        yield


async def posted(server: Server, query: str, body: Any = None) -> tuple[int, dict[str, Any]]:
    async with (
        ClientSession() as session,
        session.post(f"{server.url}/v1/listen?{query}", data=phrases([1, 2]) if body is None else body) as response,
    ):
        return response.status, await response.json()


def alternating(speakers: list[Any]) -> bool:
    changes = sum(before != after for before, after in pairwise(speakers))
    return len(set(speakers)) == 2 and changes >= 6


async def test_deepgrams_words_utterances_and_paragraphs_of_a_file_have_speakers(server: Server, flac: bytes) -> None:
    status, body = await posted(server, "diarize=true&utterances=true&paragraphs=true&punctuate=true", flac)
    assert status == 200
    assert body["metadata"]["diarize_info"].keys() == {"model_uuid", "arch"}
    (channel,) = body["results"]["channels"]
    words = channel["alternatives"][0]["words"]
    assert alternating([word["speaker"] for word in words])
    assert words[0]["speaker"] == 0
    assert all(0.5 <= word["speaker_confidence"] <= 1 for word in words)
    utterances = body["results"]["utterances"]
    assert alternating([utterance["speaker"] for utterance in utterances])
    assert all(word["speaker"] == utterance["speaker"] for utterance in utterances for word in utterance["words"])
    assert alternating([part["speaker"] for part in channel["alternatives"][0]["paragraphs"]["paragraphs"]])


@pytest.mark.parametrize(("query", "arch"), [
    ("diarize=true", "v1"), ("diarize=true&diarize_version=latest", "v1"), ("diarize_model=v1", "v1"),
    ("diarize_model=v2", "v2"), ("diarize_model=latest", "v2"),
])  # fmt: skip
async def test_each_way_to_ask_deepgram_for_speakers_names_its_diarizer(server: Server, query: str, arch: str) -> None:
    _, body = await posted(server, query, contained([DIALOGUE[: 3 * 16_000]], "flac", "flac"))
    info = body["metadata"]["diarize_info"]
    assert info == {"model_uuid": server.models.catalogue.diarizer().uuid, "arch": arch}
    assert all("speaker" in word for word in body["results"]["channels"][0]["alternatives"][0]["words"])


@pytest.mark.parametrize(("limits", "count"), [("num_speakers=1", 1), ("max_speakers=1", 1), ("min_speakers=3", 3)])
async def test_a_file_has_as_many_speakers_as_its_request_allows(
    server: Server, flac: bytes, limits: str, count: int
) -> None:
    _, body = await posted(server, f"diarize=true&{limits}", flac)
    words = body["results"]["channels"][0]["alternatives"][0]["words"]
    assert {word["speaker"] for word in words} == set(range(count))


async def test_a_file_whose_speakers_nobody_asks_for_has_none(server: Server, flac: bytes) -> None:
    _, body = await posted(server, "diarize=false&utterances=true", flac)
    assert "diarize_info" not in body["metadata"]
    assert "speaker" not in json.dumps(body)


async def test_a_recording_of_one_speaker_has_one(server: Server) -> None:
    _, body = await posted(server, "diarize=true", contained([recording("two_cities")], "flac", "flac"))
    words = body["results"]["channels"][0]["alternatives"][0]["words"]
    assert {word["speaker"] for word in words} == {0}


async def test_each_channel_of_a_file_numbers_its_own_speakers(server: Server) -> None:
    two = contained([recording("two_cities"), recording("two_cities")], "flac", "flac")
    _, body = await posted(server, "diarize=true&multichannel=true", two)
    for channel in body["results"]["channels"]:
        assert {word["speaker"] for word in channel["alternatives"][0]["words"]} == {0}


@pytest.mark.parametrize("length_s", [0.1, 0.5])
async def test_a_file_too_short_for_a_voice_has_at_most_one_speaker(server: Server, length_s: float) -> None:
    short = contained([recording("beckett")[8000 : 8000 + int(16_000 * length_s)]], "flac", "flac")
    status, body = await posted(server, "diarize=true", short)
    assert status == 200
    words = body["results"]["channels"][0]["alternatives"][0]["words"]
    assert {word.get("speaker", 0) for word in words} <= {0}


@pytest.mark.parametrize("stream", [False, True])
async def test_openais_segments_have_speakers(server: Server, flac: bytes, stream: bool) -> None:
    form = FormData({"response_format": "diarized_json", "chunking_strategy": "auto", "stream": str(stream).lower()})
    form.add_field("file", BytesIO(flac), filename="dialogue.flac")
    async with (
        ClientSession() as session,
        session.post(f"{server.url}/v1/audio/transcriptions", data=form) as response,
    ):
        assert response.status == 200
        if stream:
            events = [
                json.loads(line[6:]) for line in (await response.text()).splitlines() if line.startswith("data: ")
            ]
            segments = [event for event in events if event["type"] == "transcript.text.segment"]
            text = events[-1]["text"]
        else:
            body = await response.json()
            assert (body["task"], round(body["duration"])) == ("transcribe", 28)
            segments, text = body["segments"], body["text"]
    assert alternating([segment["speaker"] for segment in segments])
    assert segments[0]["speaker"] == "A"
    assert [segment["id"] for segment in segments] == [f"seg_{number}" for number in range(len(segments))]
    assert "".join(segment["text"] for segment in segments).strip() == text


async def test_reflectors_diarization_has_turns_and_shifts_them(server: Server, flac: bytes) -> None:
    async def sound(_request: web.Request) -> web.Response:
        return web.Response(body=flac)

    app = web.Application()
    app.router.add_get("/dialogue.flac", sound)
    found = []
    async with served(app) as url, ClientSession() as session:
        for path in ("/diarize", "/reflector/diarize"):
            for timestamp in ("0", "10"):
                asked = {"audio_file_url": f"{url}/dialogue.flac", "timestamp": timestamp}
                async with session.post(server.url + path, params=asked) as response:
                    assert response.status == 200
                    found.append((await response.json())["diarization"])
    plain, later, *_ = found
    assert found[2:] == found[:2]
    assert alternating([turn["speaker"] for turn in plain])
    assert [turn["start"] for turn in plain] == sorted(turn["start"] for turn in plain)
    assert all(0 <= turn["start"] < turn["end"] <= 29 for turn in plain)
    for name in ("start", "end"):
        assert [turn[name] for turn in later] == pytest.approx([turn[name] + 10 for turn in plain], abs=0.0011)


async def test_reflectors_addresses_take_limits_and_give_words_speakers(server: Server, flac: bytes) -> None:
    async def sound(_request: web.Request) -> web.Response:
        return web.Response(body=flac)

    app = web.Application()
    app.router.add_get("/dialogue.flac", sound)
    async with served(app) as url, ClientSession() as session:
        address = {"audio_file_url": f"{url}/dialogue.flac"}
        for limits, speakers in (({"num_speakers": "1"}, {0}), ({"min_speakers": "2", "max_speakers": "2"}, {0, 1})):
            async with session.post(f"{server.url}/diarize", params=address | limits) as response:
                assert {turn["speaker"] for turn in (await response.json())["diarization"]} == speakers
        async with session.post(
            f"{server.url}/v1/audio/transcriptions-from-url", json=address | {"diarize": True}
        ) as response:
            assert {word["speaker"] for word in (await response.json())["words"]} == {0, 1}


@pytest.mark.parametrize(
    ("query", "status"), [("", 422), ("audio_file_url=http://127.0.0.1:1/x&timestamp=x", 422),
                          ("audio_file_url=http://127.0.0.1:1/x&timestamp=nan", 422), ("audio_file_url=x", 400)],
)  # fmt: skip
async def test_reflectors_diarization_refuses_invalid_parameters(server: Server, query: str, status: int) -> None:
    async with ClientSession() as session, session.post(f"{server.url}/diarize?{query}") as response:
        assert response.status == status
        assert (await response.json())["detail"]


async def test_deepgrams_live_words_have_speakers(server: Server) -> None:
    async with listening(server, f"{RAW}&diarize=true") as peer:
        await peer.socket.send_bytes(DIALOGUE.tobytes())
        await peer.send({"type": "CloseStream"})
        await peer.rest()
    finals = [final for final in peer.finals if final["channel"]["alternatives"][0]["words"]]
    words = [word for final in finals for word in final["channel"]["alternatives"][0]["words"]]
    assert all("speaker_confidence" not in word for word in words)
    told = [word["speaker"] for word in words if "speaker" in word]
    assert len(told) > 0.9 * len(words)
    assert 2 <= len(set(told)) <= 3
    info = {"model_uuid": server.models.catalogue.diarizer().uuid, "arch": "v1"}
    assert all(final["metadata"]["diarize_info"] == info for final in finals if "speaker" in str(final["channel"]))


@pytest.mark.parametrize("limits", ["num_speakers=1", "max_speakers=1"])
async def test_a_stream_has_no_more_speakers_than_its_request_allows(server: Server, limits: str) -> None:
    async with listening(server, f"{RAW}&diarize=true&{limits}") as peer:
        await peer.socket.send_bytes(DIALOGUE[: 16_000 * 15].tobytes())
        await peer.send({"type": "CloseStream"})
        await peer.rest()
    words = [word for final in peer.finals for word in final["channel"]["alternatives"][0]["words"]]
    assert {word["speaker"] for word in words if "speaker" in word} == {0}


async def test_native_words_have_speakers(server: Server) -> None:
    async with connected(server, "?diarize=true") as peer:
        await peer.send({"type": "start", "encoding": "linear16", "sample_rate": 16_000})
        await peer.socket.send_bytes(DIALOGUE[: 16_000 * 12].tobytes())
        await peer.send({"type": "close"})
        await peer.rest()
    finals = [message for message in peer.messages if message["type"] == "final"]
    assert {word["speaker"] for final in finals for word in final["words"]} >= {0, 1}


async def test_a_native_stream_ends_with_the_speakers_of_each_word_as_in_a_file(server: Server, flac: bytes) -> None:
    async with connected(server, "?diarize=true") as peer:
        await peer.send({"type": "start", "encoding": "linear16", "sample_rate": 16_000})
        await peer.socket.send_bytes(DIALOGUE.tobytes())
        await peer.send({"type": "close"})
        await peer.rest()
    assert [message["type"] for message in peer.messages[-2:]] == ["speakers", "closed"]
    told = peer.messages[-2]
    words = [word for message in peer.messages if message["type"] == "final" for word in message["words"]]
    assert len(told["words"]) == len(words)
    assert (told["channel"], told["since"], told["count"]) == (0, 0, 2)
    assert alternating([turn["speaker"] for turn in told["turns"]])
    assert all(turn["start"] < turn["end"] and 0.5 <= turn["confidence"] <= 1 for turn in told["turns"])
    _, body = await posted(server, "diarize=true", flac)
    file_words = body["results"]["channels"][0]["alternatives"][0]["words"]
    of_file = {(word["word"], round(word["start"])): word["speaker"] for word in file_words}
    same = [of_file.get((word["word"], round(word["start"])), new) == new
            for word, new in zip(words, told["words"], strict=True)]  # fmt: skip
    assert sum(same) >= 0.95 * len(same)


async def test_a_client_that_lost_its_connection_gets_the_speakers_after_it_has_come_back(server: Server) -> None:
    async with connected(server, "?diarize=true") as peer:
        await peer.send({"type": "start", "encoding": "linear16", "sample_rate": 16_000, "resume": True})
        ready = await peer.until("ready")
        await peer.socket.send_bytes(DIALOGUE.tobytes())
        await peer.send({"type": "close"})
        peer.drop()
    async with connected(server, f"?diarize=true&resume={ready['resume']}&after={ready['number']}") as again:
        received = (await again.until("ready"))["received"]
        if received < 2:
            await again.socket.send_bytes(DIALOGUE.tobytes())
        if received < 3:
            await again.send({"type": "close"})
        await again.rest()
    *_, speakers, closed = again.messages
    words = [word for message in again.messages if message["type"] == "final" for word in message["words"]]
    assert (speakers["type"], closed["type"]) == ("speakers", "closed")
    assert len(speakers["words"]) == len(words) > 10
    assert speakers["count"] == 2


async def test_a_killed_worker_changes_no_label(server: Server) -> None:
    async with listening(server, f"{RAW}&diarize=true") as peer:
        half = len(DIALOGUE) // 2
        await peer.socket.send_bytes(DIALOGUE[:half].tobytes())
        pool = server.models.pools_by_name["speakers"]
        for process in pool.pids:
            os.kill(process, signal.SIGKILL)
        await peer.socket.send_bytes(DIALOGUE[half:].tobytes())
        await peer.send({"type": "CloseStream"})
        await peer.rest()
    async with listening(server, f"{RAW}&diarize=true") as calm:
        await calm.socket.send_bytes(DIALOGUE.tobytes())
        await calm.send({"type": "CloseStream"})
        await calm.rest()

    def told(finals: list[dict[str, Any]]) -> list[Any]:
        return [
            (word["word"], word.get("speaker")) for final in finals
            for word in final["channel"]["alternatives"][0]["words"]
        ]  # fmt: skip

    assert told(peer.finals) == told(calm.finals)


@pytest.mark.usefixtures("without_diarizer")
@pytest.mark.parametrize("query", [*ASKING, "diarize_model=v2"])
async def test_without_a_diarizer_a_file_is_answered_without_speakers(query: str) -> None:
    async with running_fake() as server:
        status, body = await posted(server, f"{RAW}&{query}")
    assert status == 200
    (channel,) = body["results"]["channels"]
    words = channel["alternatives"][0]["words"]
    assert [word["word"] for word in words] == ["w1", "w2"]
    assert not any("speaker" in word for word in words)
    assert "diarize_info" not in body["metadata"]


@pytest.mark.usefixtures("without_diarizer")
@pytest.mark.parametrize("query", ASKING)
async def test_without_a_diarizer_a_stream_is_answered_without_speakers(query: str) -> None:
    async with running_fake() as server, listening(server, f"{RAW}&{query}") as peer:
        await peer.socket.send_bytes(phrases([1, 2]))
        await peer.send({"type": "CloseStream"})
        await peer.rest()
        assert peer.said == "w1 w2"
        assert peer.socket.close_code == 1000
        assert not any(
            "speaker" in word for final in peer.finals for word in final["channel"]["alternatives"][0]["words"]
        )


@pytest.mark.usefixtures("without_diarizer")
@pytest.mark.parametrize("query", ASKING)
async def test_an_operator_can_have_requests_for_speakers_refused_that_no_model_tells_apart(query: str) -> None:
    async with running_fake(without_diarizer="refuse") as server:
        status, body = await posted(server, f"{RAW}&{query}")
        assert (status, body["err_code"]) == (400, "Bad Request")
        assert "tells speakers apart" in body["err_msg"]
        async with ClientSession() as session, session.get(f"{server.url}/v1/listen?{RAW}&{query}") as response:
            assert response.status == 400
            assert "tells speakers apart" in response.headers["dg-error"]
        status, _ = await posted(server, f"{RAW}&diarize=false")
        assert status == 200


@pytest.mark.usefixtures("without_diarizer")
async def test_without_a_diarizer_openai_and_reflector_are_refused() -> None:
    async with running_fake() as server, ClientSession() as session:
        form = FormData({"response_format": "diarized_json"})
        form.add_field("file", BytesIO(contained([DIALOGUE[:16_000]], "flac", "flac")), filename="a.flac")
        async with session.post(f"{server.url}/v1/audio/transcriptions", data=form) as response:
            assert response.status == 400
            assert "tells speakers apart" in (await response.json())["error"]["message"]


def data_url(sound: np.ndarray) -> str:
    return "data:audio/flac;base64," + base64.b64encode(contained([sound], "flac", "flac")).decode()


async def with_known(
    server: Server, names: Sequence[str], references: Sequence[str], flac: bytes, *, stream: bool = False
) -> tuple[int, list[dict[str, Any]]]:
    """Return the status, and the segments or the error."""
    form = FormData({"response_format": "diarized_json", "stream": str(stream).lower()})
    for name, reference in zip(names, references, strict=True):
        form.add_field("known_speaker_names[]", name)
        form.add_field("known_speaker_references[]", reference)
    form.add_field("file", BytesIO(flac), filename="dialogue.flac")
    async with (
        ClientSession() as session,
        session.post(f"{server.url}/v1/audio/transcriptions", data=form) as response,
    ):
        if response.status != 200:
            return response.status, [(await response.json())["error"]]
        if not stream:
            return 200, (await response.json())["segments"]
        lines = (await response.text()).splitlines()
        events = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
        return 200, [event for event in events if event["type"] == "transcript.text.segment"]


async def spans_of(server: Server, flac: bytes) -> dict[str, list[tuple[float, float]]]:
    """Return where each speaker of the dialogue speaks, by the names that speakers have where none is known."""
    _, segments = await with_known(server, [], [], flac)
    found: dict[str, list[tuple[float, float]]] = {}
    for segment in segments:
        found.setdefault(segment["speaker"], []).append((segment["start"], segment["end"]))
    return found


def clip_of(spans: list[tuple[float, float]]) -> np.ndarray:
    """Return up to nine seconds of these spans of the dialogue."""
    parts = [DIALOGUE[int(start * 16_000) : int(end * 16_000)] for start, end in spans]
    return np.concatenate(parts)[: 9 * 16_000]


@pytest.mark.parametrize("stream", [False, True])
async def test_speakers_known_by_a_clip_have_their_names(server: Server, flac: bytes, stream: bool) -> None:
    spans = await spans_of(server, flac)
    clips = {name: data_url(clip_of(some)) for name, some in spans.items()}
    _, plain = await with_known(server, [], [], flac)
    status, segments = await with_known(server, ["Nagg", "Nell"], [clips["B"], clips["A"]], flac, stream=stream)
    assert status == 200
    named = {"A": "Nell", "B": "Nagg"}
    assert [segment["speaker"] for segment in segments] == [named[segment["speaker"]] for segment in plain]


async def test_a_speaker_that_no_clip_knows_has_a_letter_that_is_no_given_name(server: Server, flac: bytes) -> None:
    spans = await spans_of(server, flac)
    stranger = data_url(recording("two_cities")[: 8 * 16_000])
    _, segments = await with_known(server, ["Narrator", "A"], [stranger, data_url(clip_of(spans["B"]))], flac)
    assert {segment["speaker"] for segment in segments} == {"A", "B"}
    _, plain = await with_known(server, [], [], flac)
    swapped = {"A": "B", "B": "A"}
    assert [segment["speaker"] for segment in segments] == [swapped[segment["speaker"]] for segment in plain]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("sound", "reason"), [
    (np.zeros(3 * 16_000, np.int16), "less than a second of speech"),
    ((np.random.default_rng(1).normal(0, 800, 3 * 16_000)).astype(np.int16), "less than a second of speech"),
    ((8000 * np.sin(np.arange(3 * 16_000) * 0.17)).astype(np.int16), "less than a second of speech"),
    (DIALOGUE[: int(1.5 * 16_000)], "it is 1.5 s long; a clip must be from 2 to 10 s long"),
    (DIALOGUE[: 12 * 16_000], "it is longer than 10 s; a clip must be from 2 to 10 s long"),
    (None, "its audio cannot be used"),
])  # fmt: skip
async def test_a_clip_without_a_usable_voice_is_refused(
    server: Server, flac: bytes, sound: np.ndarray | None, reason: str, stream: bool
) -> None:
    reference = "data:audio/wav;base64,bm8gc291bmQ=" if sound is None else data_url(sound)
    good = data_url(recording("two_cities")[: 8 * 16_000])
    status, (error,) = await with_known(server, ["Good", "Bad"], [good, reference], flac, stream=stream)
    assert status == 400
    assert error["param"] == "known_speaker_references"
    assert error["message"].startswith("known_speaker_references[1]: ")
    assert reason in error["message"]
