"""Names of hosts, resolved on threads of their own: one whose name servers are dead holds up no other work of the server."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

_AT_ONCE = 32
"""Threads, which are made when they are needed. The system gives a name up after some ten seconds."""
_THREADS = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="names")


class Names(AbstractResolver):
    """Resolves names as the system does."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a host. Raises `OSError`, and `UnicodeError` for what can be no name."""
        found = await asyncio.get_running_loop().run_in_executor(_THREADS, _looked_up, host, port, family)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, protocol, address, port in found
        ]

    async def close(self) -> None:
        """Do nothing: the threads are everybody's."""


def _looked_up(host: str, port: int, family: socket.AddressFamily) -> list[tuple[int, int, str, int]]:
    infos = socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return [(kind, protocol, _zoned(address), int(address[1])) for kind, _, protocol, _, address in infos]


def _zoned(address: tuple[Any, ...]) -> str:
    """Return the host of a socket's address; the fourth part of an IPv6 one is its zone, which a link-local one needs."""
    return f"{address[0]}%{address[3]}" if len(address) == 4 and address[3] else str(address[0])
