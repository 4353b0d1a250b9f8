"""Resolves host names on separate threads, so that a name whose name servers are dead delays no other work of the server."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from weakref import WeakValueDictionary

from aiohttp.abc import AbstractResolver, ResolveResult

_AT_ONCE = 64
"""Limit on threads, which start on demand. The system fails a lookup after about ten seconds."""
OF_ONE_SHARE = 8
"""Concurrent lookups of one client: names whose name servers are dead must not occupy all threads."""
_THREADS = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="names")
_SLOTS: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()


class Names(AbstractResolver):
    """Resolves names through the system, at most `OF_ONE_SHARE` of one client at a time."""

    def __init__(self, share: str) -> None:
        self._slots = _SLOTS.setdefault(share, asyncio.Semaphore(OF_ONE_SHARE))

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a host. Raises `OSError`, and `UnicodeError` for an invalid name."""
        await self._slots.acquire()
        looking = asyncio.get_running_loop().run_in_executor(_THREADS, _looked_up, host, port, family)
        looking.add_done_callback(self._looked_up)
        found = await asyncio.shield(looking)  # if cancelled, the thread goes on and keeps its slot
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

    def _looked_up(self, looking: asyncio.Future[list[tuple[int, int, str, int]]]) -> None:
        self._slots.release()
        if not looking.cancelled():
            looking.exception()  # marks it as retrieved if no caller waits for it any more

    async def close(self) -> None:
        """Do nothing: the threads are shared by all resolvers."""


def _looked_up(host: str, port: int, family: socket.AddressFamily) -> list[tuple[int, int, str, int]]:
    infos = socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return [(kind, protocol, _zoned(address), int(address[1])) for kind, _, protocol, _, address in infos]


def _zoned(address: tuple[Any, ...]) -> str:
    """Return the host of a socket address; for IPv6 with its zone, the fourth element, which link-local addresses need."""
    return f"{address[0]}%{address[3]}" if len(address) == 4 and address[3] else str(address[0])
