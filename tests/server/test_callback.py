from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from peer import served, settings, transcript
from sounds import recording

from myna.batch import callback as callbacks
from myna.batch.address_gate import AddressGate, ForbiddenAddressError
from myna.server.app import running

RAW = "encoding=linear16&sample_rate=16000"


class Hook:
    """A client's own server, which takes results; it fails as often as it is told to."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.fail = 0
        self.asked = 0
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        self.asked += 1
        if self.fail:
            self.fail -= 1
            return web.Response(status=503)
        self.taken.append((request.method, dict(request.headers), await request.json()))
        return web.Response()

    async def lead_astray(self, _request: web.Request) -> web.Response:
        self.asked += 1
        raise web.HTTPFound(self.url)


@pytest.fixture
async def hook() -> AsyncIterator[Hook]:
    taker = Hook()
    app = web.Application()
    app.router.add_route("*", "/hook", taker.take)
    app.router.add_route("*", "/astray", taker.lead_astray)
    async with served(app) as url:
        taker.url = f"{url}/hook"
        yield taker


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callbacks, "_PAUSES_S", (0.0, 0.0))


@pytest.mark.parametrize("method", ["POST", "put"])
async def test_results_go_to_the_callback_in_order_and_none_over_the_socket(hook: Hook, method: str) -> None:
    beckett = recording("beckett")
    async with running(settings(allowed_networks=["127.0.0.0/8"])) as server:
        query = f"{RAW}&callback={hook.url}&callback_method={method}"
        peer = await transcript(server, query, beckett.tobytes())
    assert peer.messages == []
    assert peer.socket.close_code == 1000
    kinds = [message["type"] for _, _, message in hook.taken]
    assert kinds[-1] == "Metadata"
    assert kinds.count("Metadata") == 1
    said = [m["channel"]["alternatives"][0]["transcript"] for _, _, m in hook.taken if m["type"] == "Results"]
    assert " ".join(filter(None, said)).startswith("ever tried ever failed")
    starts = [message["start"] for _, _, message in hook.taken if message["type"] == "Results"]
    assert starts == sorted(starts)
    verb, headers, _ = hook.taken[0]
    assert (verb, headers["Content-Type"], headers["dg-token"]) == (method.upper(), "application/json", "anybody")


async def test_a_callback_that_fails_is_asked_again_and_one_that_never_answers_is_given_up(hook: Hook) -> None:
    async with running(settings(model="fake", allowed_networks=["127.0.0.0/8"])) as server:
        hook.fail = 2
        peer = await transcript(server, f"{RAW}&callback={hook.url}", b"")
        assert [message["type"] for _, _, message in hook.taken] == ["Metadata"]
        hook.asked, hook.fail = 0, 1_000_000
        silence = np.zeros(60 * 16_000, np.int16).tobytes()
        peer = await transcript(server, f"{RAW}&callback={hook.url}", silence)
        assert peer.socket.close_code == 1000
        assert hook.asked == 9  # three results, three times each


async def test_a_callback_follows_no_redirect(hook: Hook) -> None:
    async with running(settings(model="fake", allowed_networks=["127.0.0.0/8"])) as server:
        await transcript(server, f"{RAW}&callback={hook.url.replace('hook', 'astray')}", b"")
    assert hook.asked == 3
    assert hook.taken == []


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/", "http://[::1]/", "http://10.1.2.3/", "http://169.254.169.254/latest", "http://[fe80::1]/",
        "http://0.0.0.0/", "http://224.0.0.1/", "http://[::ffff:127.0.0.1]/", "http://100.64.0.1/", "file:///etc/passwd",
        "http://", "//example.com", "gopher://example.com", "http://[::ffff:a00:1]/",
    ],
)  # fmt: skip
def test_the_gate_refuses_addresses_that_are_not_public(url: str) -> None:
    with pytest.raises(ValueError, match=r"public|address"):
        AddressGate([]).check(url)


def test_the_gate_lets_through_what_is_public_or_allowed() -> None:
    gate = AddressGate(["10.0.0.0/8", "fd00::/8"])
    for url in ("https://example.com/x", "http://93.184.215.14/", "http://10.1.2.3:8080/", "http://[fd00::1]/"):
        assert gate.check(url).host
    with pytest.raises(ValueError):
        gate.check("http://192.168.0.1/")


async def test_a_name_is_judged_by_what_it_resolves_to(hook: Hook) -> None:
    name = hook.url.replace("127.0.0.1", "localhost")
    async with AddressGate([]).session(5) as session:
        with pytest.raises(OSError) as refused:
            await session.post(name, data=b"{}")
    assert isinstance(refused.value.__cause__ or refused.value, ForbiddenAddressError) or "not a public" in str(
        refused.value
    )
    assert hook.asked == 0
    async with (
        AddressGate(["127.0.0.0/8", "::1/128"]).session(5) as session,
        session.post(name, data=b"{}") as response,
    ):
        assert response.status == 200


def test_a_name_with_one_forbidden_address_is_forbidden_whole() -> None:
    def found(host: str) -> Any:
        return {"hostname": "mixed.example", "host": host, "port": 80, "family": socket.AF_INET, "proto": 0, "flags": 0}

    gate = AddressGate([])
    assert len(gate.passing([found("93.184.215.14")])) == 1
    with pytest.raises(ForbiddenAddressError, match=r"10\.0\.0\.1"):
        gate.passing([found("93.184.215.14"), found("10.0.0.1")])
