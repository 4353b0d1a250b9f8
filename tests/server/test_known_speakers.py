"""`known_speaker_names[]`, `known_speaker_references[]` and `chunking_strategy` of OpenAI's form, and their refusals."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any
from unittest import mock

import pytest
from aiohttp import ClientSession, FormData
from sounds import contained, recording
from speakers import running_fake

from myna.runtime.errors import Refusal
from myna.server.app import Server
from myna.server.dialects.openai import rest

CLIP = (
    "data:audio/flac;base64,"
    + base64.b64encode(contained([recording("beckett")[: 3 * 16_000]], "flac", "flac")).decode()
)
NAMES, REFERENCES = "known_speaker_names", "known_speaker_references"
TYPE = ("chunking_strategy[type]", "server_vad")


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Server]:
    async with running_fake() as started:
        yield started


async def answered(
    server: Server, names: Sequence[str], references: Sequence[str], **fields: str
) -> tuple[int, dict[str, Any]]:
    form = FormData({"response_format": "diarized_json", **fields})
    for name in names:
        form.add_field(f"{NAMES}[]", name)
    for reference in references:
        form.add_field(f"{REFERENCES}[]", reference)
    form.add_field("file", contained([recording("beckett")], "flac", "flac"), filename="a.flac")
    async with (
        ClientSession() as session,
        session.post(f"{server.url}/v1/audio/transcriptions", data=form) as response,
    ):
        return response.status, await response.json()


@pytest.mark.parametrize(("names", "references", "fields", "param", "reason"), [
    (["Ann", "Bob"], [CLIP], {}, REFERENCES, "same number of values, not 2 and 1"),
    (["Ann"], [], {}, REFERENCES, "same number of values, not 1 and 0"),
    ([], [CLIP], {}, NAMES, "same number of values, not 0 and 1"),
    (["1", "2", "3", "4", "5"], [CLIP] * 5, {}, NAMES, "at most 4 values, not 5"),
    ([], [CLIP] * 5, {}, REFERENCES, "at most 4 values, not 5"),
    ([" "], [CLIP], {}, NAMES, "from 1 to 100 characters each, not 0"),
    (["x" * 101], [CLIP], {}, NAMES, "from 1 to 100 characters each, not 101"),
    (["Ann", "Ann"], [CLIP, CLIP], {}, NAMES, "'Ann' was given 2 times"),
    (["Ann"], [CLIP], {"response_format": "json"}, NAMES, "requires response_format=diarized_json"),
    ([], [CLIP], {"response_format": "text"}, REFERENCES, "requires response_format=diarized_json"),
    (["Ann"], ["hello"], {}, REFERENCES, "known_speaker_references[0]: it must be a data URL"),
    (["Ann"], ["https://example.com/a.wav"], {}, REFERENCES, "data URL"),
    (["Ann"], ["data:audio/wav,abc"], {}, REFERENCES, "data URL"),
    (["Ann"], ["data:audio/wav;base64,"], {}, REFERENCES, "it is empty"),
    (["Ann", "Bob"], [CLIP, "data:audio/wav;base64,####"], {}, REFERENCES, "references[1]: its base64 is invalid"),
    (["Ann"], ["data:audio/wav;base64,AAA"], {}, REFERENCES, "its base64 is invalid"),
])  # fmt: skip
async def test_invalid_known_speakers_are_refused_with_their_parameter(
    server: Server, names: list[str], references: list[str], fields: dict[str, str], param: str, reason: str
) -> None:
    for stream in ("false", "true"):
        status, body = await answered(server, names, references, stream=stream, **fields)
        assert status == 400
        assert body["error"]["param"] == param
        assert reason in body["error"]["message"]
        assert (body["error"]["type"], body["error"]["code"]) == ("invalid_request_error", "invalid_value")


async def test_a_reference_has_a_greatest_size(server: Server) -> None:
    with mock.patch("myna.server.dialects.openai.transcriptions.LONGEST_REFERENCE", len(CLIP) - 1):
        status, body = await answered(server, ["Ann"], [CLIP])
    assert (status, body["error"]["param"]) == (400, REFERENCES)
    assert f"at most {len(CLIP) - 1} bytes" in body["error"]["message"]


VAD = {"type": "server_vad", "threshold": 0.4, "prefix_padding_ms": 200, "silence_duration_ms": 600}


@pytest.mark.parametrize("fields", [
    [], [("chunking_strategy", "auto")], [("chunking_strategy", "")], [("chunking_strategy", json.dumps(VAD))],
    [("chunking_strategy", '{"type": "server_vad"}')], [("chunking_strategy[type]", "server_vad")],
    [(f"chunking_strategy[{name}]", str(value)) for name, value in VAD.items()],
])  # fmt: skip
def test_valid_chunking_strategies_are_taken(fields: list[tuple[str, str]]) -> None:
    assert rest.parse(fields) == rest.parse([])


@pytest.mark.parametrize(("fields", "reason"), [
    ([("chunking_strategy", "never")], 'must be auto or {"type": "server_vad", …}, not \'never\''),
    ([("chunking_strategy", "[]")], "must be auto"),
    ([("chunking_strategy", '{"type": "semantic_vad"}')], "must be auto"),
    ([("chunking_strategy", '{"threshold": 0.5}')], "must be auto"),
    ([("chunking_strategy[threshold]", "0.5")], "must be auto"),
    ([("chunking_strategy", "auto"), ("chunking_strategy[type]", "server_vad")], "given more than once"),
    ([TYPE, ("chunking_strategy[threshold]", "2")], "threshold must be less than or equal to 1"),
    ([TYPE, ("chunking_strategy[threshold]", "loud")], "threshold must be a valid number"),
    ([TYPE, ("chunking_strategy[silence_duration_ms]", "-1")], "silence_duration_ms must be"),
    ([TYPE, ("chunking_strategy[prefix_padding_ms]", "1.5")], "prefix_padding_ms must be"),
    ([("chunking_strategy", '{"type": "server_vad", "speed": 1}')], "has no member 'speed'"),
])  # fmt: skip
def test_invalid_chunking_strategies_are_refused(fields: list[tuple[str, str]], reason: str) -> None:
    with pytest.raises(Refusal) as refusal:
        rest.parse(fields)
    assert refusal.value.status == 400
    assert refusal.value.param is not None
    assert refusal.value.param.startswith("chunking_strategy")
    assert reason in refusal.value.message
