"""Where the server may connect to when a client names the address: the open internet, and what the configuration allows.

Every address is checked after its name has been resolved and right before it is connected to, so that a name which answers
differently the second time gains nothing. A name of which any address is forbidden is forbidden.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

from aiohttp import ClientSession, ClientTimeout, TCPConnector
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from myna.batch.names import Names


class ForbiddenAddressError(OSError):
    """The address is not to be connected to; an `OSError`, as a resolver's failures are."""


class Gate:
    """Decides about addresses; `allowed` are private networks that may be reached all the same."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self._allowed = [ipaddress.ip_network(network) for network in allowed]

    def check(self, url: str) -> URL:
        """Return the address parsed. Raises `ValueError` if it is no http(s) one, or names a forbidden address outright."""
        parsed = URL(url)
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ValueError(f"{_shown(url)} is no http or https address")
        try:
            address = ipaddress.ip_address(parsed.host)
        except ValueError:
            return parsed  # a name: the resolver decides
        if not self._passes(address):
            raise ValueError(f"{parsed.host} is not a public address, and this server does not allow it")
        return parsed

    def session(self, timeout_s: float) -> ClientSession:
        """Return an HTTP client that connects only where it may; close it. It follows no redirect unless told to."""
        connector = TCPConnector(resolver=_Checked(self), use_dns_cache=False)
        return ClientSession(connector=connector, timeout=ClientTimeout(total=timeout_s), auto_decompress=False)

    def _passes(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        mapped = getattr(address, "ipv4_mapped", None)
        address = mapped or address
        if any(address in network for network in self._allowed if network.version == address.version):
            return True
        return address.is_global and not address.is_multicast

    def passing(self, found: list[ResolveResult]) -> list[ResolveResult]:
        """Return the resolved addresses. Raises `ForbiddenAddressError` if any is forbidden."""
        for result in found:
            if not self._passes(ipaddress.ip_address(result["host"].partition("%")[0])):
                raise ForbiddenAddressError(
                    f"{result['hostname']} resolves to {result['host']}, which is not a public address"
                )
        return found


class _Checked(AbstractResolver):
    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._resolver = Names()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return self._gate.passing(await self._resolver.resolve(host, port, family))

    async def close(self) -> None:
        await self._resolver.close()


def _shown(url: str) -> str:
    return repr(url if len(url) <= 100 else url[:100] + "…")
