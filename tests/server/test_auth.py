from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import jwt
import pytest
from aiohttp import ClientSession, WSMsgType, WSServerHandshakeError
from peer import RAW, connected, eventually, listening, settings

from myna.clients.live import LiveClient, StreamError
from myna.runtime.errors import ConfigurationError, Refusal
from myna.server.app import Server, running
from myna.server.keys import Authentication, Credential, Scope, add_key, credential
from myna.server.websocket import revocation
from myna.wire import messages as wire

ALL = frozenset(Scope)


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys.toml"


@pytest.fixture(scope="module")
def key(key_file: Path) -> str:
    return add_key(key_file, "kitchen", ALL)


@pytest.fixture(scope="module")
async def locked(key_file: Path, key: str) -> AsyncIterator[Server]:
    """A server that requires API keys."""
    async with running(settings(model="fake", keys=key_file)) as started:
        yield started


async def status(server: Server, path: str, method: str = "GET", **how: Any) -> tuple[int, dict[str, Any]]:
    async with ClientSession() as session, session.request(method, server.url + path, **how) as response:
        return response.status, await response.json()


def bearer(secret: str, scheme: str = "Bearer") -> dict[str, str]:
    return {"Authorization": f"{scheme} {secret}"}


@pytest.mark.parametrize("scheme", ["Token", "token", "Bearer", "bearer", "BEARER"])
async def test_a_key_is_accepted_by_both_dialects_in_either_scheme(locked: Server, key: str, scheme: str) -> None:
    async with listening(locked, headers=bearer(key, scheme)) as peer:
        await peer.send({"type": "CloseStream"})
        assert (await peer.rest())[-1]["type"] == "Metadata"
    async with connected(locked, headers=bearer(key, scheme)) as peer:
        await peer.send(RAW)
        await peer.until("ready")


@pytest.mark.parametrize("before", [(), ("chat",)])
@pytest.mark.parametrize("protocol", ["token", "bearer"])
async def test_a_key_in_the_sub_protocols_is_accepted_and_its_protocol_echoed(
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
async def test_without_a_valid_key_only_health_is_answered(locked: Server, headers: dict[str, str]) -> None:
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


async def test_the_python_client_sends_its_key_and_reports_a_refusal(locked: Server, key: str) -> None:
    start = wire.StartMessage(encoding="linear16", sample_rate=16_000)
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
async def test_an_invalid_token_request_is_refused(locked: Server, key: str, body: bytes) -> None:
    code, said = await status(locked, "/v1/auth/grant", "POST", headers=bearer(key), data=body)
    assert (code, said["err_code"]) == (400, "Bad Request")


def test_tokens_expire_with_their_time_their_key_and_their_server(tmp_path: Path) -> None:
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


def test_a_missing_scope_is_named(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    secret = add_key(file, "door", frozenset({Scope.TRANSCRIBE}))
    with pytest.raises(Refusal, match="'door' lacks the scope 'grant'") as refused:
        Authentication(file).identify(Credential(secret), Scope.GRANT)
    assert refused.value.status == 403


def test_the_key_file_holds_hashes_only_and_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    secret = add_key(file, 'a "quoted" \\ name', ALL)
    assert secret not in file.read_text()
    assert len(secret) > 40
    assert file.stat().st_mode & 0o077 == 0
    assert Authentication(file).identify(Credential(secret)).name == 'a "quoted" \\ name'
    with pytest.raises(ConfigurationError, match="already"):
        add_key(file, 'a "quoted" \\ name', ALL)
    with pytest.raises(ConfigurationError, match="not a valid name"):
        add_key(file, "two\nlines", ALL)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[key]]\nname = 'x'\n", "sha256"),
        ("[[key]]\nname = 'x'\nsha256 = 'abc'\n", "sha256"),
        (f"[[key]]\nname = 'x'\nsha256 = '{'0' * 64}'\nscopes = ['all']\n", "scopes"),
        (f"[[key]]\nname = 'x'\nsha256 = '{'0' * 64}'\n" * 2, "more than one key named x"),
        ("key = ", "not valid TOML"),
        ("\x00", "not valid TOML"),
    ],
)
def test_an_invalid_key_file_is_refused_with_the_reason(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=said):
        Authentication(file)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Authentication(tmp_path / "nowhere.toml")


async def test_keys_are_never_logged(key_file: Path, key: str, capsys: pytest.CaptureFixture[str]) -> None:
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
def test_credentials_are_read_from_each_place_where_clients_put_them(
    headers: dict[str, str], found: Credential | None
) -> None:
    assert credential(headers) == found


async def test_without_keys_the_server_listens_on_loopback_only_unless_allowed(key_file: Path, key: str) -> None:
    with pytest.raises(ConfigurationError, match="--allow-anonymous"):
        async with running(settings(model="fake", host="0.0.0.0")):
            pass
    async with running(settings(model="fake", host="0.0.0.0", keys=key_file)) as server:
        assert server.url.startswith("http://0.0.0.0:")
    async with running(settings(model="fake", host="0.0.0.0", allow_anonymous=True)) as server:
        assert server.url.startswith("http://0.0.0.0:")


async def test_a_server_without_keys_accepts_any_credential_and_echoes_its_protocol(strict_server: Server) -> None:
    async with listening(strict_server, protocols=("token", "anything")) as peer:
        assert peer.socket.protocol == "token"
    async with listening(strict_server, headers=bearer("anything", "Token")) as peer:
        await peer.send({"type": "CloseStream"})
        assert (await peer.rest())[-1]["type"] == "Metadata"


def test_tokens_of_a_removed_key_stay_invalid_for_a_new_key_of_its_name(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    here = Authentication(file if add_key(file, "one", ALL) else None)
    old = here.identify(Credential(_secret_of(file)))
    tokens = [Credential(here.grant(old, 60)), Credential(here.grant(old, 60, {"patch": {}, "beta": False}))]
    assert [here.identify(token, client_secrets=True).name for token in tokens] == ["one", "one"]
    file.write_text("")
    new = add_key(file, "one", ALL)
    assert here.identify(Credential(new)).name == "one"
    assert here.identify(Credential(new)).id != old.id
    for token in tokens:
        with pytest.raises(Refusal, match="credentials"):
            here.identify(token, client_secrets=True)


def _secret_of(file: Path) -> str:
    """Give the only key of a file a known secret, and return it."""
    secret = "s" * 40
    text = file.read_text()
    digest = text[text.index('sha256 = "') + 10 :][:64]
    file.write_text(text.replace(digest, hashlib.sha256(secret.encode()).hexdigest()))
    return secret


def test_a_token_reveals_neither_the_name_nor_the_hash_of_its_key(tmp_path: Path) -> None:
    secret = add_key(tmp_path / "keys.toml", "kitchen", ALL)
    here = Authentication(tmp_path / "keys.toml")
    token = here.grant(here.identify(Credential(secret)), 60)
    claims = str(jwt.decode(token, options={"verify_signature": False}))
    assert "kitchen" not in claims
    assert hashlib.sha256(secret.encode()).hexdigest()[:16] not in claims


def test_a_token_becomes_invalid_when_its_key_loses_the_grant_scope(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    secret = add_key(file, "one", ALL)
    here = Authentication(file)
    token = Credential(here.grant(here.identify(Credential(secret)), 60))
    assert here.identify(token).by_token
    file.write_text(file.read_text().replace('"transcribe", "grant"', '"transcribe"'))
    with pytest.raises(Refusal, match="credentials"):
        here.identify(token)


def test_a_stream_is_allowed_while_its_key_has_the_scope_that_admitted_it(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    secret = add_key(file, "one", ALL)
    here = Authentication(file)
    by_key = here.identify(Credential(secret))
    by_token = here.identify(Credential(here.grant(by_key, 60)))
    both = file.read_text()
    for scopes, allowed in (
        ('"transcribe"', [True, False]),
        ('"grant"', [False, True]),
        ('"transcribe", "grant"', [True, True]),
    ):
        file.write_text(both.replace('"transcribe", "grant"', scopes))
        here.reload_if_changed()
        assert [here.still_allows(by_key), here.still_allows(by_token)] == allowed
    file.write_text("")
    here.reload_if_changed()
    assert not here.still_allows(by_key)
    assert Authentication(None).still_allows(by_key)


async def test_jobs_of_a_removed_key_are_not_accessible_to_a_new_key_of_its_name(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    old = add_key(file, "one", ALL)
    config = settings(model="fake", keys=file, data=tmp_path / "data", allowed_networks=["127.0.0.0/8"])
    async with running(config) as server:
        query = "/v1/listen?callback=http://127.0.0.1:9/&encoding=linear16&sample_rate=16000"
        code, accepted = await status(server, query, "POST", headers=bearer(old), data=bytes(3200))
        assert code == 200
        path = f"/v1/jobs/{accepted['request_id']}"
        assert (await status(server, path, headers=bearer(old)))[0] == 200
        file.write_text("")
        new = add_key(file, "one", ALL)
        assert (await status(server, path, headers=bearer(new)))[0] == 404
        assert (await status(server, path, headers=bearer(old)))[0] == 401


CLOSE_OF = {
    "/v1/stream": ("error", "unauthorized"),
    "/v1/listen": ("Metadata", None),
    "/v2/listen": ("Error", "INVALID_AUTH"),
    "/v1/realtime": ("error", "unauthorized"),
}


@pytest.mark.parametrize("shown", ["key", "token"])
@pytest.mark.parametrize("path", CLOSE_OF)
async def test_streams_of_a_removed_key_end_with_their_dialects_error_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, shown: str
) -> None:
    monkeypatch.setattr(revocation, "CHECK_EVERY_S", 0.02)
    file = tmp_path / "keys.toml"
    stays = add_key(file, "stays", ALL)
    kept = file.read_text()
    goes = add_key(file, "goes", ALL)
    async with running(settings(model="fake", keys=file)) as server:
        _, granted = await status(server, "/v1/auth/grant", "POST", headers=bearer(goes))
        secret = goes if shown == "key" else granted["access_token"]
        query = "?encoding=linear16&sample_rate=16000" if path.endswith("listen") else ""
        async with (
            connected(server, query, path, headers=bearer(secret)) as ends,
            connected(server, headers=bearer(stays)) as goes_on,
        ):
            for peer in (ends, goes_on) if path == "/v1/stream" else (goes_on,):
                await peer.send(RAW)
                await peer.until("ready")
            await eventually(lambda: len(server.services.streams) == 2)
            file.write_text(kept)
            messages = await ends.rest()
            kind, code = CLOSE_OF[path]
            last = next(message for message in reversed(messages) if message["type"] == kind)
            assert (last.get("error") or last).get("code") == code
            assert ends.socket.close_code == 1008
            await goes_on.send({"type": "close"})
            assert (await goes_on.rest())[-1]["reason"] == "close"


async def test_a_stream_whose_client_is_away_ends_when_its_key_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revocation, "CHECK_EVERY_S", 0.02)
    file = tmp_path / "keys.toml"
    secret = add_key(file, "goes", ALL)
    async with running(settings(model="fake", keys=file)) as server:
        async with connected(server, headers=bearer(secret)) as peer:
            await peer.send({**RAW, "resume": True})
            await peer.until("ready")
            peer.drop()
        await eventually(lambda: bool(server.services.resumable))
        file.write_text("")
        await eventually(lambda: not server.services.streams)
        assert not server.services.resumable


OPEN, ANY, TRANSCRIBE, GRANT, REALTIME = "open", "any credential", "transcribe", "grant", "realtime"
ROUTES = {
    ("GET", "/"): OPEN,
    ("GET", "/web/{file}"): OPEN,
    ("GET", "/openapi.json"): OPEN,
    ("GET", "/reflector/openapi.json"): OPEN,
    ("GET", "/docs"): OPEN,
    ("GET", "/reflector/docs"): OPEN,
    ("GET", "/health"): OPEN,
    ("GET", "/health/live"): OPEN,
    ("GET", "/health/ready"): OPEN,
    ("GET", "/metrics"): OPEN,
    ("GET", "/v1/status"): OPEN,
    ("GET", "/v1/status/engine"): OPEN,
    ("GET", "/v1/models"): ANY,
    ("GET", "/v1/models/{id}"): ANY,
    ("POST", "/v1/auth/grant"): GRANT,
    ("POST", "/v1/realtime/client_secrets"): GRANT,
    ("POST", "/v1/realtime/transcription_sessions"): GRANT,
    ("GET", "/v1/stream"): TRANSCRIBE,
    ("GET", "/v1/listen"): TRANSCRIBE,
    ("GET", "/v2/listen"): TRANSCRIBE,
    ("POST", "/v1/listen"): TRANSCRIBE,
    ("GET", "/v1/jobs/{id}"): TRANSCRIBE,
    ("POST", "/v1/audio/transcriptions"): TRANSCRIBE,
    ("POST", "/v1/audio/translations"): TRANSCRIBE,
    ("POST", "/diarize"): TRANSCRIBE,
    ("POST", "/reflector/diarize"): TRANSCRIBE,
    ("POST", "/transcribe"): TRANSCRIBE,
    ("POST", "/pad"): TRANSCRIBE,
    ("POST", "/reflector/pad"): TRANSCRIBE,
    ("POST", "/reflector/transcribe"): TRANSCRIBE,
    ("POST", "/v1/audio/transcriptions-from-url"): TRANSCRIBE,
    ("POST", "/reflector/v1/audio/transcriptions"): TRANSCRIBE,
    ("POST", "/reflector/v1/audio/transcriptions-from-url"): TRANSCRIBE,
    ("GET", "/v1/realtime"): REALTIME,
}
"""What each route requires of a client. A route that is missing here fails the test."""
ANSWERS = {
    "nothing": {OPEN: 0, ANY: 401, TRANSCRIBE: 401, GRANT: 401, REALTIME: 401},
    "another server's token": {OPEN: 0, ANY: 401, TRANSCRIBE: 401, GRANT: 401, REALTIME: 401},
    "bytes that are no UTF-8": {OPEN: 0, ANY: 401, TRANSCRIBE: 401, GRANT: 401, REALTIME: 401},
    "an expired token": {OPEN: 0, ANY: 401, TRANSCRIBE: 401, GRANT: 401, REALTIME: 401},
    "a removed key's token": {OPEN: 0, ANY: 401, TRANSCRIBE: 401, GRANT: 401, REALTIME: 401},
    "key": {OPEN: 0, ANY: 0, TRANSCRIBE: 0, GRANT: 0, REALTIME: 0},
    "transcriber": {OPEN: 0, ANY: 0, TRANSCRIBE: 0, GRANT: 403, REALTIME: 0},
    "granter": {OPEN: 0, ANY: 0, TRANSCRIBE: 403, GRANT: 0, REALTIME: 403},
    "token": {OPEN: 0, ANY: 0, TRANSCRIBE: 0, GRANT: 403, REALTIME: 0},
    "client secret": {OPEN: 0, ANY: 403, TRANSCRIBE: 403, GRANT: 403, REALTIME: 0},
    "client secret of the first version": {OPEN: 0, ANY: 403, TRANSCRIBE: 403, GRANT: 403, REALTIME: 0},
    "client secret without its prefix": {OPEN: 0, ANY: 403, TRANSCRIBE: 403, GRANT: 403, REALTIME: 0},
}
"""For each credential the status on each kind of route; 0: it is accepted."""


async def test_each_credential_is_accepted_by_its_routes_only(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    shown = {"key": add_key(file, "all", ALL), "nothing": ""}
    shown["transcriber"] = add_key(file, "transcriber", frozenset({Scope.TRANSCRIBE}))
    shown["granter"] = add_key(file, "granter", frozenset({Scope.GRANT}))
    kept = file.read_text()
    gone = add_key(file, "gone", ALL)
    async with running(settings(model="fake", keys=file)) as server:
        routes = {
            (route.method, "/web/{file}" if "/web/" in path else path)
            for route in server.app.router.routes()
            if route.method != "HEAD" and (path := route.resource.canonical if route.resource else "")
        }
        assert routes == set(ROUTES)

        async def granted(path: str, key: str) -> dict[str, Any]:
            return (await status(server, path, "POST", headers=bearer(key)))[1]

        shown["token"] = (await granted("/v1/auth/grant", shown["granter"]))["access_token"]
        shown["client secret"] = (await granted("/v1/realtime/client_secrets", shown["key"]))["value"]
        beta = await granted("/v1/realtime/transcription_sessions", shown["key"])
        shown["client secret of the first version"] = beta["client_secret"]["value"]
        shown["client secret without its prefix"] = shown["client secret"].removeprefix("ek_")
        shown["a removed key's token"] = (await granted("/v1/auth/grant", gone))["access_token"]
        file.write_text(kept)
        shown["an expired token"] = _expired(file, shown["key"])
        shown["another server's token"] = jwt.encode({"sub": "all", "exp": time.time() + 60}, "x" * 32, "HS256")
        shown["bytes that are no UTF-8"] = "\xff\xfe\xc3"
        wrong = []
        for (method, path), kind in ROUTES.items():
            target = path.replace("{id}", "fake").replace("{file}", "index.html")
            for name, answers in ANSWERS.items():
                code = await _asked(server, method, target, shown[name])
                good = code == answers[kind] if answers[kind] else code not in (401, 403) and code < 500
                if not good:
                    wrong.append((method, path, name, code, answers[kind]))
    assert not wrong


def _expired(file: Path, key: str) -> str:
    here = Authentication(file)
    return here.grant(here.identify(Credential(key)), -1)


async def _asked(server: Server, method: str, target: str, secret: str) -> int:
    """Send a request with this credential, byte for byte; return the status."""
    host, port = server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    login = f"Authorization: Token {secret}\r\n" if secret else ""
    head = f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n{login}Content-Length: 0\r\nConnection: close\r\n\r\n"
    writer.write(head.encode("latin-1"))
    line = await asyncio.wait_for(reader.readline(), 30)
    writer.close()
    return int(line.split()[1])


async def test_a_client_secret_is_refused_by_other_dialects(tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys.toml", "page", ALL)
    async with running(settings(model="fake", keys=tmp_path / "keys.toml")) as server:
        _, made = await status(server, "/v1/realtime/client_secrets", "POST", headers=bearer(key))
        for path in ("/v1/stream", "/v1/listen", "/v2/listen"):
            for how in ({"headers": bearer(made["value"])}, {"protocols": ("token", made["value"])}):
                with pytest.raises(WSServerHandshakeError) as refused:
                    async with connected(server, "", path, **how):
                        pass
                assert refused.value.status == 403
        offered = ("realtime", f"openai-insecure-api-key.{made['value']}")
        async with connected(server, "", "/v1/realtime", protocols=offered) as peer:
            assert (await peer.socket.receive(timeout=30)).type is WSMsgType.TEXT


async def test_a_credential_that_is_not_utf8_is_refused_wherever_it_is_sent(locked: Server) -> None:
    host, port = locked.url.removeprefix("http://").split(":")
    for header in (
        b"Authorization: Token \xff\xfe",
        b"Authorization: \xff \xff",
        b"Authorization: Bearer ek_\xc3.\xff.a",
        b"Sec-WebSocket-Protocol: token, \xff",
        b"Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.\xff",
    ):
        for path in (b"/v1/stream", b"/v1/listen", b"/v2/listen", b"/v1/realtime", b"/v1/models", b"/v1/jobs/x"):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + header + b"\r\n\r\n")
            assert b" 401 " in await asyncio.wait_for(reader.readline(), 30), (header, path)
            writer.close()


async def test_a_half_written_key_file_ends_no_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocation, "CHECK_EVERY_S", 0.0)
    allowed = iter([True, False, True, True, False, True])
    over, ended = asyncio.Event(), list[str]()

    class Keys:
        def reload_if_changed(self) -> None:
            """Do nothing: there is no file."""

        def still_allows(self, _identity: object) -> bool:
            found = next(allowed, None)
            if found is None:
                over.set()
            return found is not False

    class Stream:
        identity = None

        def shut_down(self, error: Exception) -> None:
            ended.append(str(error))

    class Streams:
        streams: ClassVar = {"s": Stream()}

    watching = asyncio.create_task(revocation.watch(Keys(), Streams()))  # type: ignore[arg-type]
    await over.wait()
    watching.cancel()
    await asyncio.wait([watching])
    assert ended == []
