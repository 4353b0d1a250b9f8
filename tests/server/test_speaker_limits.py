"""How many speakers a request allows: one rule, refused in each dialect's own shape."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import ClientResponse, ClientSession, FormData
from hypothesis import given
from hypothesis import strategies as st
from speakers import running_fake

from myna.runtime.errors import Refusal
from myna.server.app import Server
from myna.server.dialects.parameters import Parameters
from myna.server.dialects.speaker_limits import LIMITS, MOST_SPEAKERS, limits_of
from myna.streaming.speakers.labelling import SpeakerLimits

Limits = dict[str, str]
RAW = {"encoding": "linear16", "sample_rate": "16000"}


@dataclass(frozen=True)
class Refused:
    """A refusal as a dialect writes it."""

    status: int
    message: str
    param: str | None = None


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Server]:
    async with running_fake() as started:
        yield started


async def deepgram_file(session: ClientSession, url: str, limits: Limits, asking: bool = True) -> Refused:
    query = {**limits, **({"diarize_model": "v2"} if asking else {})}
    async with session.post(f"{url}/v1/listen", params=query, data=b"x") as response:
        body = await response.json()
        assert body.keys() == {"err_code", "err_msg", "request_id"}
        return Refused(response.status, body["err_msg"])


async def deepgram_live(session: ClientSession, url: str, limits: Limits, asking: bool = True) -> Refused:
    query = {**RAW, **limits, **({"diarize": "true"} if asking else {})}
    async with session.get(f"{url}/v1/listen", params=query) as response:
        body = await response.json()
        assert body.keys() == {"err_code", "err_msg", "request_id"}
        assert response.headers["dg-error"] == body["err_msg"]
        return Refused(response.status, body["err_msg"])


async def native(session: ClientSession, url: str, limits: Limits, asking: bool = True) -> Refused:
    query = {**limits, **({"diarize": "true"} if asking else {})}
    async with session.get(f"{url}/v1/stream", params=query) as response:
        error = (await response.json())["error"]
        assert error["code"] == "bad_speakers"
        return Refused(response.status, error["message"])


async def _openai_error(response: ClientResponse) -> Refused:
    body: dict[str, Any] = await response.json()
    assert body["error"]["type"] == "invalid_request_error"
    assert body["error"]["code"] == "invalid_value"
    assert body["detail"] == body["error"]["message"]
    return Refused(response.status, body["error"]["message"], body["error"]["param"])


async def openai(session: ClientSession, url: str, limits: Limits, asking: bool = True) -> Refused:
    form = FormData({**limits, **({"response_format": "diarized_json"} if asking else {})})
    form.add_field("file", b"x", filename="x.wav")
    async with session.post(f"{url}/v1/audio/transcriptions", data=form) as response:
        return await _openai_error(response)


async def reflector(session: ClientSession, url: str, limits: Limits, asking: bool = True) -> Refused:
    assert asking
    query = {"audio_file_url": "http://127.0.0.1:1/x", **limits}
    async with session.post(f"{url}/diarize", params=query) as response:
        return Refused(response.status, (await response.json())["detail"])


Dialect = Callable[..., Awaitable[Refused]]
DIALECTS = [deepgram_file, deepgram_live, native, openai, reflector]
INVALID: list[tuple[Limits, str, str]] = [
    ({"num_speakers": "0"}, "num_speakers", "from 1 to 20"),
    ({"num_speakers": "200"}, "num_speakers", "from 1 to 20"),
    ({"min_speakers": "-1"}, "min_speakers", "from 1 to 20"),
    ({"max_speakers": "21"}, "max_speakers", "from 1 to 20"),
    ({"max_speakers": "two"}, "max_speakers", "from 1 to 20"),
    ({"num_speakers": "1.5"}, "num_speakers", "from 1 to 20"),
    ({"min_speakers": "3", "max_speakers": "2"}, "min_speakers", "at most max_speakers, 2, not 3"),
    ({"num_speakers": "5", "max_speakers": "4"}, "num_speakers", "at most max_speakers, 4, not 5"),
    ({"num_speakers": "1", "min_speakers": "2", "max_speakers": "4"}, "num_speakers", "at least min_speakers, 2, not 1"),
]  # fmt: skip


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(("limits", "param", "reason"), INVALID)
async def test_invalid_limits_are_refused_with_the_parameter_and_the_bound(
    server: Server, dialect: Dialect, limits: Limits, param: str, reason: str
) -> None:
    async with ClientSession() as session:
        refused = await dialect(session, server.url, limits)
    assert refused.status == 400
    assert refused.param in (None, param)
    assert param in refused.message
    assert reason in refused.message
    assert "not" in refused.message


@pytest.mark.parametrize("dialect", [deepgram_file, deepgram_live, native, openai])
@pytest.mark.parametrize("name", LIMITS)
async def test_limits_without_speakers_are_refused(server: Server, dialect: Dialect, name: str) -> None:
    async with ClientSession() as session:
        refused = await dialect(session, server.url, {name: "2"}, asking=False)
    assert refused.status == 400
    assert f"{name} requires " in refused.message
    assert "diari" in refused.message


@given(*[st.none() | st.integers(-2, 25)] * 3)
def test_limits_are_taken_exactly_if_some_number_of_speakers_fits(
    number: int | None, low: int | None, high: int | None
) -> None:
    given_limits = [(n, str(v)) for n, v in zip(LIMITS, (number, low, high), strict=True) if v is not None]
    in_range = all(1 <= int(value) <= MOST_SPEAKERS for _, value in given_limits)
    possible = [n for n in range(low or 1, (high or MOST_SPEAKERS) + 1) if number in (None, n)]
    if not in_range or not possible:
        with pytest.raises(Refusal):
            limits_of(Parameters(given_limits), wanted=True, asking="diarize=true")
        return
    limits = limits_of(Parameters(given_limits), wanted=True, asking="diarize=true")
    assert limits is not None
    assert (limits.lowest, limits.highest) == (low or 1, high or MOST_SPEAKERS)
    assert limits.number == (possible[0] if len(possible) == 1 else None)


def test_a_request_without_limits_has_the_widest_and_one_without_speakers_none() -> None:
    assert limits_of(Parameters([]), wanted=True, asking="") == SpeakerLimits(1, MOST_SPEAKERS, None)
    assert limits_of(Parameters([]), wanted=False, asking="") is None
