"""Refusals on the wire: status, headers and body, byte for byte except for the request's id."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from peer import settings

from myna.server.app import Server, running
from myna.server.keys import Scope, add_key

LOGIN = "Authorization: Token {key}"
UPGRADE = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13"
UPGRADE += "\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="


@pytest.fixture(scope="module")
async def locked(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Server, dict[str, str]]]:
    file: Path = tmp_path_factory.mktemp("keys") / "keys.toml"
    keys = {
        "key": add_key(file, "all", frozenset(Scope)),
        "granter": add_key(file, "granter", frozenset({Scope.GRANT})),
    }
    async with running(settings(model="fake", keys=file)) as started:
        yield started, keys


async def exchange(server: Server, head: str) -> tuple[str, dict[str, str], str]:
    """Send a request as written; return status line, headers and body."""
    host, port = server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"{head}\r\nHost: {host}\r\n\r\n".encode("latin-1"))
    status, *lines = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)).decode().strip().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    writer.close()
    return status, headers, body.decode()


UNKNOWN = "unknown model 'é'; available: fake, moonshine-tiny-en"
NO_SUCH = "Bad Request: No such model/language/tier combination found."


@pytest.mark.parametrize(
    ("query", "login", "status", "code", "message"),
    [
        ("", "X: y", 401, "INVALID_AUTH", "Invalid credentials."),
        ("", "Authorization: Token wrong", 401, "INVALID_AUTH", "Invalid credentials."),
        ("", "Authorization: Token {granter}", 403, "INSUFFICIENT_PERMISSIONS",
         "API key 'granter' lacks the scope 'transcribe'."),
        ("?detect_entities=true", LOGIN, 400, "Bad Request",
         "Bad Request: detect_entities is not supported: this server has no model that detects entities."),
        ("?punctuate=7", LOGIN, 400, "Bad Request", "Bad Request: punctuate must be true or false, not '7'"),
        ("?language=fr", LOGIN, 400, "Bad Request",
         f"{NO_SUCH} fake does not support the language 'fr'; it supports en."),
        ("?keyterm=Myna", LOGIN, 400, "Bad Request",
         "Bad Request: The model fake does not support keyterm and keywords."),
        ("?model=%C3%A9", LOGIN, 400, "Bad Request",
         f'{NO_SUCH} You could try the "fake" model (language: en, base tier). {UNKNOWN}'),
        ("?encoding=linear16", LOGIN, 400, "Bad Request",
         "Bad Request: encoding linear16 requires sample_rate, in samples per second."),
        ("?callback=http://example.com&callback_method=DELETE", LOGIN, 400, "Bad Request",
         "Bad Request: callback_method must be one of POST, PUT, not 'DELETE'"),
        ("?callback=http://127.1/", LOGIN, 400, "Bad Request",
         "Bad Request: callback: '127.1' is no IPv4 address of four decimal numbers without leading zeros."),
    ],
)  # fmt: skip
async def test_a_refusal_before_the_upgrade_has_deepgrams_format(
    locked: tuple[Server, dict[str, str]], query: str, login: str, status: int, code: str, message: str
) -> None:
    server, keys = locked
    head = f"GET /v1/listen{query} HTTP/1.1\r\n{login.format(**keys)}\r\n{UPGRADE}"
    line, headers, body = await exchange(server, head)
    assert line.split(" ")[1] == str(status)
    request_id = headers["dg-request-id"]
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", request_id)
    assert headers["dg-error"] == message.replace("é", "?")
    assert headers["content-type"] == "application/json; charset=utf-8"
    written = message.replace("é", "\\u00e9").replace('"', '\\"')
    assert body == f'{{"err_code": "{code}", "err_msg": "{written}", "request_id": "{request_id}"}}'


async def test_the_upgrade_response_carries_the_request_id(locked: tuple[Server, dict[str, str]]) -> None:
    server, keys = locked
    head = f"GET /v1/listen HTTP/1.1\r\n{LOGIN.format(**keys)}\r\n{UPGRADE}"
    line, headers, _ = await exchange(server, head)
    assert line == "HTTP/1.1 101 Switching Protocols"
    assert len(headers["dg-request-id"]) == 36
    assert "sec-websocket-protocol" not in headers


@pytest.mark.parametrize("path", ["/v1/listen", "/v1/stream", "/v1/models", "/v1/auth/grant", "/nowhere", "/v1/status"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_every_answer_has_a_request_id_and_none_is_a_500(
    locked: tuple[Server, dict[str, str]], method: str, path: str
) -> None:
    line, headers, _ = await exchange(locked[0], f"{method} {path} HTTP/1.1\r\nContent-Length: 0")
    assert int(line.split(" ")[1]) < 500
    assert len(headers["dg-request-id"]) == 36


async def test_two_hundred_random_queries_cause_no_server_error(strict_server: Server) -> None:
    dice = random.Random(4)
    names = (
        "model",
        "language",
        "encoding",
        "sample_rate",
        "channels",
        "multichannel",
        "endpointing",
        "utterance_end_ms",
    )
    names += ("redact", "replace", "search", "keyterm", "callback", "punctuate", "language_hint", "keywords")
    values = (
        "",
        "true",
        "0",
        "-1",
        "9" * 40,
        "linear16",
        "16000",
        "%00",
        "%FF",
        "%F0%9F%90%A6",
        "a:b:c",
        "::",
        "x" * 2000,
    )
    values += ("http://[", "http://", "1e9", "NaN", "multi", "%C2%B2")
    for _ in range(200):
        query = "&".join(f"{dice.choice(names)}={dice.choice(values)}" for _ in range(dice.randrange(1, 6)))
        line, _, body = await exchange(strict_server, f"GET /v1/listen?{query} HTTP/1.1")
        assert line.split(" ")[1] in ("400", "426"), (query, line, body)
