"""Requests of pages of other origins, as a browser sends them: preflights without a key, and CORS headers of each answer."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from aiohttp import ClientResponse, ClientSession, FormData, WSServerHandshakeError
from peer import connected
from sounds import contained
from speakers import running_fake

from myna.inference.engines.fake.engine import spoken
from myna.server.app import Server
from myna.server.dialects.models import ModelHandlers
from myna.server.keys import Scope, add_key

PAGE, OTHER = "https://app.example", "https://other.example"
SOUND = "/v1/audio/transcriptions"
ROUTES = [
    ("POST", "/v1/listen"), ("POST", SOUND), ("POST", f"{SOUND}-from-url"), ("POST", "/v1/audio/translations"),
    ("POST", "/v1/auth/grant"), ("POST", "/v1/realtime/client_secrets"), ("GET", "/v1/models"), ("GET", "/v1/models/x"),
    ("GET", "/v1/jobs/x"), ("GET", "/v1/status"), ("GET", "/health"), ("GET", "/health/ready"), ("GET", "/web/myna.js"),
    ("GET", "/openapi.json"), ("GET", "/nowhere"), ("GET", "/v1/listen"), ("GET", "/v1/realtime"), ("PUT", "/v1/listen"),
]  # fmt: skip
"""Requests, among them refused ones and unknown addresses."""


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys.toml"


@pytest.fixture(scope="module")
def key(key_file: Path) -> str:
    return add_key(key_file, "page", frozenset(Scope))


@pytest.fixture(scope="module", params=["keyless", "keys"])
async def server(request: pytest.FixtureRequest, key_file: Path, key: str) -> AsyncIterator[Server]:
    keys = key_file if request.param == "keys" else None
    async with running_fake(keys=keys, allowed_origins=[PAGE, "http://localhost:3000"], max_upload_mb=1) as started:
        yield started


@contextlib.asynccontextmanager
async def asked(
    server: Server, method: str, path: str, origin: str = PAGE, headers: dict[str, str] | None = None, **how: Any
) -> AsyncIterator[ClientResponse]:
    said = {"Origin": origin, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors", **(headers or {})}
    async with ClientSession() as session, session.request(method, server.url + path, headers=said, **how) as response:
        yield response


def login(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def assert_readable(response: ClientResponse, origin: str = PAGE) -> None:
    assert response.headers.getall("Access-Control-Allow-Origin") == [origin]
    assert "Origin" in response.headers["Vary"]
    assert {"dg-request-id", "Retry-After"} <= set(response.headers["Access-Control-Expose-Headers"].split(", "))


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_a_preflight_is_answered_without_a_key(server: Server, method: str, path: str) -> None:
    wanted = "authorization,content-type,x-stainless-os"
    headers = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": wanted}
    async with asked(server, "OPTIONS", path, headers=headers) as response:
        assert (response.status, await response.read()) == (204, b"")
        assert_readable(response)
        assert response.headers["Access-Control-Allow-Headers"] == wanted
        assert "POST" in response.headers["Access-Control-Allow-Methods"].split(", ")
        assert int(response.headers["Access-Control-Max-Age"]) > 0
    async with asked(server, "OPTIONS", path, OTHER, headers) as response:
        assert response.status == 403
        assert "Access-Control-Allow-Origin" not in response.headers
        assert "allowed_origins" in await response.text()


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_every_answer_to_an_allowed_origin_can_be_read_and_none_to_another(
    server: Server, key: str, method: str, path: str
) -> None:
    for headers in ({}, login(key), login("wrong")):
        async with asked(server, method, path, headers=headers) as response:
            assert response.status < 500
            assert_readable(response)
        async with asked(server, method, path, OTHER, headers) as response:
            assert response.status == (200 if path == "/health/ready" else 403)
            assert "Access-Control-Allow-Origin" not in response.headers


async def test_a_page_reads_why_its_file_was_refused(server: Server, key: str) -> None:
    for path, data, status in (
        ("/v1/listen", b"no sound", 400), ("/v1/listen", bytes(2 << 20), 413), ("/v1/listen?summarize=true", b"x", 400),
        (SOUND, b"x", 415), ("/v1/listen?model=parrot", b"RIFF", 400),
    ):  # fmt: skip
        async with asked(server, "POST", path, headers=login(key), data=BytesIO(data)) as response:
            assert response.status == status
            assert_readable(response)


async def test_a_page_reads_that_the_server_failed_on_its_request(server: Server, key: str) -> None:
    with mock.patch.object(ModelHandlers, "_described", side_effect=RuntimeError("injected")):
        async with asked(server, "GET", "/v1/models", headers=login(key)) as response:
            assert response.status == 500
            assert_readable(response)


async def test_a_page_reads_that_a_key_has_too_many_files_and_that_a_server_stops(tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys.toml", "page", frozenset(Scope))
    async with running_fake(keys=tmp_path / "keys.toml", key_streams=1, allowed_origins=[PAGE]) as server:
        query = "?encoding=linear16&sample_rate=16000"
        async with connected(server, query, "/v1/listen", headers={**login(key), "Origin": PAGE}) as peer:
            assert peer.socket._response.headers["Access-Control-Allow-Origin"] == PAGE
            async with asked(server, "GET", f"/v1/listen{query}", headers=login(key)) as response:
                assert response.status == 429
                assert_readable(response)
        server.admission.draining = True
        async with asked(server, "POST", "/v1/listen", headers=login(key), data=b"x") as response:
            assert response.status == 503
            assert_readable(response)


async def test_a_page_reads_a_streamed_answer(server: Server, key: str) -> None:
    form = FormData({"stream": "true"})
    form.add_field("file", BytesIO(contained([spoken(1)], "wav", "pcm_s16le")), filename="a.wav")
    async with asked(server, "POST", SOUND, headers=login(key), data=form) as response:
        assert response.content_type == "text/event-stream"
        assert_readable(response)
        assert "w1" in await response.text()


@pytest.mark.parametrize("path", ["/v1/stream", "/v1/listen", "/v2/listen", "/v1/realtime"])
async def test_pages_of_allowed_origins_and_of_the_server_open_streams(server: Server, key: str, path: str) -> None:
    query = "?encoding=linear16&sample_rate=16000" if path.endswith("listen") else ""
    for origin in (PAGE, "http://localhost:3000", server.url, PAGE.upper()):
        async with connected(server, query, path, headers={**login(key), "Origin": origin}):
            pass
    for origin in (OTHER, "null", f"{PAGE}.evil.example", "http://app.example"):
        with pytest.raises(WSServerHandshakeError) as refused:
            async with connected(server, query, path, headers={**login(key), "Origin": origin}):
                pass
        assert refused.value.status == 403


async def test_other_programs_than_browsers_are_not_affected(server: Server, key: str) -> None:
    async with ClientSession() as session, session.get(f"{server.url}/v1/models", headers=login(key)) as response:
        assert response.status == 200
        assert "Access-Control-Allow-Origin" not in response.headers
    async with ClientSession() as session, session.options(f"{server.url}/v1/listen", headers=login(key)) as response:
        assert response.status == 405


async def test_all_origins_can_be_allowed_and_none_is_by_default(key_file: Path, key: str) -> None:
    headers = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Private-Network": "true"}
    for keys in (None, key_file):
        async with running_fake(keys=keys, allowed_origins=["*"]) as server:
            async with asked(server, "OPTIONS", "/v1/listen", "null", headers) as response:
                assert (response.status, response.headers["Access-Control-Allow-Origin"]) == (204, "*")
                assert response.headers["Access-Control-Allow-Private-Network"] == "true"
            async with asked(server, "GET", "/v1/models", OTHER, login(key)) as response:
                assert (response.status, response.headers["Access-Control-Allow-Origin"]) == (200, "*")
        async with running_fake(keys=keys) as server:
            async with asked(server, "OPTIONS", "/v1/listen", PAGE, headers) as response:
                assert response.status == 403
                assert "allowed_origins" in (await response.json())["err_msg"]
            async with asked(server, "GET", "/v1/models", PAGE, login(key)) as response:
                assert response.status == (403 if keys is None else 200)
                assert "Access-Control-Allow-Origin" not in response.headers


@pytest.mark.parametrize("names", ["a b", "x-\xff", "a:b", ",", "x" * 3000 + "(", "a,,b"])
async def test_malformed_header_names_are_not_repeated(server: Server, names: str) -> None:
    headers = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": names}
    async with asked(server, "OPTIONS", "/v1/listen", headers=headers) as response:
        assert response.status in (204, 400)
        assert "Access-Control-Allow-Headers" not in response.headers
