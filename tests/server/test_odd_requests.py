"""Invalid requests, byte for byte: each gets an answer in the error format of its address, and none a 500."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from peer import settings

from myna.server.app import Server, running
from myna.server.dialects.deepgram.grant import GrantHandler
from myna.server.dialects.deepgram.status import StatusHandlers
from myna.server.dialects.openai.client_secrets import ClientSecrets
from myna.server.keys import Scope, add_key

ROUTES = [
    (b"GET", b"/v1/stream"), (b"GET", b"/v1/listen"), (b"GET", b"/v2/listen"), (b"GET", b"/v1/realtime"),
    (b"POST", b"/v1/listen"), (b"POST", b"/v1/audio/transcriptions"), (b"POST", b"/v1/audio/translations"),
    (b"POST", b"/v1/audio/transcriptions-from-url"), (b"POST", b"/v1/auth/grant"), (b"POST", b"/v1/realtime/client_secrets"),
    (b"POST", b"/v1/realtime/transcription_sessions"), (b"GET", b"/v1/jobs/x"), (b"GET", b"/v1/models"),
    (b"GET", b"/v1/models/x"), (b"GET", b"/"), (b"GET", b"/nowhere"), (b"GET", b"/health"),
]  # fmt: skip
ODD = [
    b"\xff",
    b"\xed\xa0\x80",
    b"\xc3\xa9",
    b"\xf0\x9f\x90\xa6",
    b"x" * 3000,
    b"%FF",
    b"%00",
    b"",
    b" ",
    b"\t",
    b";;;",
    b'"',
    b"=",
    b"a=b;c=\xff",
    b"'",
    b"..",
    b"1e400",
    b"nan",
    b"0" * 20 + b"1",
    b"9" * 400,
    b"-1",
    b"[::1",
    b"http://\xff",
    b"\x7f",
]
HEADERS = [
    b"Authorization: %s", b"Authorization: Token %s", b"Authorization: Bearer ek_%s", b"Sec-WebSocket-Protocol: %s",
    b"Sec-WebSocket-Protocol: token, %s", b"Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.%s",
    b"Sec-WebSocket-Key: %s", b"Sec-WebSocket-Version: %s", b"Sec-WebSocket-Extensions: %s", b"Content-Type: %s",
    b"Content-Type: multipart/form-data; boundary=%s", b"Content-Type: application/json; charset=%s", b"Content-Encoding: %s",
    b"OpenAI-Beta: %s", b"Accept: %s", b"Accept-Encoding: %s", b"Range: %s", b"If-Modified-Since: %s", b"If-None-Match: %s",
    b"Expect: %s", b"Cookie: %s", b"X-Forwarded-For: %s", b"X-Request-Id: %s", b"dg-request-id: %s", b"Upgrade: %s",
    b"Connection: %s", b"Transfer-Encoding: %s", b"Origin: %s", b"Host: %s", b"X-DG-Tag: %s",
]  # fmt: skip
QUERIES = [
    b"model",
    b"language",
    b"encoding",
    b"sample_rate",
    b"channels",
    b"endpointing",
    b"utterance_end_ms",
    b"search",
    b"replace",
    b"keyterm",
    b"keywords",
    b"callback",
    b"callback_method",
    b"tag",
    b"extra",
    b"format",
    b"resume",
    b"after",
    b"intent",
    b"eot_threshold",
    b"eager_eot_threshold",
    b"eot_timeout_ms",
    b"language_hint",
    b"utt_split",
    b"redact",
    b"\xff",
]
UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13"
UPGRADE += b"\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="


async def answered(server: Server, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send these bytes; return status, headers and body."""
    host, port = server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 20)
    writer.write(request)
    try:
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)).decode("latin-1")
        line, *rest = head.strip().split("\r\n")
        headers = {name.lower(): value for name, value in (each.split(": ", 1) for each in rest if ": " in each)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        return int(line.split(" ")[1]), headers, body
    finally:
        writer.close()


def request(method: bytes, target: bytes, *headers: bytes, body: bytes = b"") -> bytes:
    names = b"\r\n".join(headers).lower()
    usual = [] if b"host:" in names else [b"Host: localhost"]
    if b"transfer-encoding:" not in names:
        usual.append(b"Content-Length: %d" % len(body))
    return b"%s %s HTTP/1.1\r\n%s\r\n\r\n%s" % (method, target, b"\r\n".join([*usual, *headers]), body)


def judge(what: Any, status: int, headers: dict[str, str], body: bytes) -> None:
    assert status < 500, (what, status, body[:300])
    # The HTTP library itself answers malformed requests, and requests for static files.
    if status >= 400 and "dg-request-id" in headers and "content-security-policy" not in headers:
        assert "json" in headers["content-type"], (what, headers)
        assert json.loads(body)


@pytest.fixture(scope="module")
async def locked(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    file: Path = tmp_path_factory.mktemp("keys") / "keys.toml"
    add_key(file, "all", frozenset(Scope))
    async with running(settings(model="fake", keys=file)) as started:
        yield started


@pytest.mark.parametrize("header", HEADERS)
async def test_no_header_makes_the_server_fail(strict_server: Server, locked: Server, header: bytes) -> None:
    for number, (method, path) in enumerate(ROUTES):
        for value in ODD[number % 4 :: 4]:
            if value in (b"\x7f", b"x" * 3000) and path != b"/v1/listen":
                continue
            sent = request(method, path, header % value, b"Connection: close", body=b"{}")
            judge((path, header, value), *await answered(strict_server, sent))
    for number, (_, path) in enumerate(ROUTES[:4]):
        for value in ODD[number::4]:
            sent = request(b"GET", path, header % value, UPGRADE)
            judge((path, header, value), *await answered(locked, sent))


@pytest.mark.parametrize("name", QUERIES)
async def test_no_parameter_makes_the_server_fail(strict_server: Server, name: bytes) -> None:
    for number, (method, path) in enumerate(ROUTES):
        for value in ODD[number % 4 :: 4]:
            if b" " in value or b"\t" in value:
                continue
            target = path + b"?encoding=linear16&sample_rate=16000&" + name + b"=" + value
            sent = request(method, target, b"Connection: close", body=b"RIFF")
            judge((path, name, value), *await answered(strict_server, sent))


@pytest.mark.parametrize("value", [value for value in ODD if not set(value) & set(b" \t")])
async def test_no_path_makes_the_server_fail(strict_server: Server, value: bytes) -> None:
    for path in (b"/v1/jobs/", b"/v1/models/", b"/", b"/web/", b"/v1/", b"//"):
        for method in (b"GET", b"POST", b"HEAD", b"DELETE", b"OPTIONS", b"PROPFIND"):
            sent = request(method, path + value, b"Connection: close")
            status, headers, body = await answered(strict_server, sent) if method != b"HEAD" else (0, {}, b"")
            judge((method, path, value), status, headers, body)


BODIES = [
    b"{",
    b"\xff",
    b'{"url": "\\ud800"}',
    b'{"url": "http://\\udcff.example/"}',
    b'{"url": "http://[::1"}',
    b'{"url": "http://127.1/"}',
    b'{"url": 1e400}',
    b'{"ttl_seconds": NaN}',
    b'{"ttl_seconds": Infinity}',
    b'{"ttl_seconds": 1e400}',
    b'{"ttl_seconds": ' + b"9" * 400 + b"}",
    b'{"audio_file_url": "http://0/", "timestamp_offset": ' + b"9" * 400 + b"}",
    b'{"audio_file_url": "http://0/", "timestamp_offset": NaN}',
    b'{"audio_file_url": "http://0/", "timestamp_offset": 1e308}',
    b'{"audio_file_url": "http://0/", "model": "\\ud800"}',
    b'{"expires_after": {"seconds": ' + b"9" * 30 + b"}}",
    b'{"session": {"audio": {"input": {"noise_reduction": {"type": NaN}}}}}',
    b'{"session": {"audio": {"input": {"transcription": {"prompt": "\\ud800"}}}}}',
    b'{"session": {"\\udfff": "\\ud800"}}',
    b'{"input_audio_transcription": {"language": "\\ud800"}}',
    b'{"turn_detection": {"type": "\\ud800"}}',
    b"[" * 100_000,
    b'{"a":' * 20_000,
    b"9" * 5000,
    b"\xfe\xff\x00{",
    b'"\\ud800"',
]


@pytest.mark.parametrize("number", range(len(BODIES)))
async def test_no_json_makes_the_server_fail(strict_server: Server, number: int) -> None:
    for method, path in ROUTES:
        if method == b"POST":
            sent = request(method, path, b"Content-Type: application/json", b"Connection: close", body=BODIES[number])
            judge((path, BODIES[number][:60]), *await answered(strict_server, sent))


PARTS = [
    b'form-data; name="file"; filename="\xff"',
    b"form-data; name=file; filename*=utf-8''%FF",
    b'form-data; name="\xed\xa0\x80"',
    b'form-data; name="model"',
    b"form-data; name=",
    b"form-data",
    b"\xff",
    b'form-data; name="file"; filename=',
    b"form-data; name=file; filename*=x''%",
    b"form-data; name*0=fi; name*1=le; filename=a",
    b'form-data; name="a"; name="b"',
    b"form-data; name=file; filename*=utf-8''" + b"%ED%A0%80",
]


@pytest.mark.filterwarnings("ignore::aiohttp.multipart.BadContentDispositionHeader")
@pytest.mark.filterwarnings("ignore::aiohttp.multipart.BadContentDispositionParam")
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    "extra", [b"", b"Content-Type: \xff\r\n", b"Content-Transfer-Encoding: \xff\r\n", b"Content-Encoding: gzip\r\n"]
)
async def test_no_form_makes_the_server_fail(strict_server: Server, part: bytes, extra: bytes) -> None:
    for value in (b"x", b"\xff", b"\xed\xa0\x80", b"9" * 400, b"nan"):
        body = b"--x\r\nContent-Disposition: " + part + b"\r\n" + extra + b"\r\n" + value + b"\r\n--x--\r\n"
        sent = request(
            b"POST",
            b"/v1/audio/transcriptions",
            b"Content-Type: multipart/form-data; boundary=x",
            b"Connection: close",
            body=body,
        )
        judge((part, extra, value), *await answered(strict_server, sent))


@pytest.mark.parametrize(
    ("coding", "body"),
    [(b"Content-Encoding: gzip", b"no gzip"), (b"Content-Encoding: deflate", b"no"),
     (b"Transfer-Encoding: chunked", b"zz\r\n"), (b"Transfer-Encoding: chunked", b"3\r\nabcd\r\n0\r\n\r\n"),
     (b"Content-Length: 5000000", b"x" * 5_000_000)],
)  # fmt: skip
async def test_a_broken_or_too_long_body_is_a_client_error(strict_server: Server, coding: bytes, body: bytes) -> None:
    for method, path in ROUTES:
        if method != b"POST" or (len(body) > 1_000_000 and path == b"/v1/listen"):
            continue
        head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%s\r\n" % (path, coding)
        if b"Content-Encoding" in coding:
            head += b"Content-Length: %d\r\n" % len(body)
        try:
            judge((path, coding), *await answered(strict_server, head + b"\r\n" + body))
        except (ConnectionError, asyncio.IncompleteReadError):
            assert b"chunked" in coding or len(body) > 1_000_000  # it was still being sent when the answer came


async def test_an_unexpected_error_is_answered_in_the_format_of_the_address_and_logged_with_its_trace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fails(*_: Any) -> web.Response:
        raise KeyError("a secret of the server")

    for handlers, name in ((GrantHandler, "grant"), (ClientSecrets, "client_secret"), (StatusHandlers, "status")):
        monkeypatch.setattr(handlers, name, fails)
    async with running(settings(model="fake")) as server:
        for method, path in (
            (b"POST", b"/v1/auth/grant"),
            (b"POST", b"/v1/realtime/client_secrets"),
            (b"GET", b"/v1/status"),
        ):
            status, headers, body = await answered(server, request(method, path, b"Accept: text/html"))
            said = json.loads(body)
            assert status == 500
            assert said["error"]["code"] == "internal_error"
            assert headers["dg-request-id"] in said["error"]["message"]
            assert b"secret of" not in body
            if path == b"/v1/realtime/client_secrets":
                assert headers["x-should-retry"] == "true"
            else:
                assert (said["err_code"], said["request_id"]) == ("INTERNAL_ERROR", headers["dg-request-id"])
            logged = "".join(capsys.readouterr())
            assert headers["dg-request-id"] in logged
            assert "KeyError" in logged


async def test_five_hundred_random_requests_are_answered(strict_server: Server) -> None:
    dice = random.Random(15)
    for number in range(500):
        method, path = dice.choice(ROUTES[:-2])
        query = b"&".join(dice.choice(QUERIES) + b"=" + dice.choice(ODD).strip() for _ in range(dice.randrange(4)))
        headers = [dice.choice(HEADERS) % dice.choice(ODD) for _ in range(dice.randrange(4))]
        headers.append(b"Connection: close" if dice.random() < 0.7 else UPGRADE)
        sent = request(method, path + b"?" + query, *headers, body=dice.choice(BODIES[:20]))
        with contextlib.suppress(
            asyncio.IncompleteReadError, ConnectionError
        ):  # the HTTP library closed the connection without an answer
            judge((number, sent[:500]), *await answered(strict_server, sent))
