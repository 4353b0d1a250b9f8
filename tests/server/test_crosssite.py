"""A server without keys refuses requests from web pages of other sites."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiohttp import ClientSession, WSServerHandshakeError
from peer import RAW, connected, settings

from myna.runtime.errors import ConfigurationError
from myna.server.app import Server, running
from myna.server.keys import Scope, add_key
from myna.server.settings import load

SOCKETS = ["/v1/stream", "/v1/listen", "/v2/listen", "/v1/realtime"]


async def asked(server: Server, method: str, path: str, *headers: str, body: bytes = b"") -> int:
    """Send a request with these headers alone; return the status."""
    port = int(server.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [f"{method} {path} HTTP/1.1", *headers, f"Content-Length: {len(body)}", "Connection: close"]
    writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
    line = await asyncio.wait_for(reader.readline(), 30)
    writer.close()
    return int(line.split()[1])


def own(server: Server) -> str:
    return server.url.removeprefix("http://")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "127.1", "2130706433",
             "0", "192.168.0.1", "[::2]", "", "localhost@evil.example", "evil.example#localhost", "\xff", "[::1",
             "x", "a" * 9000],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/", "/health", "/metrics", "/v1/models", "/v1/stream", "/nowhere"])
async def test_a_server_without_keys_refuses_other_host_names(strict_server: Server, host: str, path: str) -> None:
    assert await asked(strict_server, "GET", path, f"Host: {host}") in (400, 403)


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:1", "localhost.", "127.0.0.1", "127.0.0.1:8000", "127.9.9.9", "[::1]", "[::1]:8000"],
)
async def test_a_server_answers_to_its_own_names(strict_server: Server, host: str) -> None:
    assert await asked(strict_server, "GET", "/v1/models", f"Host: {host}") == 200


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
async def test_probes_are_answered_under_any_host_name(strict_server: Server, path: str) -> None:
    assert await asked(strict_server, "GET", path, "Host: pod-17.example", "Origin: http://evil.example") == 200


ORIGINS = [
    "http://evil.example",
    "https://127.0.0.1.evil.example",
    "null",
    "http://localhost:1",
    "http://127.0.0.1",
    "\xff",
    "x",
]


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize("path", SOCKETS)
async def test_a_page_of_another_site_opens_no_stream(strict_server: Server, path: str, origin: str) -> None:
    query = "?encoding=linear16&sample_rate=16000" if path.endswith("listen") else ""
    if origin.isascii():
        with pytest.raises(WSServerHandshakeError) as refused:
            async with connected(strict_server, query, path, headers={"Origin": origin}):
                pass
        assert refused.value.status == 403
    assert await asked(strict_server, "GET", path + query, f"Host: {own(strict_server)}", f"Origin: {origin}") == 403


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"])
@pytest.mark.parametrize(
    "path",
    ["/v1/listen", "/v1/audio/transcriptions", "/v1/audio/transcriptions-from-url", "/v1/auth/grant",
     "/v1/realtime/client_secrets"],
)  # fmt: skip
@pytest.mark.parametrize(
    "says", ["Origin: http://evil.example", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site"]
)
async def test_a_post_that_needs_no_preflight_is_not_executed(
    strict_server: Server, path: str, kind: str, says: str
) -> None:
    headers = (f"Host: {own(strict_server)}", says, f"Content-Type: {kind}", "Sec-Fetch-Mode: no-cors")
    assert await asked(strict_server, "POST", path, *headers, body=b"{}") == 403


async def test_a_form_that_another_site_submits_is_not_executed_and_a_link_to_the_page_is_followed(
    strict_server: Server,
) -> None:
    followed = ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document")
    host = f"Host: {own(strict_server)}"
    assert await asked(strict_server, "GET", "/", host, *followed) == 200
    assert await asked(strict_server, "POST", "/v1/auth/grant", host, *followed, body=b"{}") == 403
    framed = (*followed[:2], "Sec-Fetch-Dest: iframe")
    assert await asked(strict_server, "GET", "/", host, *framed) == 403


async def test_pages_of_its_own_and_programs_are_served(strict_server: Server) -> None:
    for headers in ({"Origin": strict_server.url, "Sec-Fetch-Site": "same-origin"}, {}):
        async with connected(strict_server, headers=headers) as peer:
            await peer.send(RAW)
            await peer.until("ready")
        host = f"Host: {own(strict_server)}"
        said = [f"{name}: {value}" for name, value in headers.items()]
        assert await asked(strict_server, "POST", "/v1/auth/grant", host, *said, body=b"{}") == 200
    behind_tls = f"Origin: https://{own(strict_server)}"
    assert await asked(strict_server, "GET", "/v1/models", f"Host: {own(strict_server)}", behind_tls) == 200


async def test_a_refusal_names_the_setting_in_the_format_of_its_address(strict_server: Server) -> None:
    async with ClientSession() as session:
        async with session.get(f"{strict_server.url}/v1/models", headers={"Host": "myna.example"}) as response:
            body = await response.json()
        assert "'myna.example'" in body["err_msg"]
        assert "allowed_hosts" in body["error"]["message"]
        url, origin = f"{strict_server.url}/v1/audio/transcriptions", "https://page.example"
        async with session.post(url, headers={"Origin": origin}, data=b"") as response:
            body = await response.json()
        assert "allowed_origins" in body["detail"]
        assert body["error"]["code"] == "forbidden_origin"


async def test_names_and_origins_can_be_allowed() -> None:
    allowed = settings(model="fake", allowed_hosts=["myna.example"], allowed_origins=["https://page.example"])
    async with running(allowed) as server:
        assert await asked(server, "GET", "/v1/models", "Host: myna.example:8443") == 200
        assert await asked(server, "GET", "/v1/models", "Host: other.example") == 403
        page = ("Host: myna.example", "Origin: https://page.example")
        assert await asked(server, "POST", "/v1/auth/grant", *page, body=b"{}") == 200
        assert await asked(server, "GET", "/v1/models", "Host: myna.example", "Origin: https://other.example") == 403
    async with running(settings(model="fake", allowed_hosts=["*"], allowed_origins=["*"])) as server:
        assert await asked(server, "GET", "/v1/models", "Host: any.example", "Origin: null") == 200


async def test_a_public_server_answers_to_every_ip_address_and_only_to_its_names() -> None:
    async with running(settings(model="fake", host="0.0.0.0", allow_anonymous=True)) as server:
        for host in ("192.168.1.5:8000", "[2001:db8::1]", "127.0.0.1", "0.0.0.0"):
            assert await asked(server, "GET", "/v1/models", f"Host: {host}") == 200
        assert await asked(server, "GET", "/v1/models", "Host: evil.example") == 403
        assert await asked(server, "GET", "/v1/models", "Host: 127.0.0.1", "Origin: http://evil.example") == 403


async def test_with_keys_browsers_of_any_site_are_served(tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys.toml", "page", frozenset(Scope))
    async with running(settings(model="fake", keys=tmp_path / "keys.toml")) as server:
        how = {"headers": {"Origin": "https://page.example", "Host": "myna.example"}, "protocols": ("token", key)}
        query = "?encoding=linear16&sample_rate=16000"
        async with connected(server, query, "/v1/listen", **how) as peer:
            assert peer.socket.protocol == "token"
        login = f"Authorization: Bearer {key}"
        headers = ("Host: myna.example", "Origin: https://page.example", "Sec-Fetch-Site: cross-site", login)
        assert await asked(server, "GET", "/v1/models", *headers) == 200


@pytest.mark.parametrize(
    "flag",
    ["--allowed-hosts=http://x", "--allowed-hosts=x:80", "--allowed-origins=x.example", "--allowed-origins=http://x/y"],
)
def test_an_invalid_host_or_origin_setting_is_refused(flag: str) -> None:
    with pytest.raises(ConfigurationError, match=r"a host must be|an origin must be"):
        load([flag])
