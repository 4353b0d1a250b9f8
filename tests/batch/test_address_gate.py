"""The addresses to which the server connects for a client: every form of an address, before and after connecting."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import ClientSession
from aiohttp.abc import AbstractResolver, ResolveResult

from myna.batch import address_gate as gates
from myna.batch.address_gate import AddressGate
from myna.batch.fetch import FetchError, FetchLimits, fetch


class Listener:
    """A server on the loopback interface that counts connections and bytes, and may answer."""

    def __init__(self) -> None:
        self.connections = 0
        self.received = b""
        self.answer = b""
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.received += await reader.read(1 << 16)
        writer.write(self.answer)
        writer.close()


@pytest.fixture
async def inside() -> AsyncIterator[Listener]:
    listener = Listener()
    server = await asyncio.start_server(listener.serve, "127.0.0.1", 0)
    listener.port = server.sockets[0].getsockname()[1]
    yield listener
    server.close()


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "REFUSED_AFTER_S", 0.0, raising=False)


@pytest.mark.parametrize(
    "host",
    ["127.1", "127.0.1", "2130706433", "0177.0.0.1", "017700000001", "0", "0.0.0.0", "0x7f.1", "0x7f000001", "127.0x1",
     "0X7F.0.0.1", "127.0.0.1.", "127.1.", "0x", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::127.0.0.1]", "[::1%lo]",
     "[::1%25lo]", "[fe80::1%25eth0]", "%31%32%37.0.0.1", "127%2e0.0.1", "１２７.0.0.1", "127。0。0。1",
     "２１３０７０６４３３", "a:b@127.1", "example.com@127.0.0.1", "example.com\\@127.0.0.1", "127.0.0.1\\@example.com",
     "127.0.0.1 ", "127.0.0.1%00.example.com",
     "127.0.0.1:0", "a" * 64 + ".example", "a..b", ".", "a." * 130, "exa mple.com", "\udcff.example", "ⓛ" * 300],
)  # fmt: skip
def test_a_forbidden_address_in_any_form_is_refused_before_a_lookup(host: str) -> None:
    with pytest.raises(ValueError) as refused:
        AddressGate([]).check(f"http://{host}/")
    assert type(refused.value) is ValueError
    assert 0 < len(str(refused.value)) < 250
    str(refused.value).encode()


@pytest.mark.parametrize(
    ("network", "inside"),
    [("192.0.0.0/24", "192.0.0.9"), ("64:ff9b::/96", "64:ff9b::8.8.8.8"), ("64:ff9b:1::/48", "64:ff9b:1::1"),
     ("fec0::/10", "fec0::1"), ("::/96", "::8.8.8.8"), ("2002::/16", "2002:7f00:1::1"), ("2001::/32", "2001:0:7f00:1::1"),
     ("2001::/23", "2001:20::1"), ("ff00::/8", "ff0e::1"), ("224.0.0.0/4", "239.1.1.1"), ("240.0.0.0/4", "240.0.0.1"),
     ("broadcast", "255.255.255.255"), ("unspecified", "::"), ("carriers", "100.64.0.1"), ("benchmarks", "198.19.255.255"),
     ("documentation", "203.0.113.1"), ("documentation", "3fff::1"), ("documentation", "2001:db8::1"), ("SRv6", "5f00::1"),
     ("unique local", "fd00::1"), ("link local", "fe80::1"), ("link local", "169.254.169.254"), ("discard", "100::1"),
     ("6to4 relays", "192.88.99.1"), ("this network", "0.1.2.3"), ("mapped", "::ffff:10.0.0.1"),
     ("mapped", "::ffff:192.0.0.1"),
     ("private", "172.31.255.255"), ("unassigned", "4000::1")],
)  # fmt: skip
def test_no_address_of_a_special_purpose_registry_is_public(network: str, inside: str) -> None:
    with pytest.raises(ValueError, match="not a public address"):
        AddressGate([]).check(f"http://[{inside}]/" if ":" in inside else f"http://{inside}/")


@pytest.mark.parametrize(
    "host",
    ["93.184.215.14", "[2606:4700::1111]", "[::ffff:8.8.8.8]", "192.0.1.1", "example.com", "a_b.example", "EXAMPLE.com.",
     "müller.example", "xn--bcher-kva.example", "3com.example", "0x.example", "172.32.0.1", "[2001:4860:4860::8888]"],
)  # fmt: skip
def test_public_addresses_and_names_pass(host: str) -> None:
    assert AddressGate([]).check(f"https://{host}:8443/x").host


def test_every_address_that_python_calls_private_is_refused() -> None:
    starts = [f"{first}.{second}.0.1" for first in range(256) for second in (0, 18, 64, 88, 100, 168, 254)]
    for start in starts:
        address = ipaddress.ip_address(start)
        if not address.is_global:
            with pytest.raises(ValueError):
                AddressGate([]).check(f"http://{address}/")


class Told(AbstractResolver):
    """Resolves every name to one address, or fails; counts its calls."""

    def __init__(self, address: str | None) -> None:
        self.address = address
        self.asked = 0

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_INET) -> list[ResolveResult]:
        self.asked += 1
        if self.address is None:
            raise OSError(-2, "Name or service not known")
        found = {"hostname": host, "host": self.address, "port": port, "family": socket.AF_INET, "proto": 0, "flags": 0}
        return [found]  # type: ignore[list-item]

    async def close(self) -> None:
        pass


def resolving(session: ClientSession, resolver: AbstractResolver) -> None:
    """Replace the resolver that the gate's resolver uses."""
    connector: Any = session.connector
    connector._resolver._resolver = resolver


def unresolved(session: ClientSession, bypass: Callable[[str], str]) -> None:
    """Bypass the gate's resolver, as an HTTP client does if it takes a host for an IP address."""
    connector: Any = session.connector

    async def found(host: str, port: int, traces: Any = None) -> list[Any]:
        where = {"hostname": host, "host": bypass(host), "port": port, "family": socket.AF_INET, "proto": 0, "flags": 0}
        return [where]

    connector._resolve_host = found


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0177.0.0.1", "017700000001", "127.0.0.1"])
async def test_an_http_client_that_skips_the_resolver_is_stopped_before_it_connects(
    inside: Listener, host: str
) -> None:
    async with AddressGate([]).session(5) as session:
        unresolved(session, lambda name: host)
        with pytest.raises(OSError) as refused:
            await session.get(f"http://example.com:{inside.port}/")
    assert "public address" in str(refused.value.__cause__ or refused.value)
    assert inside.connections == 0


async def test_no_request_is_sent_to_a_peer_that_is_not_public(
    inside: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AddressGate([]).session(5) as session:
        connector: Any = session.connector
        unresolved(session, lambda name: "127.0.0.1")
        connector._socket_factory = None  # as if the address had changed after the check
        with pytest.raises(OSError) as refused:
            await session.get(f"http://example.com:{inside.port}/")
    assert "public address" in str(refused.value.__cause__ or refused.value)
    assert inside.received == b""


async def test_an_internal_name_is_refused_like_a_name_that_does_not_exist(inside: Listener, tmp_path: Path) -> None:
    said, took = [], []
    for address in (None, "10.0.0.1", "127.0.0.1", "fd00::1"):
        gate = AddressGate([])
        make = gate.session

        def session(timeout_s: float, share: str, make: Any = make, address: str | None = address) -> ClientSession:
            made = make(timeout_s, share)
            resolving(made, Told(address))
            return made

        gate.session = session  # type: ignore[method-assign]
        began = asyncio.get_running_loop().time()
        with pytest.raises(FetchError) as refused:
            await fetch(
                f"http://files.corp.example:{inside.port}/",
                tmp_path / "x",
                gate,
                FetchLimits(most_bytes=10, within_s=5),
            )
        said.append((str(refused.value), refused.value.status))
        took.append(asyncio.get_running_loop().time() - began)
    assert len(set(said)) == 1, said
    assert "files.corp.example" in said[0][0]
    assert inside.connections == 0


async def test_every_name_is_refused_after_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(gates, "REFUSED_AFTER_S", 0.5)
    # Patched in this module only: other tasks of the event loop sleep, too.
    gates_own = SimpleNamespace(sleep=sleep, get_running_loop=asyncio.get_running_loop)
    monkeypatch.setattr(gates, "asyncio", gates_own)
    for address in (None, "10.0.0.1"):
        async with AddressGate([]).session(5) as session:
            resolving(session, Told(address))
            with pytest.raises(OSError):
                await session.get("http://example.com/")
    assert [0 < seconds <= 0.5 for seconds in waited] == [True, True]


LOCATIONS = [
    b"http://[::1", b"http://a:99999999/", b"http://127.1/", b"http://2130706433/", b"//0/x", b"http://\xff\xfe/", b"ftp://x/",
    b"http://" + b"a" * 64 + b".example/", b"http://a..b/", b"javascript:alert(1)", b"\xff", b"http://u\xffser:p@127.0.0.1/",
    b"http://[fe80::1%25lo]/", b"http:///x", b"http://%00/", b"http://\\\\127.0.0.1/", b"//[::ffff:10.0.0.1]", b"http://a:b:c/",
]  # fmt: skip


@pytest.mark.parametrize("location", LOCATIONS)
async def test_a_redirect_to_an_invalid_or_forbidden_address_is_a_fetch_error(
    inside: Listener, tmp_path: Path, location: bytes
) -> None:
    inside.answer = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + location + b"\r\n\r\n"
    gate = AddressGate(["127.0.0.1/32"])
    with pytest.raises(FetchError) as refused:
        await fetch(f"http://127.0.0.1:{inside.port}/", tmp_path / "x", gate, FetchLimits(most_bytes=10, within_s=5))
    str(refused.value).encode()
    assert inside.connections <= 6


ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 1e9\r\n\r\n", b"\xff" * 100,
    b"HTTP/1.1 999 \xff\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nxx", b"HTTP/1.1 301 \r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Type: \xff;\xff\r\nContent-Length: 11\r\n\r\n" + b"x" * 11,
    b"HTTP/1.1 200 OK\r\nA: " + b"a" * 100_000 + b"\r\n\r\n",
]  # fmt: skip


@pytest.mark.parametrize("answer", ANSWERS)
async def test_a_malformed_answer_is_a_fetch_error(inside: Listener, tmp_path: Path, answer: bytes) -> None:
    inside.answer = answer
    address = f"http://127.0.0.1:{inside.port}/"
    try:
        await fetch(address, tmp_path / "x", AddressGate(["127.0.0.1/32"]), FetchLimits(most_bytes=10, within_s=5))
    except FetchError as error:
        assert len(str(error)) < 500
        str(error).encode()


@pytest.mark.parametrize("user", ["\u0141:x", "%FF:x", "a%0d%0ab:c"])
async def test_a_user_and_password_that_no_header_can_hold_are_a_fetch_error(
    inside: Listener, tmp_path: Path, user: str
) -> None:
    inside.answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    with pytest.raises(FetchError):
        await fetch(
            f"http://{user}@127.0.0.1:{inside.port}/",
            tmp_path / "x",
            AddressGate(["127.0.0.0/8"]),
            FetchLimits(most_bytes=10, within_s=5),
        )
