from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import ClientSession, WSServerHandshakeError
from peer import RAW, connected, listening, settings

from myna.clients.live import LiveClient, StreamError
from myna.server.app import Server, running
from myna.server.auth import Authentication, Credential, Scope, add_key, credential
from myna.server.config import ConfigurationError
from myna.server.dialects.base import Refusal
from myna.streaming import wire

ALL = frozenset(Scope)


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys.toml"


@pytest.fixture(scope="module")
def key(key_file: Path) -> str:
    return add_key(key_file, "kitchen", ALL)


@pytest.fixture(scope="module")
async def locked(key_file: Path, key: str) -> AsyncIterator[Server]:
    """A server that wants keys."""
    async with running(settings(model="fake", keys=key_file)) as started:
        yield started


async def status(server: Server, path: str, method: str = "GET", **how: Any) -> tuple[int, dict[str, Any]]:
    async with ClientSession() as session, session.request(method, server.url + path, **how) as response:
        return response.status, await response.json()


def bearer(secret: str, scheme: str = "Bearer") -> dict[str, str]:
    return {"Authorization": f"{scheme} {secret}"}


@pytest.mark.parametrize("scheme", ["Token", "token", "Bearer", "bearer", "BEARER"])
async def test_a_key_opens_both_dialects_in_either_scheme(locked: Server, key: str, scheme: str) -> None:
    async with listening(locked, headers=bearer(key, scheme)) as peer:
        await peer.send({"type": "CloseStream"})
        assert (await peer.rest())[-1]["type"] == "Metadata"
    async with connected(locked, headers=bearer(key, scheme)) as peer:
        await peer.send(RAW)
        await peer.until("ready")


@pytest.mark.parametrize("before", [(), ("chat",)])
@pytest.mark.parametrize("protocol", ["token", "bearer"])
async def test_a_key_in_the_sub_protocols_is_taken_and_exactly_its_protocol_echoed(
    locked: Server, key: str, protocol: str, before: tuple[str, ...]
) -> None:
    offered = (*before, protocol, key, "x-deepgram-session-id", "d5f3")
    async with listening(locked, protocols=offered) as peer:
        assert peer.socket.protocol == protocol
        await peer.send({"type": "CloseStream"})
        await peer.rest()


@pytest.mark.parametrize(
    "headers", [{}, bearer("wrong"), bearer(""), bearer("x" * 5000), {"Authorization": "Basic a2V5"}, bearer("a.b.c")]
)
async def test_without_a_good_key_nothing_but_health_is_answered(locked: Server, headers: dict[str, str]) -> None:
    code, body = await status(locked, "/v1/listen", headers=headers)
    assert (code, body["err_code"], body["err_msg"]) == (401, "INVALID_AUTH", "Invalid credentials.")
    code, body = await status(locked, "/v1/stream", headers=headers)
    assert (code, body["error"]["code"]) == (401, "unauthorized")
    for path, method in (("/v1/models", "GET"), ("/v1/models/fake", "GET"), ("/v1/auth/grant", "POST")):
        code, body = await status(locked, path, method, headers=headers)
        assert (code, body["err_code"], body["error"]["code"]) == (401, "INVALID_AUTH", "unauthorized")
    assert (await status(locked, "/health", headers=headers))[0] == 200
    with pytest.raises(WSServerHandshakeError) as refused:
        async with listening(locked, headers=headers):
            pass
    assert refused.value.status == 401
    assert refused.value.headers is not None
    assert refused.value.headers["dg-error"] == "Invalid credentials."


async def test_the_python_client_shows_its_key_or_is_told(locked: Server, key: str) -> None:
    start = wire.Start(encoding="linear16", sample_rate=16_000)
    async with LiveClient(start, locked.url, api_key=key) as client:
        await client.close()
        assert [message.type async for message in client] == ["closed"]
    with pytest.raises(StreamError, match="credentials") as refused:
        async with LiveClient(start, locked.url, api_key="wrong"):
            pass
    assert refused.value.code == "unauthorized"


async def test_a_granted_token_transcribes_and_can_do_nothing_else(locked: Server, key: str) -> None:
    code, granted = await status(locked, "/v1/auth/grant", "POST", headers=bearer(key, "Token"))
    assert (code, granted["expires_in"], list(granted)) == (200, 30, ["access_token", "expires_in"])
    token = granted["access_token"]
    async with listening(locked, protocols=("bearer", token)) as peer:
        assert peer.socket.protocol == "bearer"
    code, body = await status(locked, "/v1/auth/grant", "POST", headers=bearer(token))
    assert (code, body["err_code"]) == (403, "INSUFFICIENT_PERMISSIONS")
    code, granted = await status(locked, "/v1/auth/grant", "POST", headers=bearer(key), json={"ttl_seconds": 120})
    assert granted["expires_in"] == 120
    left = jwt.decode(granted["access_token"], options={"verify_signature": False})["exp"] - time.time()
    assert 100 < left <= 120


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'"x"',
        *(b'{"ttl_seconds": %s}' % ttl for ttl in (b"0", b"3601", b'"x"', b"true", b"null", b"1e400")),
    ],
)
async def test_a_token_that_cannot_be_is_refused(locked: Server, key: str, body: bytes) -> None:
    code, said = await status(locked, "/v1/auth/grant", "POST", headers=bearer(key), data=body)
    assert (code, said["err_code"]) == (400, "Bad Request")


def test_tokens_end_with_their_time_their_key_and_their_server(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    secret = add_key(file, "one", ALL)
    here, elsewhere = Authentication(file), Authentication(file)
    identity = here.identify(Credential(secret))
    token = Credential(here.grant(identity, 60))
    assert here.identify(token, Scope.TRANSCRIBE).name == "one"
    forged = base64.urlsafe_b64encode(json.dumps({"sub": "one", "exp": time.time() + 60}).encode()).decode().rstrip("=")
    header = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').decode().rstrip("=")
    for bad in (Credential(here.grant(identity, -1)), Credential(f"{header}.{forged}.")):
        with pytest.raises(Refusal, match="credentials"):
            here.identify(bad)
    with pytest.raises(Refusal):
        elsewhere.identify(token)
    file.write_text("")
    with pytest.raises(Refusal):
        here.identify(Credential(secret))
    with pytest.raises(Refusal):
        here.identify(token)


def test_keys_are_rotated_without_a_restart_and_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    old = add_key(file, "old", ALL)
    authentication = Authentication(file)
    new = add_key(file, "new", frozenset({Scope.TRANSCRIBE}))
    assert authentication.identify(Credential(new)).name == "new"
    good = file.read_text()
    file.write_text(good + "[[key]")
    assert authentication.identify(Credential(old)).name == "old"
    file.unlink()
    assert authentication.identify(Credential(old)).name == "old"
    file.write_text(good[good.index("[[key]]", 1) :])
    assert authentication.identify(Credential(new)).name == "new"
    with pytest.raises(Refusal):
        authentication.identify(Credential(old))


def test_a_scope_that_is_not_there_is_named(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    secret = add_key(file, "door", frozenset({Scope.TRANSCRIBE}))
    with pytest.raises(Refusal, match="'door' has not the scope 'grant'") as refused:
        Authentication(file).identify(Credential(secret), Scope.GRANT)
    assert refused.value.status == 403


def test_the_file_holds_no_key_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    secret = add_key(file, 'a "quoted" \\ name', ALL)
    assert secret not in file.read_text()
    assert len(secret) > 40
    assert file.stat().st_mode & 0o077 == 0
    assert Authentication(file).identify(Credential(secret)).name == 'a "quoted" \\ name'
    with pytest.raises(ConfigurationError, match="already"):
        add_key(file, 'a "quoted" \\ name', ALL)
    with pytest.raises(ConfigurationError, match="cannot be named"):
        add_key(file, "two\nlines", ALL)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[key]]\nname = 'x'\n", "sha256"),
        ("[[key]]\nname = 'x'\nsha256 = 'abc'\n", "sha256"),
        (f"[[key]]\nname = 'x'\nsha256 = '{'0' * 64}'\nscopes = ['all']\n", "scopes"),
        (f"[[key]]\nname = 'x'\nsha256 = '{'0' * 64}'\n" * 2, "more than one key named x"),
        ("key = ", "no TOML"),
        ("\x00", "no TOML"),
    ],
)
def test_a_key_file_that_cannot_be_used_is_refused_with_its_reason(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=said):
        Authentication(file)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Authentication(tmp_path / "nowhere.toml")


async def test_no_key_ever_stands_in_the_log(key_file: Path, key: str, capsys: pytest.CaptureFixture[str]) -> None:
    async with running(settings(model="fake", keys=key_file, log_level="debug")) as server:
        async with listening(server, headers=bearer(key)) as peer:
            await peer.send({"type": "CloseStream"})
            await peer.rest()
        await status(server, "/v1/listen", headers=bearer("secret-guess"))
    logged = "".join(capsys.readouterr())
    assert "stream connected" in logged
    assert key not in logged
    assert "secret-guess" not in logged


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({"Authorization": "Token  abc "}, Credential("abc")),
        ({"Authorization": "abc"}, None),
        ({"Sec-WebSocket-Protocol": "token,abc"}, Credential("abc", "token")),
        ({"Sec-WebSocket-Protocol": "chat, Bearer , a.b.c,x"}, Credential("a.b.c", "Bearer")),
        ({"Sec-WebSocket-Protocol": "token"}, None),
        ({"Authorization": "Token abc", "Sec-WebSocket-Protocol": "token, xyz"}, Credential("abc")),
    ],
)
def test_credentials_are_found_where_clients_put_them(headers: dict[str, str], found: Credential | None) -> None:
    assert credential(headers) == found


async def test_without_keys_the_server_listens_on_this_machine_only_unless_told(key_file: Path, key: str) -> None:
    with pytest.raises(ConfigurationError, match="--allow-anonymous"):
        async with running(settings(model="fake", host="0.0.0.0")):
            pass
    async with running(settings(model="fake", host="0.0.0.0", keys=key_file)) as server:
        assert server.url.startswith("http://0.0.0.0:")
    async with running(settings(model="fake", host="0.0.0.0", allow_anonymous=True)) as server:
        assert server.url.startswith("http://0.0.0.0:")


async def test_a_server_without_keys_takes_any_credential_and_still_echoes(strict_server: Server) -> None:
    async with listening(strict_server, protocols=("token", "anything")) as peer:
        assert peer.socket.protocol == "token"
    async with listening(strict_server, headers=bearer("anything", "Token")) as peer:
        await peer.send({"type": "CloseStream"})
        assert (await peer.rest())[-1]["type"] == "Metadata"
