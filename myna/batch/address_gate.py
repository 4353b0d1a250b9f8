"""Restricts connections to addresses given by clients: to the public internet and the networks that the configuration allows.

Addresses are checked four times: the host of a URL before any lookup; all addresses that its name resolves to, where one
forbidden address forbids the name; the address of each socket before it connects; and the peer of each connection before a
request is written to it. No check relies on how the HTTP client treats a host.

A name that does not resolve and a name that resolves to a forbidden address are refused with the same message and after the
same time, so that a client cannot find out which internal names exist.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Sequence

from aiohttp import (
    AddrInfoType,
    ClientConnectorError,
    ClientError,
    ClientRequest,
    ClientSession,
    ClientTimeout,
    TCPConnector,
)
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from yarl import URL

from myna.batch.addresses import Address, is_public, looks_numeric, parsed
from myna.batch.resolver import Names
from myna.wire.quoting import quoted, shortened

REFUSED_AFTER_S = 0.5
"""Time after which a name is refused, whether it does not resolve or resolves to a forbidden address: a local name server
answers much faster."""
_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")
"""A valid DNS name (RFC 1035, 2.3.4); underscores, which occur in practice, are allowed."""


_ENCODED = re.compile(r"([A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*")
"""An address without characters that RFC 3986 requires to be encoded. It is sent as it is: a signature may cover its text."""


FAILURES = (ClientError, OSError, ValueError, RuntimeError)
"""Errors of a request to an address given by a client: those of aiohttp and the system, `ValueError` for a malformed answer
or address, `RuntimeError` if uvloop fails to connect. Timeouts are an `OSError`."""
_LONGEST_REASON = 300


def as_sent(url: str | URL) -> URL:
    """Return the parsed URL, its text unchanged where it is a valid URI. Raises `ValueError`."""
    return URL(url, encoded=_ENCODED.fullmatch(str(url)) is not None)


class ForbiddenAddressError(OSError):
    """The server must not connect to the address. An `OSError`, like the errors of a resolver."""


def explained(error: BaseException) -> str:
    """Return why a request failed, in a message for the client that gave the address."""
    if isinstance(error, ClientConnectorError) and error.__cause__ is not None:
        error = error.__cause__  # without aiohttp's prefix and the host and port, which the client knows
    return shortened(str(error), _LONGEST_REASON) or type(error).__name__


class AddressGate:
    """Decides whether the server may connect to an address. `allowed` lists private networks that are permitted."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self._allowed = [ipaddress.ip_network(network) for network in allowed]

    def check(self, url: str | URL) -> URL:
        """Return the parsed URL. Raises `ValueError` if it is not an http(s) URL or its host is a forbidden address."""
        try:
            address = as_sent(url)
            host = (address.raw_host or "").lower()
        except ValueError as error:  # also characters that cannot be encoded, such as a lone surrogate
            raise ValueError(f"{quoted(str(url))} is no http or https address") from error
        if address.scheme not in ("http", "https") or not host or address.port == 0:
            raise ValueError(f"{quoted(str(url))} is no http or https address")
        literal = parsed(host)
        if literal is not None:
            if not self.passes(literal):
                raise ValueError(f"{host} is not a public address, and this server does not allow access to it")
        elif looks_numeric(host):
            raise ValueError(f"{quoted(host)} is no IPv4 address of four decimal numbers without leading zeros")
        elif not _NAME.fullmatch(host.removesuffix(".")):
            raise ValueError(f"{quoted(host)} is not a host name")
        return address

    def session(self, timeout_s: float, share: str = "") -> ClientSession:
        """Return an HTTP session that connects to permitted addresses only. The caller closes it.

        `share` is the client on whose behalf it connects.
        """
        connector = _Connector(self, share)
        return ClientSession(
            connector=connector, timeout=ClientTimeout(total=timeout_s), auto_decompress=False, trust_env=False
        )

    def passes(self, address: Address) -> bool:
        """Return whether the server may connect to this address."""
        if any(address in network for network in self._allowed if network.version == address.version):
            return True
        return is_public(address)

    def check_peer(self, host: str) -> None:
        """Raise `ForbiddenAddressError` unless this is a permitted IP address in canonical form."""
        address = parsed(host.partition("%")[0])  # the system appends the interface to a link-local address
        if address is None or not self.passes(address):
            raise ForbiddenAddressError(f"{host} is not a public address")

    def passing(self, found: list[ResolveResult]) -> list[ResolveResult]:
        """Return the resolved addresses unchanged. Raises `ForbiddenAddressError` if any is forbidden."""
        for result in found:
            self.check_peer(result["host"])
        return found


class _Connector(TCPConnector):
    """Checks each address when its socket is created, right before it connects, and each peer after it has connected."""

    def __init__(self, gate: AddressGate, share: str) -> None:
        super().__init__(resolver=_Checked(gate, share), use_dns_cache=False, socket_factory=self._socket)
        self._gate = gate

    def _socket(self, target: AddrInfoType) -> socket.socket:
        family, kind, protocol, _, where = target
        self._gate.check_peer(str(where[0]))
        return socket.socket(family, kind, protocol)

    async def connect(  # the library's own signature
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: ClientTimeout,  # noqa: ASYNC109
    ) -> Connection:
        """Return a connection whose peer passes. Raises `ForbiddenAddressError`, an `OSError`."""
        connection = await super().connect(req, traces, timeout)
        peer = connection.transport.get_extra_info("peername") if connection.transport else None
        try:
            self._gate.check_peer(str(peer[0]) if peer else "")
        except ForbiddenAddressError:
            connection.close()
            raise
        return connection


class _Checked(AbstractResolver):
    def __init__(self, gate: AddressGate, share: str) -> None:
        self._gate = gate
        self._resolver = Names(share)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            return self._gate.passing(await self._resolver.resolve(host, port, family))
        except (OSError, ValueError):  # ValueError: a name that cannot be encoded
            await asyncio.sleep(began + REFUSED_AFTER_S - loop.time())
            raise ForbiddenAddressError(f"{quoted(host)} does not resolve to a public address") from None

    async def close(self) -> None:
        await self._resolver.close()
