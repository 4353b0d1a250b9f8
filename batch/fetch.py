"""Files fetched from addresses that clients name: through the gate at every step, within limits, onto the disk."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from pathlib import Path

from aiohttp import ClientSession, ClientTimeout
from yarl import URL

from myna.batch.gate import FAILURES, Gate, explained

MOST_REDIRECTS = 5
STALL_S = 30.0
"""A server that sends nothing for so long has ended."""
_CHUNK = 1 << 18
_HEADERS = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "myna"}


class FetchError(Exception):
    """The file cannot be had; the message says why. `status` is the other server's answer, if there was one."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file on disk: its length in bytes and its SHA-256."""

    path: Path
    size: int
    sha256: str


async def fetch(url: str, path: Path, gate: Gate, *, most_bytes: int, within_s: float) -> Fetched:
    """Fetch a file to `path`. Raises `FetchError`."""
    try:
        async with asyncio.timeout(within_s), gate.session(within_s) as session:
            return await _follow(session, url, path, gate, most_bytes)
    except TimeoutError:
        raise FetchError(f"the file was not there within {within_s:g} s, or its server stopped sending") from None
    except FAILURES as error:
        raise FetchError(f"the file cannot be fetched: {explained(error)}") from error


async def _follow(session: ClientSession, url: str, path: Path, gate: Gate, most_bytes: int) -> Fetched:
    for _ in range(MOST_REDIRECTS + 1):
        try:
            address = gate.check(url)
        except ValueError as error:
            raise FetchError(str(error)) from error
        timeout = ClientTimeout(sock_read=STALL_S, sock_connect=STALL_S)
        async with session.get(address, headers=_HEADERS, allow_redirects=False, timeout=timeout) as response:
            if response.status in (301, 302, 303, 307, 308) and "Location" in response.headers:
                try:
                    # Joined without what the first address held of user and password: they were meant for it alone.
                    url = str(address.with_user(None).join(URL(response.headers["Location"])))
                except ValueError as error:
                    raise FetchError("its server redirects to something that is no address") from error
                continue
            if response.status != 200:
                raise FetchError(f"its server answered with HTTP {response.status}", response.status)
            if (response.content_length or 0) > most_bytes:
                raise FetchError(f"the file has {response.content_length} bytes; {most_bytes} are possible")
            digest, size = hashlib.sha256(), 0
            with path.open("wb") as file:
                async for data in response.content.iter_chunked(_CHUNK):
                    size += len(data)
                    if size > most_bytes:
                        raise FetchError(f"the file has more than {most_bytes} bytes, the most that are possible")
                    digest.update(data)
                    file.write(data)
            return Fetched(path, size, digest.hexdigest())
    raise FetchError(f"more than {MOST_REDIRECTS} redirects")
